"""Drawn scenes as a dataset: samples with their chains, made on the fly from a seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from got_core.data.scenes.compose import Composer, edit_meta, generation_meta
from got_core.data.scenes.language import edit_chain, generation_chain, instruction, listing, pick, prompt
from got_core.data.scenes.layout import ATTEMPTS, Layout
from got_core.data.scenes.render import (
    BACKGROUNDS,
    COLOURS,
    DEFAULT_COLOURS,
    DEFAULT_SHAPES,
    SHAPES,
    PixelBox,
    Scene,
    render,
)
from got_core.data.scenes.requests import (
    EDIT_TAGS,
    GENERATION_TAGS,
    PREFIXES,
    SINGLE_EDIT_TAGS,
    Caption,
    Edit,
    ObjectSpec,
    Vocabulary,
    split_captions,
    split_edits,
)
from got_core.planning.boxes import box_relations
from got_core.types import Sample

FOLLOW_UP = "follow_up"
"""An edit of what an earlier turn was about, which is mostly called "it"; the turns before are told."""

NEXT_TURN = "next_turn"
"""Any single edit, after whatever may have led to the picture: a caption, and edits of objects there or gone."""

KEEP = "keep"
"""Nothing is to be changed; the chain describes the whole picture, which is what a vision tower learns most from."""

SEVERAL = "several"
"""A caption of objects that GenEval's categories do not have, but a plan that is changed by hand may: three or more, or
two of one shape or colour."""

DISTINCT_SHAPES = 0.5
"""Share of captions of three objects or more in which no shape comes twice, as far as there are shapes."""

FURTHER_TAGS = (FOLLOW_UP, KEEP, NEXT_TURN, SEVERAL)

FOLLOWED_UP = ("remove", "recolour", "replace", "move")
"""Operations on an object that is there already."""

Standing = dict[ObjectSpec, PixelBox | None]
"""The objects of a picture and their places in pixels, where these are known."""

NO_CHANGE = ("describe the picture", "keep the picture as it is", "change nothing")

CALLED_IT = 0.75
"""Share of follow-ups that say "it"."""

WITH_CAPTION = 0.8
"""Share of conversations that began with a picture that was drawn from a caption; the others' was brought along."""

EDITS_BEFORE = (0.5, 0.35, 0.15)
"""How often a turn comes after no edit, one, and two."""


def keep_words(rng: np.random.Generator) -> str:
    """One way to ask for no change."""
    return pick(rng, NO_CHANGE)


def several_things(vocabulary: Vocabulary, rng: np.random.Generator) -> list[ObjectSpec]:
    """Different things: three or more, or two that have their shape or their colour in common."""
    every = [ObjectSpec(shape, colour) for shape in vocabulary.shapes for colour in vocabulary.colours]
    order = [every[int(place)] for place in rng.permutation(len(every))]
    number = int(rng.integers(2, vocabulary.max_objects + 1))
    if number == 2:
        first = order[0]
        return [first, next(t for t in order[1:] if t.shape == first.shape or t.colour == first.colour)]
    if number <= len(vocabulary.shapes) and rng.random() < DISTINCT_SHAPES:
        return list({thing.shape: thing for thing in order}.values())[:number]
    return order[:number]


def follow_up_words(edit: Edit, rng: np.random.Generator) -> str:
    """One way to ask for an edit of the object that the turn before was about."""
    return instruction([edit], rng, "it" if rng.random() < CALLED_IT else None)


def requests_before(
    source: Scene, vocabulary: Vocabulary, rng: np.random.Generator, about: ObjectSpec | None = None
) -> tuple[str, ...] | None:
    """What may have been asked before an edit of a picture: most often a caption first, then edits that led to it.

    Args:
        source: The picture as it stands.
        vocabulary: Of the scenes.
        rng: The source of chance.
        about: An object that the last edit has made what it is; None leaves open what was asked for.

    Returns:
        At least one request, the first one first; None where none of training's leads to what is asked for.

    Raises:
        ValueError: `about` is no object of the picture.
    """
    there: Standing = {ObjectSpec(entry.shape, entry.colour): entry.box for entry in source.objects}
    if about is not None and about not in there:
        raise ValueError(f"{about} is no object that is there")
    edits = int(rng.choice(len(EDITS_BEFORE), p=EDITS_BEFORE))
    told: list[str] = []
    for place in range(edits if about is None else max(edits, 1)):
        request = _request_before(there, vocabulary, rng, about if place == 0 else None)
        if request is None:
            break
        told.insert(0, instruction([request], rng))
        there = _undone(there, request)
    if about is not None and not told:
        return None
    if not told or rng.random() < WITH_CAPTION:
        things = list(there)
        told.insert(0, _caption([things[place] for place in rng.permutation(len(things))], rng))
    return tuple(told)


def _caption(things: Sequence[ObjectSpec], rng: np.random.Generator) -> str:
    """In the words of GenEval's captions, which name no more than two."""
    if len(things) <= 2:
        return prompt(Caption("color_attr", tuple(things)), rng)
    return pick(rng, PREFIXES) + listing(things)


def _request_before(
    there: Standing, vocabulary: Vocabulary, rng: np.random.Generator, about: ObjectSpec | None
) -> Edit | None:
    """An edit of training's after which the objects stand as they do; None where there is none."""
    groups: tuple[tuple[Edit, ...], ...]
    if about is None:
        about = pick(rng, list(there))
        groups = (*_leading_to(about, vocabulary, frozenset(there)), _removals(vocabulary, frozenset(there)))
    else:
        groups = _leading_to(about, vocabulary, frozenset(there))
    true = [tuple(request for request in group if _holds(request, there)) for group in groups]
    found = [group for group in true if group]
    return pick(rng, pick(rng, found)) if found else None


def _holds(request: Edit, there: Standing) -> bool:
    """Whether what a request made stands to its anchor as it says; of former places nothing is known."""
    if request.anchor is None or request.after is None or request.relation is None:
        return True
    box, anchor = there[request.after], there[request.anchor]
    return box is not None and anchor is not None and request.relation in box_relations(box, anchor)


def _undone(there: Standing, request: Edit) -> Standing:
    """The objects before a request. Only what was recoloured or replaced is known to have stood where it stands."""
    box = there[request.after] if request.after is not None and request.op != "move" else None
    others = {thing: place for thing, place in there.items() if thing != request.after}
    return others if request.before is None else {**others, request.before: box}


@cache
def _leading_to(
    thing: ObjectSpec, vocabulary: Vocabulary, there: frozenset[ObjectSpec]
) -> tuple[tuple[Edit, ...], ...]:
    """Training's requests after which the thing is there as it is, among the others, by operation.

    What the thing was made of cannot be mistaken for one of the others.
    """
    others = there - {thing}
    ops = ("recolour", "replace", "move", *(("add",) if others else ()))
    return tuple(
        tuple(
            request
            for group in split_edits(vocabulary, op).train
            for request in group
            if request.after == thing
            and (request.anchor is None or request.anchor in others)
            and (request.before is None or _distinct(request.before, others))
        )
        for op in ops
    )


@cache
def _removals(vocabulary: Vocabulary, there: frozenset[ObjectSpec]) -> tuple[Edit, ...]:
    """Training's requests that may have left the things."""
    requests = [request for group in split_edits(vocabulary, "remove").train for request in group]
    if len(there) >= vocabulary.max_objects:
        return ()
    return tuple(r for r in requests if r.before is not None and _distinct(r.before, there))


def _distinct(thing: ObjectSpec, others: frozenset[ObjectSpec]) -> bool:
    return all(thing.shape != other.shape and thing.colour != other.colour for other in others)


DEFAULT_TASKS: dict[str, float] = {**dict.fromkeys(GENERATION_TAGS, 1.0), **dict.fromkeys(EDIT_TAGS, 0.5)}
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
        self.drawings = {tag: split_captions(vocabulary, tag) for tag in self.tags if tag in GENERATION_TAGS}
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
        request = pick(rng, pick(rng, requests.of_split(self.split)))
        scene = self.composer.draw(request, rng)
        return Sketch(prompt(request, rng), generation_chain(scene), scene, None, generation_meta(request, scene))

    def _several(self, rng: np.random.Generator) -> Sketch:
        things = several_things(self.vocabulary, rng)
        request = Caption(SEVERAL, tuple(things))
        scene = self.composer.draw(request, rng)
        caption = pick(rng, PREFIXES) + listing(things)
        return Sketch(caption, generation_chain(scene), scene, None, generation_meta(request, scene))

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
                return Sketch(keep_words(rng), generation_chain(scene), scene, scene, edit_meta(KEEP, scene, scene, ()))
        raise self._no_room(KEEP)

    def _draw_edits(self, tag: str, rng: np.random.Generator) -> list[Edit]:
        if tag == "multi_turn":
            return self.composer.sequence(tuple(self.edits.values()), self.split, rng)
        if tag in (FOLLOW_UP, NEXT_TURN):
            tag = pick(rng, FOLLOWED_UP if tag == FOLLOW_UP else SINGLE_EDIT_TAGS)
        requests = self.edits[tag]
        return [pick(rng, pick(rng, requests.of_split(self.split)))]


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
