"""Several datasets as one by their weights, in a shuffled order without memory or state."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import numpy as np
from numpy import ndarray
from torch.utils.data import Dataset, IterableDataset

from got_core.data.quarantine import Tolerant
from got_core.data.tables import GROUPS_HELD
from got_core.types import Sample

ROUNDS = 4
"""Rounds of the Feistel network; three already give a pseudo-random permutation (Luby and Rackoff, 1988)."""


def permuted(index: int, length: int, *key: int) -> int:
    """Return the element at `index` of a shuffled order of 0 .. length - 1, one order for each key.

    A Feistel network permutes the smallest even number of bits that holds `length`. A result outside is permuted again
    until it is inside, so that the whole remains a permutation.
    """
    half = ((length - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(ROUNDS):
            digest = blake2b(repr((right, turn, *key)).encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest) & mask)
        index = left << half | right
        if index < length:
            return index


BLOCK = 1024
"""Samples of a block. Sources are shuffled in it; each has its fraction of every block."""


class _Windows:
    """The shuffled order of samples that are decoded in groups, of which `GROUPS_HELD` are open at a time.

    Args:
        groups: Numbers of consecutive samples.
        key: One order for each.
    """

    def __init__(self, groups: Sequence[int], *key: int) -> None:
        self.key = key
        sizes = np.asarray(groups, np.int64)
        order = np.random.default_rng(key).permutation(len(sizes))
        windows = [order[start : start + GROUPS_HELD] for start in range(0, len(order), GROUPS_HELD)]
        starts = np.cumsum(sizes) - sizes
        self._windows = [(starts[window], np.cumsum(sizes[window])) for window in windows]
        self._ends = np.cumsum([ends[-1] for _, ends in self._windows])

    def sample(self, step: int) -> int:
        """Return the index of a sample."""
        window = int(np.searchsorted(self._ends, step, side="right"))
        starts, ends = self._windows[window]
        length = int(ends[-1])
        place = permuted(step - int(self._ends[window]) + length, length, *self.key, window)
        group = int(np.searchsorted(ends, place, side="right"))
        return int(starts[group]) + place - (int(ends[group - 1]) if group else 0)


@dataclass(frozen=True)
class Source:
    """A dataset and its weight in a mixture.

    Attributes:
        dataset: Any map-style dataset of samples with a length.
        weight: Its fraction of the samples is this divided by the sum of all weights; its length does not matter.
    """

    dataset: Dataset
    weight: float = 1.0


class Mixture(Dataset[Sample]):
    """Sample i comes from a source and an index in it that depend on the seed and i alone.

    Each source is read in a shuffled order, without repeats until all of it was read, then in another order. A dataset
    with `groups`, numbers of consecutive samples that are decoded together, is shuffled in two stages: its groups, then
    the samples of each `GROUPS_HELD` groups, so that each group is decoded once. Indices beyond `length` are valid and
    continue the order: epoch e is length * e .. length * (e + 1) - 1.

    Args:
        sources: Datasets and their weights.
        length: Samples of one epoch; by default the sum of the sources' lengths.
        seed: Seed of every order.
        tolerant: Whether another sample takes the place of one that cannot be read (see `Tolerant`).

    Raises:
        ValueError: No sources, an empty one or one without an order by index, or a weight that is not above zero.
    """

    def __init__(
        self, sources: Sequence[Source], length: int | None = None, seed: int = 0, tolerant: bool = False
    ) -> None:
        if not sources:
            raise ValueError("a mixture needs at least one source")
        for number, source in enumerate(sources):
            kind = type(source.dataset).__name__
            if not source.weight > 0 or math.isinf(source.weight):
                raise ValueError(f"source {number} ({kind}) has weight {source.weight}; a weight is above zero")
            if isinstance(source.dataset, IterableDataset) or not hasattr(source.dataset, "__len__"):
                raise ValueError(
                    f"source {number} ({kind}) can only be streamed, but training needs sample i by its index, or it "
                    "could not be resumed exactly: download it whole, or build shards of it by got data build"
                )
            if not len(source.dataset):
                raise ValueError(f"source {number} ({kind}) is empty")
        self.sources = tuple(sources)
        self.seed = seed
        self._datasets = [Tolerant(source.dataset) if tolerant else source.dataset for source in sources]
        self._lengths = [len(source.dataset) for source in sources]  # type: ignore[arg-type]
        self.length = sum(self._lengths) if length is None else length
        weights = [Fraction(source.weight) for source in sources]
        left = list(accumulate(reversed(weights)))[::-1]
        self._block: tuple[int, ndarray, ndarray] | None = None
        self._sizes: list[Sequence[int] | None] = [getattr(source.dataset, "groups", None) for source in sources]
        self._windows: dict[int, tuple[int, _Windows]] = {}
        self._fractions = [(w / rest).limit_denominator(1_000_000) for w, rest in zip(weights, left, strict=True)]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self.length))

    def __getitem__(self, key: int | tuple[int, tuple[int, int]]) -> Sample:
        """Return sample i, in its source's size or in that of a bucket, (i, (height, width))."""
        index, size = key if isinstance(key, tuple) else (key, None)
        source, inner = self.locate(index)
        dataset: Any = self._datasets[source]
        sample: Sample = dataset.at_size(inner, size) if size and hasattr(dataset, "at_size") else dataset[inner]
        return sample

    def first(self, source: int) -> Sample:
        """Return the first sample of a source."""
        sample: Sample = self._datasets[source][0]
        return sample

    def locate(self, index: int) -> tuple[int, int]:
        """Return (source, index in it) of sample `index`."""
        if index < 0:
            raise IndexError(f"sample {index} of a mixture")
        block, position = divmod(index, BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = block, *self._schedule(block)
        _, sources, visits = self._block
        source, visit = int(sources[position]), int(visits[position])
        turn, step = divmod(visit, self._lengths[source])
        if (groups := self._sizes[source]) is None:
            return source, permuted(step, self._lengths[source], self.seed, source, turn)
        if self._windows.get(source, (None,))[0] != turn:
            self._windows[source] = turn, _Windows(groups, self.seed, source, turn)
        return source, self._windows[source][1].sample(step)

    def _schedule(self, block: int) -> tuple[ndarray, ndarray]:
        """The source of each sample of a block, and how often it was visited before."""
        before, after = self._visits(block * BLOCK), self._visits((block + 1) * BLOCK)
        counts = [end - start for start, end in zip(before, after, strict=True)]
        rng = np.random.default_rng([self.seed, block])
        sources = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        visits = np.empty(BLOCK, np.int64)
        for source, (start, end) in enumerate(zip(before, after, strict=True)):
            visits[sources == source] = np.arange(start, end)
        return sources, visits

    def _visits(self, count: int) -> list[int]:
        """How often each source is visited by the first `count` samples, a whole number of blocks.

        A source has its fraction of what the sources before it leave, rounded down; the last has all of it.
        """
        visits = []
        for fraction in self._fractions:
            visits.append(math.floor(count * fraction))
            count -= visits[-1]
        return visits
