"""Aspect-ratio buckets: sizes of one pixel budget, and batches of one size in the mixture's order."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch.utils.data import Dataset, Sampler

from got_core.data.mixture import Mixture
from got_core.types import Sample

Size = tuple[int, int]
Key = tuple[int, Size]
"""A sample of a mixture and the (height, width) that it is to have."""


@dataclass(frozen=True)
class Buckets:
    """Sizes of about one pixel budget, by aspect ratio.

    Attributes:
        pixels: Of an image, such as 1048576.
        multiple: Of both sides, such as 64.
        most_ratio: Of a long side to a short one.

    Raises:
        ValueError: Values that leave no size.

    Example:
        >>> Buckets(1024 * 1024).nearest((1080, 1920))
        (768, 1344)
    """

    pixels: int
    multiple: int = 64
    most_ratio: float = 2.0

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.pixels < self.multiple**2 or self.most_ratio < 1:
            raise ValueError(
                f"buckets of {self.pixels} pixels, in multiples of {self.multiple}, up to {self.most_ratio:g} to 1: "
                "sides are at least one multiple, and ratios at least 1"
            )

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) of each, from the highest to the widest."""
        found = set()
        for steps in range(1, math.isqrt(self.pixels) * math.ceil(self.most_ratio) // self.multiple + 1):
            side = steps * self.multiple
            other = max(1, round(self.pixels / side / self.multiple)) * self.multiple
            if max(side, other) <= self.most_ratio * min(side, other):
                found |= {(side, other), (other, side)}
        square = max(1, round(math.sqrt(self.pixels) / self.multiple)) * self.multiple
        return tuple(sorted(found | {(square, square)}, key=lambda size: size[1] / size[0]))

    def nearest(self, stored: Size) -> Size:
        """Return the size of the nearest aspect ratio, in logarithms, to that of an image of (height, width)."""
        ratio = math.log(stored[1] / stored[0])
        return min(self.sizes, key=lambda size: (abs(math.log(size[1] / size[0]) - ratio), -size[0] * size[1]))


class Bucketed(Dataset[Sample]):
    """The samples of a dataset, each in the size of its bucket. A dataset without sizes of its own stays as it is."""

    def __init__(self, dataset: Dataset[Sample], buckets: Buckets) -> None:
        self.dataset, self.buckets = dataset, buckets

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        size = bucket_of(self.dataset, index, self.buckets)
        sample: Sample = self.dataset[index] if size is None else self.dataset.at_size(index, size)  # type: ignore[attr-defined]
        return sample


def bucket_of(dataset: Any, index: int, buckets: Buckets) -> Size | None:
    """Return the size of a sample's bucket; None where the dataset's samples have one size.

    An image whose size cannot be read has that of the square bucket, and so has the sample that takes its place.
    """
    if not (hasattr(dataset, "at_size") and hasattr(dataset, "image_size")):
        return None
    try:
        return buckets.nearest(dataset.image_size(index))
    except (ValueError, OSError):
        return buckets.nearest((1, 1))


@dataclass(frozen=True)
class _Point:
    """A point between two global batches: samples that were taken, and those of them that wait for a full batch."""

    taken: int = 0
    waiting: Mapping[Size, tuple[int, ...]] = field(default_factory=dict)


class BucketSampler(Sampler[list[Key]]):
    """Gives batches of one size; the global batch of an optimizer step has one, whatever divides it.

    The mixture's samples are taken in order, and each waits in its bucket. A bucket that has a global batch gives it.
    So the sequence of global batches is the same on any number of ranks, nothing is left out, and sizes follow each
    other as the samples do. All ranks compute the same sequence, from the images' sizes alone.

    Args:
        mixture: Its length is that of an epoch, over all ranks.
        buckets: The sizes.
        batch_size: Samples of a batch on one rank.
        global_batch: Samples of an optimizer step.
        num_replicas, rank: Number of ranks, and this one.

    Attributes:
        epoch, taken: The current epoch, and its batches that have been returned.
        batches: Of an epoch, on each rank.

    Raises:
        ValueError: An epoch of less than one batch for each rank, or a global batch that batches do not divide.
    """

    def __init__(
        self,
        mixture: Mixture,
        buckets: Buckets,
        batch_size: int,
        global_batch: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.mixture, self.buckets, self.rank = mixture, buckets, rank
        self.batch_size, self.global_batch, self.num_replicas = batch_size, global_batch, num_replicas
        self.step = batch_size * num_replicas
        self.batches = len(mixture) // self.step
        if self.batches < 1 or global_batch % self.step:
            raise ValueError(
                f"an epoch of {len(mixture)} samples and a global batch of {global_batch} must hold whole batches of "
                f"{batch_size} on each of {num_replicas} devices"
            )
        self.epoch = self.taken = 0
        self._next = (_Point(), 0)
        self._ahead: deque[tuple[_Point, int]] = deque()

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        point, done = self._next
        self._ahead.clear()
        batch: tuple[list[int], Size, _Point] | None = None
        for _ in range(self.batches - self.taken):
            batch = batch or self._global_batch(point)
            indices, size, after = batch
            own = indices[done + self.rank : done + self.step : self.num_replicas]
            done += self.step
            if done == self.global_batch:
                point, done, batch = after, 0, None
            self._ahead.append((point, done))
            yield [(index, size) for index in own]

    def advance(self) -> None:
        """Count a batch that has been returned; loaders read ahead."""
        self.taken += 1
        self._next = self._ahead.popleft()

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it has already begun."""
        if epoch > self.epoch:
            self.epoch, self.taken = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch that was returned."""
        point, done = self._next
        waiting = {f"{height}x{width}": list(indices) for (height, width), indices in point.waiting.items() if indices}
        position = (self.epoch * self.batches + self.taken) * self.step
        return {"position": position, "taken": point.taken, "waiting": waiting, "done": done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position, of any number of ranks."""
        self.epoch, rest = divmod(state["position"], self.batches * self.step)
        self.taken = rest // self.step
        waiting = {
            (int(height), int(width)): tuple(indices)
            for name, indices in state["waiting"].items()
            for height, _, width in (name.partition("x"),)
        }
        self._next = (_Point(state["taken"], waiting), state["done"])

    def _global_batch(self, point: _Point) -> tuple[list[int], Size, _Point]:
        """The next global batch, its size, and the point after it."""
        waiting = {size: list(indices) for size, indices in point.waiting.items()}
        taken = point.taken
        while True:
            source, inner = self.mixture.locate(taken)
            dataset = self.mixture.sources[source].dataset
            size = bucket_of(dataset, inner, self.buckets) or self._own_size(source)
            waiting.setdefault(size, []).append(taken)
            taken += 1
            if len(waiting[size]) == self.global_batch:
                full = waiting.pop(size)
                return full, size, _Point(taken, {size: tuple(indices) for size, indices in waiting.items()})

    def _own_size(self, source: int) -> Size:
        """The one size of a source's samples."""
        if source not in self._sizes:
            self._sizes[source] = self.mixture.first(source).size
        return self._sizes[source]

    @cached_property
    def _sizes(self) -> dict[int, Size]:
        return {}
