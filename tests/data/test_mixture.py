"""Orders and fractions of a mixture, from their definitions."""

from collections import Counter

import datasets as hub
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset

from got_core.data.datamodule import MixtureSampler, ResumableLoader
from got_core.data.mixture import BLOCK, Mixture, Source, permuted
from got_core.data.tables import GROUPS_HELD
from got_core.types import Sample


class Numbered(Dataset[Sample]):
    """Samples whose prompt is their number."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return Sample(prompt=str(index), chain="", size=(2, 2), target=torch.zeros(3, 2, 2))


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 300), key=st.lists(st.integers(0, 2**63), max_size=3))
def test_a_shuffled_order_holds_every_number_once(length, key):
    assert sorted(permuted(i, length, *key) for i in range(length)) == list(range(length))


def test_a_shuffled_order_is_spread_out_and_depends_on_its_key():
    orders = [[permuted(i, 1000, key) for i in range(1000)] for key in range(3)]
    assert orders[0] != orders[1] != orders[2]
    for order in orders:
        pairs = torch.corrcoef(torch.tensor([order, list(range(1000))]).float())
        steps = torch.corrcoef(torch.tensor([order[:-1], order[1:]]).float())
        assert abs(pairs[0, 1]) < 0.1
        assert abs(steps[0, 1]) < 0.1


class Streamed(IterableDataset):
    """Samples without indices."""

    def __iter__(self):
        return iter(Numbered(3))

    def __len__(self) -> int:
        return 3


class Grouped(Numbered):
    """Samples that are decoded in groups."""

    def __init__(self, groups: list[int]) -> None:
        super().__init__(sum(groups))
        self.groups = groups


@settings(deadline=None, max_examples=40)
@given(groups=st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any), seed=st.integers(0, 100))
def test_groups_are_read_once_a_turn_and_few_are_open_at_a_time(groups, seed):
    mixture = Mixture([Source(Grouped(groups))], length=10, seed=seed)
    numbers = [group for group, size in enumerate(groups) for _ in range(size)]
    turns = []
    for turn in range(2):
        order = [mixture.locate(turn * sum(groups) + step)[1] for step in range(sum(groups))]
        assert sorted(order) == list(range(sum(groups)))
        last = {numbers[index]: step for step, index in enumerate(order)}
        first = {numbers[index]: step for step, index in reversed(list(enumerate(order)))}
        for step in range(len(order)):
            assert sum(first[group] <= step <= last[group] for group in last) <= GROUPS_HELD
        turns.append(order)
    again = Mixture([Source(Grouped(groups))], length=10, seed=seed)
    assert [again.locate(sum(groups) + step)[1] for step in range(sum(groups))] == turns[1]


def test_groups_and_their_samples_are_shuffled():
    mixture = Mixture([Source(Grouped([100] * 40))], length=10)
    order = [mixture.locate(step)[1] for step in range(8000)]
    assert order[:4000] != order[4000:]
    window = order[: 100 * GROUPS_HELD]
    groups = [index // 100 for index in window]
    assert len(set(groups)) == GROUPS_HELD
    assert len(set(groups[:100])) == GROUPS_HELD  # Samples of all of its groups come mixed.
    steps = torch.corrcoef(torch.tensor([window[:-1], window[1:]]).float())
    assert abs(steps[0, 1]) < 0.15


def test_fractions_follow_the_weights_in_every_block():
    sources = [
        Source(Numbered(7), 6.0),
        Source(Numbered(1000), 3.0),
        Source(Numbered(50), 0.5),
        Source(Numbered(3), 0.5),
    ]
    mixture = Mixture(sources, length=10)
    for block in range(3):
        counts = Counter(mixture.locate(block * BLOCK + i)[0] for i in range(BLOCK))
        for number, fraction in enumerate([0.6, 0.3, 0.05, 0.05]):
            assert abs(counts[number] - fraction * BLOCK) <= 2


def test_all_of_a_source_is_read_before_anything_repeats():
    lengths = (60, 35)
    mixture = Mixture([Source(Numbered(length), weight) for length, weight in zip(lengths, (1, 2), strict=True)], 10, 4)
    visited: list[list[int]] = [[], []]
    for index in range(3 * BLOCK):
        source, inner = mixture.locate(index)
        visited[source].append(inner)
    for visits, length in zip(visited, lengths, strict=True):
        passes = [visits[start : start + length] for start in range(0, len(visits) - length, length)]
        assert all(sorted(order) == list(range(length)) for order in passes)
        assert passes[0] != passes[1]


def test_samples_do_not_depend_on_earlier_requests():
    def mixture() -> Mixture:
        return Mixture([Source(Numbered(60)), Source(Numbered(35), 0.3)], length=10)

    forward = [mixture().locate(i) for i in (3 * BLOCK, 5, BLOCK + 1)]
    shared = mixture()
    assert [shared.locate(i) for i in (3 * BLOCK, 5, BLOCK + 1)] == forward


def test_neighbours_come_from_mixed_sources():
    mixture = Mixture([Source(Numbered(1000)), Source(Numbered(1000))], length=10)
    for rank in range(2):
        assert 0.4 < sum(mixture.locate(i)[0] for i in range(rank, 1000, 2)) / 500 < 0.6


def test_the_order_depends_on_the_seed_alone():
    def order(seed: int) -> list[tuple[int, int]]:
        mixture = Mixture([Source(Numbered(60)), Source(Numbered(35))], length=10, seed=seed)
        return [mixture.locate(i) for i in range(100)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_iterating_gives_one_epoch():
    mixture = Mixture([Source(Numbered(60))], length=5)
    assert [sample.prompt for sample in mixture] == [mixture[i].prompt for i in range(5)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one source"),
        ([Source(Numbered(3)), Source(Numbered(0))], r"source 1 \(Numbered\) is empty"),
        ([Source(Numbered(3), 0.0)], r"source 0 \(Numbered\) has weight 0.0"),
        ([Source(Numbered(3), float("nan"))], "has weight nan"),
        (
            [Source(Numbered(3)), Source(Streamed())],
            r"source 1 \(Streamed\) can only be streamed, but training needs sample",
        ),
        (
            [Source(hub.Dataset.from_dict({"a": [1]}).to_iterable_dataset())],
            r"\(IterableDataset\) can only be streamed",
        ),
    ],
)
def test_impossible_mixtures_are_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        Mixture(sources, length=3)


def test_ranks_share_an_epoch_and_epochs_follow_each_other():
    mixture = Mixture([Source(Numbered(100))], length=25)
    samplers = [MixtureSampler(mixture, batch_size=3, num_replicas=2, rank=rank) for rank in range(2)]
    epochs = []
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        epochs.append(sorted(index for sampler in samplers for index in sampler))
    assert epochs == [list(range(24)), list(range(24, 48))]
    assert [len(sampler) for sampler in samplers] == [12, 12]


def loader(ranks: int = 1, rank: int = 0) -> ResumableLoader:
    mixture = Mixture([Source(Numbered(100))], length=13)
    return ResumableLoader(
        MixtureSampler(mixture, 3, ranks, rank), collate_fn=lambda samples: [int(s.prompt) for s in samples]
    )


def test_a_loader_continues_from_any_position():
    first = loader()
    batches = [batch for _ in range(5) for batch in first]
    assert len(batches) == 20
    assert len({number for batch in batches for number in batch}) == 60
    for position in range(10):
        resumed = loader()
        resumed.load_state_dict({"position": position * 3})
        assert resumed.state_dict() == {"position": position * 3}
        left = 4 - position % 4
        assert [batch for _ in range(2) for batch in resumed] == batches[position : position + left + 4]


def test_an_interrupted_epoch_is_not_continued():
    cut = loader()
    batches = iter(cut)
    assert next(batches) == [int(cut.dataset[i].prompt) for i in range(3)]
    assert cut.state_dict() == {"position": 3}
    cut.order.set_epoch(1)
    assert next(iter(cut)) == [int(cut.dataset[i].prompt) for i in range(12, 15)]
    assert cut.state_dict() == {"position": 15}


def test_a_position_is_valid_for_another_number_of_ranks():
    whole = loader()
    two = [loader(2, rank) for rank in range(2)]
    for part in two:
        part.load_state_dict({"position": 6})
    taken = sorted(number for part in two for number in next(iter(part)))
    assert taken == sorted(int(whole.dataset[i].prompt) for i in range(6, 12))


def test_an_epoch_holds_a_batch_for_every_rank():
    with pytest.raises(ValueError, match="epoch of 7 samples is less than one batch of 4 on each of 2 devices"):
        MixtureSampler(Mixture([Source(Numbered(100))], length=7), batch_size=4, num_replicas=2)
