"""Trains a small autoencoder, for recipes that cannot use a pretrained codec."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from einops import reduce
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from got_core.interfaces import Processor
from got_core.types import Batch


class CodecTraining(LightningModule):
    """Trains an autoencoder to reconstruct images from noisy latents of zero mean and unit variance.

    The decoder sees latents with noise of a random level, so it also decodes the slightly wrong latents of a denoiser
    into clean images, and the encoder separates what must not be confused.

    Args:
        autoencoder: A diffusers autoencoder class whose `encode` gives `.latent` or `.latents`.
        config: Its arguments.
        optimizer: Makes the optimizer from parameters.
        learning_rate: Peak of the one-cycle schedule.
        noise: Largest standard deviation of the noise on the latents.
        level_weight: Weight of the penalty on latents whose mean and standard deviation are not 0 and 1.
    """

    def __init__(
        self,
        autoencoder: type[ModelMixin],
        config: dict[str, Any],
        optimizer: Callable[[Iterable], Optimizer],
        learning_rate: float = 2e-3,
        noise: float = 0.4,
        level_weight: float = 0.05,
    ) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder(**config)
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.noise = noise
        self.level_weight = level_weight

    @property
    def processor(self) -> Processor:
        """Return what makes batches of samples: stacking."""
        return Batch.collate

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Encode images into latents without noise."""
        output = self.autoencoder.encode(images)
        return output.latent if "latent" in output else output.latents

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Return the absolute plus squared error of images decoded from noisy latents, and the penalty."""
        if batch.target is None:
            raise ValueError("a codec is trained on samples with a target image")
        latents = self.encode(batch.target)
        level = self.noise * torch.rand(len(latents), 1, 1, 1, device=latents.device)
        error = self.autoencoder.decode(latents + level * torch.randn_like(latents)).sample - batch.target
        reconstruction = error.abs().mean() + error.square().mean()
        self.log("reconstruction_loss", reconstruction, prog_bar=True, batch_size=len(batch))
        return reconstruction + self.level_weight * level_penalty(latents)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean squared error of images decoded from clean latents."""
        if batch.target is not None:
            images = self.autoencoder.decode(self.encode(batch.target)).sample
            error = nn.functional.mse_loss(images, batch.target)
            self.log("reconstruction_error", error, prog_bar=True, batch_size=len(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return an optimizer with one cycle over the trainer's steps."""
        optimizer = self.optimizer(self.autoencoder.parameters())
        total = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, self.learning_rate, total_steps=total, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write the autoencoder into `codec` in the run's folder, for `AutoencoderCodec(pretrained=...)`."""
        if self.trainer.is_global_zero:
            self.autoencoder.save_pretrained(Path(self.trainer.default_root_dir) / "codec")


def level_penalty(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return how far the channels are from zero mean and unit standard deviation over a batch."""
    mean = reduce(latents, "b c h w -> c", "mean")
    std = reduce((latents - mean[:, None, None]).square(), "b c h w -> c", "mean").sqrt()
    return mean.square().mean() + (std - 1).square().mean()
