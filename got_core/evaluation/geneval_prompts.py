"""GenEval's prompts as files hold them, checked before anything is drawn or scored."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from got_core.box_relations import RELATIONS
from got_core.errors import UserError
from got_core.evaluation.detection import Detector
from got_core.evaluation.geneval import CATEGORIES

LISTED = 5
"""Words that an error lists before it only counts."""


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """GenEval's prompts: one JSON object a line.

    Raises:
        UserError: There is no such file, no prompt in it, or a line that is none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable prompts ({type(error).__name__})") from error
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            prompts += [checked_metadata(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
    if not prompts:
        raise UserError(f"{file}: there is no prompt in it")
    return prompts


def check_words(asked: Collection[Mapping[str, Any]], detector: Detector) -> None:
    """See that a detector knows every class and colour that is asked for.

    Raises:
        UserError: It does not, so the score would be 0 whatever the images show.
    """
    kinds = {"class": ("classes", detector.classes), "color": ("colours", detector.colour_words)}
    for key, (kind, known) in kinds.items():
        words = {clause[key] for metadata in asked for clause in _clauses(metadata) if key in clause}
        unknown = sorted(words - set(known)) if known is not None else []
        if known is not None and unknown:
            raise UserError(
                f"the detector does not know {_some(unknown)}, which the prompts ask for; its {kind}: "
                f"{_some(list(known)) or 'none'}"
            )


def checked_metadata(text: str) -> dict[str, Any]:
    """Metadata of a prompt from its JSON, known to be such that images can be judged by it.

    Raises:
        ValueError: What is wrong with it.
    """
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(metadata, dict):
        raise ValueError("not a JSON object")
    prompt, tag = metadata.get("prompt"), metadata.get("tag")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("it has no prompt")
    if tag not in CATEGORIES:
        named = "it has no tag" if tag is None else f"its tag is {tag!r}"
        raise ValueError(f"{named}; a tag is one of {', '.join(CATEGORIES)}")
    included, excluded = metadata.get("include"), metadata.get("exclude", [])
    if not included or not isinstance(included, list) or not isinstance(excluded, list):
        raise ValueError("it asks for nothing: include must be a list of clauses, and exclude one if it is there")
    for place, clause in enumerate(included):
        _check_clause(clause, place)
    for clause in excluded:
        _check_clause(clause, 0)
    return metadata


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:LISTED])
    return shown if len(words) <= LISTED else f"{shown} and {len(words) - LISTED} more"


def _clauses(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in ("include", "exclude"):
        yield from metadata.get(part, ())


def _check_clause(clause: Any, place: int) -> None:
    whole = isinstance(clause, dict) and isinstance(clause.get("class"), str) and isinstance(clause.get("count"), int)
    if not whole or clause["count"] < 1:
        raise ValueError(f"a clause needs a class and a positive count, got {clause}")
    if not isinstance(clause.get("color", ""), str):
        raise ValueError(f"color must be a word, got {clause}")
    if "position" in clause:
        relation, target = (*clause["position"], None, None)[:2] if isinstance(clause["position"], list) else (0, 0)
        if relation not in RELATIONS or not isinstance(target, int) or not 0 <= target < place:
            raise ValueError(f"position must be a relation and the place of an earlier clause, got {clause}")
