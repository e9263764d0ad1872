"""A drawing as one file that loads again: a PNG whose text chunk holds its chain and settings as JSON."""

import base64
import binascii
import io
import json
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from got_core.studio.limits import Limits, Refused, checked_text
from got_core.studio.picture_data import checked_picture, png
from got_core.studio.settings import Settings

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
    image = checked_picture(content, limits)
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
    return checked_picture(content, limits)


def _earlier(value: object, limits: Limits) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > limits.turns:
        raise Refused("the earlier requests saved in this picture are damaged")
    return tuple(checked_text(each, limits.prompt, "saved request") for each in value)
