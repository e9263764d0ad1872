"""Images as data URLs between page and server, and as files that open again: PNGs with chain and settings."""

import base64
import io
import json
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from got_core.data.images import open_image
from got_core.studio.settings import Limits, Refused, Settings, checked_text

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Of uploads, by Pillow's names."""

KEPT_SIDE = 2048
"""Pixels; a larger image is made smaller, as every plan keeps its source in floating point (50 MB at this size)."""

KEY = "got-studio"
"""Of the PNG's text chunk."""

VERSION = 1
"""Of the text's format."""


def png(image: Image.Image, text: PngInfo | None = None) -> bytes:
    """Write an image losslessly, with text chunks if any."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def data_url(content: bytes) -> str:
    """Write the content of a PNG as an address that a page can show."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def image_url(image: Image.Image, longest_side: int | None = None) -> str:
    """Write an image as an address that a page can show, reduced to `longest_side` pixels if given."""
    if longest_side is not None:
        image = image.copy()
        image.thumbnail((longest_side, longest_side))
    return data_url(png(image))


def uploaded_bytes(value: object) -> bytes:
    """Read the content of a data URL (Refused if it is none)."""
    if not isinstance(value, str) or not value.startswith("data:"):
        raise Refused("no image arrived")
    return _decoded(value.partition(";base64,")[2], "the uploaded image")


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(f"{name} is damaged") from None


def checked_image(content: bytes, limits: Limits) -> Image.Image:
    """Read an image file; its size is checked before it is unpacked, and it is kept at most `KEPT_SIDE` high and wide.

    Raises:
        Refused: It is not a readable image, or has too many bytes or pixels.
    """
    if len(content) > limits.image_bytes:
        raise Refused(f"the file is larger than {limits.image_bytes / 1e6:g} MB")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
    except Exception:  # Decoders of damaged files raise errors of every kind.
        raise Refused(f"the file is not a readable image; {', '.join(FORMATS)} are") from None
    if width * height > limits.image_pixels:
        raise Refused(
            f"the image has {width:,} x {height:,} pixels; at most {limits.image_pixels / 1e6:g} million are allowed"
        )
    try:
        image = open_image(content, "the image")
    except ValueError as error:
        raise Refused(str(error)) from None
    image.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return image


@dataclass(frozen=True)
class Saved:
    """A generated image with all that it was generated from.

    Attributes:
        image: The image.
        prompt: Caption or instruction.
        chain: The plan.
        settings: Those it was generated with.
        source: The image that was edited, if any.
        earlier: The requests of the turns before.
    """

    image: Image.Image
    prompt: str
    chain: str
    settings: Settings
    source: Image.Image | None = None
    earlier: tuple[str, ...] = ()


def write_saved(saved: Saved) -> bytes:
    """Write the image as a PNG, with the rest as JSON in a text chunk."""
    values = {
        "version": VERSION,
        "prompt": saved.prompt,
        "chain": saved.chain,
        "settings": saved.settings.values(),
        "source": None if saved.source is None else base64.b64encode(png(saved.source)).decode("ascii"),
        "earlier": list(saved.earlier),
    }
    text = PngInfo()
    text.add_itxt(KEY, json.dumps(values))
    return png(saved.image, text)


def read_saved(content: bytes, limits: Limits) -> Saved | Image.Image:
    """Read what `write_saved` wrote, or the image alone if the file has nothing more.

    Raises:
        Refused: The file is not an image, too large, or its text is damaged.
    """
    image = checked_image(content, limits)
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()  # Text may follow the pixels.
        text = opened.info.get(KEY)
    if not isinstance(text, str):
        return image
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("the plan saved in this image is damaged: it is not JSON") from None
    match values:
        case {
            "version": version, "prompt": prompt, "chain": chain, "settings": dict(settings),
            "source": None | str() as source, "earlier": list(earlier), **others,
        } if version == VERSION and not others and len(earlier) <= limits.turns:  # fmt: skip
            return Saved(
                image,
                checked_text(prompt, limits.prompt, "saved prompt"),
                checked_text(chain, limits.chain, "saved plan"),
                Settings.checked(settings, limits),
                None if source is None else checked_image(_decoded(source, "the saved source image"), limits),
                tuple(checked_text(each, limits.prompt, "saved request") for each in earlier),
            )
    raise Refused(f"the plan saved in this image is damaged, or not of version {VERSION}")
