"""GenEval's figures from verdicts: per category and overall, with intervals over prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from got_core.evaluation.bootstrap import Interval, Stratum, overall_interval, stratum
from got_core.evaluation.geneval import CATEGORIES
from got_core.evaluation.results_file import OVERALL


@dataclass(frozen=True)
class PromptVerdicts:
    """A prompt whose images were judged.

    Attributes:
        category: Its tag.
        right: For each image that could be read, whether it shows what was asked for; at least one.
    """

    category: str
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Score:
    """How a category, or all of them, was done.

    Attributes:
        share: Of right images; overall the plain mean of the categories.
        interval: 95% interval of it over prompts; None where there are too few, overall where a category has too few.
        any_right: Share of prompts with any image right, over those with all their images; overall the plain mean of
            the categories. None where no prompt has them all.
        prompts, images: How many were judged.
    """

    share: float
    interval: Interval | None
    any_right: float | None
    prompts: int
    images: int


def scores(judged: Sequence[PromptVerdicts], per_prompt: int, seed: int = 0) -> dict[str, Score]:
    """A score for each category that has a prompt, and `overall`; the same for a seed.

    Args:
        judged: The prompts.
        per_prompt: Images that each should have. Of more, the first are looked at for `any_right`.
        seed: Of the bootstrap.

    Raises:
        ValueError: No prompt was judged.
    """
    if not judged:
        raise ValueError("no prompt was judged")
    found: dict[str, Score] = {}
    strata: dict[str, Stratum] = {}
    for place, category in enumerate(CATEGORIES):
        members = [prompt.right for prompt in judged if prompt.category == category]
        if not members:
            continue
        images = [len(right) for right in members]
        strata[category] = stratum([float(np.mean(right)) for right in members], images, seed + place)
        complete = [any(right[:per_prompt]) for right in members if len(right) >= per_prompt]
        found[category] = Score(
            share=strata[category].mean,
            interval=strata[category].interval,
            any_right=float(np.mean(complete)) if complete else None,
            prompts=len(members),
            images=sum(images),
        )
    parts = list(found.values())
    any_right = [part.any_right for part in parts if part.any_right is not None]
    found[OVERALL] = Score(
        share=float(np.mean([part.share for part in parts])),
        interval=overall_interval(strata),
        any_right=float(np.mean(any_right)) if len(any_right) == len(parts) else None,
        prompts=sum(part.prompts for part in parts),
        images=sum(part.images for part in parts),
    )
    return found


def score_table(found: Mapping[str, Score], missing: Mapping[str, int], per_prompt: int, title: str) -> Table:
    """Scores for people to read.

    Args:
        found: As `scores` makes them.
        missing: Images that could not be scored, by category and overall.
        per_prompt: Images that a prompt should have.
        title: What was scored.
    """
    table = Table("category", title=title, title_justify="left")
    for heading in ("right", "95% interval", f"any of {per_prompt} right", "prompts", "images", "missing"):
        table.add_column(heading, justify="right")
    for name in (*CATEGORIES, OVERALL):
        lacking = str(missing.get(name, 0))
        if name not in found:
            table.add_row(name, "-", "-", "-", "0", "0", lacking)
            continue
        score = found[name]
        span = "-" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
        any_right = "-" if score.any_right is None else f"{score.any_right:.3f}"
        table.add_row(name, f"{score.share:.3f}", span, any_right, str(score.prompts), str(score.images), lacking)
    return table
