"""Batches of one size each in the mixture's order, on any number of ranks, resumed anywhere."""

import math
from itertools import pairwise

import pytest
import torch
from torch.utils.data import Dataset

from got_core.data.buckets import Bucketed, Buckets, BucketSampler, bucket_of
from got_core.data.datamodule import ResumableLoader
from got_core.data.mixture import Mixture, Source
from got_core.types import Sample

BUCKETS = Buckets(64 * 64, 16, 3.0)


class Photographs(Dataset[Sample]):
    """Samples of six shapes; the prompt is the index."""

    SHAPES = ((40, 40), (40, 60), (60, 40), (30, 90), (90, 30), (50, 40))

    def __init__(self, length, broken=()):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def image_size(self, index):
        if index in self.broken:
            raise ValueError("not a readable image")
        return self.SHAPES[(index * 7 + index // 5) % len(self.SHAPES)]

    def __getitem__(self, index):
        return self.at_size(index, (64, 64))

    def at_size(self, index, size):
        self.image_size(index)
        return Sample(str(index), "", size, target=torch.zeros(3, *size))


class Squares(Dataset[Sample]):
    """Samples of one size, which is that of no photograph."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return Sample(f"square {index}", "", (48, 48), target=torch.zeros(3, 48, 48))


def mixture(epoch=480, **options):
    return Mixture([Source(Photographs(97), 2.0), Source(Squares(), 1.0)], epoch, seed=3, **options)


def loader(ranks=1, rank=0, batch_size=4, workers=0, global_batch=16, epoch=480):
    order = BucketSampler(mixture(epoch), BUCKETS, batch_size, global_batch, ranks, rank)
    return ResumableLoader(order, num_workers=workers, collate_fn=as_seen)


def as_seen(samples):
    (size,) = {sample.size for sample in samples}
    return [sample.prompt for sample in samples], size


def taken(loaders, count, batches=None):
    """The next global batches of loaders of all ranks, over epochs."""
    batches = batches if batches is not None else [[] for _ in loaders]
    running = [iter(each) for each in loaders]
    for _ in range(count):
        for number, each in enumerate(loaders):
            batch = next(running[number], None)
            if batch is None:
                running[number] = iter(each)
                batch = next(running[number])
            batches[number].append(batch)
    return batches


def global_batches(batches, steps):
    """Prompts in the mixture's order, and the size, of each optimizer step."""
    ranks, found = len(batches), []
    micro = len(batches[0]) // steps
    for step in range(steps):
        parts = [[batches[rank][step * micro + n] for rank in range(ranks)] for n in range(micro)]
        sizes = {size for row in parts for _, size in row}
        assert len(sizes) == 1
        prompts = [p for row in parts for together in zip(*(b for b, _ in row), strict=True) for p in together]
        found.append((prompts, sizes.pop()))
    return found


def test_sizes_have_one_budget_and_the_nearest_ratio_is_taken():
    buckets = Buckets(1024 * 1024)
    assert (1024, 1024) in buckets.sizes
    for height, width in buckets.sizes:
        assert height % 64 == width % 64 == 0
        assert 0.5 <= width / height <= 2
        assert 0.85 < height * width / 1024**2 < 1.15
        assert (width, height) in buckets.sizes
    assert buckets.nearest((3000, 3000)) == (1024, 1024)
    assert buckets.nearest((1080, 1920)) == (768, 1344)
    assert buckets.nearest((100, 5000)) == max(buckets.sizes, key=lambda size: size[1] / size[0])
    for stored in ((500, 700), (1300, 900), (640, 480)):
        chosen = buckets.nearest(stored)
        gaps = {size: abs(math.log(size[1] / size[0] * stored[0] / stored[1])) for size in buckets.sizes}
        assert gaps[chosen] == min(gaps.values())


def test_every_step_has_one_size_and_nothing_is_left_out():
    order = BucketSampler(mixture(), BUCKETS, 4, 16)
    keys = [key for batch in order for key in batch]
    assert len(keys) == len(dict(keys)) == 480
    whole = mixture()
    for index, size in keys:
        source, inner = whole.locate(index)
        assert size == (bucket_of(whole.sources[source].dataset, inner, BUCKETS) or (48, 48))
    steps = [{size for _, size in keys[start : start + 16]} for start in range(0, 480, 16)]
    assert all(len(sizes) == 1 for sizes in steps)
    assert len({size for sizes in steps for size in sizes}) == 6
    runs = sum(one != other for one, other in pairwise(steps))
    assert runs > len(steps) / 2
    # Of 480 + what waits, in order: no sample waits for long.
    assert max(index for index, _ in keys) < 480 + 6 * 16


@pytest.mark.parametrize(
    ("ranks", "batch_size", "workers"),
    [
        (2, 4, 2),
        *(pytest.param(r, b, w, marks=pytest.mark.slow) for r, b in ((1, 16), (1, 4), (2, 8), (4, 4)) for w in (0, 2)),
    ],
)
def test_the_sequence_is_the_same_on_other_ranks_and_after_a_resume(ranks, batch_size, workers):
    """200 global batches of two sources and six sizes, over epochs, interrupted in the middle of one."""
    expected = global_batches(taken([loader()], 200 * 4), 200)
    made = [loader(ranks, rank, batch_size, workers) for rank in range(ranks)]
    micro = 16 // (batch_size * ranks)
    first = taken(made, 83 * micro + min(1, micro - 1))
    states = [each.state_dict() for each in made]
    assert all(state == states[0] for state in states)
    resumed = [loader(ranks, rank, batch_size, 0 if workers else 2) for rank in range(ranks)]
    for each in resumed:
        each.load_state_dict(states[0])
    rest = taken(resumed, 200 * micro - len(first[0]), first)
    assert global_batches(rest, 200) == expected


def test_a_state_is_of_any_number_of_ranks():
    one = [loader()]
    expected = global_batches(taken(one, 40 * 4), 40)
    begun = [loader()]
    taken(begun, 10 * 4)
    two = [loader(2, rank, 4) for rank in range(2)]
    for each in two:
        each.load_state_dict(begun[0].state_dict())
    assert global_batches(taken(two, 30 * 2), 30) == expected[10:]


def test_a_replaced_sample_has_the_size_of_its_batch():
    source = Photographs(97, broken=(5, 6, 40))
    tolerant = Mixture([Source(source, 1.0)], 96, seed=3, tolerant=True)
    order = BucketSampler(tolerant, BUCKETS, 4, 8)
    for batch in order:
        sizes = {tolerant[key].size for key in batch}
        assert sizes == {size for _, size in batch}
        assert len(sizes) == 1


def test_a_dataset_in_its_buckets():
    bucketed = Bucketed(Photographs(12), BUCKETS)
    assert {bucketed[index].size for index in range(12)} == {BUCKETS.nearest(shape) for shape in Photographs.SHAPES}
    assert Bucketed(Squares(), BUCKETS)[3].size == (48, 48)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"pixels": 100}, "sides are at least one multiple"), ({"pixels": 4096, "most_ratio": 0.5}, "ratios at least 1")],
)
def test_impossible_buckets_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Buckets(**values)


def test_an_impossible_global_batch_is_refused():
    with pytest.raises(ValueError, match="must hold whole batches of 4 on each of 3 devices"):
        BucketSampler(mixture(), BUCKETS, 4, 16, 3)
