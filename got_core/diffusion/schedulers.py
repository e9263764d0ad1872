"""Schedulers of diffusers other than an objective's own: which of them fit it, and how they are made."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import ConfigMixin
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from got_core.errors import UserError, one_line
from got_core.interfaces import NoiseObjective, Scheduler

TRIED_STEPS = 20
"""Steps of the walk that a scheduler is tried on."""

TRIED_SHAPE = (1, 4, 64, 64)
"""Latents of that walk: so many numbers that their spread is known within one per cent."""

LEFT_OVER = 0.035
"""Noise that may be left at the end of the walk, in standard deviations."""

OFF_LEVEL = 0.02
"""How far the noise may be from its level, as the median of the logarithm's magnitude over the walk's steps."""

CARRIED_OVER = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "prediction_type",
    "lambda_min_clipped",
    "shift",
)
"""Settings of an objective's own scheduler that say what noise is like; the others are of its solver."""

ERRORS = (ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError, ImportError)
"""What schedulers raise that are given other settings, predictions or arguments than they were written for."""

SCHEDULER_FILE = "scheduler_config.json"
"""As diffusers calls it."""

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
"""What tells the solvers of diffusion equations in diffusers that a velocity is predicted."""


def scheduler_named(objective: NoiseObjective, name: str, **settings: Any) -> Scheduler:
    """A scheduler of diffusers, set up for an objective as its own scheduler is.

    Args:
        objective: What the backbone was trained with.
        name: Of a class, such as "UniPCMultistepScheduler".
        settings: Further settings of that class, such as `use_karras_sigmas=True`.

    Raises:
        ValueError: There is no such scheduler, or it does not fit the objective.
    """
    family = _family(name)
    known = inspect.signature(family.__init__).parameters
    if strange := settings.keys() - known.keys():
        raise ValueError(f"{name} has no setting {', '.join(sorted(strange))}")
    problems = []
    for given in _candidates(objective):
        candidate = {setting: value for setting, value in given.items() if setting in known}
        try:
            scheduler = family.from_config({**candidate, **settings})
            check_scheduler(objective, scheduler)
        except ERRORS as error:
            problems.append(one_line(error))
        else:
            return scheduler
    raise ValueError(problems[0])


def save_scheduler(scheduler: Scheduler, folder: Path) -> None:
    """Write the configuration of one of diffusers' schedulers into a folder, as diffusers does.

    Raises:
        UserError: It is none of diffusers'.
    """
    name = type(scheduler).__name__
    if getattr(diffusers, name, None) is not type(scheduler):
        raise UserError(f"{name} is no scheduler of diffusers, and only those can be saved")
    cast(ConfigMixin, scheduler).save_config(folder)


def read_scheduler(objective: NoiseObjective, folder: Path) -> Scheduler | None:
    """The scheduler that was saved in a folder; None where none was.

    Raises:
        UserError: The file cannot be read, names no scheduler of diffusers, or one that does not fit the objective.
    """
    path = folder / SCHEDULER_FILE
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        scheduler: Scheduler = _family(config["_class_name"]).from_config(config)
        check_scheduler(objective, scheduler)
    except (*ERRORS, OSError) as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    return scheduler


def _family(name: str) -> Any:
    found: Any = getattr(diffusers, name, None)
    if not name.endswith("Scheduler") or not hasattr(found, "from_config"):
        raise ValueError(f"diffusers has no scheduler {name!r}")
    return found


def _candidates(objective: NoiseObjective) -> Iterator[dict[str, Any]]:
    """The objective's own scheduler's settings, without a bound on what is denoised, and for velocities."""
    config = getattr(objective.scheduler(), "config", {})
    own = {name: config[name] for name in CARRIED_OVER if name in config}
    yield {**own, "clip_sample": False}
    yield {**own, **FLOW, "flow_shift": own.get("shift", 1.0)}


def check_scheduler(objective: NoiseObjective, scheduler: Any) -> None:
    """See that a scheduler takes away the noise that an objective adds, by walking it with exact predictions.

    From noise it must arrive at the image, and the noise must be on the way as strong as the objective has it at each
    time: another prediction, schedule or bound shows in one of the two.

    Raises:
        ValueError: It does not fit.
    """
    name = type(scheduler).__name__
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            left_over, off_level = _walk(objective, scheduler)
    except ERRORS as error:
        raise ValueError(f"{name} cannot sample {type(objective).__name__}: {one_line(error)}") from error
    # Not the other way round: a comparison with nan is false.
    if not (left_over <= LEFT_OVER and off_level <= OFF_LEVEL):
        raise ValueError(
            f"{name} does not fit {type(objective).__name__}: with exact predictions the image is off by "
            f"{left_over:.2g} at the end, and the noise on the way by {off_level:.0%}; "
            "got_core.diffusion.schedulers.scheduler_named sets schedulers up for an objective"
        )


@torch.no_grad()
def _walk(objective: NoiseObjective, scheduler: Any) -> tuple[float, float]:
    """How much noise is left at the end, and how far it typically is from its level on the way."""
    generator = Generator().manual_seed(0)
    image = _normal(generator)
    x = _normal(generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    scheduler.set_timesteps(TRIED_STEPS, device=torch.device("cpu"))
    levels = []
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        signal, target_of_image = _coefficients(objective, time, torch.ones(1), torch.zeros(1))
        strength, target_of_noise = _coefficients(objective, time, torch.zeros(1), torch.ones(1))
        noise = (seen - signal * image) / strength
        levels.append(noise.std().log().abs())
        x = scheduler.step(target_of_image * image + target_of_noise * noise, time, x, return_dict=False)[0]
    return (x - image).std().item(), torch.stack(levels).median().item()


def _coefficients(
    objective: NoiseObjective, time: Tensor, image: Float[Tensor, " 1"], noise: Float[Tensor, " 1"]
) -> tuple[Tensor, Tensor]:
    """What an image and noise of that value become at a time: the noisy image and the target, which are linear."""
    pixel, grain = (rearrange(value, "b -> b 1 1 1") for value in (image, noise))
    return objective.corrupt(pixel, grain, rearrange(time.to(torch.float32), "-> 1"))


def _normal(generator: Generator) -> Float[Tensor, "1 4 64 64"]:
    """Numbers whose spread is one exactly."""
    drawn = torch.randn(TRIED_SHAPE, generator=generator)
    return drawn / drawn.std()
