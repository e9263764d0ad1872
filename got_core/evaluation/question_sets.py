"""Questions about images, and texts, from files: JSON lines or Parquet, as Hugging Face's data sets are stored.

Columns of questions: `question`, `image`, and either `answer`, `multiple_choice_answer` or `answers` (the most frequent
counts; VQA's lists of {"answer"} too). Where a column `choices` or `options` lists answers to choose from, `answer` may
also be the right one's place. Where there is none, the wrong answers are drawn from other questions' right ones, never
one that the question's own answers name, so that a score needs no judge of free words; it is not the official score of
such a set, and results say so.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from got_core.data.tables import open_tables
from got_core.errors import UserError, one_line
from got_core.evaluation.edit_cases import Cell
from got_core.evaluation.probes import TEXTS, Probe

ANSWERS = ("answer", "multiple_choice_answer", "answers")
CHOICES = ("choices", "options")
"""Columns, the first that a record has counts."""

WRONG = 3
"""Answers of other questions beside the right one."""

VQA = "vqa"
"""Category of questions from a file."""


def read_questions(place: Path, number: int, seed: int) -> list[Probe]:
    """Questions of a file or a folder of files.

    Args:
        place: Where they are.
        number: How many, from the first.
        seed: Of wrong answers that are drawn.

    Raises:
        UserError: There are none, or one cannot be asked.
    """
    try:
        root = place if place.is_dir() else place.parent
        tables = open_tables(place, _columns(place, ["question", "image"], (*ANSWERS, *CHOICES)))
        places = [(table, row) for table in tables for row in range(len(table))][:number]
        records = [table.row(row) for table, row in places]
        given = [_answers(record, table.name(row)) for record, (table, row) in zip(records, places, strict=True)]
        right = [Counter(answers).most_common(1)[0][0] for answers in given]
        known = sorted(set(right))
        probes = []
        for turn, (record, (table, row)) in enumerate(zip(records, places, strict=True)):
            rng = np.random.default_rng([seed, turn])
            choices = tuple(dict.fromkeys(_choices(record)))
            candidates = choices or _drawn(right[turn], given[turn], known, rng)
            if right[turn] not in candidates or len(candidates) < 2:
                raise ValueError(f"{table.name(row)}: {right[turn]!r} is none of two or more answers to choose from")
            name, image = f"{VQA}/{turn:05d}", Cell(table, row, "image", root)
            answer = candidates.index(right[turn])
            probes.append(Probe(name, VQA, str(record["question"]), candidates, answer, image, official=bool(choices)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: no questions can be read there ({one_line(error)})") from error
    if not probes:
        raise UserError(f"{place}: there is no question in it")
    return probes


def read_texts(place: Path, number: int) -> list[Probe]:
    """Texts of a file or a folder of files with the column `text`.

    Raises:
        UserError: There are none.
    """
    try:
        tables = open_tables(place, ["text"])
        rows = [(table, row) for table in tables for row in range(len(table))][:number]
        texts = [str(table.row(row)["text"]) for table, row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{place}: no texts can be read there ({one_line(error)})") from error
    if not any(text.strip() for text in texts):
        raise UserError(f"{place}: there is no text in it")
    return [Probe(f"{TEXTS}/{place:05d}", TEXTS, "", (text,)) for place, text in enumerate(texts) if text.strip()]


def _columns(place: Path, needed: list[str], optional: tuple[str, ...]) -> list[str]:
    """What is needed, and what there is of the rest."""
    columns = list(needed)
    open_tables(place, needed)
    for column in optional:
        try:
            open_tables(place, [column])
        except ValueError:
            continue
        columns.append(column)
    return columns


def _answers(record: Mapping[str, Any], name: str) -> list[str]:
    """The answers that count as right, as often as they are given."""
    given = next((record[column] for column in ANSWERS if record.get(column) not in (None, [], "")), None)
    choices = _choices(record)
    answers = []
    for answer in given if isinstance(given, list) else [given]:
        word = answer.get("answer") if isinstance(answer, Mapping) else answer
        if isinstance(word, int) and not isinstance(word, bool):
            word = choices[word] if 0 <= word < len(choices) else str(word)
        if isinstance(word, str) and word.strip():
            answers.append(word.strip())
    if not answers:
        raise ValueError(f"{name}: no answer in {', '.join(ANSWERS)}")
    return answers


def _choices(record: Mapping[str, Any]) -> list[str]:
    given: Any = next((record[column] for column in CHOICES if record.get(column)), [])
    if not isinstance(given, list):
        raise ValueError(f"{' and '.join(CHOICES)} must be lists, not {given!r}")
    return [str(choice).strip() for choice in given]


def _drawn(right: str, answers: list[str], known: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    """The right answer among wrong ones, in no order that gives it away."""
    own = {answer.casefold() for answer in answers}
    others = [answer for answer in known if answer.casefold() not in own]
    wrong = [others[int(place)] for place in rng.permutation(len(others))[:WRONG]]
    candidates = [right, *wrong]
    return tuple(candidates[int(place)] for place in rng.permutation(len(candidates)))
