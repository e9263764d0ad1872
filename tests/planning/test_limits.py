"""Prompts and chains of any length: what is checked, what is refused, and at which entrances."""

import json
import random

import pytest
from PIL import Image
from refusals import refused
from small_system import stirred_system

from got_core.data.records import RecordsDataset
from got_core.errors import UserError
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning import check
from got_core.planning.boxes import gaps
from got_core.planning.check import MOST_CLASHES, TOO_CLOSE, TOO_MANY, plan_problems, repaired
from got_core.planning.plan import LONGEST_CHAIN, LONGEST_PROMPT, MOST_BOXES, Plan
from got_core.studio.settings import Limits

BOX = "a red circle (100,200),(300,400) "


@pytest.fixture(scope="module")
def pipe():
    return GoTPipeline(stirred_system().model, (32, 32))


def test_twenty_thousand_boxes_are_one_problem():
    plan = Plan("a red circle", BOX * 20_000, (32, 32))
    (problem,) = plan_problems(plan)
    assert problem.kind == TOO_MANY
    assert problem.message == "the plan has 20,000 boxes; at most 1,000 are checked"
    assert repaired(plan) is plan


def test_as_many_boxes_as_are_allowed_are_checked():
    problems = plan_problems(Plan("a red circle", BOX * MOST_BOXES, (32, 32)))
    assert sum(problem.kind == check.OVERLAP for problem in problems) == MOST_CLASHES


def test_pairs_that_are_near_are_those_of_a_plain_search():
    rng = random.Random(0)
    corners = [(rng.randrange(900), rng.randrange(900)) for _ in range(60)]
    chain = " ".join(f"a red circle ({x},{y}),({x + 60},{y + 40})" for x, y in corners)
    boxes = [region.box for region in Plan("", chain, (32, 32)).regions]
    near = [
        (i, j) for i in range(len(boxes)) for j in range(i + 1, len(boxes)) if max(gaps(boxes[i], boxes[j])) < TOO_CLOSE
    ]
    assert check._near(Plan("", chain, (32, 32)).regions) == near
    complete = plan_problems(Plan("red circles", chain, (32, 32)))
    assert [problem.regions for problem in complete if problem.kind in (check.OVERLAP, check.CLOSE)] == near


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (BOX * (MOST_BOXES + 1), "the chain has 1,001 boxes; at most 1,000"),
        ("a" * (LONGEST_CHAIN + 1), "the chain has 100,001 characters; at most 100,000"),
    ],
    ids=["boxes", "characters"],
)
def test_a_chain_that_is_too_large_is_refused_at_every_entrance(pipe, tmp_path, capsys, chain, words):
    with pytest.raises(ValueError, match=words):
        pipe.given_plan(chain)
    with pytest.raises(ValueError, match=words):
        pipe.generate(Plan("", chain, (32, 32)))
    (tmp_path / "chain.txt").write_text(chain)
    assert words in refused(
        capsys, "generate", "", "--chain", str(tmp_path / "chain.txt"), "--output", str(tmp_path / "out")
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    record = {"prompt": "a circle", "chain": chain, "image": "a.png"}
    (tmp_path / "records.jsonl").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"records.jsonl:1.*{words}"):
        RecordsDataset(str(tmp_path / "records.jsonl"), size=32)[0]


def test_a_prompt_that_is_too_long_is_refused(pipe, monkeypatch):
    monkeypatch.setattr(pipe.model, "plan", None)
    words = "the prompt has 10,001 characters; at most 10,000"
    with pytest.raises(ValueError, match=words):
        pipe("a" * (LONGEST_PROMPT + 1))
    with pytest.raises(ValueError, match=words):
        pipe.plan("a circle", earlier=["a" * (LONGEST_PROMPT + 1)])


def test_the_studio_allows_no_more():
    with pytest.raises(UserError, match="limit of boxes may be at most 1,000, not 2,000"):
        Limits(boxes=2000)
