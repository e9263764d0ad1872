"""Scores the items of a data set under a Trainer, each rank a share of them, and goes on where it was ended."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Subset

from got_core.evaluation.figure_table import FigureTable
from got_core.evaluation.verdict_store import Said, VerdictStore, verdict_key

FOLDER = "verdicts"
"""Beside `results.json`, where what was found of items is kept; apart, as sets of items may be tables in a folder."""


@dataclass(frozen=True)
class Keeping:
    """What was found of items is kept from one run to the next.

    Attributes:
        output: The folder of `results.json`.
        judge: The description of who scores them: what others have found is not taken.
    """

    output: Path
    judge: Mapping[str, Any]

    def open(self, rank: int) -> VerdictStore:
        """The store of a rank."""
        folder = self.output / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return VerdictStore(folder, self.judge, rank)


class Items(Dataset[Any], ABC):
    """What is scored: gives (place, ...) for each place, and says why where an item cannot be read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def content(self, place: int) -> tuple[bytes, Any]:
        """All that the figures of an item follow from: bytes, and what is asked of them, which must fit into JSON.

        Raises:
            OSError, ValueError: It cannot be read.
        """


class ItemRead(NamedTuple):
    """An item on its way to `score`.

    Attributes:
        place: Among the items.
        key: Stands for its content; empty where that cannot be read, or nothing is kept.
        said: What is known of it.
        item: None where something is known.
    """

    place: int
    key: str
    said: Said | None
    item: Any


class _Known(Dataset[ItemRead]):
    """Items, or what is known of them; these are not decoded."""

    def __init__(self, items: Items, known: Mapping[str, Said] | None) -> None:
        self.items, self.known = items, known

    def __getitem__(self, place: int) -> ItemRead:
        if self.known is None:
            return ItemRead(place, "", None, self.items[place])
        try:
            key = verdict_key(*self.items.content(place))
        except (OSError, ValueError):
            return ItemRead(place, "", None, self.items[place])
        said = self.known.get(key)
        return ItemRead(place, key, said, self.items[place] if said is None else None)


class ItemScoring(LightningModule, ABC):
    """`trainer.test` scores every item; the ranks' figures are joined when all have done their share.

    What is found of an item is kept when it is there, and known items are not scored again. One with a remark is, as
    that says that something could not be found out.

    Args:
        items: What is scored.
        names: Of the figures.
        batch_size: Items that `score` is given at a time.
        num_workers: Processes that read items.
        keeping: Where what was found is kept; None keeps nothing.

    Attributes:
        found: After the test, the figures of each item, NaN where it has none.
        notes: What there is to say of an item, by its place; of one without figures, why.
    """

    found: Float[Tensor, "items figures"]

    def __init__(
        self,
        items: Items,
        names: Sequence[str],
        batch_size: int = 8,
        num_workers: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        super().__init__()
        self.items = items
        self.names = tuple(names)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.keeping = keeping
        self.store: VerdictStore | None = None
        self.table = FigureTable(len(items), names)
        self.notes: dict[int, str] = {}
        self.fresh: dict[int, dict[str, Any]] = {}

    @abstractmethod
    def score(self, batch: list[Any]) -> None:
        """Look at some items and `note` what was found."""

    def recall(self, place: int, said: Said) -> None:
        """Take what is known of an item."""
        self.note(place, said)

    def note(self, place: int, figures: Mapping[str, float]) -> None:
        """Keep figures of an item; those left out stay as they are."""
        self.fresh.setdefault(place, {}).update(figures)
        values = torch.tensor([[float(figures.get(name, torch.nan)) for name in self.names]], device=self.device)
        self.table.update(torch.tensor([place], device=self.device), values)

    def remark(self, place: int, text: str) -> None:
        """Keep a remark on an item."""
        self.notes[place] = f"{self.notes[place]}; {text}" if place in self.notes else text

    def test_dataloader(self) -> DataLoader:
        """This rank's share, every so many items; one that is scored twice where there is none left for it."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        self.store = self.keeping.open(rank) if self.keeping else None
        share = list(range(len(self.items))[rank::ranks] or range(1))
        read = Subset(_Known(self.items, self.store.known if self.store else None), share)
        return DataLoader(read, batch_size=self.batch_size, collate_fn=list, num_workers=self.num_workers)

    def test_step(self, batch: list[ItemRead], batch_idx: int) -> None:
        """Score what nothing is known of, in full precision whatever the Trainer's, and keep what is found."""
        new = [read for read in batch if read.said is None]
        for read in batch:
            if read.said is not None:
                self.recall(read.place, read.said)
        self.fresh = {}
        if new:
            with torch.autocast(self.device.type, enabled=False):
                self.score([read.item for read in new])
        for read in new:
            if self.store and read.key and read.place not in self.notes:
                self.store.add(read.key, self.fresh[read.place])

    def on_test_epoch_end(self) -> None:
        """Join what the ranks have found."""
        self.found = torch.atleast_2d(self.table.compute()).cpu()  # torchmetrics makes one value a scalar
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(shares, self.notes)
            self.notes = {place: text for share in shares for place, text in share.items()}
