import json
import os
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from got_core.chain.parser import parse
from got_core.data.scenes.compose import Layout
from got_core.data.scenes.dataset import DEFAULT_TASKS, ScenesDataset, corpus
from got_core.data.scenes.render import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
    relative_box,
    render,
    shape_mask,
    unit_colour,
)
from got_core.data.scenes.requests import (
    EDIT_TAGS,
    GENERATION_TAGS,
    SINGLE_EDIT_TAGS,
    Vocabulary,
    split_captions,
    split_edits,
)
from got_core.planning.boxes import RELATIONS

TAGS = (*GENERATION_TAGS, *EDIT_TAGS)
COUNT = 12 * len(TAGS)
HARD = {
    "shapes": tuple(SHAPES),
    "colours": tuple(COLOURS),
    "backgrounds": tuple(BACKGROUNDS),
    "max_objects": 4,
    "size": 64,
    "object_size": (0.15, 0.3),
    "gap": 0.05,
}


@pytest.fixture(scope="module")
def sketches():
    train, test = (ScenesDataset(split=split, balanced=True, length=COUNT) for split in ("train", "test"))
    return {"train": [train.sketch(i) for i in range(COUNT)], "test": [test.sketch(i) for i in range(COUNT)]}


@pytest.fixture(scope="module")
def everything(sketches):
    return sketches["train"] + sketches["test"]


def image_of(entry: SceneObject, size: int = 40) -> torch.Tensor:
    return render(Scene((entry,), "gray", size))


# Rendering


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [9, 12, 15])
def test_every_shape_reaches_all_four_sides_of_its_box_and_is_symmetric(shape, side):
    mask = shape_mask(shape, side, side)
    assert mask.min() >= 0
    assert mask.max() == 1
    assert min(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) > 0
    np.testing.assert_allclose(mask, mask[:, ::-1], atol=0.02)


@pytest.mark.parametrize(
    ("shape", "area"),
    [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5), ("diamond", 0.5), ("cross", 5 / 9)],
)
def test_a_shape_covers_its_area(shape, area):
    assert shape_mask(shape, 90, 90).mean() == pytest.approx(area, abs=0.005)


def test_the_star_has_the_area_of_a_pentagram():
    outer, inner = 1.0, np.cos(2 * np.pi / 5) / np.cos(np.pi / 5)
    star = 5 * outer * inner * np.sin(np.pi / 5)
    box = 2 * np.sin(2 * np.pi / 5) * (1 + np.cos(np.pi / 5))
    assert shape_mask("star", 90, 90).mean() == pytest.approx(star / box, abs=0.005)


def test_shapes_look_different():
    for a, b in combinations(SHAPES, 2):
        assert np.abs(shape_mask(a, 12, 12) - shape_mask(b, 12, 12)).mean() > 0.1, (a, b)


def test_triangle_stands_on_its_base():
    mask = shape_mask("triangle", 12, 12)
    assert np.all(np.diff(mask.sum(axis=1)) > 0)


def test_colours_are_far_from_each_other_and_from_backgrounds():
    for (name, rgb), (other, far) in combinations(COLOURS.items(), 2):
        assert np.linalg.norm(np.subtract(rgb, far)) >= 110, (name, other)
    for colour in COLOURS.values():
        assert min(np.linalg.norm(np.subtract(colour, rgb)) for rgb in BACKGROUNDS.values()) >= 110


def test_render_fills_the_box_and_leaves_the_rest():
    image = image_of(SceneObject("square", "orange", (5, 8, 17, 20)))
    expected = torch.from_numpy(unit_colour(BACKGROUNDS["gray"]))[:, None, None].repeat(1, 40, 40)
    expected[:, 8:20, 5:17] = torch.from_numpy(unit_colour(COLOURS["orange"]))[:, None, None]
    assert image.shape == (3, 40, 40)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)


def test_edges_are_blends_of_object_and_background():
    image = image_of(SceneObject("circle", "white", (5, 5, 17, 17)))
    gray, levels = (128 / 127.5) - 1, image.unique()
    assert levels.min() >= gray - 1e-6
    assert levels.max() <= 1 + 1e-6
    assert len(levels) > 5


def test_unknown_shape_names_the_known_ones():
    with pytest.raises(ValueError, match=r"hexagon.*circle"):
        shape_mask("hexagon", 9, 9)


def test_relative_boxes_stay_below_1000():
    assert relative_box((3, 6, 15, 18), 32) == (94, 188, 469, 562)
    assert relative_box((17, 17, 32, 32), 32) == (531, 531, 999, 999)


# Layout


def geneval_relations(box, anchor):
    """GenEval's rule, written out as in its evaluation: the set of relations that hold."""
    box, anchor = np.array(box, dtype=float), np.array(anchor, dtype=float)
    size = (box[2:] - box[:2]) + (anchor[2:] - anchor[:2])
    offset = (box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2
    revised = np.maximum(np.abs(offset) - 0.1 * size, 0) * np.sign(offset)
    if not revised.any():
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, true in holds.items() if true}


def apart(a, b, gap):
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= gap


def test_boxes_keep_their_gap_size_and_relation():
    layout, rng = Layout(), np.random.default_rng(0)
    for count in (1, 2, 3):
        for relation in [None, *RELATIONS] if count > 1 else [None]:
            for _ in range(15):
                boxes = layout.boxes(rng, count, relation)
                assert all(9 <= x2 - x1 == y2 - y1 <= 15 for x1, y1, x2, y2 in boxes)
                assert all(min(box) >= 0 and max(box) <= 32 for box in boxes)
                assert all(apart(a, b, 3) for a, b in combinations(boxes, 2))
                assert relation is None or relation in geneval_relations(*boxes[:2])


def test_free_corners_are_those_that_a_search_finds():
    layout, taken, anchor = (
        Layout(size=20, smallest=4, largest=6, gap=2),
        [(3, 4, 8, 9), (14, 0, 19, 5)],
        (9, 9, 14, 14),
    )
    allowed = layout.free(5, taken, [("above", anchor)])
    for y in range(16):
        for x in range(16):
            box = (x, y, x + 5, y + 5)
            off = anchor[0] + 2.5 - (x + 2.5), anchor[1] + 2.5 - (y + 2.5)
            clear = off[1] - 1 > 0 and (off[1] - 1) / np.hypot(*off) >= 0.65
            assert allowed[y, x] == (clear and all(apart(box, other, 2) for other in taken)), box


def test_an_impossible_layout_is_refused():
    with pytest.raises(ValueError, match=r"9 objects of 9 to 15 px .* 32 px"):
        Layout().boxes(np.random.default_rng(0), 9)


# Held-out requests


@pytest.mark.parametrize("tag", [*GENERATION_TAGS, *SINGLE_EDIT_TAGS])
@pytest.mark.parametrize("vocabulary", [Vocabulary(("circle", "square", "star"), ("red", "blue", "black", "pink"), 3)])
def test_requests_are_in_train_or_test_and_every_word_is_in_train(tag, vocabulary):
    requests = split_captions(vocabulary, tag) if tag in GENERATION_TAGS else split_edits(vocabulary, tag)
    for train, test in zip(requests.train, requests.test, strict=True):
        assert test
        assert not set(train) & set(test)
        assert set(re.findall(r"'\w+'|count=\d", repr(test))) <= set(re.findall(r"'\w+'|count=\d", repr(train)))
    sizes = sum(map(len, requests.train)), sum(map(len, requests.test))
    assert 0.1 < sizes[1] / sum(sizes) < 0.35


def test_every_version_holds_out_the_same_requests():
    """Trained models and published scores rest on this split."""
    vocabulary = ScenesDataset(length=1).vocabulary
    single, counted = (split_captions(vocabulary, tag).test for tag in ("single_object", "counting"))
    assert [(r.objects[0].shape, r.prefix) for r in single[0]] == [("circle", "a picture of "), ("triangle", "")]
    assert [[(r.objects[0].shape, r.objects[0].colour, r.objects[0].count) for r in group] for group in counted] == [
        [("circle", None, 2), ("triangle", None, 3)],
        [
            ("circle", "blue", 2),
            ("circle", "purple", 3),
            ("square", "yellow", 2),
            ("triangle", "red", 2),
            ("triangle", "green", 3),
        ],
    ]
    (removed,) = split_edits(vocabulary, "remove").test
    assert [(r.before.shape, r.before.colour) for r in removed] == [
        ("circle", "green"),
        ("square", "purple"),
        ("triangle", "red"),
    ]


def stripped(text):
    """A prompt without the wordings that do not tell requests apart."""
    text = re.sub(r"^(a picture of |a photo of |an image of |draw )", "", text)
    text = re.sub(r"\b(?:to the|on the)? ?(left|right) of\b", r"\1", text)
    return re.sub(r" +", " ", text.replace(" with ", " and ").replace("over", "above").replace("under", "below"))


def test_contents_of_test_prompts_are_not_in_training(sketches):
    prompts = {
        split: {stripped(s.prompt) for s in samples if s.meta["kind"] == "t2i" and s.meta["tag"] != "single_object"}
        for split, samples in sketches.items()
    }
    assert len(prompts["test"]) > 20
    assert not prompts["train"] & prompts["test"]
    single = {
        split: {s.prompt for s in samples if s.meta["tag"] == "single_object"} for split, samples in sketches.items()
    }
    assert single["test"]
    assert not single["train"] & single["test"]


def edit_contents(sample):
    """The content of each edit of a sample, without positions in the image."""
    contents = []
    for edit in sample.meta["edits"]:
        names = tuple(part and (part["color"], part["shape"]) for part in (edit["object"], edit["result"]))
        position = None
        if edit["position"] is not None:
            relation, box = edit["position"]
            known = {tuple(o["box"]): (o["color"], o["shape"]) for o in sample.meta["source_objects"]}
            position = relation, known[tuple(box)]
        contents.append((edit["op"], names, position))
    return contents


def test_test_edits_are_not_made_in_training_not_even_within_a_sequence(sketches):
    edits = {
        split: [edit_contents(sample) for sample in samples if sample.meta["kind"] == "edit"]
        for split, samples in sketches.items()
    }
    trained = {content for contents in edits["train"] for content in contents}
    assert all(any(content not in trained for content in contents) for contents in edits["test"])


def test_validation_has_the_requests_of_training_in_scenes_of_its_own(sketches):
    validation = [ScenesDataset(length=300, split="validation").sketch(i) for i in range(300)]
    plain = {stripped(s.prompt) for s in validation if s.meta["kind"] == "t2i" and s.meta["tag"] != "single_object"}
    assert len(plain) > 20
    assert not plain & {stripped(s.prompt) for s in sketches["test"]}
    assert not {s.chain for s in validation if "color_attr" in s.meta["tag"]} & {s.chain for s in sketches["train"]}


def test_all_words_of_the_test_split_occur_in_training(sketches):
    def words(samples):
        return {word for s in samples for word in re.findall(r"[a-z]+", f"{s.prompt} {s.chain}".lower())}

    train = ScenesDataset(balanced=True, length=6 * COUNT)
    trained = words(train.sketch(i) for i in range(len(train)))
    assert len(trained) > 50
    assert words(sketches["test"]) <= trained


# Samples


def test_samples_are_functions_of_seed_split_and_index():
    dataset, again = ScenesDataset(length=50), ScenesDataset(length=50)
    assert [again.sketch(i) for i in reversed(range(50))] == [dataset.sketch(i) for i in range(50)][::-1]
    torch.testing.assert_close(dataset[7].target, again[7].target, rtol=0, atol=0)
    assert [s.prompt for s in dataset] != [s.prompt for s in ScenesDataset(length=50, seed=1)]


def test_samples_are_the_same_in_another_process():
    code = (
        "import json; from got_core.data.scenes.dataset import ScenesDataset as D;"
        "print(json.dumps([[s.prompt, s.chain] for s in map(D(length=30, split='test').sketch, range(30))]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, check=True
    )
    dataset = ScenesDataset(length=30, split="test")
    assert json.loads(other.stdout) == [[s.prompt, s.chain] for s in map(dataset.sketch, range(30))]


def test_an_index_outside_is_refused():
    with pytest.raises(IndexError, match="dataset of 5"):
        ScenesDataset(length=5)[5]


def test_samples_have_the_size_and_range_of_images():
    dataset = ScenesDataset(length=24, balanced=True)
    for sample in dataset:
        assert sample.size == (32, 32)
        assert sample.target.shape == (3, 32, 32)
        assert sample.target.abs().max() <= 1
        assert (sample.source is not None) == (sample.meta["kind"] == "edit")
        assert json.loads(json.dumps(sample.meta)) == sample.meta


def test_balanced_goes_round_the_tasks_and_weights_are_followed():
    balanced = ScenesDataset(balanced=True, length=24, tasks=dict.fromkeys(GENERATION_TAGS, 1.0))
    assert [balanced.sketch(i).meta["tag"] for i in range(24)] == list(GENERATION_TAGS) * 4
    weighted = ScenesDataset(length=400, tasks={"colors": 3.0, "counting": 1.0, "move": 0.0})
    tags = [weighted.sketch(i).meta["tag"] for i in range(400)]
    assert set(tags) == {"colors", "counting"}
    assert tags.count("colors") == pytest.approx(300, abs=40)


def test_objects_differ_in_colour_where_they_differ_in_shape(everything):
    for sample in everything:
        objects = sample.meta["objects"]
        assert 1 <= len(objects) <= 3
        for a, b in combinations(objects, 2):
            assert (a["shape"] == b["shape"]) == (a["color"] == b["color"]) == (sample.meta["tag"] == "counting")


def test_generation_samples_satisfy_their_clauses(everything):
    for sample in (s for s in everything if s.meta["kind"] == "t2i"):
        objects, include = sample.meta["objects"], sample.meta["include"]
        assert len(objects) == sum(clause["count"] for clause in include)
        for clause in include:
            matching = [o for o in objects if o["shape"] == clause["class"]]
            assert len(matching) == clause["count"]
            assert clause.get("color", matching[0]["color"]) == matching[0]["color"]
            assert clause["class"] in sample.prompt
            assert clause.get("color", "") in sample.prompt
            if "position" in clause:
                relation, anchor = clause["position"]
                (other,) = (o for o in objects if o["shape"] == include[anchor]["class"])
                assert relation in geneval_relations(matching[0]["box"], other["box"])
        for clause in sample.meta["exclude"]:
            assert sum(o["shape"] == clause["class"] for o in objects) == clause["count"] - 1


def test_prompts_and_chains_are_worded_as_documented():
    tasks = dict.fromkeys(("single_object", "counting", "position", "recolour"), 1.0)
    dataset = ScenesDataset(balanced=True, length=240, tasks=tasks)
    prompts = {dataset.sketch(i).prompt for i in range(240)}
    assert {"a circle", "a photo of a circle", "three circles", "two triangles"} <= prompts
    assert any(re.search(r"\ba \w+ to the left of a \w+$", text) for text in prompts)
    assert any(re.search(r"\ba \w+ \w+ below a \w+ \w+", text) for text in prompts)
    assert any(re.fullmatch(r"change the \w+ to \w+", text) for text in prompts)
    orange = ScenesDataset(length=60, tasks={"colors": 1.0}, colours=("orange", "red", "black", "cyan"))
    texts = [orange.sketch(i).prompt + orange.sketch(i).chain for i in range(60)]
    assert any("an orange" in text for text in texts)
    assert not any("a orange" in text for text in texts)


# Chains


def test_generation_chains_name_every_object_with_its_box_and_colour(everything):
    for sample in (s for s in everything if s.meta["kind"] == "t2i"):
        chain = parse(sample.chain)
        assert not chain.problems
        assert [list(region.box) for region in chain.regions] == [o["box"] for o in sample.meta["objects"]]
        for region, entry in zip(chain.regions, sample.meta["objects"], strict=True):
            assert region.phrase == f"a {entry['color']} {entry['shape']}"
            assert region.colour == entry["color"]


def test_edit_chains_have_numbered_steps_and_the_areas_of_each_edit(everything):
    for sample in (s for s in everything if s.meta["kind"] == "edit"):
        lines, chain = sample.chain.split("\n"), parse(sample.chain)
        edits = sample.meta["edits"]
        assert [line.split(".")[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]
        assert len(lines) == (5 if len(edits) == 1 else 2 + len(edits))
        assert not chain.problems
        areas = []
        for edit in edits:
            before, after = edit["object"], edit["result"]
            if before and (after is None or after["box"] != before["box"]):
                areas.append(("gray background", before["box"], "gray"))
            if after:
                areas.append((f"a {after['color']} {after['shape']}", after["box"], after["color"]))
        assert [(r.phrase, list(r.box), r.colour) for r in chain.regions] == areas


def test_edit_chains_list_what_source_and_result_show(everything):
    for sample in (s for s in everything if s.meta["kind"] == "edit"):
        lines = sample.chain.split("\n")
        for line, objects in ((lines[0], sample.meta["source_objects"]), (lines[-1], sample.meta["objects"])):
            ordered = sorted(objects, key=lambda o: (round((o["box"][0] + o["box"][2]) * 0.032), o["box"][1]))
            assert re.findall(r"an? (\w+ \w+)", line) == [f"{o['color']} {o['shape']}" for o in ordered]


# Edits


@pytest.mark.parametrize("settings", [{}, {**HARD, "colours": tuple(COLOURS)[5:]}], ids=["default", "hard"])
def test_pixels_outside_edited_boxes_are_unchanged_and_inside_they_change(settings):
    tasks = dict.fromkeys(EDIT_TAGS, 1.0)
    dataset = ScenesDataset(length=30, balanced=True, tasks=tasks, **settings)
    for index, sample in enumerate(dataset):
        sketch = dataset.sketch(index)
        outside = torch.ones(sample.size, dtype=torch.bool)
        before, after = set(sketch.source.objects), set(sketch.target.objects)
        for x1, y1, x2, y2 in {entry.box for entry in before ^ after}:
            outside[y1:y2, x1:x2] = False
            assert not torch.equal(sample.source[:, y1:y2, x1:x2], sample.target[:, y1:y2, x1:x2])
        assert torch.equal(sample.source[:, outside], sample.target[:, outside])


def test_edits_turn_the_source_objects_into_the_target_objects(everything):
    for sample in (s for s in everything if s.meta["kind"] == "edit"):
        objects = list(sample.meta["source_objects"])
        for edit in sample.meta["edits"]:
            if edit["object"]:
                objects.remove(edit["object"])
            if edit["result"]:
                objects.append(edit["result"])
            assert 1 <= len(objects) <= 3
        ordered = [sorted(map(str, side)) for side in (objects, sample.meta["objects"])]
        assert ordered[0] == ordered[1]
        assert {c["class"] for c in sample.meta["include"]} == {o["shape"] for o in sample.meta["objects"]}
        assert not {c["class"] for c in sample.meta["exclude"]} & {o["shape"] for o in sample.meta["objects"]}


def test_each_operation_does_what_its_name_says(everything):
    same = {"recolour": ("shape", "box"), "replace": ("box",), "move": ("shape", "color")}
    seen = set()
    for edit in (edit for s in everything if s.meta["kind"] == "edit" for edit in s.meta["edits"]):
        op, before, after = edit["op"], edit["object"], edit["result"]
        seen.add(op)
        assert (before is None) == (op == "add")
        assert (after is None) == (op == "remove")
        if op in same:
            assert {key for key in before if before[key] == after[key]} == set(same[op])
        if edit["position"] is not None:
            relation, anchor = edit["position"]
            assert relation in geneval_relations(after["box"], anchor)
            assert before is None or relation not in geneval_relations(before["box"], anchor)
    assert seen == set(SINGLE_EDIT_TAGS)


def test_sequences_have_two_or_three_edits_of_different_objects(everything):
    lengths = set()
    for sample in (s for s in everything if s.meta["tag"] == "multi_turn"):
        parts = [{p["shape"] for p in (e["object"], e["result"]) if p} for e in sample.meta["edits"]]
        lengths.add(len(parts))
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert sample.prompt.count(" then ") == len(parts) - 1
    assert lengths == {2, 3}


# Settings


def test_hard_settings_use_all_that_they_are_given():
    tasks = {"counting": 1.0, "color_attr": 1.0, "recolour": 1.0}
    dataset = ScenesDataset(length=120, balanced=True, tasks=tasks, **HARD)
    scenes = [dataset.sketch(i).target for i in range(120)]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {entry.shape for scene in scenes for entry in scene.objects} == set(SHAPES)
    assert {entry.colour for scene in scenes for entry in scene.objects} == set(COLOURS)
    assert max(len(scene.objects) for scene in scenes) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes": ("circle", "blob")}, r"shape \['blob'\].*triangle"),
        ({"colours": ("red", "mauve", "blue", "green")}, r"colour \['mauve'\].*purple"),
        ({"backgrounds": ("sand",)}, r"background \['sand'\].*gray"),
        ({"tasks": {"colours": 1.0}}, r"task \['colours'\].*colors"),
        ({"split": "val"}, r"split \['val'\].*train, test, validation"),
        ({"colours": ("red", "blue")}, r"max_objects=3, 3 shapes and 2 colours"),
        ({"max_objects": 2, "tasks": {"counting": 1.0}}, r"'counting' has too few combinations .*max_objects=2"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScenesDataset(**settings)


def test_corpus_is_the_text_of_the_train_split():
    dataset = ScenesDataset(length=20, seed=3)
    texts = [text for i in range(20) for text in (dataset.sketch(i).prompt, dataset.sketch(i).chain)]
    assert list(corpus(20, seed=3)) == texts


def test_default_tasks_are_the_categories():
    assert tuple(DEFAULT_TASKS) == TAGS
