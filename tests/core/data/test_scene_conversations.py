"""Turns of a conversation and pictures that are kept, as samples of drawn scenes."""

import re

import numpy as np
import pytest
import torch

from got_core.chain import parse
from got_core.data.scene_conversations import CONVERSATION_TAGS, FOLLOWED_UP, earlier_requests
from got_core.data.scene_requests import Edit, Thing
from got_core.data.scenes import DEFAULT_TASKS, ScenesDataset
from got_core.evaluation.scene_metrics import SceneScores

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
        assert 1 <= len(sample.earlier) <= 2
        last, thing = sample.earlier[-1], edit["object"]
        assert thing["shape"] in (last if asks_about_it(sample) else sample.prompt)
        assert f"2. Object: the {thing['color']} {thing['shape']}." in sample.chain
    assert 0.6 < sum(map(asks_about_it, turns)) / NUMBER < 0.9
    assert 0.35 < sum(len(sample.earlier) == 2 for sample in turns) / NUMBER < 0.65
    assert {sample.meta["edits"][0]["op"] for sample in turns} == set(FOLLOWED_UP)


def test_what_was_added_was_not_there_before(turns):
    for sample in turns:
        caption, *requests = sample.earlier
        if requests and requests[0].startswith(("add", "put", "insert")):
            assert sample.meta["edits"][0]["object"]["shape"] not in caption


def test_a_kept_picture_is_described_and_stays():
    dataset = ScenesDataset(length=50, tasks={"keep": 1.0})
    for index in range(50):
        sample = dataset[index]
        assert torch.equal(sample.source, sample.target)
        described = [(region.box, region.colour) for region in parse(sample.chain).regions]
        assert described == [(tuple(entry["box"]), entry["color"]) for entry in sample.meta["objects"]]
        assert sample.earlier == ()


def test_the_truth_has_every_score():
    dataset = ScenesDataset(length=40, tasks=dict.fromkeys(CONVERSATION_TAGS, 1.0), balanced=True, split="test")
    samples, scores = [dataset[index] for index in range(40)], SceneScores()
    images, sources = (torch.stack([getattr(s, name) for s in samples]) for name in ("target", "source"))
    scores.update(images, [s.chain for s in samples], [s.meta for s in samples], sources)
    found = scores.compute()
    assert found["edit_success"] == found["background_kept"] == found["chain_parses"] == 1.0


def test_other_samples_are_as_they_were_without_these_tasks():
    """Settings that do not name them draw the same samples; a task of weight 0 changes nothing."""
    plain, other = ScenesDataset(length=30), ScenesDataset(length=30, tasks={**DEFAULT_TASKS, "keep": 0.0})
    assert [plain.sketch(i).prompt for i in range(30)] == [other.sketch(i).prompt for i in range(30)]


def test_an_edit_of_nothing_has_no_turn_before_it():
    dataset = ScenesDataset(length=1)
    edit = Edit("add", None, Thing("circle", "red"))
    with pytest.raises(ValueError, match="concerns no object that is there"):
        earlier_requests(edit, dataset.sketch(0).target, dataset.vocabulary, np.random.default_rng(0))
