"""Suites of cases: a few images of one drawn scene each, generated under a Trainer and scored by category."""

import json
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.data.images import load_image
from got_core.detection.base import FROM
from got_core.detection.loading import SCENES
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError, one_line
from got_core.evaluation.answers import Answer
from got_core.evaluation.generation import (
    EDITING_SCALES,
    GenerationUnderTrainer,
    Generator,
    generate_missing,
    prepare_folder,
    read_generator,
    write_image,
)
from got_core.evaluation.metrics.scenes import EDIT_RULE
from got_core.evaluation.results import Better, Item, Missing, Results, check_writable, origin, summarize
from got_core.evaluation.scoring import (
    Image,
    Items,
    ItemScoring,
    ScoreCache,
    evaluation_trainer,
    score_answers,
    score_items,
)
from got_core.model import GoTModel
from got_core.pipelines.inpainting import PreviousImages
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan
from got_core.weights.files import checksum_of, write_whole

CASES, IMAGES, RECORDS = "cases.jsonl", "images", "records"

Images = dict[str, Image]
"""A case's images in [-1, 1], by their names in the case."""

Record = Mapping[str, Any]
"""Of a group, as JSON."""


@dataclass(frozen=True)
class Case:
    """One test, on images of one scene.

    Attributes:
        name: Unlike that of every other case.
        group: Of the cases that are generated together, from one prompt and seed.
        category: In results.
        prompt: What the scene is generated from.
        seed: Of the noise.
        images: The names of the files, by their names in the case.
        details: What is generated and what is expected, as JSON.
    """

    name: str
    group: str
    category: str
    prompt: str
    seed: int
    images: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseFolder:
    """The folder of a suite's cases, images and records."""

    root: Path

    def image(self, name: str) -> Path:
        """Return the file of an image."""
        return self.root / IMAGES / f"{name}.png"

    def record(self, group: str) -> Path:
        """Return the file of a group's record, which is written when all its images are."""
        return self.root / RECORDS / f"{group}.json"

    def prepare(self, cases: Sequence[Case], settings: Mapping[str, Any]) -> None:
        """Write cases and settings; see `prepare_folder` for the errors."""
        prepare_folder(self.root, settings, f"{IMAGES}/*.png", [f"{RECORDS}/*.json"], (IMAGES, RECORDS))
        try:
            write_whole(self.root / CASES, "".join(json.dumps(asdict(case)) + "\n" for case in cases))
        except OSError as error:
            raise UserError(f"{self.root}: cannot be written to ({one_line(error)})") from error

    def missing(self, cases: Sequence[Case]) -> list[list[Case]]:
        """Return the groups that lack their record or an image."""
        groups: dict[str, list[Case]] = {}
        for case in cases:
            groups.setdefault(case.group, []).append(case)
        return [own for group, own in groups.items() if not all(map(Path.exists, self._files(group, own)))]

    def _files(self, group: str, cases: Sequence[Case]) -> list[Path]:
        return [self.record(group), *(self.image(name) for case in cases for name in case.images.values())]


class CaseItems(Items):
    """Cases with their images and their group's record.

    Args:
        folder: Of the images.
        cases: The cases.
        answers: Images that are scored in the place of the generated ones, in their size; by name for each case.
    """

    def __init__(
        self, folder: CaseFolder, cases: Sequence[Case], answers: Sequence[Mapping[str, Answer]] | None = None
    ) -> None:
        self.folder, self.cases, self.answers = folder, cases, answers

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Images, Record]:
        case = self.cases[index]
        record = json.loads(self.folder.record(case.group).read_text(encoding="utf-8"))
        images = {name: load_image(self.folder.image(file)) for name, file in case.images.items()}
        if self.answers is not None:
            sizes = {name: (image.shape[-2], image.shape[-1]) for name, image in images.items()}
            images = {name: answer.image(sizes[name]) for name, answer in self.answers[index].items()}
        return images, record

    def content(self, index: int) -> tuple[bytes, Any]:
        """Return the bytes of all images and of the record; the case, with its answer where there is one."""
        case = self.cases[index]
        files = [*map(self.folder.image, case.images.values()), self.folder.record(case.group)]
        parts = [file.read_bytes() for file in files]
        question = [[len(part) for part in parts], asdict(case)]
        if self.answers is not None:
            question.append({name: asdict(answer) for name, answer in self.answers[index].items()})
        return b"".join(parts), question


@dataclass(frozen=True)
class CaseOptions:
    """How cases are generated.

    Attributes:
        size: (height, width) in pixels.
        batch_size: Groups at a time.
        generation: Further arguments of `GoTPipeline.generate`: steps and scales.
        best_of: Plans to choose from, in suites that do.
        temperature: Of sampled plans.
        keep_rest: Whether edits leave everything outside the planned boxes as it was.
    """

    size: tuple[int, int]
    batch_size: int
    generation: Mapping[str, Any]
    best_of: int = 4
    temperature: float = 1.0
    keep_rest: bool = False


class CaseGeneration(GenerationUnderTrainer):
    """Generates groups of cases.

    Args:
        model: Plans and generates.
        units: Groups of cases.
        folder: Where to.
        options: How.
    """

    def __init__(
        self, model: GoTModel, units: Sequence[Sequence[Case]], folder: CaseFolder, options: CaseOptions
    ) -> None:
        super().__init__(model, units, options.batch_size)
        self.folder, self.options = folder, options

    @property
    def pipeline(self) -> GoTPipeline:
        """The model's, for images of the size."""
        pipeline = GoTPipeline(self.model, self.options.size)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @abstractmethod
    def generate(self, units: Sequence[Sequence[Case]]) -> None:
        """Generate some groups and `finish` each."""

    def write(
        self, plans: Sequence[Plan], seeds: Sequence[int], names: Sequence[str], keep: PreviousImages | None = None
    ) -> list[Float[Tensor, "3 H W"]]:
        """Generate plans, each from its own seed, and write the images; returns them in [0, 1]."""
        options: dict[str, Any] = {"output_type": "pt", **self.options.generation}
        images: Any = self.pipeline.generate(plans, seed=seeds, keep=keep, **options).images
        for name, image in zip(names, images, strict=True):
            write_image(self.folder.image(name), image * 2 - 1)
        return list(images)

    def finish(self, group: str, record: Mapping[str, Any]) -> None:
        """Write the record of a group whose images are all written."""
        write_whole(self.folder.record(group), json.dumps(record, indent=1) + "\n")


@dataclass(frozen=True)
class CaseSuite:
    """What a suite consists of.

    Attributes:
        name: In results.
        metrics: With the direction that is better.
        fractions: Metrics that are 0 or 1, or a fraction, of each case; where all agree, the interval is Wilson's.
        cases: Makes them, of (number of scenes, side of the images in pixels, seed, split).
        generation: Generates them.
        measure: Returns the scores of a case; those that it does not have are left out.
        answers: Returns trivial answers to a case and the true one, by name, each with all its images by name; None
            where there are none.
    """

    name: str
    metrics: Mapping[str, Better]
    fractions: frozenset[str]
    cases: Callable[[int, int, int, str], list[Case]]
    generation: type[CaseGeneration]
    measure: Callable[[Case, Images, Record, SceneDetector], Mapping[str, float]]
    answers: Callable[[Case], Mapping[str, Mapping[str, Answer]]] | None = None

    def evaluate(self, options: Namespace) -> None:
        """Generate the cases from a checkpoint, score them, print a table and write `results.json`.

        Raises:
            UserError: Options that do not fit, or a folder that cannot be written to.
        """
        if not (options.checkpoint and options.output):
            raise UserError(f"got evaluate {self.name} needs --checkpoint RUN and --output FOLDER for the images")
        trainer = evaluation_trainer(options)
        generator = read_generator(options, EDITING_SCALES)
        folder = CaseFolder(Path(options.output))
        cases = self.cases(options.number, generator.square, generator.seed, options.split)
        own = {name: value for name, value in vars(options).items() if name in ("best_of", "temperature", "keep_rest")}
        settings = {"suite": self.name, "number": options.number, "split": options.split, **own}
        generate_missing(
            trainer,
            folder.root,
            generator,
            prepare=lambda: folder.prepare(cases, {**generator.settings, **settings}),
            left=lambda: folder.missing(cases),
            make=lambda model, units: self.generation(model, units, folder, _options(options, generator, own)),
        )
        check_writable(folder.root)
        evaluator = {FROM: {"detector": SCENES}, "detector": SCENES, "edit_rule": EDIT_RULE}
        cache = ScoreCache(folder.root, evaluator)
        how = options.batch_size, options.num_workers, cache
        scoring = CaseScoring(self, CaseItems(folder, cases), *how)
        is_first = score_items(trainer, scoring, folder.root)
        answers = {
            name: CaseScoring(self, CaseItems(folder, cases, own), *how) for name, own in self._answers(cases).items()
        }
        answers = score_answers(trainer, answers, folder.root)
        if is_first:
            files = [*(folder.root / IMAGES).glob("*.png"), folder.root / CASES]
            came = origin(folder.root, evaluator, {"cases": checksum_of(folder.root, files)})
            results = case_results(self, cases, scoring.scores, scoring.remarks)
            floors = {name: case_results(self, cases, own.scores, own.remarks).scores for name, own in answers.items()}
            results = replace(results, origin=came, answers=floors)
            results.publish(folder.root, f"{self.name}, {folder.root}, by category and overall by scene")

    def _answers(self, cases: Sequence[Case]) -> dict[str, list[Mapping[str, Answer]]]:
        """The answers to all cases by name."""
        answers: dict[str, list[Mapping[str, Answer]]] = {}
        for case in cases if self.answers is not None else ():
            for name, images in self.answers(case).items():
                answers.setdefault(name, []).append(images)
        return answers


def _options(options: Namespace, generator: Generator, own: Mapping[str, Any]) -> CaseOptions:
    scales = {f"{name}_scale": scale for name, scale in generator.scales.items()}
    generation = {"num_inference_steps": options.steps, "exact": options.exact, **scales}
    return CaseOptions(generator.size, options.batch_size, generation, **own)


class CaseScoring(ItemScoring):
    """Scores every case of a suite.

    Args:
        suite: Says by what.
        items: The cases.
        batch_size: Cases at a time.
        num_workers: Processes that read images.
        cache: Where scores are cached.
    """

    def __init__(
        self,
        suite: CaseSuite,
        items: CaseItems,
        batch_size: int,
        num_workers: int = 0,
        cache: ScoreCache | None = None,
    ) -> None:
        super().__init__(items, tuple(suite.metrics), batch_size, num_workers, cache)
        self.cases: Sequence[Case] = items.cases
        self.measure = suite.measure
        self.detector = SceneDetector()

    def score(self, batch: Mapping[int, tuple[Images, Record]]) -> None:
        """Score some cases."""
        for index, (images, record) in batch.items():
            self.record(index, self.measure(self.cases[index], images, record, self.detector))


def case_results(
    suite: CaseSuite, cases: Sequence[Case], scores: Float[Tensor, "cases metrics"], remarks: Mapping[int, str]
) -> Results:
    """Return the results of cases.

    A category's mean and interval are over its cases, each of another scene. Overall, cases of one scene are averaged
    first, so that the interval is over scenes.

    Args:
        suite: Of the cases.
        cases: What was scored.
        scores: Of each case, NaN where it has none.
        remarks: Why a case could not be scored, by index.

    Raises:
        UserError: Not a single case could be read.
    """
    missing = [Missing(cases[index].name, text, cases[index].category) for index, text in sorted(remarks.items())]
    if len(missing) == len(cases):
        first = missing[0] if missing else Missing("no case", "there is none")
        raise UserError(f"none of {len(cases)} cases can be read ({first.item}: {first.reason})")
    items = []
    for index, (case, row) in enumerate(zip(cases, scores.tolist(), strict=True)):
        if index not in remarks:
            own = {name: value for name, value in zip(suite.metrics, row, strict=True) if value == value}
            key, details = f"{case.name}: {case.prompt}", {"name": case.name}
            items.append(Item(key, case.category, own, group=case.group, details=details))
    counts = {"scenes": len({case.group for case in cases}), "cases": len(items), "missing": len(missing)}
    summaries = summarize(items, suite.metrics, "groups", suite.fractions)
    return Results(suite.name, suite.metrics, items, summaries, counts, missing)
