"""The best of several plans, by the check of plans."""

import pytest
from small_system import stirred_system

from got_core.pipeline import GoTPipeline
from got_core.plan_check import plan_problems
from got_core.plan_choice import choose_plans
from got_core.plans import Plan
from got_core.types import Reasoning

GOOD = "a dog (0,0),(200,200) and a cat (500,500),(800,800)"
CLOSE = "a dog (0,0),(200,200) and a cat (210,0),(400,200)"
LACKING = "a dog (0,0),(200,200)"
LOST = "nothing"


def plan(chain):
    return Plan("a dog and a cat", chain, (32, 32))


def chosen(firsts, number, others):
    """The chosen chains, and how many plans were asked for."""
    asked = []

    def write(plans):
        asked.append(len(plans))
        return [entry.with_chain(chain) for entry, chain in zip(plans, others, strict=True)]

    return [entry.chain for entry in choose_plans([plan(chain) for chain in firsts], number, write)], asked


def test_the_fewest_problems_win_and_ties_go_to_the_first():
    assert len(plan_problems(plan(LOST))) == 1  # no box at all is one problem, whatever is asked for
    assert chosen([LACKING], 3, [CLOSE, GOOD]) == ([GOOD], [2])
    assert chosen([LACKING], 3, [CLOSE, LOST]) == ([LACKING], [2])
    assert chosen([LACKING], 2, [LACKING + " "]) == ([LACKING], [1])


def test_only_plans_with_problems_have_others_written_all_at_once():
    assert chosen([GOOD], 4, []) == ([GOOD], [])
    assert chosen([LACKING], 1, []) == ([LACKING], [])
    assert chosen([LACKING, GOOD, CLOSE], 2, [LOST, GOOD]) == ([LACKING, GOOD, GOOD], [2])


@pytest.fixture(scope="module")
def pipe():
    return GoTPipeline(stirred_system(), (32, 32))


def test_the_pipeline_writes_the_first_greedily_and_the_others_by_chance(pipe, monkeypatch):
    asked = []

    def written(batch, temperature, seed, listener):
        asked.append((len(batch), temperature, seed))
        chains = [LACKING] * len(batch) if len(asked) == 1 else [CLOSE, GOOD, LOST]
        return Reasoning(None, tuple(chains))

    monkeypatch.setattr(Reasoning, "__init__", lambda self, states, chains: self.__dict__.update(chains=chains))
    monkeypatch.setattr(pipe.system, "plan", written)
    (best,) = pipe.plan("a dog and a cat", best_of=4, seed=5)
    assert best.chain == GOOD
    assert [entry[:2] for entry in asked] == [(1, 0.0), (3, 1.0)]
    assert asked[0][2] == 5
    assert asked[1][2] != 5


def test_a_plan_of_one_is_the_plan_as_before(pipe):
    assert pipe.plan("a red circle", best_of=1) == pipe.plan("a red circle")
    first, again = (pipe.plan(["a red circle", "a dog"], best_of=3, seed=4) for _ in range(2))
    assert first == again
    with pytest.raises(ValueError, match="best_of must be at least 1, not 0"):
        pipe.plan("a red circle", best_of=0)
