"""The best of several plans, by the check of plans."""

import pytest
import torch
from PIL import Image
from small_system import stirred_system

from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.check import choose_plans, plan_problems
from got_core.planning.plan import Plan
from got_core.types import Reasoning

GOOD = "a star (0,0),(200,200) and a cross (500,500),(800,800)"
CLOSE = "a star (0,0),(200,200) and a cross (210,0),(400,200)"
LACKING = "a star (0,0),(200,200)"
LOST = "nothing"


def plan(chain):
    return Plan("a star and a cross", chain, (32, 32))


def chosen(firsts, number, others):
    """The chosen chains, and how many plans were requested."""
    requested = []

    def write(indices):
        requested.append(len(indices))
        return [plan(chain) for _, chain in zip(indices, others, strict=True)]

    return [entry.chain for entry in choose_plans([plan(chain) for chain in firsts], number, write)], requested


def test_the_fewest_problems_win_and_ties_go_to_the_first():
    assert len(plan_problems(plan(LOST))) == 1  # no box at all is one problem, whatever the prompt requires
    assert chosen([LACKING], 3, [CLOSE, GOOD]) == ([GOOD], [2])
    assert chosen([LACKING], 3, [CLOSE, LOST]) == ([LACKING], [2])
    assert chosen([LACKING], 2, [LACKING + " "]) == ([LACKING], [1])


def test_only_plans_with_problems_have_others_written_all_at_once():
    assert chosen([GOOD], 4, []) == ([GOOD], [])
    assert chosen([LACKING], 1, []) == ([LACKING], [])
    assert chosen([LACKING, GOOD, CLOSE], 2, [LOST, GOOD]) == ([LACKING, GOOD, GOOD], [2])


@pytest.fixture(scope="module")
def pipe():
    return GoTPipeline(stirred_system().model, (32, 32))


def test_the_pipeline_writes_the_first_greedily_and_samples_the_others(pipe, monkeypatch):
    calls = []

    def written(batch, temperature, seed, listener):
        calls.append((len(batch), temperature, seed))
        chains = [LACKING] * len(batch) if len(calls) == 1 else [CLOSE, GOOD, LOST]
        return Reasoning(torch.zeros(len(batch), 1, 1), tuple(chains))

    monkeypatch.setattr(pipe.model, "plan", written)
    (best,) = pipe.plan("a star and a cross", best_of=4, seed=5)
    assert best.chain == GOOD
    assert [entry[:2] for entry in calls] == [(1, 0.0), (3, 1.0)]
    (first,), others = calls[0][2], calls[1][2]
    assert len({first, *others}) == 4


def test_a_plan_of_one_is_the_plan_as_before(pipe):
    assert pipe.plan("a red circle", best_of=1) == pipe.plan("a red circle")
    first, again = (pipe.plan(["a red circle", "a dog"], best_of=3, seed=4) for _ in range(2))
    assert first == again
    assert pipe(["a red circle", "a dog"], best_of=3, seed=4).plans == tuple(first)
    image = Image.new("RGB", (32, 32))
    assert pipe.edit(image, "add a dog", best_of=2).chains == (pipe.plan("add a dog", image, best_of=2)[0].chain,)
    with pytest.raises(ValueError, match="best_of must be a whole number of at least 1, not 0"):
        pipe.plan("a red circle", best_of=0)
