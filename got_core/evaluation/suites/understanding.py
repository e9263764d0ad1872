"""What training costs a reasoner: texts and questions, scored before and after, with paired differences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from rich.table import Table
from torch import Tensor

from got_core.data.records import open_tables
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.render import DEFAULT_COLOURS
from got_core.errors import UserError, one_line
from got_core.evaluation.results import DIGITS, Better, Item, scored_items
from got_core.evaluation.scoring import Items, ItemScoring, Keeping
from got_core.evaluation.statistics import AGREE, FEWEST, SIGNIFICANT, Interval, holm, interval, resampled, stratum
from got_core.evaluation.statistics import chance as by_chance
from got_core.evaluation.suites.edit_datasets import Cell, ImageSource, image_bytes, load_rgb
from got_core.interfaces import Processor, Reasoner
from got_core.planning.boxes import RELATIONS
from got_core.types import Sample

CHAINS, TEXTS = "chains", "texts"
"""Categories of texts to read."""

COUNTS = ("one", "two", "three")
"""Answers to how many there are."""

QUESTIONS = {"count": "counting", "colour": "color_attr", "position": "position"}
"""Kinds of questions on drawn scenes, and the scenes they are asked of."""


@dataclass(frozen=True)
class Probe:
    """A text whose likelihood is measured or, with several candidates, a question.

    Attributes:
        name: Unlike that of every other probe.
        category: Its kind.
        prompt: What stands before the candidates: a question, or the prompt of a chain; may be empty.
        candidates: The text, or the answers to choose from, each once.
        right: Place of the right answer.
        image: What is asked about, an image in [-1, 1] or where one is; None where there is none.
        drawing: The prompt is one to draw from, and is given to the reasoner as such; otherwise as a plain question.
        official: The candidates are the question's own, not drawn from other questions.
    """

    name: str
    category: str
    prompt: str
    candidates: tuple[str, ...]
    right: int = 0
    image: ImageSource | Float[Tensor, "3 H W"] | None = None
    drawing: bool = False
    official: bool = True


def scene_chains(number: int, size: int, seed: int) -> list[Probe]:
    """The true chains of drawn scenes that training never asks for, edits among them; the same for a seed."""
    scenes = ScenesDataset(size, number, seed, "test", balanced=True)
    found = []
    for place in range(number):
        sample = scenes[place]
        name = f"{CHAINS}/{place:05d}"
        found.append(Probe(name, CHAINS, sample.prompt, (sample.chain,), image=sample.source, drawing=True))
    return found


def scene_questions(number: int, size: int, seed: int) -> list[Probe]:
    """Questions about drawn scenes, going round the kinds; the same for a seed.

    How many of a shape there are (one to three, about as often each), the colour of one of two objects, and how one
    stands to the other.

    Args:
        number: How many questions.
        size: Side of the images in pixels.
        seed: Of scenes and questions.
    """
    kinds = list(QUESTIONS)
    datasets = {kind: ScenesDataset(size, number, seed, "test", {tag: 1.0}) for kind, tag in QUESTIONS.items()}
    datasets["count"] = ScenesDataset(size, number, seed, "validation", {"counting": 1.0, "single_object": 0.5})
    found = []
    for place in range(number):
        kind = kinds[place % len(kinds)]
        sample = datasets[kind][place]
        rng = np.random.default_rng([seed, place])
        question, answers, right = _asked(kind, sample.meta["objects"], sample.meta["include"], rng)
        found.append(Probe(f"{kind}/{place:05d}", kind, question, answers, right, sample.target))
    return found


def _asked(
    kind: str, objects: Sequence[dict], include: Sequence[dict], rng: np.random.Generator
) -> tuple[str, tuple[str, ...], int]:
    """(question, answers, place of the right one) about the objects of a scene."""
    if kind == "count":
        shape = objects[0]["shape"]
        return f"How many {shape}s are in the picture?", COUNTS, len(objects) - 1
    if kind == "colour":
        chosen = objects[int(rng.integers(len(objects)))]
        return f"What colour is the {chosen['shape']}?", DEFAULT_COLOURS, DEFAULT_COLOURS.index(chosen["color"])
    other, placed = include
    relation = placed["position"][0]
    answers = tuple(f"{name} the {other['class']}" for name in RELATIONS)
    return f"Where is the {placed['class']}?", answers, list(RELATIONS).index(relation)


def chance(probes: Sequence[Probe]) -> float:
    """The share of questions that guessing gets right."""
    return float(np.mean([1 / len(probe.candidates) for probe in probes]))


RIGHT, SPENT, TOKENS = "right", "nats", "tokens"
"""Figures: whether a question is answered rightly; the negative log-likelihood of a text or of the right answer; its
number of tokens."""

NO_IMAGE = (1, 1)
"""(height, width) of what stands in the place of an image that is not there; nobody looks at it."""

Loaded = tuple[int, Float[Tensor, "3 H W"] | None, str]
"""A probe's place, its image if there is one, and why it cannot be read."""


class ProbeImages(Items):
    """The images of probes, those that cannot be read with the reason."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = probes

    def __len__(self) -> int:
        return len(self.probes)

    def __getitem__(self, place: int) -> Loaded:
        image = self.probes[place].image
        try:
            return place, image if image is None or isinstance(image, Tensor) else load_rgb(image), ""
        except (ValueError, OSError) as error:
            return place, None, str(error)

    def content(self, place: int) -> tuple[bytes, Any]:
        """The image's bytes, and the words."""
        probe = self.probes[place]
        asked = [probe.prompt, probe.candidates, probe.right, probe.drawing]
        if probe.image is None or isinstance(probe.image, Tensor):
            return b"" if probe.image is None else probe.image.numpy().tobytes(), asked
        return image_bytes(probe.image), asked


class UnderstandingScoring(ItemScoring):
    """`trainer.test` measures the likelihood of every text, and has every question answered.

    The answer is the candidate of the highest likelihood for its number of tokens (their mean), so that long answers
    are not at a disadvantage and models that write no sentences can be asked too.

    Args:
        reasoner: Who is probed.
        probes: With what.
        num_workers: Processes that read images.
        keeping: Where figures are kept.

    Raises:
        UserError: The reasoner cannot say how likely a text is.
    """

    def __init__(
        self, reasoner: Reasoner, probes: Sequence[Probe], num_workers: int = 0, keeping: Keeping | None = None
    ) -> None:
        super().__init__(ProbeImages(probes), (RIGHT, SPENT, TOKENS), 1, num_workers, keeping)
        questions = reasoner.question_processor
        if questions is None:
            raise UserError(f"{type(reasoner).__name__} cannot be probed: it has no `question_processor`")
        self.reasoner = reasoner.eval()
        self.probes = probes
        self.processors: dict[bool, Processor] = {False: questions, True: reasoner.processor}

    @torch.no_grad()
    def score(self, batch: list[Loaded]) -> None:
        """Probe with each, all its candidates at once."""
        for place, image, problem in batch:
            probe = self.probes[place]
            if problem:
                self.note(place, {})
                self.remark(place, problem)
                continue
            size = NO_IMAGE if image is None else (image.shape[-2], image.shape[-1])
            samples = [Sample(probe.prompt, candidate, size, source=image) for candidate in probe.candidates]
            asked = self.processors[probe.drawing](samples).to(self.device)
            likelihood, tokens = self.reasoner.likelihood(asked)
            if not likelihood.isfinite().all():
                self.note(place, {})
                self.remark(place, f"the reasoner gives it no likelihood ({likelihood.tolist()})")
                continue
            figures = {SPENT: -float(likelihood[probe.right]), TOKENS: float(tokens[probe.right])}
            if len(samples) > 1:
                chosen = int((likelihood / tokens).argmax())
                figures[RIGHT] = float(chosen == probe.right)
            self.note(place, figures)


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


SUITE = "understanding"
"""What results of this suite call it."""

BEFORE, AFTER = "before", "after"

METRICS: dict[str, Better] = {RIGHT: "higher", SPENT: "lower"}
"""Of each probe, as `got compare` reads them: those of the reasoner after training."""

ACCURACY, PERPLEXITY = "accuracy", "perplexity"

CHANGE = {ACCURACY: "difference", PERPLEXITY: "ratio"}
"""What the change of each measure is called."""

Figures = Mapping[str, Float[Tensor, "probes three"]]
"""The figures of each probe, by `BEFORE` and `AFTER`."""

UNOFFICIAL = "{} questions got their wrong answers from other questions: this is not their set's official score"
"""Noted of questions that came without answers to choose from."""

ORDER = (RIGHT, SPENT, TOKENS)


def understanding_result(
    probes: Sequence[Probe], figures: Figures, missing: Mapping[str, str], seed: int = 0
) -> dict[str, Any]:
    """Accuracy of questions and perplexity of texts by category, differences, and every probe.

    Perplexity is exp of the nats a token, over all tokens of the category; its difference is given as a ratio.
    Intervals are 95% bootstrap intervals over probes, None for fewer than `FEWEST` probes or where all are alike
    (Wilson's then of accuracies). Whether a difference is significant is tested by flipping signs, corrected for the
    number of categories (Holm).

    Args:
        probes: What was asked.
        figures: What was found.
        missing: Probes that could not be read, with the reason.
        seed: Of the bootstrap.

    Raises:
        UserError: No probe could be read, or texts are of other tokens before than after.
    """
    columns = {
        when: {name: table[:, place].double().numpy() for place, name in enumerate(ORDER)}
        for when, table in figures.items()
    }
    read = ~np.any([np.isnan(column[SPENT]) for column in columns.values()], axis=0)
    if not read.any():
        name, reason = next(iter(missing.items()))
        raise UserError(f"none of {len(probes)} probes can be read ({name}: {reason})")
    texts = read & np.array([len(probe.candidates) == 1 for probe in probes])
    if (columns[BEFORE][TOKENS] != columns[AFTER][TOKENS])[texts].any():
        raise UserError("the two reasoners split texts into different tokens, so their perplexities do not compare")
    scores: dict[str, Any] = {}
    changes: dict[str, Float[ndarray, " n"]] = {}
    for category in dict.fromkeys(probe.category for probe in probes):
        rows = np.array([probe.category == category for probe in probes]) & read
        if not rows.any():
            continue
        chosen = [probe for probe, row in zip(probes, rows, strict=True) if row]
        kept = {when: {name: values[rows] for name, values in column.items()} for when, column in columns.items()}
        many = len(chosen[0].candidates) > 1
        found = _accuracies(kept, seed) if many else _perplexities(kept, seed)
        measured = {"measure": ACCURACY, "chance": round(chance(chosen), DIGITS)} if many else {"measure": PERPLEXITY}
        scores[category] = {**measured, "n": len(chosen), **found}
        changed = RIGHT if many else SPENT
        changes[category] = kept[AFTER][changed] - kept[BEFORE][changed]
    _test(scores, changes, seed)
    drawn = sum(not probe.official for probe, row in zip(probes, read, strict=True) if row)
    notes = [UNOFFICIAL.format(drawn)] if drawn else []
    items = [_item(probe, columns, place) for place, probe in enumerate(probes) if read[place]]
    return {
        **scored_items(SUITE, METRICS, items),
        "counts": {"probes": len(items), "missing": len(missing)},
        "scores": scores,
        "missing": dict(missing),
        "notes": notes,
    }


def understanding_table(scores: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Scores for people to read."""
    table = Table("category", "measure", title=title, title_justify="left")
    for heading in ("n", "chance", "before", "after", "difference", "95% interval", ""):
        table.add_column(heading, justify="right")
    for category, entry in scores.items():
        difference = entry[CHANGE[entry["measure"]]]
        cells = [*(_cell(entry[when]) for when in (BEFORE, AFTER)), f"{difference['mean']:.4f}"]
        cells += [_span(difference["interval"]), difference["verdict"]]
        measure = entry["measure"] + (", ratio" if entry["measure"] == PERPLEXITY else "")
        table.add_row(category, measure, str(entry["n"]), f"{entry['chance']:.3f}" if "chance" in entry else "", *cells)
    return table


def _span(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _cell(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.4f}" + (f" ({_span(found['interval'])})" if found["interval"] else "")


def _item(probe: Probe, columns: Mapping[str, Mapping[str, Float[ndarray, " probes"]]], place: int) -> Item:
    """Named after place, question and answer, as probes of another seed have the same names."""
    found = {when: {name: float(values[place]) for name, values in column.items()} for when, column in columns.items()}
    known = {
        when: {name: round(value, DIGITS) for name, value in figures.items() if not np.isnan(value)}
        for when, figures in found.items()
    }
    key = f"{probe.name}: {probe.prompt} {probe.candidates[probe.right]}"
    scores = {name: known[AFTER][name] for name in METRICS if name in known[AFTER]}
    return Item(key, probe.category, scores, {"name": probe.name, "prompt": probe.prompt, **known})


def _accuracies(kept: Mapping[str, Mapping[str, Float[ndarray, " n"]]], seed: int) -> dict[str, Any]:
    found = {}
    for when, column in kept.items():
        part = stratum(column[RIGHT].tolist(), [1.0] * len(column[RIGHT]), seed)
        found[when] = _rounded(part.mean, part.interval)
    change = kept[AFTER][RIGHT] - kept[BEFORE][RIGHT]
    return {**found, CHANGE[ACCURACY]: _rounded(*_estimate(change, np.ones(len(change)), seed))}


def _perplexities(kept: Mapping[str, Mapping[str, Float[ndarray, " n"]]], seed: int) -> dict[str, Any]:
    weights = kept[BEFORE][TOKENS]
    rates = {when: column[SPENT] / column[TOKENS] for when, column in kept.items()}
    rates[CHANGE[PERPLEXITY]] = rates[AFTER] - rates[BEFORE]
    return {name: _exponential(*_estimate(rate, weights, seed)) for name, rate in rates.items()}


def _estimate(values: Float[ndarray, " n"], weights: Float[ndarray, " n"], seed: int) -> tuple[float, Interval | None]:
    """The weighted mean with its interval."""
    told = len(values) >= FEWEST and np.ptp(values) > AGREE
    ends = interval(resampled(values, weights, seed)) if told else None
    return float((values * weights).sum() / weights.sum()), ends


def _exponential(mean: float, ends: Interval | None) -> dict[str, Any]:
    return _rounded(float(np.exp(mean)), None if ends is None else (float(np.exp(ends[0])), float(np.exp(ends[1]))))


def _rounded(mean: float, ends: Interval | None) -> dict[str, Any]:
    return {"mean": round(mean, DIGITS), "interval": None if ends is None else [round(end, DIGITS) for end in ends]}


def _test(scores: Mapping[str, Any], changes: Mapping[str, Float[ndarray, " _"]], seed: int) -> None:
    """Add to each category how likely its change is by chance, and what follows."""
    adjusted = holm([by_chance([change], seed) for change in changes.values()])
    for (category, change), value in zip(changes.items(), adjusted, strict=True):
        verdict = "significant" if value < SIGNIFICANT else "not significant"
        entry = scores[category][CHANGE[scores[category]["measure"]]]
        entry |= {"by_chance": round(value, DIGITS), "verdict": verdict if len(change) >= FEWEST else "too few probes"}
