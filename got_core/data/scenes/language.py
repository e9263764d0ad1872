"""The words of rendered scenes: prompts, instructions and reasoning chains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from got_core.chain.parser import Region, write_region
from got_core.data.scenes.render import Scene, SceneObject, relative_box
from got_core.data.scenes.requests import PREFIXES, Caption, Edit, ObjectSpec

T = TypeVar("T")

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}

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

CHANGES = {
    "add": ("add it{where}", "Add {after}{where}"),
    "remove": ("remove it", "Remove {before}"),
    "recolour": ("make it {colour}", "Make {before} {colour}"),
    "replace": ("make it {after}", "Replace {before} with {after}"),
    "move": ("move it{where}", "Move {before}{where}"),
}
"""The words of a change in a chain: after the object has been named, and in a step of its own."""


@dataclass(frozen=True)
class Step:
    """One edit of a scene.

    Attributes:
        edit: The request.
        before, after: The edited object, or None where it does not exist.
        anchor: The object that the new position is measured from: another one, or itself before the edit. None without
            a relation.
    """

    edit: Edit
    before: SceneObject | None
    after: SceneObject | None
    anchor: SceneObject | None = None


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Sample one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def with_article(words: str) -> str:
    """Put an article before words: `a circle`, `an orange circle`."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _named(item: ObjectSpec | SceneObject) -> str:
    return item.shape if item.colour is None else f"{item.colour} {item.shape}"


def _noun(spec: ObjectSpec) -> str:
    if spec.count == 1:
        return with_article(_named(spec))
    plural = replace(spec, shape=spec.shape + ("es" if spec.shape.endswith("s") else "s"))
    return f"{NUMBERS[spec.count]} {_named(plural)}"


def prompt(caption: Caption, rng: np.random.Generator) -> str:
    """Sample one wording of a caption."""
    nouns = [_noun(spec) for spec in caption.objects]
    body = nouns[0]
    if caption.relation is not None:
        body = f"{nouns[0]} {pick(rng, RELATION_WORDS[caption.relation])} {nouns[1]}"
    elif len(nouns) > 1:
        body = pick(rng, ("{} and {}", "{} with {}")).format(*nouns)
    return (pick(rng, PREFIXES) if caption.prefix is None else caption.prefix) + body


def instruction(edits: Sequence[Edit], rng: np.random.Generator, called: str | None = None) -> str:
    """Sample one wording of edits, in sequence.

    Args:
        edits: The requests.
        rng: The generator of random numbers.
        called: The word for the edited object, such as "it". None uses its name.
    """
    return pick(rng, (", then ", " and then ", ", and then ")).join(_instruct(edit, rng, called) for edit in edits)


def _instruct(edit: Edit, rng: np.random.Generator, called: str | None) -> str:
    template, where = pick(rng, INSTRUCTIONS[edit.op]), pick(rng, _where_words(edit))
    before = called or _definite(edit.before, rng)
    return _fill(template, edit, before, where, _definite(edit.anchor, rng))


def _definite(spec: ObjectSpec | None, rng: np.random.Generator) -> str:
    """`the circle` or `the red circle`: no scene that is edited has two objects of one shape."""
    if spec is None:
        return ""
    return f"the {spec.shape}" if rng.random() < 0.5 else f"the {_named(spec)}"


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


def _object_region(item: SceneObject, size: int) -> str:
    return write_region(Region(with_article(_named(item)), relative_box(item.box, size), item.colour))


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def generation_chain(scene: Scene) -> str:
    """Write the chain of a text-to-image sample: one sentence, each object followed by its box and colour."""
    regions = [_object_region(item, scene.size) for item in scene.objects]
    return f"A plain {scene.background} scene with {_listed(regions)}."


def edit_chain(source: Scene, target: Scene, steps: Sequence[Step]) -> str:
    """Write the chain of an edit: numbered steps, one a line, in the order of GoT's (section 3).

    One edit: source, object, area, change, result. Several: source, one step for each, result. Only areas have boxes,
    each with the colour that it will have. An area that becomes empty is called background and has its colour.
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
    """The objects of a scene, from left to right."""
    return listing(sorted(scene.objects, key=lambda item: (item.box[0] + item.box[2], item.box[1])))


def listing(objects: Sequence[SceneObject] | Sequence[ObjectSpec]) -> str:
    """List objects: `a red circle, a blue square and a green cross`."""
    return _listed([with_article(_named(item)) for item in objects])


def _areas(step: Step, scene: Scene) -> str:
    areas = []
    if step.before is not None and (step.after is None or step.after.box != step.before.box):
        emptied = relative_box(step.before.box, scene.size)
        areas.append(write_region(Region(f"{scene.background} background", emptied, scene.background)))
    if step.after is not None:
        areas.append(_object_region(step.after, scene.size))
    return _listed(areas)


def _subject(edit: Edit) -> str:
    if edit.before is not None:
        return f"the {_named(edit.before)}"
    return "" if edit.after is None else _noun(edit.after)


def _change(edit: Edit, form: int) -> str:
    before, anchor = (f"the {_named(spec)}" if spec else "" for spec in (edit.before, edit.anchor))
    return _fill(CHANGES[edit.op][form], edit, before, _where_words(edit)[0], anchor)
