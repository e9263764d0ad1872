"""Images as tensors: RGB, upright, of one size, in [-1, 1]."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from got_core.errors import one_line
from got_core.types import from_pil, resized

ImageLike = Image.Image | Float[Tensor, "3 H W"] | Float[np.ndarray, "H W 3"]
"""A PIL image, or a tensor or an array with channels last in [0, 1]."""

ImagesLike = ImageLike | Sequence[ImageLike] | Float[Tensor, "b 3 H W"] | Float[np.ndarray, "b H W 3"]
"""One image or several, as a list or a batch."""

FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "IM", "JPEG", "JPEG2000", "MSP"),
    *("PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
"""Formats of image files that are read, by Pillow's names: those that it decodes itself, without other programs."""

ENDINGS = (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".tga", ".tif", ".tiff", ".webp")
"""Of image files in a folder, in lower or upper case."""

LEVELS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16")
"""Modes of PIL images whose levels have one meaning."""

PIXELS = 2**26
"""Most pixels of an image; more would take gigabytes."""

REDUCED = 2
"""A JPEG is decoded to at least so many times the size that it is resized to: the filter's quality stays."""

_PHOTOMETRIC = 262
"""TIFF's tag of what level 0 means: 0 for white, 1 for black."""

_ORIENTATION_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Entries of a PIL image's `info` that its orientation is read from."""

_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

# Programs store their settings as text in PNGs; Pillow refuses more than 1 MB of it otherwise.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def load_image(
    source: Path | bytes, size: tuple[int, int] | None = None, name: str | None = None
) -> Float[Tensor, "3 H W"]:
    """Read an image file, turn it upright by its EXIF tag and make it RGB; transparent pixels become white.

    The whole image is resized to `size` by PIL's bicubic filter, without a crop: boxes of a chain are relative to width
    and height, so they stay right whatever the aspect ratio.

    Args:
        source: A file, or the bytes of one, in one of `FORMATS`.
        size: (height, width) in pixels; None keeps the image's own.
        name: The name of the image in error messages; its path by default.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not an image, is damaged, or has levels of which none is known to be white (32 bits).
    """
    return from_pil(open_image(source, name, size), size)


def open_image(source: Path | bytes, name: str | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """Open the RGB image of a file, upright; arguments and errors are those of `load_image`.

    A JPEG of more than `size` may be decoded to a half, a quarter or an eighth of its sides, of which the smallest is
    taken that is at least `REDUCED` times as large as `size`.
    """
    name = name or (str(source) if isinstance(source, Path) else "image bytes")
    with _opened(source, name) as opened:
        if size is not None:
            wanted = tuple(REDUCED * side for side in size)
            opened.draft(None, wanted if _is_turned(opened) else wanted[::-1])  # type: ignore[arg-type]
        return _decoded(opened)


def stored_size(source: Path | bytes, name: str) -> tuple[int, int]:
    """Return (height, width) of a file's image, upright, without decoding it; errors are those of `load_image`."""
    with _opened(source, name) as opened:
        return (opened.width, opened.height) if _is_turned(opened) else (opened.height, opened.width)


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{name}: no such image file")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as opened:
            _check_pixels(opened)
            yield opened
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name}: not a readable image (unknown format: save it as PNG or JPEG)") from None
    except Exception as error:  # Decoders of damaged files raise errors of every kind.
        raise ValueError(f"{name}: not a readable image ({one_line(error)})") from None


def images_in(folder: Path) -> dict[str, Path]:
    """List the image files in a folder by their names without ending; of several with one name, the PNG.

    Hidden files are left out. A folder that does not exist has none.
    """
    files = [file for file in sorted(folder.iterdir()) if _is_image(file)] if folder.is_dir() else []
    return {file.stem: file for file in sorted(files, key=lambda file: file.suffix.lower() == ".png")}


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()


def image_tensor(image: ImageLike, size: tuple[int, int] | None = None) -> Float[Tensor, "3 H W"]:
    """Convert an image in memory to the tensor that `load_image` would read from its file, at full resolution.

    Args:
        image: A PIL image, or a tensor or an array with channels last, in [0, 1].
        size: (height, width) in pixels; None keeps the image's own.

    Raises:
        ValueError: It is none of these, or it cannot be decoded.
    """
    if isinstance(image, Image.Image):
        try:
            return from_pil(_decoded(image), size)
        except Exception as error:  # An opened file is decoded here.
            raise ValueError(f"not a readable image ({one_line(error)})") from None
    kinds = "an image is a PIL image, a tensor (3, height, width) or an array (height, width, 3) of floats in [0, 1]"
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(f"{kinds}, not {type(image).__name__}")
    if isinstance(image, np.ndarray):
        image = rearrange(torch.from_numpy(image), "h w c -> c h w") if image.ndim == 3 else torch.from_numpy(image)
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(f"{kinds}, not one of {image.dtype} and {list(image.shape)}")
    if not 0 <= float(image.min()) <= float(image.max()) <= 1:
        raise ValueError(f"{kinds}, not in [{float(image.min()):.3g}, {float(image.max()):.3g}]")
    if image.shape[1] * image.shape[2] > PIXELS:
        raise ValueError(_too_many_pixels(image.shape[2], image.shape[1]))
    scaled = image.detach().cpu().float() * 2 - 1
    return scaled if size is None else resized(scaled, size)


def _decoded(image: Image.Image) -> Image.Image:
    """Decode an image as RGB, upright, white where it is transparent. Raises whatever its decoder raises."""
    _check_pixels(image)
    stored = _stored_mode(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        rgb = _grey(image, stored)
    elif image.mode not in LEVELS:
        raise ValueError(
            f"an image of mode {image.mode!r} does not say which levels are black and white: save it with 8 bits"
        )
    else:
        rgb = _opaque(image, stored)
    if turn is None:
        return rgb
    upright = rgb.transpose(turn)
    for key in _ORIENTATION_IN:
        upright.info.pop(key, None)  # Or it would be turned again.
    return upright


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > PIXELS:
        raise ValueError(_too_many_pixels(image.width, image.height))


def _too_many_pixels(width: int, height: int) -> str:
    return f"{width:,} x {height:,} pixels are more than {PIXELS:,}: make it smaller"


def _stored_mode(image: Image.Image) -> str:
    """Pillow's name for the pixels in the file, which may be deeper than those of the image; before it is loaded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else image.mode
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _orientation(image: Image.Image) -> object:
    """The image's orientation tag, 1 to 8; None without one that can be read. No other tag counts."""
    try:
        orientation: object = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pixels do not depend on damaged tags.
        return None
    return orientation if isinstance(orientation, int) else None


def _is_turned(image: Image.Image) -> bool:
    """Whether width and height change places when the image is turned upright."""
    return _orientation(image) in (5, 6, 7, 8)


def _grey(image: Image.Image, stored: str) -> Image.Image:
    """An image of one channel of 12 or 16 bits as RGB."""
    levels = np.asarray(image, dtype=np.int32)
    white = 4095 if stored == "I;12" else 65535
    transparent = levels == image.info.get("transparency", -1)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        levels = white - levels
    eight_bits = (levels * 255 // white).clip(0, 255).astype(np.uint8)
    eight_bits[transparent] = 255
    return Image.fromarray(eight_bits).convert("RGB")


def _opaque(image: Image.Image, stored: str) -> Image.Image:
    """An image of channels of up to 8 bits as RGB, on white."""
    transparent = image.info.get("transparency")
    if stored == "RGB;16B" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in transparent)
    elif stored in ("L;2", "L;4") and isinstance(transparent, int):
        image.info["transparency"] = transparent * (85 if stored == "L;2" else 17)
    if image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay)
    return image if image.mode == "RGB" else image.convert("RGB")
