"""The words of drawn scenes: prompts, instructions and reasoning chains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from got_core.data.scenes.render import Scene, SceneObject, relative_box
from got_core.data.scenes.requests import PREFIXES, Caption, Edit, ObjectSpec

T = TypeVar("T")

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}

PLURALS = {"cross": "crosses"}
"""Plurals that an s alone does not make."""

PAIRINGS = ("{} and {}", "{} with {}")

RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

DIRECTION_WORDS = {
    "left of": ("to the left", "left"),
    "right of": ("to the right", "right"),
    "above": ("to the top", "up"),
    "below": ("to the bottom", "down"),
}

INSTRUCTIONS = {
    "add": ("add {after}{where}", "put {after}{where}", "insert {after}{where}"),
    "remove": ("remove {before}", "delete {before}", "erase {before}", "take away {before}"),
    "recolour": ("change {before} to {colour}", "make {before} {colour}", "turn {before} {colour}"),
    "replace": ("replace {before} with {after}", "swap {before} for {after}", "turn {before} into {after}"),
    "move": ("move {before}{where}", "shift {before}{where}"),
}

JOINTS = (", then ", " and then ", ", and then ")

CHANGES = {
    "add": ("add it{where}", "Add {after}{where}"),
    "remove": ("remove it", "Remove {before}"),
    "recolour": ("make it {colour}", "Make {before} {colour}"),
    "replace": ("make it {after}", "Replace {before} with {after}"),
    "move": ("move it{where}", "Move {before}{where}"),
}
"""How a chain words a change: once its object has been named, and in a step of its own."""


@dataclass(frozen=True)
class Step:
    """One edit of a scene.

    Attributes:
        edit: What was asked.
        before, after: The object concerned, None where there is none.
        anchor: What its new place is measured from: another object, or itself as it was; None without a relation.
    """

    edit: Edit
    before: SceneObject | None
    after: SceneObject | None
    anchor: SceneObject | None = None


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def with_article(words: str) -> str:
    """`a circle`, `an orange circle`."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _named(thing: ObjectSpec | SceneObject) -> str:
    return thing.shape if thing.colour is None else f"{thing.colour} {thing.shape}"


def _noun(thing: ObjectSpec) -> str:
    if thing.count == 1:
        return with_article(_named(thing))
    plural = replace(thing, shape=PLURALS.get(thing.shape, thing.shape + "s"))
    return f"{NUMBERS[thing.count]} {_named(plural)}"


def prompt(drawing: Caption, rng: np.random.Generator) -> str:
    """One way to ask for a drawing."""
    nouns = [_noun(thing) for thing in drawing.things]
    body = nouns[0]
    if drawing.relation is not None:
        body = f"{nouns[0]} {pick(rng, RELATION_WORDS[drawing.relation])} {nouns[1]}"
    elif len(nouns) > 1:
        body = pick(rng, PAIRINGS).format(*nouns)
    return (pick(rng, PREFIXES) if drawing.prefix is None else drawing.prefix) + body


def instruction(edits: Sequence[Edit], rng: np.random.Generator, called: str | None = None) -> str:
    """One way to ask for the edits, in sequence.

    Args:
        edits: What is asked for.
        rng: The source of chance.
        called: What the object concerned is called, such as "it"; by its name if None.
    """
    return pick(rng, JOINTS).join(_instruct(edit, rng, called) for edit in edits)


def _instruct(edit: Edit, rng: np.random.Generator, called: str | None) -> str:
    template, where = pick(rng, INSTRUCTIONS[edit.op]), pick(rng, _where_words(edit))
    before = called or _definite(edit.before, rng)
    return _fill(template, edit, before, where, _definite(edit.anchor, rng))


def _definite(thing: ObjectSpec | None, rng: np.random.Generator) -> str:
    """`the circle` or `the red circle`: no scene to edit has two objects of a shape."""
    if thing is None:
        return ""
    return f"the {thing.shape}" if rng.random() < 0.5 else f"the {_named(thing)}"


def _where_words(edit: Edit) -> tuple[str, ...]:
    if edit.relation is None:
        return ("",)
    return (RELATION_WORDS if edit.anchor else DIRECTION_WORDS)[edit.relation]


def _fill(template: str, edit: Edit, before: str, where: str, anchor: str) -> str:
    return template.format(
        before=before,
        after="" if edit.after is None else _noun(edit.after),
        colour="" if edit.after is None else edit.after.colour,
        where="".join(f" {words}" for words in (where, anchor) if words),
    )


def region(phrase: str, box: tuple[int, int, int, int], colour: str) -> str:
    """A grounded phrase: Qwen's reference and box tokens, and the colour's name as in GoT's released code."""
    corners = "({},{}),({},{})".format(*box)
    return f"<|object_ref_start|>{phrase}<|object_ref_end|><|box_start|>{corners}<|box_end|> ({colour})"


def _object_region(entry: SceneObject, size: int) -> str:
    return region(with_article(_named(entry)), relative_box(entry.box, size), entry.colour)


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def generation_chain(scene: Scene) -> str:
    """The chain of a text-to-image sample: one sentence, each object followed by its box and colour."""
    regions = [_object_region(entry, scene.size) for entry in scene.objects]
    return f"A plain {scene.background} scene with {_listed(regions)}."


def edit_chain(source: Scene, target: Scene, steps: Sequence[Step]) -> str:
    """The chain of an edit: numbered steps, one a line, in the order of GoT's (section 3).

    One edit: source, object, area, change, result. Several: source, one step for each, result. Only areas have boxes,
    each with the colour it will have; an area that is emptied has the background's colour and is called so.
    """
    lines = [f"Source: {_contents(source)}."]
    if len(steps) == 1:
        (step,) = steps
        lines += [
            f"Object: {_subject(step.edit)}.",
            f"Area: {_areas(step, source)}.",
            f"Change: {_change(step.edit, 0)}.",
        ]
    else:
        lines += [f"{_change(step.edit, 1)}: {_areas(step, source)}." for step in steps]
    lines.append(f"Result: {_contents(target)}.")
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def _contents(scene: Scene) -> str:
    """What a scene shows, from left to right."""
    return listing(sorted(scene.objects, key=lambda entry: (entry.box[0] + entry.box[2], entry.box[1])))


def listing(objects: Sequence[SceneObject] | Sequence[ObjectSpec]) -> str:
    """`a red circle, a blue square and a green cross`."""
    return _listed([with_article(_named(entry)) for entry in objects])


def _areas(step: Step, scene: Scene) -> str:
    areas = []
    if step.before is not None and (step.after is None or step.after.box != step.before.box):
        emptied = relative_box(step.before.box, scene.size)
        areas.append(region(f"{scene.background} background", emptied, scene.background))
    if step.after is not None:
        areas.append(_object_region(step.after, scene.size))
    return _listed(areas)


def _subject(edit: Edit) -> str:
    if edit.before is not None:
        return f"the {_named(edit.before)}"
    return "" if edit.after is None else _noun(edit.after)


def _change(edit: Edit, form: int) -> str:
    before, anchor = (f"the {_named(thing)}" if thing else "" for thing in (edit.before, edit.anchor))
    return _fill(CHANGES[edit.op][form], edit, before, _where_words(edit)[0], anchor)
