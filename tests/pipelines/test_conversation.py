"""Conversations: each turn edits the current image and is given earlier requests; undone, branched."""

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


def test_each_turn_edits_the_image_of_the_turn_before(pipe):
    conversation = Conversation(pipe)
    first = conversation.say("a red circle", seed=3)
    second = conversation.say("make it blue", seed=4)
    third = conversation.say("move it left", seed=5)
    assert same(first.image, pipe("a red circle", seed=3).images[0])
    for turn, previous in ((second, first), (third, second)):
        assert turn.previous is previous
        source = (turn.plan.source + 1) / 2
        assert same(previous.image, Image.fromarray((source * 255).round().byte().permute(1, 2, 0).numpy()))
        assert same(turn.image, pipe.generate(turn.plan, seed=turn.seed).images[0])
    assert first.plan.source is None
    assert third.plan.earlier == ("a red circle", "make it blue")
    assert third.requests == ("a red circle", "make it blue", "move it left")
    assert [turn.number for turn in conversation] == [0, 1, 2]
    assert same(conversation.image, third.image)


def test_the_reasoner_is_given_earlier_requests(pipe):
    """Its states, and so its plans, depend on the earlier requests."""
    image = Image.new("RGB", (32, 32), "red")

    def states(earlier):
        (plan,) = pipe.plan("make it blue", image, earlier=earlier)
        return pipe.model.reasoner(pipe._batch([plan.with_chain("a cross")])).states

    assert torch.equal(states(()), states([]))
    assert not torch.allclose(states(()), states(["add a cross"]))
    assert not torch.allclose(states(["add a circle"]), states(["add a cross"]))


def test_turns_are_undone_and_branched(pipe):
    conversation = Conversation(pipe, Image.new("RGB", (64, 64), "green"))
    assert conversation.image.size == (64, 64)
    first = conversation.say("add a circle")
    second = conversation.say("add a cross")
    assert conversation.undo() is first
    other = conversation.say("add a square", seed=2)
    assert other.previous is second.previous is first
    assert other.plan.earlier == ("add a circle",)
    assert conversation.go_to(2) is second
    assert conversation.undo() is first
    assert conversation.undo() is conversation.turns[0]
    assert conversation.undo() is None
    assert conversation.undo() is None
    assert conversation.image is None
    assert len(conversation.turns) == 4
    assert conversation.say("a circle").previous is None
    with pytest.raises(ValueError, match="no turn 9: this conversation has 5"):
        conversation.go_to(9)


def test_a_plan_may_be_changed_before_generation(pipe):
    conversation = Conversation(pipe)
    plan = conversation.plan("a red circle").with_chain("a red circle (94,188),(469,562) (red)").move(0, dx=100)
    turn = conversation.generate(plan, seed=1, num_inference_steps=3)
    assert turn.plan is plan
    assert same(turn.image, pipe.generate(plan, seed=1, num_inference_steps=3).images[0])


def test_a_reasoner_that_is_not_given_earlier_requests_is_warned_of(pipe, recwarn):
    """Once there are earlier turns, and only if the template has no {earlier}."""
    Conversation(pipe, Image.new("RGB", (32, 32))).say("add a circle")
    conversation = Conversation(pipe)
    conversation.say("a red circle")
    conversation.plan("make it blue")
    settings = small_settings()
    without = Conversation(GoTPipeline(stirred_system(settings).model, (32, 32), settings))
    without.say("a red circle")
    assert not [warning for warning in recwarn if "editing_template" in str(warning.message)]
    with pytest.warns(UserWarning, match="is not given earlier requests"):
        without.plan("make it blue")
