"""Loading a mixture on every rank, with a place to resume from."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from got_core.data.mixture import Mixture
from got_core.types import Batch


class Walk(DistributedSampler[int]):
    """Gives rank r of R the indices r, r + R, r + 2R ... of a mixture; each epoch begins where the last one ended.

    An epoch is cut to whole batches on every rank; what is cut off comes first in the next.

    Args:
        mixture: What is walked; its length is that of an epoch, over all ranks.
        batch_size: Samples of a batch on one rank.
        num_replicas: Number R of ranks.
        rank: This rank r.

    Attributes:
        epoch: The epoch that is walked; never goes back.
        taken: Batches of it that have been taken.

    Raises:
        ValueError: An epoch holds less than one batch for every rank.
    """

    def __init__(self, mixture: Mixture, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(mixture, num_replicas, rank, shuffle=False)
        self.epoch = 0
        self.taken = 0
        self.batch_size = batch_size
        self.batches = len(mixture) // (batch_size * num_replicas)
        if self.batches < 1:
            raise ValueError(
                f"an epoch of {len(mixture)} samples is less than one batch of {batch_size} on each of "
                f"{num_replicas} devices"
            )
        self.num_samples = self.batches * batch_size
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        start = self.position + self.rank
        left = self.num_samples - self.taken * self.batch_size
        return iter(range(start, start + left * self.num_replicas, self.num_replicas))

    @property
    def position(self) -> int:
        """Samples that all ranks have taken since the first epoch began."""
        return self.epoch * self.total_size + self.taken * self.batch_size * self.num_replicas

    @position.setter
    def position(self, position: int) -> None:
        self.epoch, rest = divmod(position, self.total_size)
        self.taken = rest // (self.batch_size * self.num_replicas)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it has already begun."""
        if epoch > self.epoch:
            self.epoch, self.taken = epoch, 0

    def begin(self) -> None:
        """Begin the next epoch if this one is done."""
        if self.taken == self.batches:
            self.set_epoch(self.epoch + 1)


class ResumableLoader(DataLoader):
    """A loader whose state is its place in a mixture.

    A mixture's sample depends on its index alone, so the place is all there is to save, and the number of workers may
    differ when it is loaded.

    Args:
        mixture: What is loaded.
        batch_size: Samples of a batch on this rank.
        num_replicas, rank: Number of ranks, and this one.
        options: Of `torch.utils.data.DataLoader`.
    """

    def __init__(self, mixture: Mixture, batch_size: int, num_replicas: int, rank: int, **options: Any) -> None:
        self.walk = Walk(mixture, batch_size, num_replicas, rank)
        super().__init__(mixture, batch_size, sampler=self.walk, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.walk.begin()
        for batch in super().__iter__():
            self.walk.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place after the last batch that was given out."""
        return {"position": self.walk.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from that place."""
        self.walk.position = state["position"]
