"""Texts and questions to test a reasoner with: drawn scenes, files of questions, files of texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.render import DEFAULT_COLOURS
from got_core.data.tables import open_tables
from got_core.errors import UserError, one_line
from got_core.evaluation.suites.edit_datasets import Cell, ImageSource
from got_core.planning.boxes import RELATIONS

CHAINS, TEXTS = "chains", "texts"
"""Categories of texts."""

COUNTS = ("one", "two", "three")
"""Answers to how many there are."""

QUESTIONS = {"count": "counting", "colour": "color_attr", "position": "position"}
"""Kinds of questions about drawn scenes, and the category of the scenes."""


@dataclass(frozen=True)
class Probe:
    """A text whose likelihood is measured or, with several candidates, a question.

    Attributes:
        name: Unlike that of every other probe.
        category: Its kind.
        prompt: What precedes the candidates: a question, or the prompt of a chain; may be empty.
        candidates: The text, or the answers to choose from, each once.
        right: Index of the right answer.
        image: An image in [-1, 1], or where it is stored; None for a text alone.
        generation: Whether the prompt is one to generate from, and is given to the reasoner as such; otherwise it is a
            plain question.
        official: Whether the candidates are the question's own, not sampled from other questions.
    """

    name: str
    category: str
    prompt: str
    candidates: tuple[str, ...]
    right: int = 0
    image: ImageSource | Float[Tensor, "3 H W"] | None = None
    generation: bool = False
    official: bool = True


def scene_chains(number: int, size: int, seed: int) -> list[Probe]:
    """Return true chains of drawn scenes held out from training, edits among them; the same for a seed."""
    scenes = ScenesDataset(size, number, seed, "test", balanced=True)
    probes = []
    for index in range(number):
        sample = scenes[index]
        name = f"{CHAINS}/{index:05d}"
        probes.append(Probe(name, CHAINS, sample.prompt, (sample.chain,), image=sample.source, generation=True))
    return probes


def scene_questions(number: int, size: int, seed: int) -> list[Probe]:
    """Return questions about drawn scenes, the kinds in turn; the same for a seed.

    The number of objects of a shape (one to three, equally often), the colour of one of two objects, and the position
    of one relative to the other.

    Args:
        number: Of questions.
        size: Side of the images in pixels.
        seed: Of scenes and questions.
    """
    kinds = list(QUESTIONS)
    datasets = {kind: ScenesDataset(size, number, seed, "test", {tag: 1.0}) for kind, tag in QUESTIONS.items()}
    datasets["count"] = ScenesDataset(size, number, seed, "validation", {"counting": 1.0, "single_object": 0.5})
    probes = []
    for index in range(number):
        kind = kinds[index % len(kinds)]
        sample = datasets[kind][index]
        rng = np.random.default_rng([seed, index])
        question, answers, right = _question(kind, sample.meta["objects"], sample.meta["include"], rng)
        probes.append(Probe(f"{kind}/{index:05d}", kind, question, answers, right, sample.target))
    return probes


def _question(
    kind: str, objects: Sequence[dict], include: Sequence[dict], rng: np.random.Generator
) -> tuple[str, tuple[str, ...], int]:
    """(question, answers, index of the right one) about the objects of a scene."""
    if kind == "count":
        shape = objects[0]["shape"]
        return f"How many {shape}s are in the image?", COUNTS, len(objects) - 1
    if kind == "colour":
        chosen = objects[int(rng.integers(len(objects)))]
        return f"What colour is the {chosen['shape']}?", DEFAULT_COLOURS, DEFAULT_COLOURS.index(chosen["color"])
    other, placed = include
    relation = placed["position"][0]
    answers = tuple(f"{name} the {other['class']}" for name in RELATIONS)
    return f"Where is the {placed['class']}?", answers, list(RELATIONS).index(relation)


def chance_accuracy(probes: Sequence[Probe]) -> float:
    """Return the fraction of questions that random guesses answer correctly."""
    return float(np.mean([1 / len(probe.candidates) for probe in probes]))


ANSWERS = ("answer", "multiple_choice_answer", "answers")
CHOICES = ("choices", "options")
"""Columns; the first that a record has is used."""

WRONG = 3
"""Answers of other questions that are added to the right one."""

VQA = "vqa"
"""Category of questions from a file."""


def read_questions(path: Path, number: int, seed: int) -> list[Probe]:
    """Read questions of a file or a folder of files.

    Args:
        path: File or folder.
        number: Of questions, from the first.
        seed: Of wrong answers that are sampled.

    Raises:
        UserError: There are none, or one has no answer to choose.
    """
    try:
        root = path if path.is_dir() else path.parent
        tables = open_tables(path, _columns(path, ["question", "image"], (*ANSWERS, *CHOICES)))
        rows = [(table, row) for table in tables for row in range(len(table))][:number]
        records = [table.row(row) for table, row in rows]
        given = [_answers(record, table.name(row)) for record, (table, row) in zip(records, rows, strict=True)]
        right = [Counter(answers).most_common(1)[0][0] for answers in given]
        known = sorted(set(right))
        probes = []
        for index, (record, (table, row)) in enumerate(zip(records, rows, strict=True)):
            rng = np.random.default_rng([seed, index])
            choices = tuple(dict.fromkeys(_choices(record)))
            candidates = choices or _with_wrong(right[index], given[index], known, rng)
            if right[index] not in candidates or len(candidates) < 2:
                raise ValueError(
                    f"{table.name(row)}: {right[index]!r} is not one of two or more answers to choose from"
                )
            name, image = f"{VQA}/{index:05d}", Cell(table, row, "image", root)
            answer = candidates.index(right[index])
            probes.append(Probe(name, VQA, str(record["question"]), candidates, answer, image, official=bool(choices)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no questions can be read there ({one_line(error)})") from error
    if not probes:
        raise UserError(f"{path}: there is no question in it")
    return probes


def read_texts(path: Path, number: int) -> list[Probe]:
    """Read texts of a file or a folder of files with the column `text`.

    Raises:
        UserError: There are none.
    """
    try:
        tables = open_tables(path, ["text"])
        rows = [(table, row) for table in tables for row in range(len(table))][:number]
        texts = [str(table.row(row)["text"]) for table, row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no texts can be read there ({one_line(error)})") from error
    if not any(text.strip() for text in texts):
        raise UserError(f"{path}: there is no text in it")
    return [Probe(f"{TEXTS}/{index:05d}", TEXTS, "", (text,)) for index, text in enumerate(texts) if text.strip()]


def _columns(path: Path, needed: list[str], optional: tuple[str, ...]) -> list[str]:
    """The needed columns, and those of the optional ones that exist."""
    columns = list(needed)
    open_tables(path, needed)
    for column in optional:
        try:
            open_tables(path, [column])
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


def _with_wrong(right: str, answers: list[str], known: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    """The right answer among wrong ones, in random order."""
    own = {answer.casefold() for answer in answers}
    others = [answer for answer in known if answer.casefold() not in own]
    wrong = [others[int(index)] for index in rng.permutation(len(others))[:WRONG]]
    candidates = [right, *wrong]
    return tuple(candidates[int(index)] for index in rng.permutation(len(candidates)))
