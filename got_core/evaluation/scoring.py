"""Scores the items of a dataset under a Trainer, each rank a part of them, and resumes where it was interrupted."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import Metric

from got_core.data.images import load_image
from got_core.detection.base import FROM

Loaded = tuple[int, Float[Tensor, "3 _ _"] | None, str]
"""An image's place, the image in [-1, 1] where it can be read, and why where it cannot; sizes differ in a batch."""


class FigureTable(Metric):
    """One row an item, one column a figure; NaN where an item has no such figure.

    Ranks hold the figures of different items. An item that several ranks have looked at counts once: its figures are
    the same, and the highest is kept.

    Args:
        items: How many there are.
        names: Of the figures.
        **settings: torchmetrics' own settings.
    """

    full_state_update = False
    values: Tensor

    def __init__(self, items: int, names: Sequence[str], **settings: Any) -> None:
        super().__init__(**settings)
        self.names = tuple(names)
        self.add_state("values", torch.full((items, len(self.names)), -torch.inf), dist_reduce_fx="max")

    def update(self, places: Int[Tensor, " k"], values: Float[Tensor, "k figures"]) -> None:
        """Note the figures of the items at some places; NaN leaves what is there.

        Raises:
            ValueError: A figure is infinite.
        """
        if values.isinf().any():
            raise ValueError(f"figures must be finite or NaN, got {values.tolist()}")
        self.values[places] = torch.where(values.isnan(), self.values[places], values.to(self.values))

    def compute(self) -> Float[Tensor, "items figures"]:
        """All figures, in order."""
        return torch.where(self.values.isinf(), torch.nan, self.values)


FILE = "verdicts-{}.jsonl"
"""Of a rank."""

Said = Mapping[str, Any]
"""A verdict, as JSON."""


def verdict_key(content: bytes, asked: Any) -> str:
    """Stands for a file's bytes and what is asked of it, which must fit into JSON."""
    question = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(content).digest() + question.encode()).hexdigest()


class VerdictStore:
    """Verdicts of one judge in a folder; each rank reads those of all, and adds to a file of its own.

    Args:
        folder: That of `results.json`.
        judge: The judge's description, thresholds and checksums of weights included.
        rank: Of this process.

    Attributes:
        known: Verdicts of this judge that were there when the store was opened, by `verdict_key`.
    """

    def __init__(self, folder: Path, judge: Mapping[str, Any], rank: int = 0) -> None:
        described = {name: value for name, value in judge.items() if name != FROM}
        self.judge = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.file = folder / FILE.format(rank)
        self.known: dict[str, Said] = {}
        for file in sorted(folder.glob(FILE.format("*"))):
            for line in file.read_text(encoding="utf-8").split("\n"):
                entry = _entry(line)
                if entry.get("judge") == self.judge:
                    self.known[entry["key"]] = entry["said"]
        self._begin_line()

    def add(self, key: str, said: Said) -> None:
        """Write down a verdict before anything else is judged."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"judge": self.judge, "key": key, "said": dict(said)}) + "\n")

    def _begin_line(self) -> None:
        """End a line that an interruption has left half written."""
        if self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n"):
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n")


def _entry(line: str) -> Mapping[str, Any]:
    """What a line holds; nothing where it was written only in part."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and {"key", "said"} <= entry.keys() else {}


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
        details: What else was said of an item, by its place.
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
        self.details: dict[int, dict[str, Any]] = {}
        self.notes: dict[int, str] = {}
        self.fresh: dict[int, dict[str, Any]] = {}

    @abstractmethod
    def score(self, batch: list[Any]) -> None:
        """Look at some items and `note` what was found."""

    def recall(self, place: int, said: Said) -> None:
        """Take what is known of an item."""
        self.note(place, said)

    def note(self, place: int, figures: Mapping[str, Any]) -> None:
        """Keep figures of an item, and what else is said of it in JSON; figures left out stay as they are."""
        self.fresh.setdefault(place, {}).update(figures)
        self.details[place] = {name: said for name, said in figures.items() if name not in self.names}
        values = torch.tensor([[float(figures.get(name, torch.nan)) for name in self.names]], device=self.device)
        self.table.update(torch.tensor([place], device=self.device), values)

    def readable(self, batch: Sequence[Loaded]) -> Iterator[tuple[list[int], Float[Tensor, "k 3 H W"]]]:
        """Images that could be read, stacked by size, with their places; of the others it is remarked why not."""
        alike: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        for place, image, problem in batch:
            if image is None:
                self.remark(place, problem)
            else:
                alike.setdefault(image.shape, []).append((place, image.to(self.device)))
        for group in alike.values():
            places, images = zip(*group, strict=True)
            yield list(places), torch.stack(images)

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
            distributed.all_gather_object(shares, (self.details, self.notes))
            self.details = {place: said for details, _ in shares for place, said in details.items()}
            self.notes = {place: text for _, notes in shares for place, text in notes.items()}


class PictureFiles(Items):
    """The images of a list of files, those that cannot be read with the reason.

    Args:
        files: The images.
        asked: What each is asked, where that is not the same of all.
    """

    def __init__(self, files: Sequence[Path], asked: Sequence[Any] | None = None) -> None:
        self.files, self.asked = files, asked

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Loaded:
        try:
            return place, load_image(self.files[place]), ""
        except (ValueError, OSError) as error:
            return place, None, str(error)

    def content(self, place: int) -> tuple[bytes, Any]:
        """The file's bytes, and what is asked."""
        return self.files[place].read_bytes(), self.asked[place] if self.asked else None
