"""A check of all records before training: what cannot be read, chains whose boxes are lost, sizes and duplicates."""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from got_core.chain.parser import parse
from got_core.data.peek import printable
from got_core.data.quarantine import record_name
from got_core.data.records import Chains, bad_chains, lost_box
from got_core.data.visualization import Tile
from got_core.errors import one_line
from got_core.types import Sample, resized

UNREADABLE, LOST, NO_BOXES = "cannot be read", "boxes in a wrong unit or form", "chains without boxes"
BARE, SAME_ID, SAME = "boxes without a phrase", "ids of an earlier record", "image and prompt of an earlier record"
BAD = (UNREADABLE, LOST, NO_BOXES)
"""Faults that make a record bad; each bad record has one."""

NOTED = (BARE, SAME_ID, SAME)
"""What is only counted."""

NAMED = 5
"""Records that are named of each kind."""

TILE = 256
"""Longest side of an image of a contact sheet in pixels."""

_SIDES, _RATIOS, _WORDS = (256, 512, 768, 1024, 2048), (0.5, 0.8, 1.25, 2.0), (25, 50, 100, 200, 400)


@dataclass(frozen=True)
class Checked:
    """What is known of one record.

    Attributes:
        index: In its source.
        fault: One of `BAD`, or None.
        reason: Of the fault, in one line.
        size: (height, width) of the target image in its file.
        words: Of the chain.
        bare: Whether a box has no phrase.
        hashes: Of image and prompt, and of the id, where it has one.
    """

    index: int
    fault: str | None = None
    reason: str = ""
    size: tuple[int, int] | None = None
    words: int = 0
    bare: bool = False
    hashes: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Records(Dataset[Checked]):
    """Checks a record when it is taken.

    `unit` is what the boxes of all chains are in, if that is known to be wrong; `boxes` whether training reads them.
    """

    dataset: Any
    boxes: bool
    unit: str | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Checked:
        try:
            sample: Sample = self.dataset[index]
            size = self.dataset.image_size(index) if isinstance(self.dataset, Chains) else sample.size
            hashes = [_hash(sample.prompt.encode(), b"" if sample.target is None else sample.target.numpy().tobytes())]
            if getattr(self.dataset, "id_column", None) is not None:
                hashes.append(_hash(self.dataset.entry(index).id.encode()))
        except (ValueError, FileNotFoundError) as error:
            return Checked(index, UNREADABLE, one_line(error))
        fault, reason = self._fault(sample.chain) if self.boxes else (None, "")
        bare = self.boxes and any(not region.phrase for region in parse(sample.chain).regions)
        return Checked(index, fault, reason, size, len(sample.chain.split()), bare, tuple(hashes))

    def _fault(self, chain: str) -> tuple[str | None, str]:
        if (lost := lost_box(chain)) is not None:
            return LOST, f"{lost[0]} ({lost[1]})"
        if not parse(chain).regions:
            return NO_BOXES, chain[:100]
        return (None, "") if self.unit is None else (LOST, self.unit)


@dataclass
class SourceReport:
    """What a source's records are like.

    Attributes:
        name: Of the source.
        records: Their number.
        counts: Records of each of `BAD` and `NOTED`.
        named: The first of them, each with the reason.
        sides, ratios, words: Records by the shorter side of the image in pixels, by width over height, and by words of
            the chain.
        longest: Most words of a chain.
    """

    name: str
    records: int
    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    sides: Counter[str] = field(default_factory=Counter)
    ratios: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    @property
    def bad(self) -> float:
        """The fraction of bad records."""
        return sum(self.counts[kind] for kind in BAD) / self.records

    def note(self, kind: str, record: str, reason: str = "") -> None:
        """Count a record."""
        self.counts[kind] += 1
        if len(named := self.named.setdefault(kind, [])) < NAMED:
            named.append(reason if reason.startswith(record) else f"{record}: {reason}" if reason else record)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        kinds = {kind: {"records": self.counts[kind], "first": self.named.get(kind, [])} for kind in (*BAD, *NOTED)}
        groups = {"shorter side": (self.sides, _SIDES), "width over height": (self.ratios, _RATIOS)}
        groups["words of a chain"] = (self.words, _WORDS)
        histograms = {
            name: {label: counted[label] for label in _labels(edges)} for name, (counted, edges) in groups.items()
        }
        return {
            "source": self.name,
            "records": self.records,
            "bad": self.bad,
            **kinds,
            **histograms,
            "longest": self.longest,
        }


def check_source(name: str, dataset: Dataset[Sample], workers: int, boxes: bool = True) -> SourceReport:
    """Read all records of a source once, with a progress bar. A record takes about 32 bytes of memory.

    Args:
        name: Of the source in the report.
        dataset: The source; its errors ValueError and FileNotFoundError are of bad records.
        workers: Processes; 0 reads in this one.
        boxes: Whether its chains must have boxes.
    """
    report = SourceReport(name, len(dataset))  # type: ignore[arg-type]
    unit = _unit(dataset) if boxes else None
    loader = DataLoader(_Records(dataset, boxes, unit), batch_size=8, num_workers=workers, collate_fn=list)
    hashes: tuple[array[int], array[int]] = (array("Q"), array("Q"))
    indices = array("Q")
    with tqdm(total=report.records, desc=name, unit=" records", smoothing=0.05) as bar:
        for checked in (checked for batch in loader for checked in batch):
            bar.update()
            if checked.fault is not None:
                report.note(checked.fault, record_name(dataset, checked.index), checked.reason)
            if checked.size is None:
                continue
            height, width = checked.size
            report.sides[_label(min(checked.size), _SIDES)] += 1
            report.ratios[_label(width / height, _RATIOS)] += 1
            report.words[_label(checked.words, _WORDS)] += 1
            report.longest = max(report.longest, checked.words)
            if checked.bare:
                report.note(BARE, record_name(dataset, checked.index))
            indices.append(checked.index)
            for held, value in zip(hashes, checked.hashes, strict=False):
                held.append(value)
    for kind, held in zip((SAME, SAME_ID), hashes, strict=True):
        for again, first in _repeated(held):
            earlier = record_name(dataset, indices[first]) if report.counts[kind] < NAMED else ""
            report.note(kind, record_name(dataset, indices[again]), f"as {earlier}")
    return report


def _unit(dataset: Dataset[Sample]) -> str | None:
    """What all boxes of a source probably are in, where each by itself could be thousandths."""
    if not isinstance(dataset, Chains):
        return None
    bad, _ = bad_chains(dataset, tolerant=True)
    return next((chain.unit for chain in bad if chain.whole_source), None)


def _repeated(hashes: "array[int]") -> Iterator[tuple[int, int]]:
    """The positions of values that occurred before, each with the first position."""
    _, first, inverse = np.unique(np.asarray(hashes), return_index=True, return_inverse=True)
    earlier = first[inverse]
    for again in np.flatnonzero(earlier != np.arange(len(earlier))).tolist():
        yield again, int(earlier[again])


def _hash(*parts: bytes) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest())


def _label(value: float, edges: Sequence[float]) -> str:
    return _labels(edges)[bisect_right(edges, value)]


def _labels(edges: Sequence[float]) -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"below {edges[0]:g}", *between, f"from {edges[-1]:g}"]


def report_table(reports: Sequence[SourceReport]) -> Table:
    """Return a table of the sources, with a bar for each part of a histogram."""
    table = Table(title="Records", title_justify="left")
    for heading in ("", *(report.name for report in reports)):
        table.add_column(Text(printable(heading)), justify="right" if heading else "left")
    table.add_row("records", *(f"{report.records:,}" for report in reports))
    table.add_row("bad", *(f"{report.bad:.2%}" for report in reports))
    for kind in (*BAD, *NOTED):
        table.add_row(f"  {kind}", *(f"{report.counts[kind]:,}" for report in reports))
    for name, edges in (("sides", _SIDES), ("ratios", _RATIOS), ("words", _WORDS)):
        heading = {"sides": "shorter side, pixels", "ratios": "width over height", "words": "words of a chain"}[name]
        table.add_section()
        table.add_row(heading)
        for label in _labels(edges):
            counts = [getattr(report, name)[label] for report in reports]
            table.add_row(f"  {label}", *(_bar(n, report.records) for n, report in zip(counts, reports, strict=True)))
    return table


def _bar(count: int, records: int) -> str:
    return f"{'#' * round(10 * count / records)} {count:,}"


def sample_tiles(datasets: Sequence[Dataset[Sample]], number: int) -> list[Tile]:
    """Return tiles of about as many samples, spread evenly; those that cannot be read are left out."""
    tiles = []
    for dataset in datasets:
        length = len(dataset)  # type: ignore[arg-type]
        for index in range(0, length, max(1, length * len(datasets) // number)):
            try:
                sample = dataset[index]
            except (ValueError, FileNotFoundError):
                continue
            if sample.target is not None:
                source = None if sample.source is None else _small(sample.source)
                tiles.append(Tile(_small(sample.target), sample.chain, sample.prompt, source))
    return tiles


def _small(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 h w"]:
    height, width = image.shape[-2:]
    factor = min(1.0, TILE / max(height, width))
    return resized(image, (max(1, round(height * factor)), max(1, round(width * factor))))
