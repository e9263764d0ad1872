"""Edits generated from a checkpoint and scored under a Trainer, each rank a part of them."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from got_core.chain.parser import parse
from got_core.data.images import load_image
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import EDIT_TAGS
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError, one_line
from got_core.evaluation.metrics.chat_judge import HIGHEST, JudgeError, SavedAnswers
from got_core.evaluation.metrics.scenes import background_kept, edit_succeeds, view_scenes
from got_core.evaluation.metrics.similarity import ClipEmbedding, DinoEmbedding, PerceptualDistance
from got_core.evaluation.results import Better, Item, Summary, scored_items, scores_of, summaries
from got_core.evaluation.scoring import Items, ItemScoring, Keeping
from got_core.evaluation.suites.edit_datasets import (
    CHAINS,
    EDITS,
    OUTPUTS,
    SOURCES,
    EditCase,
    EditSet,
    ImageSource,
    image_bytes,
    load_rgb,
)
from got_core.evaluation.suites.generation import DrawingUnderTrainer, image_seed, take_settings, write_image
from got_core.planning.boxes import pixels_of
from got_core.types import Batch, Sample
from got_core.weights.files import write_whole


def outside_plan(chain: str | None, size: tuple[int, int]) -> Bool[Tensor, "H W"] | None:
    """The pixels outside every box of a chain; None without a chain or a box in it, or where the boxes leave none."""
    regions = parse(chain or "").regions
    outside = torch.ones(size, dtype=torch.bool)
    for region in regions:
        outside[pixels_of(region.box, size)] = False
    return outside if regions and outside.any() else None


def pixel_figures(
    source: Float[Tensor, "3 H W"],
    output: Float[Tensor, "3 H W"],
    chain: str | None,
    perceptual: PerceptualDistance | None,
) -> dict[str, float]:
    """`l1` and `l2` (mean absolute and mean squared difference of channels in 0 to 1), `lpips` where it is at hand.

    With `_outside` behind the name, over the pixels outside the boxes of the chain, where there are both. LPIPS looks
    at surroundings, so for `lpips_outside` the boxes of the output are first filled with the source: what was changed
    within them does not count.

    Args:
        source: The image that was edited, in [-1, 1].
        output: What was made of it.
        chain: The chain it was drawn from.
        perceptual: LPIPS.
    """
    difference = (output - source).abs() / 2
    maps = {"l1": reduce(difference, "c h w -> h w", "mean"), "l2": reduce(difference**2, "c h w -> h w", "mean")}
    if perceptual is not None:
        maps["lpips"] = perceptual(source, output)
    figures = {name: float(values.mean()) for name, values in maps.items()}
    outside = outside_plan(chain, (output.shape[-2], output.shape[-1]))
    if outside is None:
        return figures
    outside = outside.to(output.device)
    if perceptual is not None:
        maps["lpips"] = perceptual(source, torch.where(rearrange(outside, "h w -> 1 h w"), output, source))
    return figures | {f"{name}_outside": float(values[outside].mean()) for name, values in maps.items()}


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
"""What may be measured of an edit, and which way it is better."""

Image = Float[Tensor, "3 H W"]
Loaded = tuple[int, Image | None, Image | None, str]
"""An edit's place, its source (as large as the output) and output in [-1, 1], and why they cannot be read."""


@dataclass(frozen=True)
class EditJudges:
    """Who scores edits; figures of a judge that is None are left out.

    Attributes:
        clip: For `clip_i` (source and output), `clip_t` (output and target caption) and `clip_direction` (the change
            of the image and the change of the caption), cosines all.
        dino: For `dino`, the cosine of source and output.
        perceptual: For `lpips`.
        chat: For `judge`, the lower of `judge_followed` and `judge_kept`, all as shares of the best score.
    """

    clip: ClipEmbedding | None = None
    dino: DinoEmbedding | None = None
    perceptual: PerceptualDistance | None = None
    chat: SavedAnswers | None = None


class EditImages(Items):
    """The images of edits, those that cannot be read with the reason."""

    def __init__(self, cases: Sequence[EditCase]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, place: int) -> Loaded:
        case = self.cases[place]
        if case.output is None:
            raise ValueError(f"edit {case.name} has no output to score")
        try:
            output = load_rgb(case.output)
            return place, load_rgb(case.source, (output.shape[-2], output.shape[-1])), output, ""
        except (ValueError, OSError) as error:
            return place, None, None, str(error)

    def content(self, place: int) -> tuple[bytes, Any]:
        """The bytes of both images; instruction, captions, chain and scene."""
        case = self.cases[place]
        source, output = image_bytes(case.source), b"" if case.output is None else image_bytes(case.output)
        asked = [case.instruction, case.source_caption, case.target_caption, case.chain, dict(case.meta)]
        return source + output, [len(source), *asked]


class EditScoring(ItemScoring):
    """`trainer.test` scores every edit of a set.

    An edit whose images cannot be read has no figure and a note that says so; one that the judge has no score for
    lacks the judge's figures and has a note.

    Args:
        edits: Each with an output.
        judges: Who scores them.
        batch_size: Edits at a time, which the chat judge is asked about at once.
        num_workers: Processes that read images.
        keeping: Where figures are kept.
    """

    def __init__(
        self,
        edits: EditSet,
        judges: EditJudges,
        batch_size: int = 8,
        num_workers: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        super().__init__(EditImages(edits.cases), tuple(METRICS), batch_size, num_workers, keeping)
        self.cases = edits.cases
        self.clip, self.dino, self.perceptual = judges.clip, judges.dino, judges.perceptual
        self.chat = judges.chat
        self.detector = SceneDetector()

    def score(self, batch: list[Loaded]) -> None:
        """Score some edits."""
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for place, source, output, problem in batch:
            if source is None or output is None:
                self.note(place, {})
                self.remark(place, problem)
            else:
                pairs[place] = (source.to(self.device), output.to(self.device))
        if not pairs:
            return
        self._alike(pairs)
        for place, (source, output) in pairs.items():
            case = self.cases[place]
            self.note(place, pixel_figures(source, output, case.chain, self.perceptual))
            if "edits" in case.meta:
                (view,) = view_scenes(self.detector, output[None], [case.chain or ""], [case.meta], source[None])
                kept = background_kept(view)
                self.note(place, {"edit_success": float(edit_succeeds(view)), "background_kept": kept})
        if self.chat is not None:
            self._ask(self.chat, pairs)

    def _alike(self, pairs: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Note how much alike sources, outputs and captions are."""
        images = [image for pair in zip(*pairs.values(), strict=True) for image in pair]
        if self.dino is not None:
            sources, outputs = self.dino.images(images).chunk(2)
            for place, likeness in zip(pairs, (sources * outputs).sum(dim=1).tolist(), strict=True):
                self.note(place, {"dino": likeness})
        if self.clip is None:
            return
        sources, outputs = self.clip.images(images).chunk(2)
        for row, place in enumerate(pairs):
            case, source, output = self.cases[place], sources[row], outputs[row]
            figures = {"clip_i": float(source @ output)}
            if case.target_caption:
                (target,) = self.clip.texts([case.target_caption])
                figures["clip_t"] = float(output @ target)
                if case.source_caption:
                    (before,) = self.clip.texts([case.source_caption])
                    change = torch.cosine_similarity(output - source, target - before, dim=0)
                    figures["clip_direction"] = float(change)
            self.note(place, figures)

    def _ask(self, chat: SavedAnswers, pairs: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Ask the judge about all edits at once."""
        with ThreadPoolExecutor(len(pairs)) as pool:
            asked = {
                place: pool.submit(chat, self.cases[place].name, self.cases[place].instruction, *pair)
                for place, pair in pairs.items()
            }
        for place, answer in asked.items():
            try:
                scores = answer.result()
            except JudgeError as error:
                self.remark(place, f"not judged: {error}")
                continue
            followed, kept = scores.followed / HIGHEST, scores.kept / HIGHEST
            self.note(place, {"judge": scores.score, "judge_followed": followed, "judge_kept": kept})


SUITE = "editing"
"""What results of this suite call it."""

YES_OR_NO = {"edit_success"}
"""Figures that are 0 or 1 of each edit."""


@dataclass(frozen=True)
class EditResult:
    """The outcome of a set.

    Attributes:
        edits: What was scored.
        found: The figures of each edit, NaN where it has none.
        missing: Edits that have no figure at all, with the reason, by name.
        unjudged: Edits that only the chat judge has no score for, with the reason, by name.
        scores: The summary of each figure.
    """

    edits: EditSet
    found: Float[Tensor, "items figures"]
    missing: Mapping[str, str]
    unjudged: Mapping[str, str]
    scores: Mapping[str, Summary]

    def as_json(self) -> dict[str, Any]:
        """Scores, what is missing, and every edit with its figures."""
        items = [
            self._item(case, row)
            for case, row in zip(self.edits.cases, self.found, strict=True)
            if case.name not in self.missing
        ]
        lacking = {"edits": len(items), "missing": len(self.missing), "unjudged": len(self.unjudged)}
        return {
            **scored_items(SUITE, {name: METRICS[name] for name in self.scores}, items),
            "counts": lacking,
            "scores": {name: score.as_json() for name, score in self.scores.items()},
            "missing": dict(self.missing),
            "unjudged": dict(self.unjudged),
        }

    def _item(self, case: EditCase, row: Float[Tensor, " figures"]) -> Item:
        """Named after edit and instruction, as scenes of another seed have the same names."""
        scores = {name: value for name, value in scores_of(row, tuple(METRICS)).items() if name in self.scores}
        details = {"name": case.name, "prompt": case.instruction}
        return Item(f"{case.name}: {case.instruction}", case.category, scores, details)


def edit_result(
    edits: EditSet, found: Float[Tensor, "items figures"], notes: Mapping[int, str], seed: int = 0
) -> EditResult:
    """The outcome of the figures of a set's edits.

    Args:
        edits: What was scored.
        found: The figures of each edit, in order.
        notes: What there is to say of an edit, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single edit could be read.
        ValueError: An edit was not looked at.
    """
    unread: dict[str, str] = {}
    unjudged: dict[str, str] = {}
    for place, (case, row) in enumerate(zip(edits.cases, found, strict=True)):
        if row.isnan().all() and place not in notes:
            raise ValueError(f"edit {case.name} was not looked at")
        if place in notes:
            (unread if row.isnan().all() else unjudged)[case.name] = notes[place]
    if len(unread) == len(edits.cases):
        name, reason = next(iter(unread.items()))
        raise UserError(f"{edits.place}: none of {len(unread)} edits can be read ({name}: {reason})")
    scores = summaries(found, tuple(METRICS), seed, YES_OR_NO)
    return EditResult(edits, found, {**edits.missing, **unread}, unjudged, scores)


@dataclass(frozen=True)
class EditRequest:
    """An edit that is asked for.

    Attributes:
        entry: Its line in `EDITS`.
        source: What is edited, an image in [-1, 1] or where one is.
    """

    entry: Mapping[str, Any]
    source: ImageSource | Float[Tensor, "3 H W"]


def scene_requests(number: int, size: int, seed: int) -> list[EditRequest]:
    """Edits of drawn scenes that training never asks for, going round the operations; the same for a seed.

    Args:
        number: How many.
        size: Side of the images in pixels.
        seed: Of the scenes.
    """
    scenes = ScenesDataset(size, number, seed, "test", dict.fromkeys(EDIT_TAGS, 1.0), balanced=True)
    found = []
    for place in range(number):
        sample = scenes[place]
        assert sample.source is not None  # every task above is an edit
        entry = {"instruction": sample.prompt, "category": sample.meta["tag"], "meta": dict(sample.meta)}
        found.append(EditRequest({"name": f"{place:05d}", **entry}, sample.source))
    return found


def requests_of(edits: EditSet) -> list[EditRequest]:
    """What a set asks for, whoever has already drawn it."""
    return [
        EditRequest(
            {
                "name": case.name,
                "instruction": case.instruction,
                "source_caption": case.source_caption,
                "target_caption": case.target_caption,
                "category": case.category,
                "meta": dict(case.meta),
            },
            case.source,
        )
        for case in edits.cases
    ]


def prepare_edits(
    root: Path, requests: Sequence[EditRequest], size: tuple[int, int], settings: Mapping[str, Any]
) -> None:
    """Write what will be drawn and how, with the sources as large as they will be drawn.

    A source that cannot be read is left out; scoring names it. In a folder that was prepared before, in the same way,
    only what is not there yet is written; one without outputs takes new settings.

    Raises:
        UserError: There is something else in the folder, its edits were drawn otherwise, or it cannot be written to.
    """
    take_settings(root, settings, f"{OUTPUTS}/*.png", [f"{CHAINS}/*.txt", f"{SOURCES}/*.png"])
    try:
        for part in (SOURCES, OUTPUTS, CHAINS):
            (root / part).mkdir(parents=True, exist_ok=True)
        write_whole(root / EDITS, "".join(json.dumps(request.entry) + "\n" for request in requests))
        for request in requests:
            _write_source(root / SOURCES / f"{request.entry['name']}.png", request.source, size)
    except OSError as error:
        raise UserError(f"{root}: cannot be drawn into ({one_line(error)})") from error


@dataclass(frozen=True)
class WantedEdit:
    """An edit that is still to be drawn.

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
        """The file of what is edited."""
        return self.root / SOURCES / f"{self.name}.png"

    @property
    def output(self) -> Path:
        """The file of what will be drawn."""
        return self.root / OUTPUTS / f"{self.name}.png"

    @property
    def chain(self) -> Path:
        """The file of the chain it is drawn from."""
        return self.root / CHAINS / f"{self.name}.txt"


def wanted_edits(root: Path, requests: Sequence[EditRequest], seed: int) -> list[WantedEdit]:
    """The edits that have no output yet, in order; an edit's noise follows from seed and place alone."""
    edits = [
        WantedEdit(root, request.entry["name"], request.entry["instruction"], image_seed(seed, place, 0))
        for place, request in enumerate(requests)
    ]
    return [edit for edit in edits if not edit.output.exists()]


class _Sources(Dataset[Sample]):
    """Edits to be drawn, as samples for a reasoner's processor."""

    def __init__(self, wanted: Sequence[WantedEdit], size: tuple[int, int]) -> None:
        self.wanted, self.size = wanted, size

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Sample:
        edit = self.wanted[index]
        source = load_image(edit.source, self.size)
        return Sample(prompt=edit.instruction, chain="", size=self.size, source=source, meta={"wanted": edit})


class EditDrawing(DrawingUnderTrainer):
    """Draws edits, each with the chain it is drawn from beside it."""

    def share(self, rank: int, ranks: int) -> Dataset[Sample]:
        """Every so many edits of those whose source could be read."""
        return _Sources([edit for edit in self.wanted if edit.source.exists()][rank::ranks], self.size)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Draw a batch, each image from its own seed, and write it."""
        wanted: list[WantedEdit] = [meta["wanted"] for meta in batch.meta]
        drawing = self.draw(batch, None, [edit.seed for edit in wanted])
        for edit, image, chain in zip(wanted, drawing.images, drawing.chains, strict=True):
            edit.chain.write_text(chain + "\n", encoding="utf-8")
            write_image(edit.output, image)


def _write_source(file: Path, source: ImageSource | Float[Tensor, "3 H W"], size: tuple[int, int]) -> None:
    if file.exists():
        return
    try:
        image = source if isinstance(source, Tensor) else load_rgb(source, size)
    except (ValueError, FileNotFoundError):
        return
    write_image(file, image)
