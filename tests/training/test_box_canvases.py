"""Box masks for the training of a codec."""

import pytest
import torch

from got_core.training.codec_training import BoxCanvasDataset
from got_core.types import BLACK


def test_a_canvas_is_one_plain_box_on_black():
    canvases = BoxCanvasDataset(size=16, length=200, box_size=(0.25, 0.5))
    for index in range(0, 200, 7):
        canvas = canvases[index].target
        filled = (canvas != BLACK).any(dim=0)
        rows, columns = filled.any(dim=1).nonzero().flatten(), filled.any(dim=0).nonzero().flatten()
        if not len(rows):
            continue  # a box may be black itself
        box = canvas[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 4 <= box.shape[1] <= 8
        assert 4 <= box.shape[2] <= 8
        assert torch.equal(box, box[:, :1, :1].expand_as(box))
        assert int(filled.sum()) == box.shape[1] * box.shape[2]


def test_canvases_follow_from_seed_and_index():
    one, same, other = (BoxCanvasDataset(size=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one[5].target, same[5].target)
    assert not torch.equal(one[5].target, other[5].target)
    with pytest.raises(IndexError, match="200"):
        BoxCanvasDataset(length=200)[200]
