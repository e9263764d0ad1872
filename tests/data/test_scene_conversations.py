"""Turns of a conversation and pictures that are kept, as samples of drawn scenes."""

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


def asks_about_it(sample):
    return re.search(r"\bit\b", sample.prompt) is not None


def test_a_turn_is_about_what_the_last_one_made(turns):
    """The object that a request speaks of is named, as it now is, by the request before it or by itself."""
    for sample in turns:
        (edit,) = sample.meta["edits"]
        assert edit["op"] in FOLLOWED_UP
        assert 1 <= len(sample.earlier) <= 3
        last, thing = sample.earlier[-1], edit["object"]
        assert thing["shape"] in (last if asks_about_it(sample) else sample.prompt)
        assert f"2. Object: the {thing['color']} {thing['shape']}." in sample.chain
    assert 0.6 < sum(map(asks_about_it, turns)) / NUMBER < 0.9
    assert {len(sample.earlier) for sample in turns} == {1, 2, 3}
    assert {sample.meta["edits"][0]["op"] for sample in turns} == set(FOLLOWED_UP)


def test_what_was_added_was_not_there_before(turns):
    for sample in turns:
        *before, last = sample.earlier
        if before and last.startswith(("add", "put", "insert")):
            thing = sample.meta["edits"][0]["object"]
            assert f"{thing['color']} {thing['shape']}" not in before[0]


def told(seed, about=None):
    """A picture of two objects, and what may have been asked before."""
    scene = Scene((SceneObject("circle", "red", (2, 2, 12, 12)), SceneObject("square", "blue", (18, 18, 30, 30))))
    vocabulary = ScenesDataset(length=1, tasks={"next_turn": 1.0}).vocabulary
    return requests_before(scene, vocabulary, np.random.default_rng(seed), about)


def test_the_past_of_a_picture_leads_to_it():
    """A caption alone lists what is there; edits name what they have made; what was removed is not there."""
    pasts = [told(seed) for seed in range(300)]
    captions = [past[0] for past in pasts if len(past) == 1 and re.match("(an?|draw) ", past[0])]
    assert {tuple(sorted(re.findall(r"red circle|blue square", caption))) for caption in captions} == {
        ("blue square", "red circle")
    }
    assert {len(past) for past in pasts} == {1, 2, 3}
    removals = [past for past in pasts if re.match("(remove|delete|erase|take away) ", past[-1])]
    assert removals
    for past in removals:
        assert not re.search("circle|square|red|blue", past[-1])


def test_relations_that_are_told_hold_in_the_picture():
    """The circle stands above and left of the square, so nothing was asked for that would have put it elsewhere."""
    said = [request for seed in range(600) for request in told(seed, ObjectSpec("circle", "red"))[-1:]]
    placed = [request for request in said if request.endswith("square")]
    assert placed
    assert not any(re.search("right of|below|under|beneath", request) for request in placed)


def test_a_turn_about_something_ends_with_it():
    said = [told(seed, ObjectSpec("circle", "red"))[-1] for seed in range(100)]
    assert all("circle" in request for request in said)
    with pytest.raises(ValueError, match="no object that is there"):
        told(0, ObjectSpec("circle", "green"))


def test_a_kept_picture_is_described_and_stays():
    dataset = ScenesDataset(length=50, tasks={"keep": 1.0})
    for index in range(50):
        sample = dataset[index]
        assert torch.equal(sample.source, sample.target)
        described = [(region.box, region.colour) for region in parse(sample.chain).regions]
        assert described == [(tuple(entry["box"]), entry["color"]) for entry in sample.meta["objects"]]
        assert sample.earlier == ()


def test_the_truth_has_every_score():
    tasks = {tag: 1.0 for tag in FURTHER_TAGS if tag != "several"}
    dataset = ScenesDataset(length=40, tasks=tasks, balanced=True, split="test")
    samples, scores = [dataset[index] for index in range(40)], SceneScores()
    images, sources = (torch.stack([getattr(s, name) for s in samples]) for name in ("target", "source"))
    scores.update(images, [s.chain for s in samples], [s.meta for s in samples], sources)
    found = scores.compute()
    assert found["edit_success"] == found["background_kept"] == found["chain_parses"] == 1.0


def test_other_samples_are_as_they_were_without_these_tasks():
    """Settings that do not name them draw the same samples; a task of weight 0 changes nothing."""
    plain, other = ScenesDataset(length=30), ScenesDataset(length=30, tasks={**DEFAULT_TASKS, "keep": 0.0})
    assert [plain.sketch(i).prompt for i in range(30)] == [other.sketch(i).prompt for i in range(30)]


def test_captions_of_several_objects_are_of_no_other_category():
    """Three objects, or two that share a shape or a colour: nothing that is held out is asked for."""
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
    found = scores.compute()
    assert found["chain_parses"] == 1.0
    assert found["mean_iou"] > 0.99
    assert not {"geneval.overall", "chain_satisfies"}.intersection(found)
