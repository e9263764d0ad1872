"""Rendered scenes as a dataset: samples with their chains, made on the fly from a seed; and conversations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from got_core.data.scenes.compose import ATTEMPTS, Composer, EditedScene, Layout, edit_meta, generation_meta
from got_core.data.scenes.language import Step, edit_chain, generation_chain, instruction, listing, pick, prompt
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
"""An edit of the object of the previous turn, which is mostly called "it". The sample has the earlier requests."""

NEXT_TURN = "next_turn"
"""Any single edit, after any requests that may have led to the image: a caption, and edits of objects, also of some
that are gone."""

KEEP = "keep"
"""A request to change nothing. The chain describes the whole image, which teaches a vision tower most."""

SEVERAL = "several"
"""A caption of objects that GenEval's categories do not have, but a plan that is changed by hand may have: three or
more, or two of one shape or colour."""

FURTHER_TAGS = (FOLLOW_UP, KEEP, NEXT_TURN, SEVERAL)

FOLLOWED_UP = ("remove", "recolour", "replace", "move")
"""Operations on an object that exists already."""

Positions = dict[ObjectSpec, PixelBox | None]
"""The objects of an image and their boxes in pixels, where these are known."""

EDITS_BEFORE = (0.5, 0.35, 0.15)
"""Probabilities that a turn comes after no edit, one, and two."""


def several_objects(vocabulary: Vocabulary, rng: np.random.Generator) -> list[ObjectSpec]:
    """Sample different objects: three or more, or two that have their shape or their colour in common."""
    every = [ObjectSpec(shape, colour) for shape in vocabulary.shapes for colour in vocabulary.colours]
    order = [every[int(index)] for index in rng.permutation(len(every))]
    number = int(rng.integers(2, vocabulary.max_objects + 1))
    if number == 2:
        first = order[0]
        return [first, next(o for o in order[1:] if o.shape == first.shape or o.colour == first.colour)]
    if number <= len(vocabulary.shapes) and rng.random() < 0.5:  # no shape twice
        return list({spec.shape: spec for spec in order}.values())[:number]
    return order[:number]


def requests_before(
    source: Scene, vocabulary: Vocabulary, rng: np.random.Generator, about: ObjectSpec | None = None
) -> tuple[str, ...] | None:
    """Sample earlier requests that led to an image: most often a caption first, then edits.

    Args:
        source: The image as it is now.
        vocabulary: Of the scenes.
        rng: The generator of random numbers.
        about: An object that the last edit must have made what it is. None allows any.

    Returns:
        At least one request, the earliest first. None where no request of training's leads to the object.

    Raises:
        ValueError: `about` is not in the image.
    """
    present: Positions = {ObjectSpec(item.shape, item.colour): item.box for item in source.objects}
    if about is not None and about not in present:
        raise ValueError(f"{about} is not in the image")
    count = int(rng.choice(len(EDITS_BEFORE), p=EDITS_BEFORE))
    requests: list[str] = []
    for index in range(count if about is None else max(count, 1)):
        edit = _edit_before(present, vocabulary, rng, about if index == 0 else None)
        if edit is None:
            break
        requests.insert(0, instruction([edit], rng))
        present = _undone(present, edit)
    if about is not None and not requests:
        return None
    if not requests or rng.random() < 0.8:  # the other conversations began with an image of the user
        objects = list(present)
        requests.insert(0, _caption([objects[index] for index in rng.permutation(len(objects))], rng))
    return tuple(requests)


def _caption(objects: Sequence[ObjectSpec], rng: np.random.Generator) -> str:
    """A caption in the words of GenEval's, which name at most two objects."""
    if len(objects) <= 2:
        return prompt(Caption("color_attr", tuple(objects)), rng)
    return pick(rng, PREFIXES) + listing(objects)


def _edit_before(
    present: Positions, vocabulary: Vocabulary, rng: np.random.Generator, about: ObjectSpec | None
) -> Edit | None:
    """Sample an edit of training's that led to the objects as they are. None where no edit does."""
    result = pick(rng, list(present)) if about is None else about
    groups = _leading_to(result, vocabulary, frozenset(present))
    if about is None:
        groups = (*groups, _removals(vocabulary, frozenset(present)))
    possible = [edits for group in groups if (edits := [edit for edit in group if _holds(edit, present)])]
    return pick(rng, pick(rng, possible)) if possible else None


def _holds(edit: Edit, present: Positions) -> bool:
    """Whether the result of an edit has its relation to the anchor. Of earlier positions nothing is known."""
    if edit.anchor is None or edit.after is None or edit.relation is None:
        return True
    box, anchor = present[edit.after], present[edit.anchor]
    return box is not None and anchor is not None and edit.relation in box_relations(box, anchor)


def _undone(present: Positions, edit: Edit) -> Positions:
    """The objects before an edit. The box is known only of an object that was recoloured or replaced."""
    box = present[edit.after] if edit.after is not None and edit.op != "move" else None
    others = {spec: position for spec, position in present.items() if spec != edit.after}
    return others if edit.before is None else {**others, edit.before: box}


@cache
def _leading_to(
    result: ObjectSpec, vocabulary: Vocabulary, present: frozenset[ObjectSpec]
) -> tuple[tuple[Edit, ...], ...]:
    """Training's edits that make an object what it is, among the others, by operation.

    The object before the edit cannot be mistaken for one of the others.
    """
    others = present - {result}
    ops = ("recolour", "replace", "move", *(("add",) if others else ()))
    return tuple(
        tuple(
            edit
            for group in split_edits(vocabulary, op).train
            for edit in group
            if edit.after == result
            and (edit.anchor is None or edit.anchor in others)
            and (edit.before is None or _distinct(edit.before, others))
        )
        for op in ops
    )


@cache
def _removals(vocabulary: Vocabulary, present: frozenset[ObjectSpec]) -> tuple[Edit, ...]:
    """Training's removals that may have left the objects."""
    if len(present) >= vocabulary.max_objects:
        return ()
    edits = [edit for group in split_edits(vocabulary, "remove").train for edit in group]
    return tuple(edit for edit in edits if edit.before is not None and _distinct(edit.before, present))


def _distinct(spec: ObjectSpec, others: frozenset[ObjectSpec]) -> bool:
    return all(spec.shape != other.shape and spec.colour != other.colour for other in others)


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
    """Samples of rendered scenes. Each is a function of (seed, split, index) and of the settings alone.

    The content of the test split's prompts (objects, colours, counts, relation, operation) never occurs in the other
    splits, in any wording, but every single word does. Only `single_object`, where nothing else could be held out, is
    split by wording. A multi-turn instruction belongs to the test split when one of its edits does. The validation
    split has the requests of the train split in scenes of its own. Settings are chosen on it, so that the test split
    is used once, when all is decided.

    Args:
        size: Side of the images in pixels.
        length: Number of samples.
        seed: Another seed gives other samples.
        split: "train", "validation", or "test" for the requests held out.
        tasks: Weight of each category: GenEval's six, and `add`, `remove`, `recolour`, `replace`, `move`,
            `multi_turn`; also `follow_up`, `next_turn`, `keep` and `several`, which this module describes. Those left
            out do not occur. None takes all but the last four, a third of them edits.
        balanced: Go round the categories of `tasks` by index instead of sampling them by weight.
        shapes, colours, backgrounds: Names of `SHAPES`, `COLOURS` and `BACKGROUNDS` of `got_core.data.scenes.render`.
        max_objects: Most objects of a scene, at least 2.
        object_size: Smallest and largest side of an object's box, as a fraction of the image's.
        gap: Smallest distance between two boxes, as a fraction of the image's side.

    Raises:
        ValueError: A name that is not known, too few shapes or colours for the objects, or too few combinations to
            hold any out.

    Example:
        >>> ScenesDataset(tasks={"position": 1.0})[3].prompt
        'a picture of a green square on the right of a purple triangle'
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
        every_tag = (*DEFAULT_TASKS, *FURTHER_TAGS)
        named: dict[str, tuple[Sequence[str], Sequence[str]]] = {
            "task": (list(weights), every_tag),
            "shape": (shapes, list(SHAPES)),
            "colour": (colours, list(COLOURS)),
            "background": (backgrounds, list(BACKGROUNDS)),
            "split": ([split], SPLITS),
        }
        for kind, (names, known) in named.items():
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                raise ValueError(f"unknown {kind} {unknown} for scenes: choose from {', '.join(known)}")
        if max_objects < 2 or len(shapes) < 2 or len(colours) <= max_objects:
            raise ValueError(
                f"scenes need max_objects of at least 2, two shapes, and more colours than objects: got "
                f"max_objects={max_objects}, {len(shapes)} shapes and {len(colours)} colours"
            )
        self.length, self.seed, self.split, self.balanced = length, seed, split, balanced
        self.tags = tuple(tag for tag in every_tag if tag in weights)
        self.cumulative = np.cumsum([weights[tag] for tag in self.tags]) / sum(weights.values())
        self.vocabulary = vocabulary = Vocabulary(tuple(shapes), tuple(colours), max_objects)
        smallest, largest = (round(fraction * size) for fraction in object_size)
        self.composer = Composer(vocabulary, Layout(size, smallest, largest, round(gap * size)), tuple(backgrounds))
        self.captions = {tag: split_captions(vocabulary, tag) for tag in self.tags if tag in GENERATION_TAGS}
        any_edit = {"multi_turn", *FURTHER_TAGS}.intersection(self.tags)
        ops = SINGLE_EDIT_TAGS if any_edit else [tag for tag in self.tags if tag in SINGLE_EDIT_TAGS]
        self.edits = {op: split_edits(vocabulary, op) for op in ops}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Render one sample.

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
        """Make one sample that is not yet rendered.

        Raises:
            IndexError: The index is not in [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a dataset of {self.length} scenes")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        if self.balanced:
            tag = self.tags[index % len(self.tags)]
        else:
            position = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
            tag = self.tags[min(position, len(self.tags) - 1)]
        return self._generation(tag, rng) if tag in (*self.captions, SEVERAL) else self._edit(tag, rng)

    def _generation(self, tag: str, rng: np.random.Generator) -> Sketch:
        if tag == SEVERAL:
            request = Caption(SEVERAL, tuple(several_objects(self.vocabulary, rng)))
        else:
            request = pick(rng, pick(rng, self.captions[tag].of_split(self.split)))
        scene = self.composer.compose(request, rng)
        words = pick(rng, PREFIXES) + listing(request.objects) if tag == SEVERAL else prompt(request, rng)
        return Sketch(words, generation_chain(scene), scene, None, generation_meta(request, scene))

    def _edit(self, tag: str, rng: np.random.Generator) -> Sketch:
        for _ in range(ATTEMPTS):
            edits = self._sample_edits(tag, rng)
            made = self.composer.edit(edits, rng)
            if made is None:
                continue
            if tag == KEEP:
                words = pick(rng, ("describe the picture", "keep the picture as it is", "change nothing"))
                scene = made.source
                return Sketch(words, generation_chain(scene), scene, scene, edit_meta(KEEP, scene, scene, ()))
            about = edits[0].before if tag == FOLLOW_UP else None
            follows = tag in (NEXT_TURN, FOLLOW_UP)
            earlier = requests_before(made.source, self.vocabulary, rng, about) if follows else ()
            if earlier is None:
                continue
            words = instruction(edits, rng, "it" if tag == FOLLOW_UP and rng.random() < 0.75 else None)
            chain = edit_chain(made.source, made.target, made.steps)
            meta = edit_meta(tag, made.source, made.target, made.steps)
            return Sketch(words, chain, made.target, made.source, meta, earlier)
        layout = self.composer.layout
        raise ValueError(
            f"no room was found for task {tag!r} in {layout.size} px with objects of {layout.smallest} to "
            f"{layout.largest} px: make object_size or max_objects smaller"
        )

    def _sample_edits(self, tag: str, rng: np.random.Generator) -> list[Edit]:
        if tag == "multi_turn":
            return self.composer.sequence(tuple(self.edits.values()), self.split, rng)
        if tag in FURTHER_TAGS:
            tag = pick(rng, FOLLOWED_UP if tag == FOLLOW_UP else SINGLE_EDIT_TAGS)
        return [pick(rng, pick(rng, self.edits[tag].of_split(self.split)))]


def corpus(samples: int, seed: int = 0, **settings: Any) -> Iterator[str]:
    """Yield prompts and chains of the train split, in turn, as text to train a tokenizer on.

    Args:
        samples: Number of samples; two texts each.
        seed: The dataset's.
        settings: The dataset's other settings.
    """
    dataset = ScenesDataset(length=samples, seed=seed, **settings)
    for index in range(samples):
        sketch = dataset.sketch(index)
        yield sketch.prompt
        yield sketch.chain


TRIES = 20_000
"""Conversations that are begun at most."""


@dataclass(frozen=True)
class SceneConversation:
    """A conversation and the scene after each turn.

    Attributes:
        requests: Caption and two instructions.
        scenes: One for each turn.
        steps: The edits of the instructions.
        says_it: Whether the last instruction edits the result of the one before, and calls it "it".
    """

    requests: tuple[str, str, str]
    scenes: tuple[Scene, Scene, Scene]
    steps: tuple[Step, Step]
    says_it: bool


def sample_conversation(scenes: ScenesDataset, rng: np.random.Generator) -> SceneConversation:
    """Sample a conversation of a dataset's kind whose requests are of the dataset's split.

    Args:
        scenes: With all single edits among its tasks.
        rng: The generator of random numbers.

    Raises:
        ValueError: None was found.
    """
    says_it = rng.random() < 0.5
    for _ in range(TRIES):
        first = _edit(scenes, pick(rng, SINGLE_EDIT_TAGS), rng)
        made = scenes.composer.edit([first], rng)
        caption = None if made is None else _caption_of(scenes, made.source, rng)
        if made is None or caption is None:
            continue
        second = _edit(scenes, pick(rng, FOLLOWED_UP if says_it else SINGLE_EDIT_TAGS), rng)
        same = second.before is not None and second.before == first.after
        if says_it != same or not _fits(second, made, scenes):
            continue
        then = scenes.composer.follow(made.target, second, rng)
        if then is not None:
            words = instruction([first], rng), instruction([second], rng, "it" if says_it else None)
            return SceneConversation(
                requests=(prompt(caption, rng), *words),
                scenes=(made.source, made.target, then.target),
                steps=(made.steps[0], then.steps[0]),
                says_it=says_it,
            )
    raise ValueError(f"no conversation was found in {TRIES} attempts")


def _edit(scenes: ScenesDataset, op: str, rng: np.random.Generator) -> Edit:
    return pick(rng, pick(rng, scenes.edits[op].of_split(scenes.split)))


def _caption_of(scenes: ScenesDataset, scene: Scene, rng: np.random.Generator) -> Caption | None:
    """Sample a request of the split for the objects of a scene, in any order. None where the split has no such."""
    tag = {1: "colors", 2: "color_attr"}.get(len(scene.objects))
    if tag is None:
        return None
    groups = split_captions(scenes.vocabulary, tag).of_split(scenes.split)
    objects = frozenset(ObjectSpec(item.shape, item.colour) for item in scene.objects)
    matching = [request for group in groups for request in group if frozenset(request.objects) == objects]
    return pick(rng, matching) if matching else None


def _fits(edit: Edit, made: EditedScene, scenes: ScenesDataset) -> bool:
    """Whether the scene after an edit has one object of a shape and a colour, and is neither empty nor too full."""
    others = [o for o in made.target.objects if edit.before is None or o.shape != edit.before.shape]
    after = [] if edit.after is None else [edit.after]
    alike = any(o.shape == spec.shape or o.colour == spec.colour for o in others for spec in after)
    return not alike and 1 <= len(others) + len(after) <= scenes.vocabulary.max_objects
