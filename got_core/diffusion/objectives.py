"""Noise objectives: what is predicted, at which times, and which scheduler samples it."""

from typing import Any, Literal

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Generator, Tensor, device

from got_core.interfaces import NoiseObjective, Predict, Scheduler

TIMES = 1000
"""Times run from 0 (clean) to 1000 (noise); an epsilon objective uses the integers below it."""


class _Denoising(NoiseObjective):
    """The noise and the mean squared error that both objectives share."""

    def __init__(self, noise_offset: float):
        self.noise_offset = noise_offset

    def sample_noise(
        self, x0: Float[Tensor, "b c h w"], generator: Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Sample standard normal noise, plus `noise_offset` times one normal number for each channel."""
        source = x0.device if generator is None else generator.device
        noise = torch.randn(x0.shape, generator=generator, device=source)
        if self.noise_offset:
            noise = noise + self.noise_offset * torch.randn(*x0.shape[:2], 1, 1, generator=generator, device=source)
        return noise.to(x0)

    def loss(
        self, predict: Predict, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the mean squared error of the prediction, in float32."""
        x_t, target = self.corrupt(x0, noise, t)
        error = (predict(x_t, t).float() - target.float()).square()
        return reduce(error, "b c h w -> b", "mean")


class EpsilonDiffusion(_Denoising):
    """Variance-preserving diffusion over 1000 discrete times, as SDXL is trained.

    Args:
        schedule: How the betas grow; the defaults are SDXL's.
        beta_start, beta_end: First and last beta; not used by `squaredcos_cap_v2`.
        prediction: What the backbone predicts: the noise, or v = alpha noise - sigma x0 (Salimans and Ho, 2022).
        noise_offset: Strength of the per-channel offset added to the noise; GoT trains with 0.1.
    """

    def __init__(
        self,
        schedule: Literal["scaled_linear", "squaredcos_cap_v2", "linear"] = "scaled_linear",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        prediction: Literal["epsilon", "v_prediction"] = "epsilon",
        noise_offset: float = 0.0,
    ):
        super().__init__(noise_offset)
        self.schedule = schedule
        self.beta_start = beta_start
        self.beta_end = beta_end
        self.prediction = prediction
        self.signal = self._solver().alphas_cumprod
        """Squared signal level at each time, from the sampler itself, so that training and sampling cannot differ."""

    def sample_t(self, batch_size: int, device: device, generator: Generator | None = None) -> Float[Tensor, " b"]:
        """Sample integers from 0 to 999, uniformly."""
        source = device if generator is None else generator.device
        return torch.randint(0, TIMES, (batch_size,), generator=generator, device=source).to(device, torch.float32)

    def levels(self, t: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Return (alpha, sigma) at integer times."""
        signal = self.signal.to(t.device)[t.round().long()]
        return signal.sqrt(), (1 - signal).sqrt()

    def corrupt(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return x_t = alpha x0 + sigma noise, and the noise or v as target."""
        alpha, sigma = (rearrange(level, "b -> b 1 1 1").to(x0.dtype) for level in self.levels(t))
        target = noise if self.prediction == "epsilon" else alpha * noise - sigma * x0
        return alpha * x0 + sigma * noise, target

    def scheduler(self) -> Scheduler:
        """Return a new DPM-Solver++ of second order."""
        return self._solver()

    def _solver(self) -> Any:
        solver: Any = DPMSolverMultistepScheduler(
            beta_schedule=self.schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            prediction_type=self.prediction,
            # On cosine betas, below this half log-SNR, the signal is too weak to divide by.
            lambda_min_clipped=-5.1 if self.schedule == "squaredcos_cap_v2" else -float("inf"),
        )
        # Read by other classes that are made from this configuration.
        solver.register_to_config(clip_sample=False)
        return solver


class RectifiedFlow(_Denoising):
    """Straight lines from image to noise: x_s = (1 - s) x0 + s noise, velocity noise - x0 (Liu et al., 2022).

    Args:
        timesteps: How s is sampled in training: logit-normal (Esser et al., 2024) or uniform.
        logit_mean, logit_std: Of the logit-normal; a larger mean trains more at noisy times.
        shift: s becomes shift s / (1 + (shift - 1) s), in training and in sampling; above 1 spends more on noisy times.
        noise_offset: Strength of the per-channel offset added to the noise.
    """

    def __init__(
        self,
        timesteps: Literal["logit_normal", "uniform"] = "logit_normal",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        shift: float = 1.0,
        noise_offset: float = 0.0,
    ):
        super().__init__(noise_offset)
        self.timesteps = timesteps
        self.logit_mean = logit_mean
        self.logit_std = logit_std
        self.shift = shift

    def sample_t(self, batch_size: int, device: device, generator: Generator | None = None) -> Float[Tensor, " b"]:
        """Sample 1000 s, with s distributed as configured and then shifted."""
        source = device if generator is None else generator.device
        if self.timesteps == "uniform":
            s = torch.rand(batch_size, generator=generator, device=source, dtype=torch.float32)
        else:
            normal = torch.randn(batch_size, generator=generator, device=source, dtype=torch.float32)
            s = torch.sigmoid(self.logit_mean + self.logit_std * normal)
        return (TIMES * self.shift * s / (1 + (self.shift - 1) * s)).to(device)

    def corrupt(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return x_t = (1 - s) x0 + s noise with s = t / 1000, and the velocity noise - x0."""
        s = rearrange(t / TIMES, "b -> b 1 1 1").to(x0.dtype)
        return (1 - s) * x0 + s * noise, noise - x0

    def scheduler(self) -> Scheduler:
        """Return a new Euler scheduler with the shift."""
        scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMES, shift=self.shift)
        # Read by other classes that are made from this configuration.
        scheduler.register_to_config(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift)
        return scheduler
