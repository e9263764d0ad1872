"""What a reasoner's understanding is probed with: texts to read, and questions with answers to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from got_core.data.scene import DEFAULT_COLOURS
from got_core.data.scene_layout import RELATIONS
from got_core.data.scenes import ScenesDataset
from got_core.evaluation.edit_cases import Picture

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
    image: Picture | Float[Tensor, "3 H W"] | None = None
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
