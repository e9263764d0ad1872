"""Images for people: an image with its planned boxes, contact sheets, and web pages."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from jaxtyping import Float
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from got_core.chain.parser import SIDE, Region, colour_of, parse, to_pixels
from got_core.types import to_pil

LAYOUT_SIDE = 512
"""Least side of a layout image in pixels; smaller images are enlarged by a whole factor without smoothing."""

_ORDER = ("red", "lime", "blue", "yellow", "magenta", "cyan", "orange", "white")
_MARGIN = 6


@dataclass(frozen=True)
class Tile:
    """One entry of a contact sheet or a page.

    Attributes:
        image: In [-1, 1].
        chain: Its reasoning chain.
        prompt: Its prompt.
        source: The source image of an edit.
        name: Shown on a page.
        earlier: The requests of earlier turns, shown on a page.
    """

    image: Float[Tensor, "3 H W"]
    chain: str
    prompt: str
    source: Float[Tensor, "3 h w"] | None = None
    name: str = ""
    earlier: Sequence[str] = ()


def draw_layout(image: Image.Image | Float[Tensor, "3 H W"], chain: str, side: int = LAYOUT_SIDE) -> Image.Image:
    """Outline and name each planned box on an image (a tensor in [-1, 1]), enlarged to at least `side` pixels."""
    layout = _enlarge(image if isinstance(image, Image.Image) else to_pil(image), side)
    draw = ImageDraw.Draw(layout)
    font = ImageFont.load_default(max(10, layout.width // 32))
    for index, region in enumerate(parse(chain).regions):
        colour = region_colour(region, index)
        x1, y1, x2, y2 = (round(edge) for edge in to_pixels(region.box, layout.height, layout.width))
        draw.rectangle((x1, y1, x2, y2), outline="black", width=4)
        draw.rectangle((x1 + 1, y1 + 1, max(x1 + 1, x2 - 1), max(y1 + 1, y2 - 1)), outline=colour, width=2)
        if region.phrase:
            left, top, right, bottom = draw.textbbox((0, 0), region.phrase, font=font)
            height, width = bottom - top + 4, right - left + 6
            x = max(0, min(x1, layout.width - width))
            y = y1 - height if y1 >= height else y1
            draw.rectangle((x, y, x + width, y + height), fill="black")
            draw.text((x + 3 - left, y + 2 - top), region.phrase, fill="white", font=font)
    return layout


def region_colour(region: Region, index: int) -> tuple[int, ...]:
    """Return the RGB colour of a region's outline: that of its chain, else one by its index."""
    return ImageColor.getrgb(colour_of(region) or _ORDER[index % len(_ORDER)])


def contact_sheet(tiles: Sequence[Tile], width: int = 1600, side: int = 192) -> Image.Image:
    """Arrange images in rows, each beside its layout and, for edits, its source, with the prompt below.

    Args:
        tiles: The entries.
        width: Of the sheet, in pixels; wider only where one tile needs it.
        side: Least side of each image, in pixels.

    Raises:
        ValueError: No tiles.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one image")
    font = ImageFont.load_default(12)
    placed: list[tuple[int, int, Image.Image]] = []
    x = y = _MARGIN
    row_height = right = 0
    for image in (_tile(tile, side, font) for tile in tiles):
        if x > _MARGIN and x + image.width + _MARGIN > width:
            x, y, row_height = _MARGIN, y + row_height + _MARGIN, 0
        placed.append((x, y, image))
        x += image.width + _MARGIN
        row_height, right = max(row_height, image.height), max(right, x)
    sheet = Image.new("RGB", (right, y + row_height + _MARGIN), "white")
    for left, top, image in placed:
        sheet.paste(image, (left, top))
    return sheet


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
article {{ border-top: 1px solid #ccc; padding: 1rem 0 }}
.images {{ display: flex; flex-wrap: wrap; gap: 1rem }}
.image {{ position: relative }}
.image img {{ display: block }}
.image svg {{ inset: 0; height: 100%; position: absolute; width: 100% }}
li::marker {{ font-size: 1.4em }}
pre {{ white-space: pre-wrap }}
small {{ color: #666 }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def html_page(title: str, tiles: Sequence[Tile], notes: Sequence[str] = ()) -> str:
    """Write a page that needs no other file: images with their boxes, phrases and chains. Markup in texts is text.

    Args:
        title: Its heading.
        tiles: Its entries.
        notes: Lines at its end.
    """
    body = [_article(tile) for tile in tiles]
    if notes:
        body.append("<ul>\n" + "\n".join(f"<li>{escape(note)}</li>" for note in notes) + "\n</ul>")
    return _PAGE.format(title=escape(title), body="\n".join(body))


def _article(tile: Tile) -> str:
    rectangles, phrases = [], []
    for index, region in enumerate(parse(tile.chain).regions):
        colour = "#{:02x}{:02x}{:02x}".format(*region_colour(region, index)[:3])
        x1, y1, x2, y2 = region.box
        rectangles.append(
            f'<rect x="{x1}" y="{y1}" width="{x2 - x1}" height="{y2 - y1}" fill="none" stroke="{colour}" '
            f'stroke-width="2" vector-effect="non-scaling-stroke"><title>{escape(region.phrase)}</title></rect>'
        )
        phrases.append(f'<li style="color: {colour}"><span style="color: #000">{escape(region.phrase)}</span></li>')
    boxes = f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none">{"".join(rectangles)}</svg>'
    source = "" if tile.source is None else f'<div class="image">{_img(tile.source)}</div>'
    earlier = "".join(f"<p>{escape(request)}</p>\n" for request in tile.earlier)
    return (
        f"<article>\n{earlier}<h2>{escape(tile.prompt)}</h2>\n"
        f'<div class="images">{source}<div class="image">{_img(tile.image)}{boxes}</div></div>\n'
        f"<ul>{''.join(phrases)}</ul>\n<pre>{escape(tile.chain)}</pre>\n<small>{escape(tile.name)}</small>\n</article>"
    )


def _img(image: Float[Tensor, "3 H W"]) -> str:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "JPEG", quality=90)
    encoded = b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" width="{image.shape[2]}" height="{image.shape[1]}" alt="">'


def _tile(tile: Tile, side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """The source (of an edit) and the image with its layout, side by side over the prompt."""
    parts = [] if tile.source is None else [_enlarge(to_pil(tile.source), side)]
    parts.append(draw_layout(tile.image, tile.chain, side))
    width = sum(part.width for part in parts) + 2 * (len(parts) - 1)
    lines = wrap(tile.prompt, max(8, width // 7))
    height = max(part.height for part in parts)
    image = Image.new("RGB", (width, height + 16 * len(lines) + 4), "white")
    x = 0
    for part in parts:
        image.paste(part, (x, 0))
        x += part.width + 2
    ImageDraw.Draw(image).multiline_text((2, height + 2), "\n".join(lines), fill="black", font=font)
    return image


def _enlarge(image: Image.Image, side: int) -> Image.Image:
    factor = max(1, -(-side // min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
