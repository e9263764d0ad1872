"""Images as tensors: RGB, upright, of one size, in [-1, 1]."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

ImageLike = Image.Image | Float[Tensor, "3 H W"] | Float[np.ndarray, "H W 3"]
"""A PIL image, or a tensor or an array with channels last in [0, 1]."""

ImagesLike = ImageLike | Sequence[ImageLike] | Float[Tensor, "b 3 H W"] | Float[np.ndarray, "b H W 3"]
"""One image or several, as a list or a batch."""

LEVELS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16")
"""Modes of PIL images whose levels have one meaning."""


def load_image(
    source: Path | bytes, size: tuple[int, int] | None = None, name: str | None = None
) -> Float[Tensor, "3 H W"]:
    """Read an image file, turn it upright by its EXIF tag and make it RGB; transparent pixels become white.

    The whole image is resized to `size`, without a crop: boxes of a chain are relative to width and height, so they
    stay right whatever the aspect ratio.

    Args:
        source: A file, or the bytes of one, in any format that Pillow reads.
        size: (height, width) in pixels; None keeps the image's own.
        name: The name of the image in error messages; its path by default.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not an image or is damaged.
    """
    return _resized(open_image(source, name), size)


def open_image(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Open the RGB image of a file, upright; arguments and errors are those of `load_image`."""
    name = name or (str(source) if isinstance(source, Path) else "image bytes")
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{name}: no such image file")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return _rgb(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ValueError(f"{name}: not a readable image ({reason})") from None


def image_tensor(image: ImageLike, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Convert an image in memory to the tensor that `load_image` would read from its file.

    Args:
        image: A PIL image, or a tensor or an array with channels last, in [0, 1].
        size: (height, width) in pixels.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(image, Image.Image):
        if image.mode not in LEVELS:
            raise ValueError(f"an image of mode {image.mode!r} does not say which levels are black and white")
        return _resized(_rgb(ImageOps.exif_transpose(image)), size)
    kinds = "an image is a PIL image, a tensor (3, height, width) or an array (height, width, 3) of floats in [0, 1]"
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(f"{kinds}, not {type(image).__name__}")
    if isinstance(image, np.ndarray):
        image = rearrange(torch.from_numpy(image), "h w c -> c h w") if image.ndim == 3 else torch.from_numpy(image)
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(f"{kinds}, not one of {image.dtype} and {list(image.shape)}")
    if not 0 <= float(image.min()) <= float(image.max()) <= 1:
        raise ValueError(f"{kinds}, not in [{float(image.min()):.3g}, {float(image.max()):.3g}]")
    image = image.detach().cpu()
    if image.shape[1:] == size:
        return image.float() * 2 - 1
    batch = rearrange(image.float(), "c h w -> 1 c h w")
    resized = interpolate(batch, size, mode="bicubic", antialias=True).clamp(0, 1)
    return rearrange(resized, "1 c h w -> c h w") * 2 - 1


def _resized(image: Image.Image, size: tuple[int, int] | None) -> Float[Tensor, "3 H W"]:
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image))
    return rearrange(pixels, "h w c -> c h w").contiguous() / 127.5 - 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.int64) // 257  # 65535 / 255
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay)
    return image.convert("RGB")
