"""Conversations: each turn edits the picture as it stands and is told of the turns before; undone, branched."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_system import small_settings, stirred_system

from got_core.pipelines.conversation import Conversation
from got_core.pipelines.pipeline import GoTPipeline


@pytest.fixture(scope="module")
def pipe():
    settings = small_settings()
    settings["init_args"]["reasoner"]["init_args"]["editing_template"] = (
        "<|im_start|>{image}{earlier}{prompt}<|im_end|>"
    )
    return GoTPipeline(stirred_system(settings).model, (32, 32), settings)


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_each_turn_edits_what_the_last_one_drew(pipe):
    talk = Conversation(pipe)
    first = talk.say("a red circle", seed=3)
    second = talk.say("make it blue", seed=4)
    third = talk.say("move it left", seed=5)
    assert same(first.image, pipe("a red circle", seed=3).images[0])
    for turn, before in ((second, first), (third, second)):
        assert turn.before is before
        source = (turn.plan.source + 1) / 2
        assert same(before.image, Image.fromarray((source * 255).round().byte().permute(1, 2, 0).numpy()))
        assert same(turn.image, pipe.generate(turn.plan, seed=turn.seed).images[0])
    assert first.plan.source is None
    assert third.plan.earlier == ("a red circle", "make it blue")
    assert third.requests == ("a red circle", "make it blue", "move it left")
    assert [turn.number for turn in talk] == [0, 1, 2]
    assert same(talk.image, third.image)


def test_the_reasoner_is_told_of_earlier_turns(pipe):
    """Its logits, and so its drawn plans, follow from what was asked before."""
    picture = Image.new("RGB", (32, 32), "red")

    def states(earlier):
        (plan,) = pipe.plan("make it blue", picture, earlier=earlier)
        return pipe.model.reasoner(pipe._batch([plan.with_chain("a cross")])).states

    assert torch.equal(states(()), states([]))
    assert not torch.allclose(states(()), states(["add a cross"]))
    assert not torch.allclose(states(["add a circle"]), states(["add a cross"]))


def test_turns_are_undone_and_branched(pipe):
    talk = Conversation(pipe, Image.new("RGB", (64, 64), "green"))
    assert talk.image.size == (32, 32)
    first = talk.say("add a circle")
    second = talk.say("add a cross")
    assert talk.undo() is first
    other = talk.say("add a square", seed=2)
    assert other.before is second.before is first
    assert other.plan.earlier == ("add a circle",)
    assert talk.go_to(2) is second
    assert talk.undo() is first
    assert talk.undo() is talk.turns[0]
    assert talk.undo() is None
    assert talk.undo() is None
    assert talk.image is None
    assert len(talk.turns) == 4
    assert talk.say("a circle").before is None
    with pytest.raises(ValueError, match="there is no turn 9: there are 5"):
        talk.go_to(9)


def test_a_plan_may_be_changed_before_it_is_drawn(pipe):
    talk = Conversation(pipe)
    plan = talk.plan("a red circle").with_chain("a red circle (94,188),(469,562) (red)").move(0, dx=100)
    turn = talk.generate(plan, seed=1, num_inference_steps=3)
    assert turn.plan is plan
    assert same(turn.image, pipe.generate(plan, seed=1, num_inference_steps=3).images[0])


def test_a_reasoner_that_is_not_told_of_earlier_turns_is_named(pipe, recwarn):
    """Once there are earlier turns, and only where the template has no place for them."""
    Conversation(pipe, Image.new("RGB", (32, 32))).say("add a circle")
    talk = Conversation(pipe)
    talk.say("a red circle")
    talk.plan("make it blue")
    settings = small_settings()
    untold = Conversation(GoTPipeline(stirred_system(settings).model, (32, 32), settings))
    untold.say("a red circle")
    assert not [warning for warning in recwarn if "editing_template" in str(warning.message)]
    with pytest.warns(UserWarning, match="is not told what was asked before"):
        untold.plan("make it blue")
