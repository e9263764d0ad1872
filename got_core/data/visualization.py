"""Images for people: an image with its planned boxes, and contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from jaxtyping import Float
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from got_core.chain.parser import Region, colour_of, parse, to_pixels
from got_core.types import to_pil

LAYOUT_SIDE = 512
"""Least side of a layout image in pixels; smaller images are enlarged by a whole factor without smoothing."""

_ORDER = ("red", "lime", "blue", "yellow", "magenta", "cyan", "orange", "white")
_MARGIN = 6


@dataclass(frozen=True)
class Tile:
    """One entry of a contact sheet: the image, its chain, the prompt, and the source image of an edit."""

    image: Float[Tensor, "3 H W"]
    chain: str
    prompt: str
    source: Float[Tensor, "3 H W"] | None = None


def draw_layout(image: Image.Image | Float[Tensor, "3 H W"], chain: str, side: int = LAYOUT_SIDE) -> Image.Image:
    """Outline and name each planned box on an image (a tensor in [-1, 1]), enlarged to at least `side` pixels."""
    layout = _enlarge(image if isinstance(image, Image.Image) else to_pil(image), side)
    draw = ImageDraw.Draw(layout)
    font = ImageFont.load_default(max(10, layout.width // 32))
    for index, region in enumerate(parse(chain).regions):
        colour = region_colour(region, index)
        x1, y1, x2, y2 = (round(edge) for edge in to_pixels(region.box, layout.height, layout.width))
        draw.rectangle((x1, y1, x2, y2), outline="black", width=4)
        draw.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1), outline=colour, width=2)
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
