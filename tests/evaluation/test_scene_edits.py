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
    meta = {"kind": "edit", "edits": list(edits), "source_objects": [entry(item) for item in SOURCE]}
    return view_scenes(DETECTOR, image[None], [""], [meta], source[None])[0]


@pytest.mark.parametrize(("split", "length"), [("train", 60), ("test", 192)])
def test_true_targets_all_succeed_and_trivial_images_never(split, length):
    dataset = ScenesDataset(length=length, tasks=dict.fromkeys(EDIT_TAGS, 1.0), balanced=True, seed=11, split=split)
    samples = [dataset[index] for index in range(length)]
    assert {sample.meta["tag"] for sample in samples} == set(EDIT_TAGS)
    metas, chains = [sample.meta for sample in samples], [sample.chain for sample in samples]
    sources = torch.stack([sample.source for sample in samples])
    noise = torch.rand(sources.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = {
        "target": (torch.stack([sample.target for sample in samples]), 1.0, pytest.approx(1.0, abs=0)),
        "source": (sources, 0.0, pytest.approx(1.0, abs=0)),
        "blank": (torch.full_like(sources, 128 / 127.5 - 1), 0.0, pytest.approx(0.87, abs=0.02)),
        "noise": (noise, 0.0, pytest.approx(0, abs=0.02)),
    }
    for name, (images, success, kept) in given.items():
        metric = EditScore(DETECTOR)
        metric.update(images, chains, metas, sources)
        scores = {score: float(value) for score, value in metric.compute().items()}
        assert scores == {"edit_success": success, "background_kept": kept}, name


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
def test_what_is_added_must_be_there_and_stand_as_requested(drawn, position, succeeds):
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
    change = edit(op, CIRCLE, result)
    away = SceneObject(result.shape, result.colour, (18, 2, 28, 12))
    assert edit_succeeds(view((result, SQUARE), change))
    assert not edit_succeeds(view((away, SQUARE), change))
    assert not edit_succeeds(view((CIRCLE, away, SQUARE), change))


def test_what_is_moved_must_stand_as_requested_and_leave_its_old_place():
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


def test_of_a_moved_object_the_old_and_the_new_box_are_no_background():
    moved, true = SceneObject("circle", "red", (18, 4, 28, 14)), SceneObject("circle", "red", (20, 2, 30, 12))
    move = edit("move", CIRCLE, true, RIGHT_OF_CIRCLE)
    assert background_kept(view((moved, SQUARE), move)) == 1
    outside = 32 * 32 - 2 * 12 * 12  # two boxes of 10 pixels with a margin of one
    smear = SceneObject("square", "white", (28, 1, 31, 3))  # only where the true target has the object
    assert background_kept(view((moved, SQUARE, smear), move)) == pytest.approx(1 - 6 / outside)
    assert background_kept(view(SOURCE, move)) == 1
    assert background_kept(view((), move)) == pytest.approx(1 - 144 / outside)


REMOVE = edit("remove", CIRCLE, None)


@pytest.mark.parametrize(
    "square",
    [
        SceneObject("square", "green", SQUARE.box),
        SceneObject("triangle", "blue", SQUARE.box),
        SceneObject("square", "blue", (18, 12, 30, 24)),  # IoU 1/3
        SceneObject("square", "blue", (2, 18, 14, 30)),
        None,
    ],
    ids=["colour", "class", "shifted", "elsewhere", "gone"],
)
def test_every_other_object_must_be_as_it_was(square):
    assert edit_succeeds(view((SQUARE,), REMOVE))
    assert not edit_succeeds(view(() if square is None else (square,), REMOVE))


def test_a_small_shift_of_another_object_is_no_change_as_long_as_the_background_is_kept():
    shifted = view((SceneObject("square", "blue", (19, 18, 31, 30)),), REMOVE)
    assert background_kept(shifted) > 0.95
    assert edit_succeeds(shifted)
    far = view((SceneObject("square", "blue", (20, 20, 32, 32)),), REMOVE)  # IoU .53
    assert background_kept(far) < 0.95
    assert not edit_succeeds(far)


def test_there_must_be_no_new_object():
    star = SceneObject("star", "white", (3, 20, 10, 27))
    assert background_kept(view((SQUARE, star), REMOVE)) > 0.95
    assert not edit_succeeds(view((SQUARE, star), REMOVE))
    second = SceneObject("triangle", "green", (3, 20, 10, 27))
    add = edit("add", None, ADDED)
    assert edit_succeeds(view((*SOURCE, ADDED), add))
    assert not edit_succeeds(view((*SOURCE, ADDED, second), add))


def test_the_background_must_be_kept():
    seen = view((SQUARE,), REMOVE)
    for shade, succeeds in ((0.19, True), (0.21, False)):
        image = seen.image.clone()
        image[:, 13:18] += shade
        (shaded,) = view_scenes(DETECTOR, image[None], [""], [seen.meta], seen.source[None])
        assert edit_succeeds(shaded) == succeeds


def test_small_differences_of_the_background_are_kept():
    seen = view(SOURCE, edit("remove", CIRCLE, None))
    near, far = (
        view_scenes(DETECTOR, seen.image[None] + shift, [""], [seen.meta], seen.source[None])[0]
        for shift in (0.19, 0.21)
    )
    assert background_kept(near) == 1
    assert background_kept(far) == 0
