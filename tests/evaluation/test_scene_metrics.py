import json
from math import hypot

import pytest
import torch

from got_core.chain.parser import parse
from got_core.data.scenes.dataset import EDIT_TAGS, GENERATION_TAGS, ScenesDataset
from got_core.data.scenes.render import COLOURS, SHAPES
from got_core.detection.base import CATEGORIES, UNKNOWN, Detection
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.metrics.boxes import colour_dominates, match_boxes
from got_core.evaluation.metrics.scenes import (
    ChainSatisfies,
    ChainValidity,
    EditScore,
    GenEvalAccuracy,
    LayoutAgreement,
    SceneScores,
    planned_object,
)

SEED = 5
HARD = {"shapes": tuple(SHAPES), "colours": tuple(COLOURS), "max_objects": 4}


def samples(length, tags, **settings):
    dataset = ScenesDataset(length=length, tasks=dict.fromkeys(tags, 1.0), balanced=True, seed=SEED, **settings)
    return [dataset[index] for index in range(length)]


def arguments(entries, images=None, chains=None):
    """What a metric is updated with; the ground truth where nothing else is given."""
    return (
        torch.stack([entry.target for entry in entries]) if images is None else images,
        [entry.chain for entry in entries] if chains is None else chains,
        [entry.meta for entry in entries],
        [entry.source for entry in entries],
    )


def score(metric, *given):
    metric.update(*given)
    return {name: float(value) for name, value in metric.compute().items()}


def with_region(phrase, box, colour):
    corners = "({},{}),({},{})".format(*box)
    return f"<|object_ref_start|>{phrase}<|object_ref_end|><|box_start|>{corners}<|box_end|> ({colour})"


@pytest.mark.parametrize(("length", "settings"), [(120, {}), (60, HARD)], ids=["default", "hard"])
def test_ground_truth_reaches_every_score(length, settings):
    scores = SceneScores()
    assert not scores.update_called
    scores.update(*arguments(samples(length, (*GENERATION_TAGS, *EDIT_TAGS), **settings)))
    figures = scores.compute()
    assert scores.update_called
    assert figures["geneval"] == dict.fromkeys((*CATEGORIES, "overall"), 1.0)
    for name in ("chain_parses", "chain_satisfies", "colour_in_box", "edit_success", "background_kept"):
        assert figures[name] == 1.0
    assert figures["mean_iou"] > 0.99
    assert figures["object_position_deviation"] < 0.001
    assert json.loads(json.dumps(figures)) == figures


def test_blank_images_fail_what_is_judged_by_the_image_alone():
    entries = samples(36, (*GENERATION_TAGS, "add"))
    scores = SceneScores()
    scores.update(*arguments(entries, images=torch.zeros(36, 3, 32, 32)))
    figures = scores.compute()
    assert figures["geneval"] == dict.fromkeys((*CATEGORIES, "overall"), 0.0)
    assert figures["mean_iou"] == figures["colour_in_box"] == figures["edit_success"] == 0
    assert figures["chain_parses"] == figures["chain_satisfies"] == 1
    assert "object_position_deviation" not in figures


def test_figures_without_a_sample_are_left_out():
    scores = SceneScores()
    scores.update(*arguments(samples(2, ("colors",))))
    figures = scores.compute()
    assert set(figures["geneval"]) == {"colors", "overall"}
    assert not {"edit_success", "background_kept"} & set(figures)
    scores.reset()
    assert not scores.update_called


def test_only_right_chains_are_valid_and_satisfy():
    entries = samples(4, ("colors",))
    missing = [entry.meta["include"][0] for entry in entries]
    other = next(shape for shape in SHAPES if shape != missing[1]["class"])
    chains = [
        entries[0].chain,
        "A plain gray scene with " + with_region(f"a {missing[1]['color']} {other}", (0, 0, 300, 300), "red"),
        "A plain gray scene.",
        entries[3].chain.replace("),(", "),(2", 1),
    ]
    assert parse(chains[3]).problems
    given = arguments(entries, chains=chains)
    assert score(ChainValidity(), *given) == {"chain_parses": 0.5}
    assert score(ChainSatisfies(), *given)["chain_satisfies"] == pytest.approx(0.5)


def test_a_plan_is_judged_by_its_boxes_too():
    entries = samples(24, ("position",))
    mirrored = []
    for entry in entries:
        text = entry.chain
        regions = parse(text).regions
        boxes = [with_region("", region.box, "").split("<|object_ref_end|>")[1][:-3] for region in regions]
        first, second = boxes
        mirrored.append(text.replace(first, "@").replace(second, first).replace("@", second))
    assert score(ChainSatisfies(), *arguments(entries))["chain_satisfies"] == 1
    assert score(ChainSatisfies(), *arguments(entries, chains=mirrored))["chain_satisfies"] == 0


@pytest.mark.parametrize(
    ("phrase", "colour", "label", "expected"),
    [
        ("a red circle", "red", "circle", "red"),
        ("the circles", "blue", "circle", "blue"),
        ("two crosses", None, "cross", None),
        ("a Red Circle", None, "circle", "red"),
        ("a red circle", "blue", "circle", None),
        ("gray background", "gray", UNKNOWN, "gray"),
    ],
)
def test_phrases_name_shapes_and_colours(phrase, colour, label, expected):
    region = parse(with_region("x", (1, 2, 3, 4), "red")).regions[0]
    region = type(region)(phrase, region.box, colour)
    assert planned_object(region) == Detection(label, expected, (1, 2, 3, 4), 1.0)


def test_boxes_are_matched_for_the_highest_sum_of_overlaps():
    planned = [(0, 0, 100, 100), (60, 0, 160, 100), (800, 800, 900, 900)]
    found = [(50, 0, 150, 100), (0, 0, 10, 100)]
    matched = match_boxes(planned, found, (32, 32))
    assert [(pair.planned, pair.detected) for pair in matched] == [(0, 1), (1, 0)]
    assert [pair.iou for pair in matched] == pytest.approx([0.1, 90 / 110])
    assert matched[1].deviation == pytest.approx(10 / hypot(1000, 1000))
    assert match_boxes([], found, (32, 32)) == []


def test_boxes_that_meet_nothing_are_matched_with_the_nearest_and_measured_in_the_images_proportions():
    (pair,) = match_boxes([(0, 0, 100, 100)], [(900, 0, 1000, 100), (300, 0, 400, 100)], (30, 40))
    assert (pair.detected, pair.iou) == (1, 0)
    assert pair.deviation == pytest.approx(0.3 * 40 / 50)


def test_unmatched_planned_boxes_count_nothing():
    (entry,) = samples(1, ("counting",))
    chain = entry.chain + " Also " + with_region("a red square", (0, 0, 1, 1), "red") + "."
    count = len(parse(entry.chain).regions)
    figures = score(LayoutAgreement(), *arguments([entry], chains=[chain]))
    assert figures["mean_iou"] == pytest.approx(count / (count + 1), abs=0.01)
    assert figures["colour_in_box"] == pytest.approx(count / (count + 1))


@pytest.mark.parametrize(("drawn", "dominant"), [(5, True), (4, True), (3, False)])
def test_a_colour_dominates_from_two_fifths_of_its_box(drawn, dominant):
    image = torch.zeros(1, 3, 40, 40)
    image[0, :, 10:20, 10 : 10 + drawn] = torch.tensor([1.0, -1, -1])[:, None, None]
    colours = SceneDetector().colour_maps(image)[0]
    planned = Detection("square", "red", (250, 250, 500, 500), 1.0)
    assert colour_dominates(colours, planned) == dominant
    assert not colour_dominates(colours, Detection("square", "blue", planned.box, 1.0))
    assert not colour_dominates(colours, Detection("square", "gray", planned.box, 1.0))


def test_a_colour_does_not_dominate_where_another_covers_more():
    image = torch.zeros(1, 3, 40, 40)
    image[0, :, 10:20, 10:14] = torch.tensor([1.0, -1, -1])[:, None, None]
    image[0, :, 10:20, 14:20] = torch.tensor([1.0, 1, 1])[:, None, None]
    colours = SceneDetector().colour_maps(image)[0]
    assert not colour_dominates(colours, Detection("circle", "red", (250, 250, 500, 500), 1.0))
    assert colour_dominates(colours, Detection("circle", "white", (250, 250, 500, 500), 1.0))


def test_geneval_is_the_mean_of_its_categories():
    entries = samples(8, ("colors", "single_object"))
    images = torch.stack([entry.target for entry in entries])
    images[0] = 0
    entries, images = entries[:5], images[:5]
    figures = score(GenEvalAccuracy(), *arguments(entries, images=images))
    tags = [entry.meta["tag"] for entry in entries]
    shares = {tag: 1 - (tag == tags[0]) / tags.count(tag) for tag in set(tags)}
    assert {name: figures[name] for name in shares} == pytest.approx(shares)
    assert figures["overall"] == pytest.approx(sum(shares.values()) / 2)


def test_states_of_two_ranks_add_up():
    entries = samples(6, ("colors",))
    images = torch.stack([entry.target for entry in entries])
    images[4:] = 0
    one, two, whole = GenEvalAccuracy(), GenEvalAccuracy(), GenEvalAccuracy()
    one.update(*arguments(entries[:1], images=images[:1]))
    two.update(*arguments(entries[1:], images=images[1:]))
    whole.update(*arguments(entries, images=images))
    for state, reduction in whole._reductions.items():
        reduced = reduction(torch.stack([getattr(one, state), getattr(two, state)]))
        assert torch.equal(reduced, getattr(whole, state))
    assert float(whole.compute()["overall"]) == pytest.approx(4 / 6)


def test_entries_must_be_as_many_as_images():
    images, chains, metas, sources = arguments(samples(2, ("add",)))
    with pytest.raises(ValueError, match="2 images, 1 chains"):
        SceneScores().update(images, chains[:1], metas, sources)
    with pytest.raises(ValueError, match="pass sources"):
        EditScore().update(images, chains, metas)
