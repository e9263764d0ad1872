"""Schedulers of diffusers other than an objective's own: which of them fit it, and how they are built."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import ConfigMixin
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from got_core.errors import UserError, one_line, parse_json
from got_core.interfaces import NoiseObjective, Scheduler

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
"""Settings of an objective's own scheduler that describe the noise; the others belong to its solver."""

LARGEST_SETTING = 100_000
"""Of whole numbers in a scheduler's configuration, such as its training times: each takes memory."""

ERRORS = (ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError, ImportError)
"""What schedulers raise on settings, predictions or arguments that they were not written for."""


def scheduler_named(objective: NoiseObjective, name: str, **settings: Any) -> Scheduler:
    """Build a scheduler of diffusers, configured for an objective as its own scheduler is.

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
        UserError: It is not one of diffusers.
    """
    name = type(scheduler).__name__
    if getattr(diffusers, name, None) is not type(scheduler):
        raise UserError(f"{name} is not a scheduler of diffusers, and only those can be saved")
    cast(ConfigMixin, scheduler).save_config(folder)


def read_scheduler(objective: NoiseObjective, folder: Path) -> Scheduler | None:
    """Read the scheduler that was saved in a folder; None if there is none.

    Raises:
        UserError: The file cannot be read, names no scheduler of diffusers, or one that does not fit the objective.
    """
    path = folder / "scheduler_config.json"
    if not path.is_file():
        return None
    try:
        return scheduler_from(objective, parse_json(path.read_text(encoding="utf-8")))
    except (*ERRORS, OSError) as error:
        raise UserError(f"{path}: {one_line(error)}") from error


def scheduler_from(objective: NoiseObjective, config: Any) -> Scheduler:
    """Build the scheduler of a saved configuration, as in diffusers' scheduler_config.json.

    Raises:
        ValueError: It names no scheduler of diffusers, one that does not fit the objective, or a number above
            `LARGEST_SETTING`.
    """
    try:
        for name, value in config.items():
            if isinstance(value, int) and abs(value) > LARGEST_SETTING:
                raise ValueError(f"{name} is {value:g}, which is out of bounds")
        scheduler: Scheduler = _family(config["_class_name"]).from_config(config)
    except ERRORS as error:
        raise ValueError(one_line(error)) from error
    check_scheduler(objective, scheduler)
    return scheduler


def _family(name: str) -> Any:
    family: Any = getattr(diffusers, name, None)
    if not name.endswith("Scheduler") or not hasattr(family, "from_config"):
        raise ValueError(f"diffusers has no scheduler {name!r}")
    return family


def _candidates(objective: NoiseObjective) -> Iterator[dict[str, Any]]:
    """Yield the settings of the objective's own scheduler, without a bound on denoised values, and for velocities."""
    config = getattr(objective.scheduler(), "config", {})
    own = {name: config[name] for name in CARRIED_OVER if name in config}
    yield {**own, "clip_sample": False}
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": own.get("shift", 1.0)}
    yield {**own, **flow}


def check_scheduler(objective: NoiseObjective, scheduler: Any) -> None:
    """Check that a scheduler removes the noise that an objective adds, by running it with exact predictions.

    From noise it must reach the image, and at each time the noise must have the level of the objective: another
    prediction, schedule or bound shows in one of the two. At the end, noise of 0.035 standard deviations may be left;
    the median difference of the noise from its level may be 2 per cent.

    Raises:
        ValueError: It does not fit.
    """
    name = type(scheduler).__name__
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(1)  # Other numbers than those of image and noise, which added noise must not repeat.
            remaining, level_error = _run_exactly(objective, scheduler)
    except ERRORS as error:
        raise ValueError(f"{name} cannot sample {type(objective).__name__}: {one_line(error)}") from error
    # Not the other way round: a comparison with nan is false.
    if not (remaining <= 0.035 and level_error <= 0.02):
        raise ValueError(
            f"{name} does not fit {type(objective).__name__}: with exact predictions the image is off by "
            f"{remaining:.2g} at the end, and the noise before that by {level_error:.0%}; "
            "got_core.diffusion.schedulers.scheduler_named configures schedulers for an objective"
        )


@torch.no_grad()
def _run_exactly(objective: NoiseObjective, scheduler: Any) -> tuple[float, float]:
    """Return how much noise is left at the end, and the median difference of its logarithm from its level before."""
    generator = Generator().manual_seed(0)
    image = _normal(generator)
    noise = _normal(generator)
    scheduler.set_timesteps(20, device=torch.device("cpu"))
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)  # Of these times; before, of all that it was trained with.
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
    """Return the noisy image and the target, both linear, of an image and noise of constant value at a time."""
    pixel, grain = (rearrange(value, "b -> b 1 1 1") for value in (image, noise))
    return objective.corrupt(pixel, grain, rearrange(time.to(torch.float32), "-> 1"))


def _normal(generator: Generator) -> Float[Tensor, "1 4 64 64"]:
    """Return normal numbers whose standard deviation is exactly one."""
    numbers = torch.randn((1, 4, 64, 64), generator=generator)
    return numbers / numbers.std()
