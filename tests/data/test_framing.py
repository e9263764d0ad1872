"""Images in frames of other proportions, with their boxes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from got_core.chain.parser import parse
from got_core.data.framing import OBJECTS_CUT, WHOLE, frame, in_window, window
from got_core.data.records import RecordsDataset

CHAIN = (
    "A field with <|object_ref_start|>a dog<|object_ref_end|><|box_start|>(0,100),(300,400)<|box_end|> and "
    "<|object_ref_start|>a tree<|object_ref_end|><|box_start|>(400,200),(600,999)<|box_end|> (green)."
)


@pytest.mark.parametrize(
    ("stored", "size", "fit", "expected"),
    [
        ((100, 200), (64, 64), "cover", (0.25, 0.0, 0.75, 1.0)),
        ((200, 100), (64, 64), "cover", (0.0, 0.25, 1.0, 0.75)),
        ((100, 200), (64, 64), "pad", (0.0, -0.5, 1.0, 1.5)),
        ((200, 100), (64, 64), "pad", (-0.5, 0.0, 1.5, 1.0)),
        ((100, 200), (64, 64), "squash", WHOLE),
        ((100, 200), (32, 64), "cover", WHOLE),
        ((100, 100), (64, 128), "cover", (0.0, 0.25, 1.0, 0.75)),
    ],
)
def test_a_frame_shows_the_middle(stored, size, fit, expected):
    assert window(stored, size, fit) == expected


def test_boxes_are_of_the_frame_and_objects_outside_leave_the_chain():
    cropped, gone = in_window(CHAIN, (0.25, 0.0, 0.75, 1.0))
    (tree,) = parse(cropped).regions
    assert (tree.phrase, tree.box, tree.colour, gone) == ("a tree", (300, 200, 700, 999), "green", 1)
    assert "a dog" not in cropped
    assert parse(cropped).problems == ()
    half, gone = in_window(CHAIN, (0.15, 0.0, 1.0, 1.0))
    assert [(region.phrase, region.box) for region in parse(half).regions] == [
        ("a dog", (0, 100, 176, 400)),
        ("a tree", (294, 200, 529, 999)),
    ]
    assert gone == 0
    assert in_window("a sky (0,0),(999,999)", (0.45, 0.0, 0.55, 1.0)) == ("a sky (0,0),(999,999)", 0)
    padded, _ = in_window(CHAIN, (0.0, -0.5, 1.0, 1.5))
    assert [region.box for region in parse(padded).regions] == [(0, 300, 300, 450), (400, 350, 600, 750)]
    assert in_window(CHAIN, WHOLE) == (CHAIN, 0)


def square(left, width, height, side):
    """White, with a black square in the middle of the height."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    top = (height - side) // 2
    pixels[top : top + side, left : left + side] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("fit", ["cover", "pad", "squash"])
@pytest.mark.parametrize(("width", "height"), [(96, 48), (48, 96)])
def test_the_box_stays_on_its_object(fit, width, height):
    """What is black in the frame is where the box says it is."""
    left = (width - 24) // 2
    image, top = square(left, width, height, 24), (height - 24) // 2
    box = [round(1000 * edge) for edge in (left / width, top / height, (left + 24) / width, (top + 24) / height)]
    chain = "a square ({},{}),({},{})".format(*box)
    size = (120, 120)
    shown = window((height, width), size, fit)
    (region,) = parse(in_window(chain, shown)[0]).regions
    framed = frame(image, shown, size)
    assert framed.shape == (3, *size)
    x1, y1, x2, y2 = (round(edge * 0.12) for edge in region.box)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[y1:y2, x1:x2] = True
    dark = framed[0] < 0
    if fit == "pad":  # Of the padding, which is black too.
        dark = dark & inside
    assert int((dark ^ inside).sum()) <= 8 * 30


def test_records_are_cropped_padded_or_squashed_with_their_sources(tmp_path):
    square(0, 96, 48, 24).save(tmp_path / "image.png")
    square(0, 192, 96, 24).save(tmp_path / "source.png")
    (tmp_path / "records.jsonl").write_text(
        json.dumps({"prompt": "a", "chain": CHAIN, "image": "image.png", "source": "source.png"})
    )
    cover, pad, squash = (
        RecordsDataset(str(tmp_path / "records.jsonl"), 32, source_column="source", fit=fit)[0]
        for fit in ("cover", "pad", "squash")
    )
    assert [tuple(each.source.shape) for each in (cover, pad, squash)] == [(3, 96, 96), (3, 192, 192), (3, 96, 192)]
    assert [tuple(each.target.shape) for each in (cover, pad, squash)] == [(3, 32, 32)] * 3
    assert (cover.meta[OBJECTS_CUT], len(parse(cover.chain).regions)) == (1, 1)
    assert OBJECTS_CUT not in pad.meta
    assert squash.chain == CHAIN
    assert float(cover.target.min()) > 0.9
    assert float(pad.target[:, 0].max()) == -1
