"""The scorer of all suites: scores items under a Trainer, each rank a part of them; can be interrupted and resumed."""

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import Metric

from got_core.data.images import load_image
from got_core.detection.base import FROM
from got_core.errors import UserError, one_line
from got_core.evaluation.answers import Answer

Image = Float[Tensor, "3 _ _"]
"""An image in [-1, 1], of any size."""


class ScoreTable(Metric):
    """One row an item, one column a metric; NaN where an item has no such score.

    Ranks hold the scores of different items. An item that several ranks have scored counts once: its scores are the
    same, and the highest is used.

    Args:
        items: Number of items.
        metrics: Names of the columns.
        **settings: torchmetrics' own settings.
    """

    full_state_update = False
    values: Tensor

    def __init__(self, items: int, metrics: Sequence[str], **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("values", torch.full((items, len(metrics)), -torch.inf), dist_reduce_fx="max")
        # A rank may have no items of its own, of which torchmetrics would warn.
        self.update(torch.empty(0, dtype=torch.long), torch.empty(0, len(metrics)))

    def update(self, indices: Int[Tensor, " k"], values: Float[Tensor, "k metrics"]) -> None:
        """Write the scores of some items; NaN leaves a score as it is.

        Raises:
            ValueError: A score is infinite.
        """
        if values.isinf().any():
            raise ValueError(f"scores must be finite or NaN, got {values.tolist()}")
        self.values[indices] = torch.where(values.isnan(), self.values[indices], values.to(self.values))

    def compute(self) -> Float[Tensor, "items metrics"]:
        """Return all scores, in the order of the items."""
        return torch.where(self.values.isinf(), torch.nan, self.values)


CACHE = "cache"
"""Folder beside `results.json` that holds the scores of single items."""

Entry = Mapping[str, Any]
"""Scores and details of an item, as JSON."""


def cache_key(content: bytes, question: Any) -> str:
    """Return a hash of a file's bytes and of what is scored in it, which must be valid JSON."""
    text = json.dumps(question, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(content).digest() + text.encode()).hexdigest()


class ScoreCache:
    """Scores by one evaluator, in a folder; each rank reads the files of all ranks and appends to its own.

    Args:
        output: The folder of `results.json`.
        evaluator: Description of the evaluator, thresholds and checksums of weights included; scores by others are
            not used. The paths that it was loaded from (`FROM`) do not matter.
    """

    def __init__(self, output: Path, evaluator: Mapping[str, Any]) -> None:
        described = {name: value for name, value in evaluator.items() if name != FROM}
        self.evaluator = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.folder = output / CACHE

    def read(self) -> dict[str, Entry]:
        """Return the entries of this evaluator by `cache_key`; lines that were written in part are skipped."""
        entries: dict[str, Entry] = {}
        for file in sorted(self.folder.glob("scores-*.jsonl")):
            for text in file.read_text(encoding="utf-8").split("\n"):
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict) and line.get("evaluator") == self.evaluator and "entry" in line:
                    entries[line["key"]] = line["entry"]
        return entries

    def append(self, rank: int, key: str, entry: Entry) -> None:
        """Write an entry into a rank's file, on a line of its own even if the last line was written in part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"scores-{rank}.jsonl"
        line = json.dumps({"evaluator": self.evaluator, "key": key, "entry": dict(entry)})
        with file.open("a+b") as lines:
            if lines.seek(0, os.SEEK_END):
                lines.seek(-1, os.SEEK_END)
                line = line if lines.read() == b"\n" else f"\n{line}"
            lines.write(f"{line}\n".encode())


class Items(Dataset[Any], ABC):
    """What is scored. `items[index]` gives what `ItemScoring.score` needs, or raises OSError or ValueError."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def content(self, index: int) -> tuple[bytes, Any]:
        """Return everything that an item's scores depend on: bytes, and a question that must be valid JSON.

        Raises:
            OSError, ValueError: It cannot be read.
        """


class ImageFiles(Items):
    """The images of a list of files, in [-1, 1].

    Args:
        files: The images.
        questions: What is scored in each, where it differs between images.
        answers: Images that are scored in the place of the files', each in the size of its file's.
    """

    def __init__(
        self, files: Sequence[Path], questions: Sequence[Any] | None = None, answers: Sequence[Answer] | None = None
    ) -> None:
        self.files, self.questions, self.answers = files, questions, answers

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image:
        image = load_image(self.files[index])
        return image if self.answers is None else self.answers[index].image((image.shape[-2], image.shape[-1]))

    def content(self, index: int) -> tuple[bytes, Any]:
        """Return the file's bytes and the question, with the answer where there is one."""
        question = self.questions[index] if self.questions else None
        whole = question if self.answers is None else [question, asdict(self.answers[index])]
        return self.files[index].read_bytes(), whole


@dataclass
class _ItemRead:
    """An item that was read, found in the cache, or could not be read; Lightning moves it to the device.

    Attributes:
        index: Of the item.
        key: Its `cache_key`; empty where nothing is cached or its content cannot be read.
        entry: From the cache.
        item: As the dataset gives it.
        problem: Why it cannot be read.
    """

    index: int
    key: str = ""
    entry: Entry | None = None
    item: Any = None
    problem: str = ""


class _Reader(Dataset[_ItemRead]):
    """Reads items that are not in the cache; what is cached is not decoded."""

    def __init__(self, items: Items, entries: Mapping[str, Entry] | None) -> None:
        self.items, self.entries = items, entries

    def __getitem__(self, index: int) -> _ItemRead:
        try:
            key = "" if self.entries is None else cache_key(*self.items.content(index))
            if self.entries and key in self.entries:
                return _ItemRead(index, key, self.entries[key])
            return _ItemRead(index, key, item=self.items[index])
        except (OSError, ValueError) as error:
            return _ItemRead(index, problem=str(error))


class ItemScoring(LightningModule, ABC):
    """`trainer.test` scores every item; the scores of all ranks are gathered at the end.

    Scores are cached item by item. An item with a remark is not cached, as something of it could not be found out.

    Args:
        items: What is scored.
        metrics: Names of the scores.
        batch_size: Items that `score` is given at a time.
        num_workers: Processes that read items.
        cache: Where scores are cached; None caches nothing.

    Attributes:
        scores: After the test, the scores of each item, NaN where it has none.
        details: What else is known of each item, by index.
        remarks: What could not be found out of an item, by index; for one that has no scores, why.
    """

    scores: Float[Tensor, "items metrics"]

    def __init__(
        self,
        items: Items,
        metrics: Sequence[str],
        batch_size: int = 8,
        num_workers: int = 0,
        cache: ScoreCache | None = None,
    ) -> None:
        super().__init__()
        self.items, self.metrics = items, tuple(metrics)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.cache = cache
        self.table = ScoreTable(len(items), metrics)
        self.details: dict[int, dict[str, Any]] = {}
        self.remarks: dict[int, str] = {}
        self.new: dict[int, dict[str, Any]] = {}

    @abstractmethod
    def score(self, batch: Mapping[int, Any]) -> None:
        """Score some items, by index, and `record` the scores of each."""

    def record(self, index: int, values: Mapping[str, Any]) -> None:
        """Write an item's scores, and whatever else `values` says of it; scores that are left out stay as they are."""
        self.new.setdefault(index, {}).update(values)
        extra = {name: value for name, value in values.items() if name not in self.metrics}
        self.details.setdefault(index, {}).update(extra)
        row = torch.tensor([[float(values.get(name, torch.nan)) for name in self.metrics]], device=self.device)
        self.table.update(torch.tensor([index], device=self.device), row)

    def remark(self, index: int, text: str) -> None:
        """Note that something of an item could not be found out."""
        self.details.setdefault(index, {})
        self.remarks[index] = f"{self.remarks[index]}; {text}" if index in self.remarks else text

    def by_size(self, batch: Mapping[int, Image]) -> Iterator[tuple[list[int], Float[Tensor, "k 3 H W"]]]:
        """Yield images stacked by size, with their indices."""
        groups: dict[torch.Size, list[int]] = {}
        for index, image in batch.items():
            groups.setdefault(image.shape, []).append(index)
        for indices in groups.values():
            yield indices, torch.stack([batch[index] for index in indices]).to(self.device)

    def test_dataloader(self) -> DataLoader:
        """Return this rank's items, every so many; a rank without any scores one that another rank scores too."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        own = list(range(len(self.items))[rank::ranks] or range(1))
        reader = _Reader(self.items, self.cache.read() if self.cache else None)
        return DataLoader(
            Subset(reader, own), batch_size=self.batch_size, collate_fn=list, num_workers=self.num_workers
        )

    def test_step(self, batch: list[_ItemRead], batch_idx: int) -> None:
        """Score the items that are not cached, in full precision whatever the Trainer's, and cache their scores."""
        for read in batch:
            if read.entry is not None:
                self.record(read.index, read.entry)
            elif read.problem:
                self.remark(read.index, read.problem)
        unscored = {read.index: read.item for read in batch if read.entry is None and not read.problem}
        self.new = {}
        if unscored:
            with torch.autocast(self.device.type, enabled=False):
                self.score(unscored)
        for read in batch:
            if self.cache and read.index in self.new and read.index not in self.remarks:
                self.cache.append(self.trainer.global_rank, read.key, self.new[read.index])

    def on_test_epoch_end(self) -> None:
        """Gather what all ranks have found.

        Raises:
            ValueError: An item was not scored.
        """
        self.scores = torch.atleast_2d(self.table.compute()).cpu()  # torchmetrics makes one value a scalar
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(parts, (self.details, self.remarks))
            self.details = {index: entry for details, _ in parts for index, entry in details.items()}
            self.remarks = {index: text for _, remarks in parts for index, text in remarks.items()}
        if len(self.details) < len(self.items):
            raise ValueError(f"{len(self.items) - len(self.details)} of {len(self.items)} items were not scored")


PRECISION = "32-true"
"""Of generation, unless another is given; evaluators always run in it."""


def evaluation_trainer(options: Namespace) -> Trainer:
    """Return a Trainer for `predict` and `test`; it shards no data and logs nothing.

    Args:
        options: With `accelerator`, `devices`, `num_nodes` and `precision`.

    Raises:
        UserError: There are no such devices.
    """
    precision: Any = getattr(options, "precision", None) or PRECISION
    try:
        return Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            precision=precision,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
        )
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        raise UserError(
            f"--accelerator {options.accelerator} --devices {options.devices}: {one_line(error)}"
        ) from error


@contextmanager
def interruptible(trainer: Trainer, folder: Path) -> Iterator[None]:
    """After Ctrl-C, say that what is done so far is saved."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt(f"what is done so far is saved in {folder}; the same command resumes") from None
        raise


def score_items(trainer: Trainer, scoring: ItemScoring, output: Path) -> bool:
    """Score all items; returns whether this is the rank that writes results into `output`."""
    with interruptible(trainer, output):
        trainer.test(scoring, verbose=False)
    return trainer.is_global_zero


S = TypeVar("S", bound=ItemScoring)


def score_answers(trainer: Trainer, scorings: Mapping[str, S], output: Path) -> dict[str, S]:
    """Score answers to the same requests, by name, on all ranks; those that no item has are left out."""
    for scoring in scorings.values():
        score_items(trainer, scoring, output)
    return {name: scoring for name, scoring in scorings.items() if not scoring.scores.isnan().all()}
