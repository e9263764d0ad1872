import numpy as np
import pytest
import torch

from got_core.chain.parser import parse
from got_core.data.visualization import LAYOUT_SIDE, Tile, contact_sheet, draw_layout, region_colour
from got_core.types import to_pil

CHAIN = (
    "A gray scene with <|object_ref_start|>a red circle<|object_ref_end|>"
    "<|box_start|>(250,250),(750,750)<|box_end|> (red)."
)


def test_pixels_stay_the_same_in_a_pil_image():
    levels = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    image = np.array(to_pil(levels / 127.5 - 1))
    assert (image == levels.permute(1, 2, 0).numpy()).all()


def test_a_layout_enlarges_without_smoothing_and_outlines_the_box_in_its_colour():
    image = np.array(draw_layout(torch.zeros(3, 32, 32), CHAIN))
    assert image.shape == (LAYOUT_SIDE, LAYOUT_SIDE, 3)
    red = (image == (255, 0, 0)).all(-1)
    rows, columns = red.any(1).nonzero()[0], red.any(0).nonzero()[0]
    quarter = LAYOUT_SIDE // 4
    assert abs(rows[0] - quarter) <= 1
    assert abs(rows[-1] - 3 * quarter) <= 1
    assert abs(columns[0] - quarter) <= 1
    assert abs(columns[-1] - 3 * quarter) <= 1
    assert (image[quarter + 8 : -quarter - 8, quarter + 8 : -quarter - 8] == 128).all()


def test_a_box_of_less_than_a_pixel_is_outlined():
    image = np.array(draw_layout(torch.zeros(3, 32, 32), "a dot (1,1),(2,2)", side=32))
    assert (image[:2, :2] != 128).any()


def test_a_chain_without_boxes_leaves_the_image_unchanged():
    image = np.array(draw_layout(torch.zeros(3, 32, 32), "a plain scene"))
    assert (image == 128).all()


def test_regions_without_a_colour_have_different_ones():
    regions = parse("a cat (0,0),(100,100) and a dog (200,200),(300,300)").regions
    assert len({region_colour(region, index) for index, region in enumerate(regions)}) == 2


def test_a_sheet_holds_every_tile_and_the_source_of_an_edit():
    plain = Tile(torch.ones(3, 32, 32), "", "white")
    words = "a longer instruction that needs more than one line of text"
    edit = Tile(torch.ones(3, 32, 32), CHAIN, words, -torch.ones(3, 32, 32))
    margin, side, gap = 6, 64, 2
    sheet = np.array(contact_sheet([plain, edit, plain], width=220, side=side))
    assert sheet.shape[1] == margin + (side + margin) + (2 * side + gap + margin)
    assert sheet.shape[0] > 2 * (side + margin)
    left = 2 * margin + side
    assert (sheet[margin : margin + side, left : left + side] == 0).all()


def test_a_sheet_needs_a_tile():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
