"""Suites of cases: a few images of one drawn scene each, generated under a Trainer and scored by category."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from got_core.data.images import load_image
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError, one_line
from got_core.evaluation.results import OVERALL, Better, Item, Summary, scored_items, scores_of, summaries
from got_core.evaluation.scoring import Items, ItemScoring, Keeping
from got_core.evaluation.suites.generation import take_settings, write_image
from got_core.model import GoTModel
from got_core.pipelines.inpainting import PreviousImages
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan
from got_core.weights.files import write_whole

CASES, PICTURES, RECORDS = "cases.jsonl", "pictures", "records"

OutputImages = dict[str, Float[Tensor, "3 _ _"]]
"""A case's pictures in [-1, 1], by what they are called in it."""

Record = Mapping[str, Any]
"""Of a group, as JSON."""

Loaded = tuple[int, OutputImages | None, Record, str]
"""A case's place, its pictures where they can be read, its group's record, and why they cannot."""


@dataclass(frozen=True)
class Case:
    """Something that is asked of pictures of one scene.

    Attributes:
        name: Of its own.
        group: Of the cases that are drawn together, from one prompt and seed.
        category: In results.
        prompt: What the scene is drawn from.
        seed: Of the noise.
        pictures: The names of the files, by what they are called in the case.
        details: What is drawn and what is expected, as JSON.
    """

    name: str
    group: str
    category: str
    prompt: str
    seed: int
    pictures: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseFolder:
    """Where cases lie."""

    root: Path

    def picture(self, name: str) -> Path:
        """The file of a picture."""
        return self.root / PICTURES / f"{name}.png"

    def record(self, group: str) -> Path:
        """The file of a group's record."""
        return self.root / RECORDS / f"{group}.json"

    def prepare(self, cases: Sequence[Case], settings: Mapping[str, Any]) -> None:
        """Write what will be drawn and how, or see that a folder with pictures was drawn in the same way.

        Raises:
            UserError: There is something else in the folder, it was drawn otherwise, or it cannot be written to.
        """
        take_settings(self.root, settings, f"{PICTURES}/*.png", [f"{RECORDS}/*.json"])
        try:
            for part in (PICTURES, RECORDS):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            write_whole(self.root / CASES, "".join(json.dumps(asdict(case)) + "\n" for case in cases))
        except OSError as error:
            raise UserError(f"{self.root}: cannot be drawn into ({one_line(error)})") from error

    def wanted(self, cases: Sequence[Case]) -> list[list[Case]]:
        """The groups that are not drawn yet."""
        groups: dict[str, list[Case]] = {}
        for case in cases:
            groups.setdefault(case.group, []).append(case)
        return [own for group, own in groups.items() if not self.record(group).exists()]


class CaseItems(Items):
    """Cases with their pictures, those that cannot be read with the reason."""

    def __init__(self, folder: CaseFolder, cases: Sequence[Case]) -> None:
        self.folder, self.cases = folder, cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, place: int) -> Loaded:
        case = self.cases[place]
        try:
            record = json.loads(self.folder.record(case.group).read_text(encoding="utf-8"))
            pictures = {called: load_image(self.folder.picture(name)) for called, name in case.pictures.items()}
        except (ValueError, OSError) as error:
            return place, None, {}, str(error)
        return place, pictures, record, ""

    def content(self, place: int) -> tuple[bytes, Any]:
        """The bytes of all pictures and of the record; the case."""
        case = self.cases[place]
        files = [*map(self.folder.picture, case.pictures.values()), self.folder.record(case.group)]
        parts = [file.read_bytes() for file in files]
        return b"".join(parts), [[len(part) for part in parts], asdict(case)]


@dataclass(frozen=True)
class Manner:
    """How cases are drawn.

    Attributes:
        size: (height, width) in pixels.
        batch_size: Groups at a time.
        drawing: Further arguments of `GoTPipeline.draw`: steps and scales.
        best_of: Plans to choose from, where a suite does.
        temperature: Of plans that are drawn by chance.
        keep_rest: Whether edits keep what they edit outside the planned boxes.
    """

    size: tuple[int, int]
    batch_size: int
    drawing: Mapping[str, Any]
    best_of: int
    temperature: float
    keep_rest: bool


class CaseDrawing(LightningModule, ABC):
    """`trainer.predict` draws what is wanted; what was written stays, so that a run that was ended can go on.

    Args:
        model: Plans and draws.
        folder: Where to.
        wanted: Cases by groups; the same on all ranks.
        manner: How.
    """

    def __init__(self, model: GoTModel, folder: CaseFolder, wanted: Sequence[Sequence[Case]], manner: Manner) -> None:
        super().__init__()
        self.model = model.eval()
        self.folder, self.wanted, self.manner = folder, wanted, manner
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def pipeline(self) -> GoTPipeline:
        """The model's, for images of the size."""
        return GoTPipeline(self.model, self.manner.size)

    @abstractmethod
    def draw_groups(self, groups: Sequence[Sequence[Case]]) -> None:
        """Draw some groups and `finish` each."""

    def predict_dataloader(self) -> DataLoader:
        """This rank's share."""
        places: Any = range(len(self.wanted))[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(places, batch_size=self.manner.batch_size, collate_fn=list)

    def predict_step(self, batch: list[int], batch_idx: int) -> None:
        """Draw the groups at some places."""
        self.draw_groups([self.wanted[place] for place in batch])

    def draw(
        self, plans: Sequence[Plan], seeds: Sequence[int], names: Sequence[str], keep: PreviousImages | None = None
    ) -> list[Float[Tensor, "3 H W"]]:
        """Draw plans, each from its own seed, and write their pictures; returns them in [0, 1]."""
        drawn: Any = self.pipeline.generate(
            plans, seed=seeds, keep=keep, output_type="pt", **self.manner.drawing
        ).images
        for name, image in zip(names, drawn, strict=True):
            write_image(self.folder.picture(name), image * 2 - 1)
        return list(drawn)

    def finish(self, group: str, record: Mapping[str, Any]) -> None:
        """Write the record of a group whose pictures are all there."""
        write_whole(self.folder.record(group), json.dumps(record, indent=1) + "\n")


Measure = Callable[[Case, OutputImages, Record, SceneDetector], Mapping[str, float]]
"""The figures of a case; those that it does not have are left out."""


@dataclass(frozen=True)
class CaseSuite:
    """What a suite is made of.

    Attributes:
        name: As results call it.
        figures: With the way that is better.
        shares: Figures that count how often something is so; where all cases agree, the interval is Wilson's.
        cases: Makes them, of (how many scenes, side of the images in pixels, seed, split).
        drawing: Draws them.
        measure: Looks at one.
    """

    name: str
    figures: Mapping[str, Better]
    shares: frozenset[str]
    cases: Callable[[int, int, int, str], list[Case]]
    drawing: type[CaseDrawing]
    measure: Measure


class CaseScoring(ItemScoring):
    """`trainer.test` looks at every case.

    Args:
        suite: Says at what.
        items: The cases.
        batch_size: Cases at a time.
        num_workers: Processes that read pictures.
        keeping: Where figures are kept.
    """

    def __init__(
        self, suite: CaseSuite, items: CaseItems, batch_size: int, num_workers: int = 0, keeping: Keeping | None = None
    ) -> None:
        super().__init__(items, tuple(suite.figures), batch_size, num_workers, keeping)
        self.cases: Sequence[Case] = items.cases
        self.measure = suite.measure
        self.detector = SceneDetector()

    def score(self, batch: list[Loaded]) -> None:
        """Look at some cases."""
        for place, pictures, record, problem in batch:
            if pictures is None:
                self.note(place, {})
                self.remark(place, problem)
            else:
                self.note(place, self.measure(self.cases[place], pictures, record, self.detector))


@dataclass(frozen=True)
class CaseResult:
    """The outcome of a suite.

    Attributes:
        suite: What was measured.
        cases: What was looked at.
        found: The figures of each case, NaN where it has none.
        missing: Why pictures of a case could not be read, by name.
        scores: Summaries of the figures by category, `OVERALL` last.
    """

    suite: CaseSuite
    cases: Sequence[Case]
    found: Float[Tensor, "cases figures"]
    missing: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Summary]]

    def as_json(self) -> dict[str, Any]:
        """Scores, what is missing, and every case with its figures."""
        names = tuple(self.suite.figures)
        items = [
            Item(f"{case.name}: {case.prompt}", case.category, scores_of(row, names), {"name": case.name})
            for case, row in zip(self.cases, self.found, strict=True)
            if case.name not in self.missing
        ]
        groups = {case.group for case in self.cases}
        plain = {
            category: {name: score.as_json() for name, score in own.items()} for category, own in self.scores.items()
        }
        return {
            **scored_items(self.suite.name, self.suite.figures, items),
            "counts": {"scenes": len(groups), "cases": len(items), "missing": len(self.missing)},
            "scores": plain,
            "missing": dict(self.missing),
        }


def case_result(
    suite: CaseSuite,
    cases: Sequence[Case],
    found: Float[Tensor, "cases figures"],
    notes: Mapping[int, str],
    seed: int = 0,
) -> CaseResult:
    """Sum up the figures of cases.

    A category's mean and interval are over its cases, each of another scene. Overall, cases of one scene are taken
    together first, so that the interval is over scenes.

    Args:
        suite: What was measured.
        cases: What was looked at.
        found: The figures of each.
        notes: Why a case could not be looked at, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single case could be read.
    """
    missing = {cases[place].name: reason for place, reason in notes.items()}
    if len(missing) == len(cases):
        name, reason = next(iter(missing.items()), ("no case", "nothing was asked"))
        raise UserError(f"none of {len(cases)} cases can be read ({name}: {reason})")
    names = tuple(suite.figures)
    by_category = _together([case.category for case in cases])
    scores = {name: summaries(found[places], names, seed, suite.shares) for name, places in by_category.items()}
    groups = _together([case.group for case in cases])
    means = torch.stack([found[places].nanmean(dim=0) for places in groups.values()])
    return CaseResult(suite, cases, found, missing, {**scores, OVERALL: summaries(means, names, seed, suite.shares)})


def _together(names: Sequence[str]) -> dict[str, list[int]]:
    """The places of each name, in the order of their first."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found
