"""Changes of a plan in words."""

import re

import pytest

from got_core.planning.plan import Plan, changed

PLAN = Plan(
    "two shapes", "a red circle (100,200),(300,400) (red) and a blue square (500,500),(700,800) (blue).", (32, 32)
)


@pytest.mark.parametrize(
    ("change", "index", "region"),
    [
        ("move 0 50 -100", 0, "a red circle (150, 100, 350, 300) red"),
        ("move 1 to 0 10", 1, "a blue square (0, 10, 200, 310) blue"),
        ("resize 0 0, 0, 500, 999", 0, "a red circle (0, 0, 500, 999) red"),
        ("replace 1 a green dog", 1, "a green dog (500, 500, 700, 800) green"),
        ("recolour 0 lime", 0, "a lime circle (100, 200, 300, 400) lime"),
        ("recolor 0 lime", 0, "a lime circle (100, 200, 300, 400) lime"),
        ("add a cat at 1 2 300 400", 2, "a cat (1, 2, 300, 400) None"),
        ("  remove   0 ", 0, "a blue square (500, 500, 700, 800) blue"),
    ],
)
def test_a_change_is_what_its_words_say(change, index, region):
    plan = changed(PLAN, change)
    changed_region = plan.regions[index]
    assert f"{changed_region.phrase} {changed_region.box} {changed_region.colour}" == region
    others = [r for n, r in enumerate(PLAN.regions) if n != index]
    added, removed = "add" in change, "remove" in change
    assert [r for n, r in enumerate(plan.regions) if n != index or removed] == (list(PLAN.regions) if added else others)
    assert plan.size == PLAN.size
    if change.split()[0] in ("move", "resize"):
        assert plan.prompt == PLAN.prompt
    else:
        assert plan.prompt == ""
        assert changed_region.phrase in plan.request


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("move 2 1 1", "'move 2 1 1': the chain has no region 2"),
        ("move 0 900 0", "'move 0 900 0': region 0 at"),
        ("resize 0 5 5 5 5", "'resize 0 5 5 5 5': "),
        ("recolour 0 puce", "puce"),
        ("grow 0", "'grow 0' is no change of a plan; it may be move N DX DY"),
        ("", "is no change of a plan"),
        ("move 0 1", "is no change of a plan"),
    ],
)
def test_an_impossible_change_is_named(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        changed(PLAN, change)


def test_a_chain_edited_by_hand_drops_the_caption_where_its_objects_change():
    moved = PLAN.rewritten(PLAN.move(0, dx=10).chain)
    assert (moved.prompt, moved.regions) == (PLAN.prompt, PLAN.move(0, dx=10).regions)
    assert PLAN.rewritten(PLAN.replace(0, "a dog").chain) == PLAN.replace(0, "a dog")
