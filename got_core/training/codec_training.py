"""Trains a small autoencoder, also on layout masks, for recipes that cannot use a pretrained codec."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from einops import reduce
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset

from got_core.interfaces import Processor
from got_core.types import BLACK, Batch, Sample


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


class BoxCanvasDataset(Dataset[Sample]):
    """Square black canvases with one filled box each; a function of (seed, index).

    A codec that is also trained on these encodes the layout masks of GoT's spatial guidance (section 4.2) well.

    Args:
        size: Side of a canvas in pixels.
        length: Number of samples.
        seed: Another seed gives other boxes.
        box_size: Smallest and largest side of a box, as a fraction of the canvas's.
    """

    def __init__(
        self, size: int = 32, length: int = 100_000, seed: int = 0, box_size: tuple[float, float] = (0.25, 0.5)
    ) -> None:
        self.size, self.length, self.seed = size, length, seed
        self.smallest, self.largest = (round(fraction * size) for fraction in box_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Make one canvas as a sample without words."""
        return Sample(prompt="", chain="", size=(self.size, self.size), target=self.canvas(index))

    def canvas(self, index: int) -> Float[Tensor, "3 H W"]:
        """Make one canvas in [-1, 1]; half of the boxes have colours of full saturation.

        Raises:
            IndexError: The index is not in [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a dataset of {self.length} canvases")
        rng = np.random.default_rng([self.seed, index])
        colour = rng.choice([BLACK, 0.0, 1.0], 3) if rng.random() < 0.5 else rng.uniform(BLACK, 1.0, 3)
        height, width = rng.integers(self.smallest, self.largest + 1, 2)
        top, left = rng.integers(0, self.size - height + 1), rng.integers(0, self.size - width + 1)
        canvas = torch.full((3, self.size, self.size), BLACK)
        canvas[:, top : top + height, left : left + width] = torch.tensor(colour, dtype=torch.float32)[:, None, None]
        return canvas
