"""Encodes images into latents and decodes them: an autoencoder of diffusers, or plain pixel unshuffling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from got_core.interfaces import LatentCodec
from got_core.weights.loading import build_diffusers

Level = float | Sequence[float]
"""One number for all latent channels, or one for each."""

TILE = 512
"""Side of a tile in pixels, as diffusers has it for most autoencoders."""

Frozen = TypeVar("Frozen", bound="_NormalisedCodec")


class _NormalisedCodec(LatentCodec):
    """A frozen codec, always in eval mode, whose scaled latents are (raw - mean) / std."""

    mean: Float[Tensor, "c 1 1"]
    std: Float[Tensor, "c 1 1"]

    def _set_levels(self, mean: Level, std: Level) -> None:
        for name, value in (("mean", mean), ("std", std)):
            level = torch.as_tensor(value, dtype=torch.float32)
            if level.numel() not in (1, self.latent_channels):
                raise ValueError(f"{name} has {level.numel()} values, but a latent has {self.latent_channels} channels")
            self.register_buffer(
                name, rearrange(level.expand(self.latent_channels).clone(), "c -> c 1 1"), persistent=False
            )

    def train(self: Frozen, mode: bool = True) -> Frozen:
        """Stay in eval mode: a codec is never trained here."""
        return super().train(False)

    def precomputed_by(self) -> dict[str, Any]:
        """Return what latents depend on besides the weights."""
        mean, std = (rearrange(level, "c 1 1 -> c").tolist() for level in (self.mean, self.std))
        return {"pixels of a latent": self.downsample, "mean of latents": mean, "std of latents": std}

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 H W"], scaled: bool = True) -> Float[Tensor, "b c h w"]:
        """Encode images into latents, the posterior's mode if there is one; `scaled=False` leaves out mean and std.

        Raises:
            ValueError: A side of the images is not a multiple of `downsample`.
        """
        if images.shape[-2] % self.downsample or images.shape[-1] % self.downsample:
            size = f"{images.shape[-2]}x{images.shape[-1]}"
            raise ValueError(
                f"images of {size} pixels do not divide into the codec's steps of {self.downsample} pixels"
            )
        raw = self._encode(images)
        return (raw - self.mean.to(raw)) / self.std.to(raw) if scaled else raw

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode scaled latents into images in [-1, 1]."""
        return self._decode(latents * self.std.to(latents) + self.mean.to(latents))

    def _encode(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        raise NotImplementedError

    def _decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        raise NotImplementedError


class AutoencoderCodec(_NormalisedCodec):
    """A diffusers autoencoder, from a folder or hub id, or from a config with fresh weights.

    Args:
        pretrained: Folder or hub id in diffusers' layout, in one file or sharded; give this or `config`.
        subfolder: Folder inside `pretrained`, such as "vae" in that of a whole pipeline.
        config: Arguments of `model_class`.
        model_class: The name of a diffusers autoencoder: AutoencoderKL, or one without a posterior (AutoencoderDC,
            AutoencoderTiny).
        mean, std: Of the raw latents; None takes them from the autoencoder's own scale and shift.
        images_at_once: Encode and decode at most so many images at a time, to bound memory; None for all.

    Raises:
        ValueError: Both or neither of `pretrained` and `config`, levels that do not fit the channels, or weights that
            are not those of the folder's config, naming tensors.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        subfolder: str | None = None,
        config: dict[str, Any] | None = None,
        model_class: str = "AutoencoderKL",
        mean: Level | None = None,
        std: Level | None = None,
        images_at_once: int | None = None,
    ):
        super().__init__()
        self._pretrained = pretrained is not None
        name = model_class.rpartition(".")[2] if model_class.startswith("diffusers.") else model_class
        family = getattr(diffusers, name, None)
        if not isinstance(family, type) or not issubclass(family, ModelMixin):
            raise ValueError(f"diffusers has no model '{model_class}'; an autoencoder is needed, such as AutoencoderDC")
        self.autoencoder: Any = build_diffusers(family, pretrained, subfolder, config)
        self.images_at_once = images_at_once
        self.autoencoder.requires_grad_(False)
        self.eval()
        side = 64
        probe = self._encode(
            torch.zeros(1, 3, side, side, dtype=self.autoencoder.dtype, device=self.autoencoder.device)
        )
        self.latent_channels = probe.shape[1]
        self.downsample = side // probe.shape[-1]
        own_mean, own_std = self._own_levels()
        self._set_levels(own_mean if mean is None else mean, own_std if std is None else std)

    def export(self, folder: Path) -> None:
        """Write the autoencoder in diffusers' layout."""
        self.autoencoder.save_pretrained(folder)

    def standalone(self, folder: Path) -> dict[str, Any]:
        """Write the autoencoder's configuration if it is not among the arguments."""
        if not self._pretrained:
            return {}
        self.autoencoder.save_config(folder)
        return {"pretrained": folder, "subfolder": None}

    def enable_tiling(self) -> None:
        """Encode and decode large images in overlapping tiles of at most `TILE` pixels a side, which are blended.

        A tile knows nothing of the others, so large areas may differ a little in brightness.

        Raises:
            ValueError: This kind of autoencoder cannot.
        """
        try:
            self.autoencoder.enable_tiling()
        except (AttributeError, NotImplementedError):
            raise ValueError(f"{type(self.autoencoder).__name__} has no tiles") from None
        if getattr(self.autoencoder, "tile_sample_min_size", 0) > TILE:  # SDXL's own would be a whole image.
            self.autoencoder.tile_sample_min_size = TILE
            self.autoencoder.tile_latent_min_size = TILE // self.downsample

    def enable_slicing(self) -> None:
        """Encode and decode images one by one."""
        self.images_at_once = 1

    def _own_levels(self) -> tuple[Level, Level]:
        """Return (mean, std) such that (raw - mean) / std is what diffusers' pipelines make of raw latents."""
        settings = self.autoencoder.config
        mean = settings.get("latents_mean") or settings.get("shift_factor") or 0.0
        std = torch.as_tensor(settings.get("latents_std") or 1.0)
        return mean, (std / settings.get("scaling_factor", 1.0)).tolist()

    @torch.no_grad()
    def _encode(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return torch.cat([self._encode_part(part) for part in images.split(self.images_at_once or len(images))])

    def _encode_part(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        output = self.autoencoder.encode(images)
        if "latent_dist" in output:
            return output.latent_dist.mode()
        return output.latent if "latent" in output else output.latents

    def _decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        parts = latents.split(self.images_at_once or len(latents))
        return torch.cat([self.autoencoder.decode(part).sample for part in parts])


class PixelCodec(_NormalisedCodec):
    """A lossless codec for small images: each patch of pixels becomes the channels of one latent pixel.

    Args:
        patch: Side of a patch in pixels; 1 keeps the image as it is.
        mean, std: Of the pixel values, so that scaled latents can have unit variance.
    """

    def __init__(self, patch: int = 1, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        self.downsample = patch
        self.latent_channels = 3 * patch**2
        self._set_levels(mean, std)
        self.eval()

    def _encode(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return rearrange(images, "b c (h p) (w q) -> b (c p q) h w", p=self.downsample, q=self.downsample)

    def _decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return rearrange(latents, "b (c p q) h w -> b c (h p) (w q)", p=self.downsample, q=self.downsample)
