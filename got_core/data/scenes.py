"""The drawn scenes as a dataset: text-to-image and editing samples with their chains, made on the fly from a seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from got_core.data.scene import BACKGROUNDS, COLOURS, DEFAULT_COLOURS, DEFAULT_SHAPES, SHAPES, Scene, render
from got_core.data.scene_composition import Composer
from got_core.data.scene_conversations import (
    FOLLOW_UP,
    FOLLOWED_UP,
    FURTHER_TAGS,
    KEEP,
    NEXT_TURN,
    SEVERAL,
    follow_up_words,
    keep_words,
    requests_before,
    several_things,
)
from got_core.data.scene_language import drawing_chain, edit_chain, instruction, listing, pick, prompt
from got_core.data.scene_layout import ATTEMPTS, Layout
from got_core.data.scene_meta import drawing_meta, edit_meta
from got_core.data.scene_requests import (
    DRAWING_TAGS,
    EDIT_TAGS,
    PREFIXES,
    SINGLE_EDIT_TAGS,
    Drawing,
    Edit,
    Vocabulary,
    split_drawings,
    split_edits,
)
from got_core.types import Sample

DEFAULT_TASKS: dict[str, float] = {**dict.fromkeys(DRAWING_TAGS, 1.0), **dict.fromkeys(EDIT_TAGS, 0.5)}
"""Weights of the categories: two samples in three are text-to-image."""

SPLITS = ("train", "test", "validation")


@dataclass(frozen=True)
class Sketch:
    """A sample before it is rendered; `source` is None for text-to-image."""

    prompt: str
    chain: str
    target: Scene
    source: Scene | None
    meta: dict[str, Any]
    earlier: tuple[str, ...] = ()


class ScenesDataset(Dataset[Sample]):
    """Samples of drawn scenes; each is a function of (seed, split, index) and of the settings alone.

    What the test split asks for (the content of a prompt: objects, colours, counts, relation, operation) never occurs
    in the others, in any wording; every single word does. Only `single_object`, where nothing else could be held
    out, is split by wording. A multi-turn instruction is of the test split when one of its edits is. The validation
    split asks for what the train split asks for, in scenes of its own: settings are chosen on it, so that the test
    split is looked at once, when all is decided.

    Args:
        size: Side of the images in pixels.
        length: Number of samples.
        seed: Another seed gives other samples.
        split: "train", "validation", or "test" for the requests held out.
        tasks: Weight of each category: GenEval's six, and `add`, `remove`, `recolour`, `replace`, `move`,
            `multi_turn`; also `follow_up`, `next_turn`, `keep` and `several` (`scene_conversations`). Those left out do
            not occur; None takes all but the last four, a third of them edits.
        balanced: Go round the categories of `tasks` by index instead of drawing them by weight.
        shapes, colours, backgrounds: Names of `scene.SHAPES`, `scene.COLOURS`, `scene.BACKGROUNDS` to choose from.
        max_objects: Most objects of a scene, at least 2.
        object_size: Smallest and largest side of an object's box, as a share of the image's.
        gap: Least distance of two boxes, as a share of the image's side.

    Raises:
        ValueError: A name that is not known, too few shapes or colours for the objects, or too few combinations to
            hold any out.
    """

    def __init__(
        self,
        size: int = 32,
        length: int = 100_000,
        seed: int = 0,
        split: str = "train",
        tasks: Mapping[str, float] | None = None,
        balanced: bool = False,
        shapes: Sequence[str] = DEFAULT_SHAPES,
        colours: Sequence[str] = DEFAULT_COLOURS,
        backgrounds: Sequence[str] = ("gray",),
        max_objects: int = 3,
        object_size: tuple[float, float] = (0.28, 0.47),
        gap: float = 0.09,
    ) -> None:
        weights = {tag: weight for tag, weight in (DEFAULT_TASKS if tasks is None else tasks).items() if weight > 0}
        _check_names("task", weights, (*DEFAULT_TASKS, *FURTHER_TAGS))
        _check_names("shape", shapes, SHAPES)
        _check_names("colour", colours, COLOURS)
        _check_names("background", backgrounds, BACKGROUNDS)
        _check_names("split", [split], SPLITS)
        if max_objects < 2 or len(shapes) < 2 or len(colours) <= max_objects:
            raise ValueError(
                f"scenes need max_objects of at least 2, two shapes, and more colours than objects: got "
                f"max_objects={max_objects}, {len(shapes)} shapes and {len(colours)} colours"
            )
        self.length, self.seed, self.split, self.balanced = length, seed, split, balanced
        self.tags = tuple(tag for tag in (*DEFAULT_TASKS, *FURTHER_TAGS) if tag in weights)
        self.cumulative = np.cumsum([weights[tag] for tag in self.tags]) / sum(weights.values())
        self.vocabulary = vocabulary = Vocabulary(tuple(shapes), tuple(colours), max_objects)
        smallest, largest = (round(share * size) for share in object_size)
        self.composer = Composer(vocabulary, Layout(size, smallest, largest, round(gap * size)), tuple(backgrounds))
        self.drawings = {tag: split_drawings(vocabulary, tag) for tag in self.tags if tag in DRAWING_TAGS}
        any_of_them = {"multi_turn", *FURTHER_TAGS}.intersection(self.tags)
        ops = SINGLE_EDIT_TAGS if any_of_them else [tag for tag in self.tags if tag in SINGLE_EDIT_TAGS]
        self.edits = {op: split_edits(vocabulary, op) for op in ops}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """One sample, rendered.

        Raises:
            IndexError: The index is not in [0, length).
        """
        sketch = self.sketch(index)
        return Sample(
            prompt=sketch.prompt,
            chain=sketch.chain,
            size=(sketch.target.size, sketch.target.size),
            target=render(sketch.target),
            source=None if sketch.source is None else render(sketch.source),
            meta=sketch.meta,
            earlier=sketch.earlier,
        )

    def sketch(self, index: int) -> Sketch:
        """One sample, not yet rendered.

        Raises:
            IndexError: The index is not in [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a dataset of {self.length} scenes")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        tag = self.tags[index % len(self.tags)] if self.balanced else self._draw_tag(rng)
        if tag == KEEP:
            return self._kept(rng)
        if tag == SEVERAL:
            return self._several(rng)
        return self._drawing(tag, rng) if tag in self.drawings else self._edit(tag, rng)

    def _draw_tag(self, rng: np.random.Generator) -> str:
        place = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        return self.tags[min(place, len(self.tags) - 1)]

    def _drawing(self, tag: str, rng: np.random.Generator) -> Sketch:
        requests = self.drawings[tag]
        request = pick(rng, pick(rng, requests.asked_by(self.split)))
        scene = self.composer.draw(request, rng)
        return Sketch(prompt(request, rng), drawing_chain(scene), scene, None, drawing_meta(request, scene))

    def _several(self, rng: np.random.Generator) -> Sketch:
        things = several_things(self.vocabulary, rng)
        request = Drawing(SEVERAL, tuple(things))
        scene = self.composer.draw(request, rng)
        caption = pick(rng, PREFIXES) + listing(things)
        return Sketch(caption, drawing_chain(scene), scene, None, drawing_meta(request, scene))

    def _edit(self, tag: str, rng: np.random.Generator) -> Sketch:
        for _ in range(ATTEMPTS):
            edits = self._draw_edits(tag, rng)
            made = self.composer.edit(edits, rng)
            if made is not None:
                chain = edit_chain(made.source, made.target, made.steps)
                meta = edit_meta(tag, made.source, made.target, made.steps)
                if tag not in (NEXT_TURN, FOLLOW_UP):
                    return Sketch(instruction(edits, rng), chain, made.target, made.source, meta)
                follows = tag == FOLLOW_UP
                earlier = requests_before(made.source, self.vocabulary, rng, edits[0].before if follows else None)
                if earlier is None:
                    continue
                words = follow_up_words(edits[0], rng) if follows else instruction(edits, rng)
                return Sketch(words, chain, made.target, made.source, meta, earlier)
        raise self._no_room(tag)

    def _no_room(self, tag: str) -> ValueError:
        layout = self.composer.layout
        return ValueError(
            f"no room was found for task {tag!r} in {layout.size} px with objects of {layout.smallest} to "
            f"{layout.largest} px: make object_size or max_objects smaller"
        )

    def _kept(self, rng: np.random.Generator) -> Sketch:
        """A picture as edits begin with, which stays as it is."""
        for _ in range(ATTEMPTS):
            made = self.composer.edit(self._draw_edits(pick(rng, SINGLE_EDIT_TAGS), rng), rng)
            if made is not None:
                scene = made.source
                return Sketch(keep_words(rng), drawing_chain(scene), scene, scene, edit_meta(KEEP, scene, scene, ()))
        raise self._no_room(KEEP)

    def _draw_edits(self, tag: str, rng: np.random.Generator) -> list[Edit]:
        if tag == "multi_turn":
            return self.composer.sequence(tuple(self.edits.values()), self.split, rng)
        if tag in (FOLLOW_UP, NEXT_TURN):
            tag = pick(rng, FOLLOWED_UP if tag == FOLLOW_UP else SINGLE_EDIT_TAGS)
        requests = self.edits[tag]
        return [pick(rng, pick(rng, requests.asked_by(self.split)))]


def _check_names(
    kind: str, names: Sequence[str] | Mapping[str, float], known: Sequence[str] | Mapping[str, Any]
) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"unknown {kind} {unknown} for scenes: choose from {', '.join(known)}")


def corpus(samples: int, seed: int = 0, **settings: Any) -> Iterator[str]:
    """Prompts and chains of the train split, in turn, as text to train a tokenizer on.

    Args:
        samples: How many samples to take them from; two texts each.
        seed: The dataset's.
        settings: The dataset's other settings.
    """
    dataset = ScenesDataset(length=samples, seed=seed, **settings)
    for index in range(samples):
        sketch = dataset.sketch(index)
        yield sketch.prompt
        yield sketch.chain
