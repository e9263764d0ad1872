"""Pictures as they travel between page and server: in data URLs, never as files."""

import base64
import binascii
import io

from PIL import Image

from got_core.data.images import open_image
from got_core.studio.limits import Limits, Refused

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


def checked_picture(content: bytes, limits: Limits) -> Image.Image:
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
