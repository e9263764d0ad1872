"""Batches: what is stacked, what is refused, and the way back to samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from got_core.types import BLACK, Batch, Guidance, Sample


def sample(size=(8, 8), source=False, target=True):
    picture = torch.rand(3, *size) * 2 - 1
    return Sample("a prompt", "a chain", size, picture if target else None, picture / 2 if source else None, {"n": 1})


def test_a_batch_stacks_its_samples():
    samples = [sample(source=True), sample()]
    batch = Batch.collate(samples)
    assert batch.size == (8, 8)
    assert batch.has_source.tolist() == [True, False]
    assert torch.equal(batch.source[0], samples[0].source)
    assert bool((batch.source[1] == BLACK).all())
    assert torch.equal(batch.target, torch.stack([one.target for one in samples]))
    assert (batch.prompts, batch.chains, batch.meta) == (("a prompt",) * 2, ("a chain",) * 2, ({"n": 1},) * 2)


def test_sources_are_resized_by_pils_bicubic_filter_to_the_size_of_the_output():
    levels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    source = torch.from_numpy(levels).permute(2, 0, 1) / 127.5 - 1
    batch = Batch.collate([replace(sample(size=(8, 24)), source=source)])
    expected = np.asarray(Image.fromarray(levels).resize((24, 8), Image.Resampling.BICUBIC))
    assert torch.equal(batch.source[0], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 127.5 - 1)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([], "at least one sample"),
        ([sample(), sample(size=(8, 16))], "different sizes"),
        ([sample(), sample(target=False)], "1 of 2 samples have a target"),
    ],
)
def test_samples_that_do_not_stack_are_refused(samples, words):
    with pytest.raises(ValueError, match=words):
        Batch.collate(samples)


def test_a_batch_moves_as_a_whole():
    moved = Batch.collate([sample(source=True)]).to("meta")
    assert all(tensor.is_meta for tensor in (moved.source, moved.target, moved.has_source))


def test_guidances_join_field_by_field():
    one, two = (Guidance(torch.full((1, 2, 3), value), spatial=torch.full((1, 4, 2, 2), value)) for value in (1.0, 2.0))
    joined = Guidance.cat([one, two])
    assert joined.tokens[:, 0, 0].tolist() == [1.0, 2.0]
    assert joined.spatial[:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert joined.pooled is None
