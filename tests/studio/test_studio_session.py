"""What one visitor does, without a page: turns, changes, undo, saving and the limits of it all."""

import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from got_core.chain.dialects import from_readable, readable
from got_core.studio.files import KEY, Saved, checked_image, png, read_saved, sent_bytes, write_saved
from got_core.studio.plan_actions import read_action
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Refused, Settings

PLAN = "A plain gray scene with [a red circle](100,100),(400,400) (red) and [a blue square](500,500),(900,900) (blue)."
LIMITS = Limits()


def unseen(*_):
    return {}


@pytest.fixture
def session(plumbing):
    return Session(plumbing, LIMITS)


@pytest.fixture
def settings(plumbing):
    return Settings.own(plumbing)


def pixels(image):
    return image.convert("RGB").tobytes()


def test_readable_chains_turn_back_exactly():
    chain = from_readable(PLAN)
    assert "<|object_ref_start|>a red circle<|object_ref_end|><|box_start|>(100,100),(400,400)<|box_end|>" in chain
    assert readable(chain) == PLAN
    for other in (
        "a dog (1,2),(3,4)",
        "[x] <|object_ref_start|>a [b<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
    ):
        assert from_readable(readable(other)) == other


def test_a_redrawn_plan_is_another_version_beside_the_first(session, settings):
    session.type_chain(PLAN)
    assert session.pending
    session.draw(settings, unseen)
    assert not session.pending
    session.act(read_action({"action": "resize", "region": 0, "box": [0, 0, 300, 300]}))
    assert session.pending
    session.draw(settings, unseen)
    first, second = session.talk.turns
    assert first.previous is None
    assert second.previous is None
    assert session.before is first
    assert session.redrawn == {1: 0}
    assert second.plan.regions[0].box == (0, 0, 300, 300)


def test_undo_takes_back_changes_then_plans_then_turns(session, settings):
    session.type_chain(PLAN)
    session.draw(settings, unseen)
    for x in (10, 20):
        session.act(read_action({"action": "resize", "region": 0, "box": [x, 0, 300, 300]}))
    session.undo()
    assert session.plan.regions[0].box == (10, 0, 300, 300)
    session.undo()
    assert session.chain == PLAN
    session.ask("anything", settings, unseen)
    assert session.pending
    session.undo()
    assert session.chain == PLAN
    session.undo()
    assert session.plan is None
    assert session.image is None
    session.undo()
    session.go_to(0)
    assert session.chain == PLAN


def test_typing_is_one_step_of_undo_and_late_text_is_not_typed(session, settings):
    session.type_chain(PLAN)
    session.draw(settings, unseen)
    for text in ("a dog", "a dog [x](1,2)", "a dog [x](1,2),(30,40)"):
        session.type_chain(text)
    session.undo()
    assert session.chain == PLAN
    session.act(read_action({"action": "remove", "region": 0}))
    session.catch_up(PLAN)
    assert len(session.plan.regions) == 1


def test_what_is_asked_too_much_is_refused_with_the_reason(plumbing, settings):
    session = Session(plumbing, Limits(prompt=10, boxes=1, turns=1, chain=200))
    for prompt, reason in ((" ", "say what to draw"), ("x" * 11, "11 characters"), (3, "text"), ("a\x00", "read")):
        with pytest.raises(Refused, match=reason):
            session.ask(prompt, settings, unseen)
    with pytest.raises(Refused, match="2 boxes; at most 1"):
        session.type_chain(PLAN)
    with pytest.raises(Refused, match="no plan to draw"):
        session.draw(settings, unseen)
    session.type_chain("a [dog](1,2),(30,40)")
    session.draw(settings, unseen)
    with pytest.raises(Refused, match="start over"):
        session.draw(settings, unseen)
    with pytest.raises(Refused, match="no turn 7"):
        session.go_to(7)


def test_one_request_of_a_visitor_at_a_time(session):
    with session.working(), pytest.raises(Refused, match="still being worked on"), session.working():
        pass
    with session.working():
        pass


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"action": "explode"},
        {"action": "resize", "region": 0, "box": [0, 0, 0, 0]},
        {"action": "resize", "region": 0, "box": [0, 0, True, 5]},
        {"action": "resize", "region": 0.5, "box": [0, 0, 5, 5]},
        {"action": "resize", "region": 99, "box": [0, 0, 5, 5]},
        {"action": "resize", "region": float("nan"), "box": [0, 0, 5, 5]},
        {"action": "replace", "region": 0, "phrase": "<|box_start|>(1,2),(3,4)<|box_end|>"},
        {"action": "replace", "region": 0, "phrase": "x" * 1000},
        {"action": "add", "phrase": " "},
        {"action": "remove", "region": -1},
    ],
)
def test_changes_that_are_none_are_refused_and_leave_the_plan(session, message):
    session.type_chain(PLAN)
    with pytest.raises(Refused):
        session.act(read_action(message))
    assert session.chain == PLAN


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 1.5), ("seed", None), ("steps", 10**9), ("semantic", float("inf")), ("still", "yes")],
)
def test_settings_out_of_bounds_are_refused(settings, name, value):
    assert Settings.checked(settings.values(), LIMITS) == settings
    with pytest.raises(Refused):
        Settings.checked({**settings.values(), name: value}, LIMITS)


def test_a_saved_drawing_loads_again_with_all_it_was_drawn_from(plumbing, session, settings):
    session.bring(Image.new("RGB", (40, 60), "green"))
    session.type_chain(PLAN)
    session.draw(replace(settings, seed=5), unseen)
    content = write_saved(session.saved())
    loaded = Session(plumbing, LIMITS)
    saved = read_saved(content, LIMITS)
    loaded.load(saved)
    assert saved.settings.seed == 5
    assert loaded.chain == PLAN
    assert pixels(loaded.image) == pixels(session.image)
    loaded.draw(saved.settings, unseen)
    assert pixels(loaded.image) == pixels(session.image)


def test_what_is_damaged_in_a_saved_file_is_named(settings):
    image = Image.new("RGB", (8, 8))
    good = json.loads(Image.open(io.BytesIO(write_saved(Saved(image, "p", "c", settings)))).text[KEY])
    for change, reason in (
        ({"version": 2}, "version"),
        ({"extra": 1}, "version"),
        ({"settings": []}, "no settings"),
        ({"settings": {}}, "seed"),
        ({"chain": "x" * 10**5}, "saved plan"),
        ({"source": "%%"}, "damaged"),
        ({"source": "aGVsbG8="}, "no picture"),
        ({"earlier": "x"}, "damaged"),
        ({"earlier": [1]}, "text"),
    ):
        text = PngInfo()
        text.add_itxt(KEY, json.dumps({**good, **change}))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=text)
        with pytest.raises(Refused, match=reason):
            read_saved(buffer.getvalue(), LIMITS)
    text = PngInfo()
    text.add_itxt(KEY, "[" * 10**5)
    image.save(buffer := io.BytesIO(), "PNG", pnginfo=text)
    with pytest.raises(Refused, match="JSON"):
        read_saved(buffer.getvalue(), LIMITS)


def test_pictures_that_are_too_large_or_none_are_refused():
    small = Limits(image_bytes=1000, image_pixels=100)
    assert checked_image(png(Image.new("RGB", (10, 10))), small).size == (10, 10)
    with pytest.raises(Refused, match="11 x 10 pixels"):
        checked_image(png(Image.new("RGB", (11, 10))), small)
    with pytest.raises(Refused, match="larger"):
        checked_image(b"x" * 1001, small)
    with pytest.raises(Refused, match="no picture"):
        checked_image(b"GIF89a", small)
    for value in (None, "x", "data:image/png;base64,%%%", "data:;base64,", "data:x;base64," + "A" * 10**4):
        with pytest.raises(Refused):
            sent_bytes(value, small)


def test_sessions_are_apart_bounded_and_forgotten(plumbing):
    now = [0.0]
    sessions = Sessions(lambda: Session(plumbing, LIMITS), Limits(sessions=2, idle_seconds=10), lambda: now[0])
    first = sessions.of("a")
    assert sessions.of("b") is not first
    assert sessions.of("a") is first
    sessions.of("c")
    assert len(sessions) == 2
    assert sessions.of("a") is first
    now[0] = 11
    assert sessions.of("d") is not first
    assert len(sessions) == 1
    assert first.stop.is_set()
    few = Sessions(lambda: Session(plumbing, LIMITS), Limits(kept_bytes=40_000))
    for name in ("a", "b", "c"):
        few.of(name).bring(Image.new("RGB", (8, 8)))
    few.of("d")
    assert len(few) == 3
    for name in (None, "", "x" * 200):
        with pytest.raises(Refused):
            sessions.of(name)
