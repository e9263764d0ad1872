"""How Qwen2.5-VL's vision tower is fed: patches of images, and the rotary positions of their visual tokens."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


@dataclass(frozen=True)
class PatchLayout:
    """How the vision tower cuts up an image.

    Attributes:
        image_size: Side of the square that source images are resized to, in pixels.
        patch_size: Side of a patch in pixels.
        merge_size: Patches, along each side, that become one visual token.
        temporal_patch_size: Frames a patch spans; a still image is repeated that often.
        coordinates: The last frame holds the column and row of each pixel, from -1 to 1, instead of the image again.
            The tower's rotary positions are relative: where something stands in the image it has to make out from the
            edges, which takes more training than a small tower gets.

    Raises:
        ValueError: The side is no whole number of visual tokens, or there is no second frame for coordinates.
    """

    image_size: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    coordinates: bool = False

    def __post_init__(self) -> None:
        if self.image_size % (self.patch_size * self.merge_size):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size} "
                f"times spatial_merge_size {self.merge_size}"
            )
        if self.coordinates and self.temporal_patch_size < 2:
            raise ValueError(f"coordinates need a second frame, but temporal_patch_size is {self.temporal_patch_size}")

    @property
    def side(self) -> int:
        """Visual tokens along each side of an image."""
        return self.image_size // (self.patch_size * self.merge_size)

    def patches(self, images: Float[Tensor, "i 3 H W"]) -> Float[Tensor, "p c"]:
        """Images in [-1, 1] resized, normalised and cut as `Qwen2VLImageProcessor` does it.

        Each image gives (side * merge_size)^2 rows.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1.0, 1.0)
        mean = rearrange(torch.tensor(OPENAI_CLIP_MEAN), "c -> c 1 1")
        std = rearrange(torch.tensor(OPENAI_CLIP_STD), "c -> c 1 1")
        frames = repeat(((images + 1) / 2 - mean) / std, "i c h w -> t i c h w", t=self.temporal_patch_size).clone()
        if self.coordinates:
            places = torch.linspace(-1, 1, self.image_size)
            frames[-1] = torch.stack([*torch.meshgrid(places, places, indexing="xy"), torch.zeros_like(images[0, 0])])
        return rearrange(
            frames,
            "t i c (gh mh ph) (gw mw pw) -> (i gh gw mh mw) (c t ph pw)",
            mh=self.merge_size,
            mw=self.merge_size,
            ph=self.patch_size,
            pw=self.patch_size,
        )

    def blank(self) -> Float[Tensor, "p c"]:
        """Patches of one visual token without content."""
        channels = len(OPENAI_CLIP_MEAN) * self.temporal_patch_size * self.patch_size**2
        return torch.zeros(self.merge_size**2, channels)

    def blank_grid(self) -> Int[Tensor, "1 3"]:
        """The grid of `blank`."""
        return torch.tensor([[1, self.merge_size, self.merge_size]])

    def grids(self, number: int) -> Int[Tensor, "i 3"]:
        """(frames, rows, columns) of patches for a number of images."""
        rows = self.side * self.merge_size
        return torch.tensor([[1, rows, rows]]).expand(number, 3)

    def positions(self, length: int, image_start: int | None) -> Int[Tensor, "3 l"]:
        """Qwen's three-axis rotary positions of a sequence with an image from token `image_start` on, or without one.

        Text counts up on all three axes; an image's tokens share one time step and carry their row and column; the text
        after it goes on from the largest of these.
        """
        positions = repeat(torch.arange(length), "l -> three l", three=3).clone()
        if image_start is not None:
            stop = image_start + self.side**2
            cells = torch.arange(self.side)
            positions[0, image_start:stop] = image_start
            positions[1, image_start:stop] = image_start + repeat(cells, "row -> (row column)", column=self.side)
            positions[2, image_start:stop] = image_start + repeat(cells, "column -> (row column)", row=self.side)
            positions[:, stop:] -= self.side**2 - self.side
        return positions
