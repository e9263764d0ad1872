"""Schedulers of diffusers under an objective: those that fit draw the image of an exact field; others are refused."""

import diffusers
import pytest
import torch

from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow
from got_core.diffusion.schedulers import check_scheduler, scheduler_named

NOISE = EpsilonDiffusion()
VELOCITY = EpsilonDiffusion(schedule="squaredcos_cap_v2", prediction="v_prediction")
FLOW = RectifiedFlow(shift=3.0)

DIFFUSION_SOLVERS = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
FLOW_SOLVERS = (
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
FITTING = [
    *((objective, name) for objective in (NOISE, VELOCITY) for name in DIFFUSION_SOLVERS),
    *((FLOW, name) for name in FLOW_SOLVERS),
    (NOISE, "HeunDiscreteScheduler"),
]


def generated(objective, scheduler, image, noise, steps):
    """What a scheduler makes of noise when each prediction is that of the image."""
    scheduler.set_timesteps(steps, device=torch.device("cpu"))
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        t = time.float().reshape(1)
        signal, strength = [objective.corrupt(*each, t)[0] for each in pairs(image)]
        grain = (seen - signal * image) / strength
        x = scheduler.step(objective.corrupt(image, grain, t)[1], time, x, return_dict=False)[0]
    return x


def pairs(image):
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    return (one, zero), (zero, one)


@pytest.mark.parametrize(("objective", "name"), FITTING)
def test_a_scheduler_that_fits_draws_the_image(objective, name):
    generator = torch.Generator().manual_seed(1)
    image, noise = 3 * torch.randn(2, 1, 4, 16, 16, generator=generator)
    scheduler = scheduler_named(objective, name)
    found = generated(objective, scheduler, image, noise / 3, steps=30)
    assert (found - image).std() < 0.05


@pytest.mark.parametrize(
    ("objective", "scheduler"),
    [
        (NOISE, diffusers.DPMSolverMultistepScheduler()),  # Other betas than SDXL's.
        (NOISE, diffusers.FlowMatchEulerDiscreteScheduler()),
        (NOISE, diffusers.DDIMScheduler.from_config(NOISE.scheduler().config, clip_sample=True)),  # Bounds latents.
        (NOISE, diffusers.EulerDiscreteScheduler.from_config(VELOCITY.scheduler().config)),
        (VELOCITY, diffusers.UniPCMultistepScheduler.from_config(NOISE.scheduler().config)),
        (FLOW, diffusers.EulerDiscreteScheduler()),
        (FLOW, diffusers.UniPCMultistepScheduler()),  # Predicts noise by default.
        (FLOW, diffusers.DPMSolverMultistepInverseScheduler()),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(objective, scheduler):
    with pytest.raises(ValueError, match=f"{type(scheduler).__name__} (does not fit|cannot sample) "):
        check_scheduler(objective, scheduler)


SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "leading"}
SIGMAS = [
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler",
]  # fmt: skip


@pytest.mark.parametrize("name", SIGMAS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_schedulers_whose_first_noise_level_follows_from_the_times_fit(name, spacing):
    check_scheduler(NOISE, getattr(diffusers, name)(**{**SDXL, "timestep_spacing": spacing, "steps_offset": 1}))


@pytest.mark.parametrize(("objective", "name"), FITTING)
def test_a_scheduler_made_from_the_configuration_of_another_fits(objective, name):
    scheduler = getattr(diffusers, name).from_config(objective.scheduler().config)
    check_scheduler(objective, scheduler)
    back = type(objective.scheduler()).from_config(scheduler.config)
    check_scheduler(objective, back)
    assert back.config.get("shift") == objective.scheduler().config.get("shift")


def test_settings_are_those_of_the_class():
    scheduler = scheduler_named(NOISE, "DPMSolverMultistepScheduler", use_karras_sigmas=True)
    assert scheduler.config.use_karras_sigmas
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler has no setting karras"):
        scheduler_named(NOISE, "DPMSolverMultistepScheduler", karras=True)


@pytest.mark.parametrize("name", ["NoSuchScheduler", "UNet2DModel", "scheduler"])
def test_no_scheduler_of_that_name(name):
    with pytest.raises(ValueError, match=f"diffusers has no scheduler '{name}'"):
        scheduler_named(NOISE, name)


def test_an_objectives_own_scheduler_fits():
    for objective in (NOISE, VELOCITY, FLOW):
        check_scheduler(objective, objective.scheduler())
