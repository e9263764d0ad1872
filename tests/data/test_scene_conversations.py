"""Turns of a conversation and images that stay unchanged, as samples of rendered scenes."""

import re

import numpy as np
import pytest
import torch

from got_core.chain.parser import parse
from got_core.data.scenes.dataset import DEFAULT_TASKS, FOLLOWED_UP, FURTHER_TAGS, ScenesDataset, requests_before
from got_core.data.scenes.render import Scene, SceneObject
from got_core.data.scenes.requests import ObjectSpec
from got_core.evaluation.metrics.scenes import SceneScores

NUMBER = 200


@pytest.fixture(scope="module")
def turns():
    dataset = ScenesDataset(length=NUMBER, tasks={"follow_up": 1.0})
    return [dataset[index] for index in range(NUMBER)]


def says_it(sample):
    return re.search(r"\bit\b", sample.prompt) is not None


def test_a_turn_edits_the_object_of_the_previous_turn(turns):
    """The edited object is named, as it now is, by the request or by the one before."""
    for sample in turns:
        (edit,) = sample.meta["edits"]
        assert edit["op"] in FOLLOWED_UP
        assert 1 <= len(sample.earlier) <= 3
        last, before = sample.earlier[-1], edit["object"]
        assert before["shape"] in (last if says_it(sample) else sample.prompt)
        assert f"2. Object: the {before['color']} {before['shape']}." in sample.chain
    assert 0.6 < sum(map(says_it, turns)) / NUMBER < 0.9
    assert {len(sample.earlier) for sample in turns} == {1, 2, 3}
    assert {sample.meta["edits"][0]["op"] for sample in turns} == set(FOLLOWED_UP)


def test_an_added_object_was_not_there_before(turns):
    for sample in turns:
        *before, last = sample.earlier
        if before and last.startswith(("add", "put", "insert")):
            added = sample.meta["edits"][0]["object"]
            assert f"{added['color']} {added['shape']}" not in before[0]


def history(seed, about=None):
    """Earlier requests that led to an image of two objects."""
    scene = Scene((SceneObject("circle", "red", (2, 2, 12, 12)), SceneObject("square", "blue", (18, 18, 30, 30))))
    vocabulary = ScenesDataset(length=1, tasks={"next_turn": 1.0}).vocabulary
    return requests_before(scene, vocabulary, np.random.default_rng(seed), about)


def test_earlier_requests_lead_to_the_image():
    """A caption alone lists the objects; edits name their results; removed objects are not in the image."""
    histories = [history(seed) for seed in range(300)]
    captions = [requests[0] for requests in histories if len(requests) == 1 and re.match("(an?|draw) ", requests[0])]
    assert {tuple(sorted(re.findall(r"red circle|blue square", caption))) for caption in captions} == {
        ("blue square", "red circle")
    }
    assert {len(requests) for requests in histories} == {1, 2, 3}
    removals = [requests for requests in histories if re.match("(remove|delete|erase|take away) ", requests[-1])]
    assert removals
    for requests in removals:
        assert not re.search("circle|square|red|blue", requests[-1])


def test_requested_relations_hold_in_the_image():
    """The circle is above and left of the square, so no request put it elsewhere."""
    requests = [request for seed in range(600) for request in history(seed, ObjectSpec("circle", "red"))[-1:]]
    placed = [request for request in requests if request.endswith("square")]
    assert placed
    assert not any(re.search("right of|below|under|beneath", request) for request in placed)


def test_the_last_request_is_about_the_given_object():
    requests = [history(seed, ObjectSpec("circle", "red"))[-1] for seed in range(100)]
    assert all("circle" in request for request in requests)
    with pytest.raises(ValueError, match="is not in the image"):
        history(0, ObjectSpec("circle", "green"))


def test_a_request_to_change_nothing_describes_the_image():
    dataset = ScenesDataset(length=50, tasks={"keep": 1.0})
    for index in range(50):
        sample = dataset[index]
        assert torch.equal(sample.source, sample.target)
        described = [(region.box, region.colour) for region in parse(sample.chain).regions]
        assert described == [(tuple(entry["box"]), entry["color"]) for entry in sample.meta["objects"]]
        assert sample.earlier == ()


def test_ground_truth_has_perfect_scores():
    tasks = {tag: 1.0 for tag in FURTHER_TAGS if tag != "several"}
    dataset = ScenesDataset(length=40, tasks=tasks, balanced=True, split="test")
    samples, scores = [dataset[index] for index in range(40)], SceneScores()
    images, sources = (torch.stack([getattr(s, name) for s in samples]) for name in ("target", "source"))
    scores.update(images, [s.chain for s in samples], [s.meta for s in samples], sources)
    results = scores.compute()
    assert results["edit_success"] == results["background_kept"] == results["chain_parses"] == 1.0


def test_further_tasks_leave_other_samples_as_they_were():
    """A task of weight 0 changes nothing."""
    plain, other = ScenesDataset(length=30), ScenesDataset(length=30, tasks={**DEFAULT_TASKS, "keep": 0.0})
    assert [plain.sketch(i).prompt for i in range(30)] == [other.sketch(i).prompt for i in range(30)]


def test_captions_of_several_objects_are_of_no_other_category():
    """Three objects, or two that share a shape or a colour: no request that is held out."""
    dataset = ScenesDataset(length=120, tasks={"several": 1.0})
    kinds, scores = set(), SceneScores()
    for index in range(120):
        sample = dataset[index]
        objects = [(entry["shape"], entry["color"]) for entry in sample.meta["objects"]]
        shapes, colours = map(set, zip(*objects, strict=True))
        assert len(set(objects)) == len(objects)
        assert len(objects) > 2 or len(shapes) == 1 or len(colours) == 1
        kinds.add((len(objects), len(shapes)))
        assert all(f"{colour} {shape}" in sample.prompt for shape, colour in objects)
        scores.update(sample.target[None], [sample.chain], [sample.meta], None)
    assert {(2, 1), (2, 2), (3, 1), (3, 2), (3, 3)} == kinds
    results = scores.compute()
    assert results["chain_parses"] == 1.0
    assert results["mean_iou"] > 0.99
    assert not {"geneval.overall", "chain_satisfies"}.intersection(results)
