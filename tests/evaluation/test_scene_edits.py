import pytest
import torch

from got_core.data.scenes.dataset import EDIT_TAGS, ScenesDataset
from got_core.data.scenes.render import Scene, SceneObject, relative_box, render
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.metrics.scenes import EditScore, background_kept, edit_succeeds, view_scenes

DETECTOR = SceneDetector()
CIRCLE, SQUARE = SceneObject("circle", "red", (2, 2, 12, 12)), SceneObject("square", "blue", (18, 18, 30, 30))
SOURCE = (CIRCLE, SQUARE)


def entry(item):
    return (
        None if item is None else {"shape": item.shape, "color": item.colour, "box": list(relative_box(item.box, 32))}
    )


def edit(op, before, after, position=None):
    return {"op": op, "object": entry(before), "result": entry(after), "position": position}


def view(drawn, *edits):
    image, source = render(Scene(drawn)), render(Scene(SOURCE))
    meta = {"kind": "edit", "edits": list(edits)}
    return view_scenes(DETECTOR, image[None], [""], [meta], source[None])[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_target_succeeds_and_the_source_does_not(split):
    dataset = ScenesDataset(length=120, tasks=dict.fromkeys(EDIT_TAGS, 1.0), balanced=True, seed=11, split=split)
    samples = [dataset[index] for index in range(len(dataset))]
    metas, chains = [sample.meta for sample in samples], [sample.chain for sample in samples]
    sources = torch.stack([sample.source for sample in samples])
    for images, success in ((torch.stack([sample.target for sample in samples]), 1.0), (sources, 0.0)):
        metric = EditScore(DETECTOR)
        metric.update(images, chains, metas, sources)
        assert {name: float(value) for name, value in metric.compute().items()} == {
            "edit_success": success,
            "background_kept": 1.0,
        }


ADDED = SceneObject("triangle", "green", (18, 2, 28, 12))
ELSEWHERE = SceneObject("triangle", "green", (2, 18, 12, 28))
RIGHT_OF_CIRCLE = ["right of", list(relative_box(CIRCLE.box, 32))]


@pytest.mark.parametrize(
    ("drawn", "position", "succeeds"),
    [
        ((*SOURCE, ADDED), None, True),
        ((*SOURCE, ELSEWHERE), None, True),
        ((*SOURCE, ADDED), RIGHT_OF_CIRCLE, True),
        ((*SOURCE, ELSEWHERE), RIGHT_OF_CIRCLE, False),
        ((*SOURCE, SceneObject("triangle", "yellow", ADDED.box)), None, False),
        ((*SOURCE, SceneObject("circle", "green", ADDED.box)), None, False),
    ],
)
def test_what_is_added_must_be_there_and_stand_as_asked(drawn, position, succeeds):
    assert edit_succeeds(view(drawn, edit("add", None, ADDED, position))) == succeeds


def test_what_is_removed_must_leave_nothing_in_its_place():
    remove = edit("remove", CIRCLE, None)
    assert edit_succeeds(view((SQUARE,), remove))
    assert not edit_succeeds(view(SOURCE, remove))
    assert not edit_succeeds(view((SceneObject("star", "yellow", CIRCLE.box), SQUARE), remove))


@pytest.mark.parametrize(
    ("op", "result"),
    [
        ("recolour", SceneObject("circle", "green", CIRCLE.box)),
        ("replace", SceneObject("triangle", "white", CIRCLE.box)),
    ],
)
def test_what_is_changed_must_stay_in_its_place(op, result):
    asked = edit(op, CIRCLE, result)
    away = SceneObject(result.shape, result.colour, (18, 2, 28, 12))
    assert edit_succeeds(view((result, SQUARE), asked))
    assert not edit_succeeds(view((away, SQUARE), asked))
    assert not edit_succeeds(view((CIRCLE, away, SQUARE), asked))


def test_what_is_moved_must_stand_as_asked_and_leave_its_old_place():
    moved = SceneObject("circle", "red", (18, 2, 28, 12))
    move = edit("move", CIRCLE, moved, RIGHT_OF_CIRCLE)
    assert edit_succeeds(view((moved, SQUARE), move))
    assert edit_succeeds(view((SceneObject("circle", "red", (20, 4, 30, 14)), SQUARE), move))
    assert not edit_succeeds(view((SceneObject("circle", "red", (2, 18, 12, 28)), SQUARE), move))
    assert not edit_succeeds(view((moved, CIRCLE, SQUARE), move))


def test_all_of_several_edits_must_succeed():
    green = SceneObject("circle", "green", CIRCLE.box)
    both = edit("recolour", CIRCLE, green), edit("remove", SQUARE, None)
    assert edit_succeeds(view((green,), *both))
    assert not edit_succeeds(view((green, SQUARE), *both))
    assert not edit_succeeds(view((CIRCLE,), *both))


def test_the_background_is_what_lies_outside_the_changed_boxes():
    remove = edit("remove", CIRCLE, None)
    outside = 32 * 32 - 12 * 12  # the circle's box of 10 pixels, and a margin of one around it
    assert background_kept(view((SQUARE,), remove)) == 1
    assert background_kept(view((), remove)) == pytest.approx(1 - 144 / outside)


def test_an_object_added_elsewhere_than_in_the_truth_is_no_damage():
    add = edit("add", None, ADDED)
    assert background_kept(view((*SOURCE, ELSEWHERE), add)) == 1
    assert background_kept(view((*SOURCE, ADDED, SceneObject("star", "white", ELSEWHERE.box)), add)) < 0.99


def test_small_differences_of_the_background_are_kept():
    seen = view(SOURCE, edit("remove", CIRCLE, None))
    near, far = (
        view_scenes(DETECTOR, seen.image[None] + shift, [""], [seen.meta], seen.source[None])[0]
        for shift in (0.19, 0.21)
    )
    assert background_kept(near) == 1
    assert background_kept(far) == 0
