"""Images between page and server in data URLs, and as one file that loads again: a PNG with its chain and settings."""

import base64
import binascii
import io
import json
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from got_core.data.images import open_image
from got_core.studio.settings import Limits, Refused, Settings, checked_text

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""That uploads may have, as Pillow calls them."""

PREVIEW_SIDE = 512
"""Longest side of a picture that is shown while it is drawn."""

THUMBNAIL_SIDE = 96
"""Longest side of a picture in the history."""


def png(image: Image.Image) -> bytes:
    """The picture, losslessly."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """Content that a page shows without asking for a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def shown(image: Image.Image) -> str:
    """The picture in full."""
    return data_url(png(image))


def small(image: Image.Image, side: int) -> str:
    """The picture, at most `side` pixels long."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return data_url(png(copy))


def sent_bytes(value: object, limits: Limits) -> bytes:
    """The content of a data URL that was sent here.

    Raises:
        Refused: It is none, or too large.
    """
    if not isinstance(value, str) or not value.startswith("data:"):
        raise Refused("no picture arrived")
    body = value.partition(";base64,")[2]
    if len(body) > limits.image_bytes * 4 // 3 + 4:
        raise Refused(f"the file is larger than {limits.image_bytes / 1e6:g} MB")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("the picture did not arrive whole") from None
    if not content:
        raise Refused("the file is empty")
    return content


def checked_image(content: bytes, limits: Limits) -> Image.Image:
    """The picture in a file; its size is looked at before it is unpacked.

    Raises:
        Refused: It is none that can be read, or has too many pixels.
    """
    if len(content) > limits.image_bytes:
        raise Refused(f"the file is larger than {limits.image_bytes / 1e6:g} MB")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Refused(f"the file is no picture that can be read; {', '.join(FORMATS)} can") from None
    if width * height > limits.image_pixels:
        raise Refused(
            f"the picture has {width:,} x {height:,} pixels; at most {limits.image_pixels / 1e6:g} million are taken"
        )
    try:
        return open_image(content, "the picture")
    except ValueError as error:
        raise Refused(str(error)) from None


KEY = "got-studio"
"""Of the text chunk."""

VERSION = 1
"""Of what is written there."""

_FIELDS = {"version", "prompt", "chain", "settings", "source", "earlier"}


@dataclass(frozen=True)
class Saved:
    """A drawing with all that it was drawn from.

    Attributes:
        image: The picture.
        prompt: What was asked.
        chain: The plan.
        settings: How it was drawn.
        source: The picture that was edited, if any.
        earlier: What was asked in the turns before.
    """

    image: Image.Image
    prompt: str
    chain: str
    settings: Settings
    source: Image.Image | None = None
    earlier: tuple[str, ...] = ()


def write_saved(saved: Saved) -> bytes:
    """The file: a picture for everyone, and more for the studio."""
    source = None if saved.source is None else base64.b64encode(png(saved.source)).decode("ascii")
    values = {
        "version": VERSION,
        "prompt": saved.prompt,
        "chain": saved.chain,
        "settings": saved.settings.values(),
        "source": source,
        "earlier": list(saved.earlier),
    }
    text = PngInfo()
    text.add_itxt(KEY, json.dumps(values))
    buffer = io.BytesIO()
    saved.image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def read_saved(content: bytes, limits: Limits) -> Saved | Image.Image:
    """What `write_saved` wrote, or just the picture where the file holds nothing more.

    Raises:
        Refused: The file is no picture, too large, or what it holds of a drawing is damaged.
    """
    image = checked_image(content, limits)
    text = _text(content)
    if text is None:
        return image
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("the plan saved in this picture is damaged: it is no JSON") from None
    if not isinstance(values, dict) or set(values) != _FIELDS or values["version"] != VERSION:
        raise Refused(f"the plan saved in this picture is none of version {VERSION}")
    if not isinstance(values["settings"], dict):
        raise Refused("the plan saved in this picture has no settings")
    return Saved(
        image,
        checked_text(values["prompt"], limits.prompt, "saved prompt"),
        checked_text(values["chain"], limits.chain, "saved plan"),
        Settings.checked(values["settings"], limits),
        _source(values["source"], limits),
        _earlier(values["earlier"], limits),
    )


def _text(content: bytes) -> str | None:
    """The text chunk of a picture that has already been read once."""
    with Image.open(io.BytesIO(content)) as opened:
        if opened.format != "PNG":
            return None
        opened.load()
        text = opened.info.get(KEY)
    return text if isinstance(text, str) else None


def _source(value: object, limits: Limits) -> Image.Image | None:
    if value is None:
        return None
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        raise Refused("the picture before the edit, saved in this picture, is damaged") from None
    return checked_image(content, limits)


def _earlier(value: object, limits: Limits) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > limits.turns:
        raise Refused("the earlier requests saved in this picture are damaged")
    return tuple(checked_text(each, limits.prompt, "saved request") for each in value)
