"""Batches: what is stacked, what is refused, and the way back to samples."""

import pytest
import torch

from got_core.types import BLACK, Batch, Guidance, Sample


def sample(size=(8, 8), source=False, target=True):
    picture = torch.rand(3, *size) * 2 - 1
    return Sample("a prompt", "a chain", size, picture if target else None, picture / 2 if source else None, {"n": 1})


def test_a_batch_gives_its_samples_back():
    samples = [sample(source=True), sample()]
    batch = Batch.collate(samples)
    assert batch.size == (8, 8)
    assert batch.has_source.tolist() == [True, False]
    assert bool((batch.source[1] == BLACK).all())
    for given, back in zip(samples, batch.samples(["x", "y"]), strict=True):
        assert (back.prompt, back.size, back.meta) == (given.prompt, given.size, given.meta)
        assert torch.equal(back.target, given.target)
        assert (back.source is None) == (given.source is None)
    assert [back.chain for back in batch.samples(["x", "y"])] == ["x", "y"]


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
