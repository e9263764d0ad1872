"""Edits: generated from a checkpoint or made by anyone, scored by CLIP, DINO, LPIPS, pixels and a judge."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from lightning import Trainer
from torch import Tensor

from got_core.chain.parser import parse
from got_core.data.images import load_image
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import EDIT_TAGS
from got_core.detection.base import FROM, weight_files
from got_core.detection.loading import SCENES
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError, one_line
from got_core.evaluation.answers import BLANK, NOISE, NOISES, TRUE, UNCHANGED, Answer
from got_core.evaluation.generation import (
    EDITING_SCALES,
    GenerationUnderTrainer,
    Generator,
    check_sources,
    generate_missing,
    image_seed,
    prepare_folder,
    read_generator,
    write_image,
)
from got_core.evaluation.metrics.chat_judge import HIGHEST, QUESTION, ChatJudge, JudgeError, SavedAnswers
from got_core.evaluation.metrics.scenes import EDIT_RULE, background_kept, edit_succeeds, view_scenes
from got_core.evaluation.metrics.similarity import ClipEmbedding, DinoEmbedding, PerceptualDistance
from got_core.evaluation.results import Better, Item, Missing, Results, check_writable, origin, summarize
from got_core.evaluation.scoring import (
    Items,
    ItemScoring,
    ScoreCache,
    evaluation_trainer,
    score_answers,
    score_items,
)
from got_core.evaluation.suites.edit_datasets import (
    CHAINS,
    EDITS,
    OUTPUTS,
    SOURCES,
    TARGETS,
    EditCase,
    EditSet,
    ImageSource,
    image_bytes,
    load_rgb,
    read_edits,
    with_outputs,
)
from got_core.model import GoTModel
from got_core.planning.boxes import pixels_of
from got_core.types import Sample
from got_core.weights.files import checksum, checksum_of, write_whole

NONE = "none"
"""Leaves out the scores of a model."""

ANSWERS = "judge"
"""Folder of the judge's answers, beside the results."""

METRICS: dict[str, Better] = {
    "clip_i": "higher",
    "clip_t": "higher",
    "clip_direction": "higher",
    "dino": "higher",
    "l1": "lower",
    "l2": "lower",
    "lpips": "lower",
    "l1_outside": "lower",
    "l2_outside": "lower",
    "lpips_outside": "lower",
    "edit_success": "higher",
    "background_kept": "higher",
    "judge": "higher",
    "judge_followed": "higher",
    "judge_kept": "higher",
}
"""Each of the edits that have it; see `EditScorers`, `pixel_scores` and `got_core.evaluation.metrics.scenes`."""


def evaluate(options: Namespace) -> None:
    """Generate edits if a checkpoint is given, score a set, print a table and write `results.json`.

    Raises:
        UserError: Options that do not fit, a model or judge that cannot be loaded or reached, nothing to score, or a
            folder that cannot be written to.
    """
    check_sources(options)
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("a judge needs both --judge-url URL and --judge-model NAME")
    trainer = evaluation_trainer(options)
    root = Path(options.images or options.output)
    output = Path(options.output or (root if root.is_dir() else root.parent))
    scorers = _scorers(options, output)
    if options.checkpoint:
        _generate(options, trainer, root)
    edits = with_outputs(read_edits(root, options.method))
    check_writable(output)
    described = _description(options)
    cache = ScoreCache(output, {**described, "judge": options.judge_url})
    scoring = EditScoring(edits, scorers, options.batch_size, options.num_workers, cache)
    is_first = score_items(trainer, scoring, output)
    answered = answered_edits(edits, scoring)
    unjudged = replace(scorers, chat=None)
    answers = {
        name: EditScoring(own, unjudged, options.batch_size, options.num_workers, cache, name)
        for name, own in answered.items()
    }
    answers = score_answers(trainer, answers, output)
    if is_first:
        images = [image for case in edits.cases for image in (case.source, case.output)]
        files = [image for image in images if isinstance(image, Path)]
        sums = {"edits": checksum_of(edits.path, files) if files else checksum(edits.path)}
        came = origin(edits.path, described, sums)
        floors = {name: edit_results(answered[name], own).scores for name, own in answers.items()}
        results = replace(edit_results(edits, scoring), origin=came, answers=floors)
        results.publish(output, f"edits, {edits.path}, {len(edits.cases)} with an output")


@dataclass(frozen=True)
class EditScorers:
    """Models that score edits; the scores of one that is None are left out.

    Attributes:
        clip: For `clip_i` (source and output), `clip_t` (output and target caption) and `clip_direction` (the change
            of the image and the change of the caption), all cosines.
        dino: For `dino`, the cosine of source and output.
        perceptual: For `lpips`.
        chat: For `judge`, the lower of `judge_followed` and `judge_kept`, all as fractions of the best score.
    """

    clip: ClipEmbedding | None = None
    dino: DinoEmbedding | None = None
    perceptual: PerceptualDistance | None = None
    chat: SavedAnswers | None = None


def _scorers(options: Namespace, output: Path) -> EditScorers:
    chat = None
    if options.judge_url:
        judge = ChatJudge(options.judge_url, options.judge_model, options.judge_key, options.judge_timeout)
        chat = SavedAnswers(judge, output / ANSWERS)
    return EditScorers(
        clip=None if options.clip == NONE else ClipEmbedding.from_saved(options.clip),
        dino=None if options.dino == NONE else DinoEmbedding.from_saved(options.dino),
        perceptual=PerceptualDistance.from_file(Path(options.lpips)) if options.lpips else None,
        chat=chat,
    )


def _description(options: Namespace) -> dict[str, Any]:
    """What results say of the scorers; those that differ only in the paths they came `FROM` are the same."""
    given = {name: getattr(options, name) for name in ("clip", "dino", "lpips")}
    paths = {name: path for name, path in given.items() if path not in (None, NONE)}
    files = {f"{name}/{file.name}": file for name in paths if name != "lpips" for file in weight_files(paths[name])}
    files |= {"lpips": Path(options.lpips)} if options.lpips else {}
    chat = {"model": options.judge_model, "question": QUESTION} if options.judge_url else None
    paths |= {"chat": options.judge_url} if options.judge_url else {}
    weights = {name: checksum(file) for name, file in files.items()}
    return {FROM: paths, "weights": weights, "chat": chat, "edit_rule": EDIT_RULE}


def outside_plan(chain: str | None, size: tuple[int, int]) -> Bool[Tensor, "H W"] | None:
    """Return the pixels outside every box of a chain; None without a chain or a box, or where the boxes leave none."""
    regions = parse(chain or "").regions
    outside = torch.ones(size, dtype=torch.bool)
    for region in regions:
        outside[pixels_of(region.box, size)] = False
    return outside if regions and outside.any() else None


def pixel_scores(
    source: Float[Tensor, "3 H W"],
    output: Float[Tensor, "3 H W"],
    chain: str | None,
    perceptual: PerceptualDistance | None,
) -> dict[str, float]:
    """Return `l1` and `l2` (mean absolute and mean squared difference of channels in 0 to 1), and `lpips`.

    With `_outside` behind the name, over the pixels outside the boxes of the chain, where there are both. LPIPS depends
    on surroundings, so for `lpips_outside` the boxes of the output are first filled with the source: changes within
    them do not count.

    Args:
        source: The image that was edited, in [-1, 1].
        output: The edited image.
        chain: The chain it was generated from.
        perceptual: LPIPS; None leaves it out.
    """
    difference = (output - source).abs() / 2
    maps = {"l1": reduce(difference, "c h w -> h w", "mean"), "l2": reduce(difference**2, "c h w -> h w", "mean")}
    if perceptual is not None:
        maps["lpips"] = perceptual(source, output)
    scores = {name: float(values.mean()) for name, values in maps.items()}
    outside = outside_plan(chain, (output.shape[-2], output.shape[-1]))
    if outside is None:
        return scores
    outside = outside.to(output.device)
    if perceptual is not None:
        maps["lpips"] = perceptual(source, torch.where(rearrange(outside, "h w -> 1 h w"), output, source))
    return scores | {f"{name}_outside": float(values[outside].mean()) for name, values in maps.items()}


Pair = tuple[Float[Tensor, "3 H W"], Float[Tensor, "3 H W"]]
"""Source and output of an edit in [-1, 1], of one size."""


class EditImages(Items):
    """The images of edits, each source resized to its output.

    Args:
        cases: The edits.
        answer: The name of an answer that is scored in the place of the outputs, in their size.
    """

    def __init__(self, cases: Sequence[EditCase], answer: str | None = None) -> None:
        self.cases, self.answer = cases, answer

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Pair:
        case = self.cases[index]
        if case.output is None:
            raise ValueError(f"edit {case.name} has no output to score")
        output = load_rgb(case.output)
        size = output.shape[-2], output.shape[-1]
        source = load_rgb(case.source, size)
        if self.answer is None:
            return source, output
        if self.answer == TRUE and case.target is not None:
            return source, load_rgb(case.target, size)
        noise = index % NOISES if self.answer == NOISE else None
        return source, source if self.answer == UNCHANGED else Answer(noise=noise).image(size)

    def content(self, index: int) -> tuple[bytes, Any]:
        """Return the bytes of the images; instruction, captions, chain and scene, and which answer is scored."""
        case = self.cases[index]
        images = [case.source, case.output, *([case.target] if self.answer == TRUE else [])]
        parts = [b"" if image is None else image_bytes(image) for image in images]
        words = [case.instruction, case.source_caption, case.target_caption, case.chain, dict(case.meta)]
        answer = [] if self.answer is None else [[self.answer, index % NOISES]]
        return b"".join(parts), [[len(part) for part in parts], *words, *answer]


class EditScoring(ItemScoring):
    """Scores every edit of a set; one that the judge gives no score lacks the judge's scores and has a remark.

    Args:
        edits: Each with an output.
        scorers: The models.
        batch_size: Edits at a time, which are sent to the judge at once.
        num_workers: Processes that read images.
        cache: Where scores are cached.
        answer: The name of an answer that is scored in the place of the outputs.
    """

    def __init__(
        self,
        edits: EditSet,
        scorers: EditScorers,
        batch_size: int = 8,
        num_workers: int = 0,
        cache: ScoreCache | None = None,
        answer: str | None = None,
    ) -> None:
        super().__init__(EditImages(edits.cases, answer), tuple(METRICS), batch_size, num_workers, cache)
        self.cases = edits.cases
        self.clip, self.dino, self.perceptual = scorers.clip, scorers.dino, scorers.perceptual
        self.chat = scorers.chat
        self.detector = SceneDetector()

    def score(self, batch: Mapping[int, Pair]) -> None:
        """Score some edits."""
        pairs = {index: (source.to(self.device), output.to(self.device)) for index, (source, output) in batch.items()}
        self._score_similarity(pairs)
        for index, (source, output) in pairs.items():
            case = self.cases[index]
            self.record(index, pixel_scores(source, output, case.chain, self.perceptual))
            if case.meta.keys() >= {"edits", "source_objects"}:
                (view,) = view_scenes(self.detector, output[None], [case.chain or ""], [case.meta], source[None])
                kept = background_kept(view)
                self.record(index, {"edit_success": float(edit_succeeds(view)), "background_kept": kept})
        if self.chat is not None:
            self._score_by_judge(self.chat, pairs)

    def _score_similarity(self, pairs: Mapping[int, Pair]) -> None:
        """Record cosines of sources, outputs and captions."""
        images = [image for pair in zip(*pairs.values(), strict=True) for image in pair]
        if self.dino is not None:
            sources, outputs = self.dino.images(images).chunk(2)
            for index, cosine in zip(pairs, (sources * outputs).sum(dim=1).tolist(), strict=True):
                self.record(index, {"dino": cosine})
        if self.clip is None:
            return
        sources, outputs = self.clip.images(images).chunk(2)
        for index, source, output in zip(pairs, sources, outputs, strict=True):
            case = self.cases[index]
            scores = {"clip_i": float(source @ output)}
            if case.target_caption:
                (target,) = self.clip.texts([case.target_caption])
                scores["clip_t"] = float(output @ target)
                if case.source_caption:
                    (before,) = self.clip.texts([case.source_caption])
                    change = torch.cosine_similarity(output - source, target - before, dim=0)
                    scores["clip_direction"] = float(change)
            self.record(index, scores)

    def _score_by_judge(self, chat: SavedAnswers, pairs: Mapping[int, Pair]) -> None:
        """Send all edits to the judge at once."""
        with ThreadPoolExecutor(len(pairs)) as pool:
            answers = {
                index: pool.submit(chat, self.cases[index].name, self.cases[index].instruction, *pair)
                for index, pair in pairs.items()
            }
        for index, answer in answers.items():
            try:
                scores = answer.result()
            except JudgeError as error:
                self.remark(index, f"not judged: {error}")
                continue
            followed, kept = scores.followed / HIGHEST, scores.kept / HIGHEST
            self.record(index, {"judge": scores.score, "judge_followed": followed, "judge_kept": kept})


def answered_edits(edits: EditSet, scoring: ItemScoring) -> dict[str, EditSet]:
    """Return the edits of a scored set that can be read, by the names of the answers that they have."""
    unread = scoring.scores.isnan().all(dim=1).tolist()
    cases = tuple(case for case, missing in zip(edits.cases, unread, strict=True) if not missing)
    true = tuple(case for case in cases if case.target is not None)
    answers = {UNCHANGED: cases, BLANK: cases, NOISE: cases, TRUE: true}
    return {name: EditSet(edits.path, own) for name, own in answers.items() if own}


def edit_results(edits: EditSet, scoring: ItemScoring) -> Results:
    """Return the results of a set whose edits were scored.

    Raises:
        UserError: Not a single edit could be read.
    """
    items, missing, unjudged = [], list(edits.missing), []
    for index, (case, row) in enumerate(zip(edits.cases, scoring.scores, strict=True)):
        remark = scoring.remarks.get(index)
        if row.isnan().all():
            missing.append(Missing(case.name, remark or "", case.category))
            continue
        if remark is not None:
            unjudged.append(f"without the judge's score: {case.name}: {remark}")
        scores = {name: value for name, value in zip(METRICS, row.tolist(), strict=True) if value == value}
        # Named after edit and instruction, as scenes of another seed have the same names.
        details = {"name": case.name, "prompt": case.instruction}
        items.append(Item(f"{case.name}: {case.instruction}", case.category, scores, details=details))
    if not items:
        raise UserError(
            f"{edits.path}: none of {len(edits.cases)} edits can be read ({missing[-1].item}: {missing[-1].reason})"
        )
    scores = summarize(items, METRICS, fractions={"edit_success"})
    counts = {"edits": len(items), "missing": len(missing), "unjudged": len(unjudged)}
    return Results("editing", METRICS, items, scores, counts, missing, unjudged)


@dataclass(frozen=True)
class EditRequest:
    """An edit to generate.

    Attributes:
        entry: Its line in `EDITS`.
        source: The image to edit, in [-1, 1] or where it is stored.
        target: The true edited image, where known.
    """

    entry: Mapping[str, Any]
    source: ImageSource | Float[Tensor, "3 H W"]
    target: ImageSource | Float[Tensor, "3 H W"] | None = None


def scene_requests(number: int, size: int, seed: int) -> list[EditRequest]:
    """Return edits of drawn scenes held out from training, the operations in turn; the same for a seed.

    Args:
        number: Of edits.
        size: Side of the images in pixels.
        seed: Of the scenes.
    """
    scenes = ScenesDataset(size, number, seed, "test", dict.fromkeys(EDIT_TAGS, 1.0), balanced=True)
    requests = []
    for index in range(number):
        sample = scenes[index]
        assert sample.source is not None  # every task above is an edit
        entry = {"instruction": sample.prompt, "category": sample.meta["tag"], "meta": dict(sample.meta)}
        requests.append(EditRequest({"name": f"{index:05d}", **entry}, sample.source, sample.target))
    return requests


def requests_of(edits: EditSet) -> list[EditRequest]:
    """Return the edits of a set without their outputs."""
    names = ("name", "instruction", "source_caption", "target_caption", "category")
    return [
        EditRequest({name: getattr(case, name) for name in names} | {"meta": dict(case.meta)}, case.source, case.target)
        for case in edits.cases
    ]


def prepare_edits(root: Path, requests: Sequence[EditRequest], settings: Mapping[str, Any]) -> None:
    """Prepare a folder for edits, with the sources and targets as they are; see `prepare_folder` for the errors.

    A source that cannot be read is left out; scoring names it. In a folder that was prepared before in the same way,
    only what is not there yet is written.
    """
    dependent = [f"{CHAINS}/*.txt", f"{SOURCES}/*.png", f"{TARGETS}/*.png"]
    targets = (TARGETS,) if any(request.target is not None for request in requests) else ()
    prepare_folder(root, settings, f"{OUTPUTS}/*.png", dependent, (SOURCES, OUTPUTS, CHAINS, *targets))
    try:
        write_whole(root / EDITS, "".join(json.dumps(request.entry) + "\n" for request in requests))
        for request in requests:
            _write_once(root / SOURCES / f"{request.entry['name']}.png", request.source)
            if request.target is not None:
                _write_once(root / TARGETS / f"{request.entry['name']}.png", request.target)
    except OSError as error:
        raise UserError(f"{root}: cannot be written to ({one_line(error)})") from error


def _write_once(file: Path, source: ImageSource | Float[Tensor, "3 H W"]) -> None:
    if file.exists():
        return
    try:
        image = source if isinstance(source, Tensor) else load_rgb(source)
    except (ValueError, FileNotFoundError):
        return
    write_image(file, image)


@dataclass(frozen=True)
class EditToGenerate:
    """An edit that is not there yet.

    Attributes:
        root: Of the set.
        name, instruction: Of the edit.
        seed: Of its noise.
    """

    root: Path
    name: str
    instruction: str
    seed: int

    @property
    def source(self) -> Path:
        """The file of the source."""
        return self.root / SOURCES / f"{self.name}.png"

    @property
    def output(self) -> Path:
        """The file of the output."""
        return self.root / OUTPUTS / f"{self.name}.png"


def missing_edits(root: Path, requests: Sequence[EditRequest], seed: int) -> list[EditToGenerate]:
    """Return the edits that have no output yet, in order; an edit's noise follows from seed and index alone."""
    edits = [
        EditToGenerate(root, request.entry["name"], request.entry["instruction"], image_seed(seed, index))
        for index, request in enumerate(requests)
    ]
    return [edit for edit in edits if not edit.output.exists()]


class EditGeneration(GenerationUnderTrainer):
    """Generates edits, and writes the chain of each.

    Args:
        model: Plans and generates.
        units: The edits.
        batch_size: Edits at a time.
        generator: How.
    """

    def __init__(self, model: GoTModel, units: Sequence[EditToGenerate], batch_size: int, generator: Generator) -> None:
        super().__init__(model, units, batch_size)
        self.size, self.sampling = generator.size, generator.sampling
        self.scales = replace(model.editing_scales, **generator.scales)

    def part(self, rank: int, ranks: int) -> list[EditToGenerate]:
        """Return every so many of the edits whose source could be read, which only the first rank has written."""
        return [edit for edit in self.units if edit.source.exists()][rank::ranks]

    def generate(self, units: Sequence[EditToGenerate]) -> None:
        """Generate a batch, each edit from its own seed, and write it."""
        sources = [load_image(edit.source) for edit in units]
        samples = [
            Sample(edit.instruction, chain="", size=self.size, source=source)
            for edit, source in zip(units, sources, strict=True)
        ]
        seeds = [edit.seed for edit in units]
        generated = self.model.generate(self.batch(samples), seed=seeds, scales=self.scales, **self.sampling)
        for edit, image, chain in zip(units, generated.images, generated.chains, strict=True):
            (edit.root / CHAINS / f"{edit.name}.txt").write_text(chain + "\n", encoding="utf-8")
            write_image(edit.output, image)


def _generate(options: Namespace, trainer: Trainer, root: Path) -> None:
    """Generate the edits that are not there yet."""
    generator = read_generator(options, EDITING_SCALES)
    if options.prompts == SCENES:
        requests = scene_requests(options.number, generator.square, generator.seed)
        settings = {**generator.settings, "scenes": len(requests)}
    else:
        requests = requests_of(read_edits(Path(options.prompts), options.method))
        settings = {**generator.settings, "prompts": checksum(Path(options.prompts))}
    generate_missing(
        trainer,
        root,
        generator,
        prepare=lambda: prepare_edits(root, requests, settings),
        left=lambda: missing_edits(root, requests, generator.seed),
        make=lambda model, units: EditGeneration(model, units, options.batch_size, generator),
    )
