"""What GenEval found in a folder: scores, verdicts with their reasons, and what was missing, ready for JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from got_core.errors import UserError
from got_core.evaluation.geneval_folder import GenEvalFolder, Missing, Prompt
from got_core.evaluation.geneval_scores import PromptVerdicts, Score, scores
from got_core.evaluation.results_file import DIGITS, OVERALL, Better, Item, scored_items
from got_core.evaluation.verdicts import MISSING, RIGHT, UNSEEN

SUITE = "geneval"
"""What results of this suite call it."""

FIGURES: dict[str, Better] = {"right": "higher"}
"""Of each prompt: the share of its images that are right."""


@dataclass(frozen=True)
class ImageVerdict:
    """One image with its verdict.

    Attributes:
        file: Its path within the folder.
        right: Whether it shows what was asked for.
        reason: What is wrong with it; empty where it is right.
    """

    file: str
    right: bool
    reason: str


@dataclass(frozen=True)
class GenEvalResult:
    """The outcome of a folder.

    Attributes:
        folder: What was judged.
        images: For each prompt that has one, those that could be read.
        missing: What could not be scored, unreadable images among it.
        scores: By category, and overall.
    """

    folder: GenEvalFolder
    images: Mapping[str, tuple[ImageVerdict, ...]]
    missing: tuple[Missing, ...]
    scores: Mapping[str, Score]

    @property
    def missing_by_category(self) -> dict[str, int]:
        """Images that could not be scored, by category where that is known, and overall."""
        counted: Counter[str] = Counter()
        for entry in self.missing:
            counted[OVERALL] += entry.images
            if entry.category is not None:
                counted[entry.category] += entry.images
        return dict(counted)

    def as_json(self) -> dict[str, Any]:
        """Scores, missing images, and every prompt with its images."""
        items = [self._item(prompt) for prompt in self.folder.prompts if self.images.get(prompt.folder)]
        lacking = self.missing_by_category.get(OVERALL, 0)
        counts = {"per_prompt": self.folder.per_prompt, "images": self.scores[OVERALL].images, "missing": lacking}
        return {
            **scored_items(SUITE, FIGURES, items),
            "counts": counts,
            "scores": {name: _plain(score) for name, score in self.scores.items()},
            "missing": [*map(asdict, self.missing)],
        }

    def _item(self, prompt: Prompt) -> Item:
        images = self.images[prompt.folder]
        return Item(
            key=prompt.metadata["prompt"],
            category=prompt.metadata["tag"],
            scores={"right": sum(image.right for image in images) / len(images)},
            details={"folder": prompt.folder, "images": [asdict(image) for image in images]},
        )


def geneval_result(
    folder: GenEvalFolder, verdicts: Sequence[int], reasons: Mapping[int, str], seed: int = 0
) -> GenEvalResult:
    """The outcome of verdicts on a folder's images.

    Args:
        folder: What was judged.
        verdicts: Of each image, in order (`got_core.evaluation.verdicts`).
        reasons: What is wrong with an image, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single image could be read.
        ValueError: An image was not looked at.
    """
    images: dict[str, tuple[ImageVerdict, ...]] = {}
    missing = list(folder.missing)
    for place, ((prompt, file), verdict) in enumerate(zip(folder.images, verdicts, strict=True)):
        if verdict == UNSEEN:
            raise ValueError(f"{file} was not looked at")
        name = file.relative_to(folder.root).as_posix()
        reason = reasons.get(place, "")
        if verdict == MISSING:
            missing.append(Missing(name, reason, prompt.metadata["tag"], 1))
        else:
            seen = ImageVerdict(name, verdict == RIGHT, reason)
            images[prompt.folder] = (*images.get(prompt.folder, ()), seen)
    if not images:
        raise UserError(f"{folder.root}: none of {len(verdicts)} images can be read ({missing[-1].reason})")
    tags = {prompt.folder: prompt.metadata["tag"] for prompt in folder.prompts}
    judged = [PromptVerdicts(tags[name], tuple(image.right for image in own)) for name, own in images.items()]
    return GenEvalResult(folder, images, tuple(missing), scores(judged, folder.per_prompt, seed))


def _plain(score: Score) -> dict[str, Any]:
    return {
        "right": round(score.share, DIGITS),
        "interval": None if score.interval is None else [round(end, DIGITS) for end in score.interval],
        "any_right": None if score.any_right is None else round(score.any_right, DIGITS),
        "prompts": score.prompts,
        "images": score.images,
    }
