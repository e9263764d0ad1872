"""Scores a set of edits under a Trainer, each rank a share of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from got_core.evaluation.chat_judge import HIGHEST, JudgeError
from got_core.evaluation.edit_cases import EditCase, EditSet, load_picture, picture_bytes
from got_core.evaluation.edit_figures import pixel_figures
from got_core.evaluation.image_embedding import ClipEmbedding, DinoEmbedding
from got_core.evaluation.item_scoring import Items, ItemScoring, Keeping
from got_core.evaluation.perceptual import PerceptualDistance
from got_core.evaluation.results_file import Better
from got_core.evaluation.saved_answers import SavedAnswers
from got_core.evaluation.scene_detector import SceneDetector
from got_core.evaluation.scene_edits import background_kept, edit_succeeds
from got_core.evaluation.scene_view import view_scenes

FIGURES: dict[str, Better] = {
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
            output = load_picture(case.output)
            return place, load_picture(case.source, (output.shape[-2], output.shape[-1])), output, ""
        except (ValueError, OSError) as error:
            return place, None, None, str(error)

    def content(self, place: int) -> tuple[bytes, Any]:
        """The bytes of both images; instruction, captions, chain and scene."""
        case = self.cases[place]
        source, output = picture_bytes(case.source), b"" if case.output is None else picture_bytes(case.output)
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
        super().__init__(EditImages(edits.cases), tuple(FIGURES), batch_size, num_workers, keeping)
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
