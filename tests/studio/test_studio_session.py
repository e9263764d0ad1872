"""The session of one visitor, without a page: turns, changes, undo, saving and limits."""

import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from got_core.chain.dialects import from_readable, readable
from got_core.studio.files import KEY, Saved, checked_image, png, read_saved, uploaded_bytes, write_saved
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Refused, Settings

PLAN = "A plain gray scene with [a red circle](100,100),(400,400) (red) and [a blue square](500,500),(900,900) (blue)."
LIMITS = Limits()


def ignore(*_):
    return {}


@pytest.fixture
def session(untrained):
    return Session(untrained, LIMITS)


@pytest.fixture
def settings(untrained):
    return Settings.default(untrained)


def pixels(image):
    return image.convert("RGB").tobytes()


def test_readable_chains_are_read_back_exactly():
    chain = from_readable(PLAN)
    assert "<|object_ref_start|>a red circle<|object_ref_end|><|box_start|>(100,100),(400,400)<|box_end|>" in chain
    assert readable(chain) == PLAN
    for other in (
        "a dog (1,2),(3,4)",
        "[x] <|object_ref_start|>a [b<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
    ):
        assert from_readable(readable(other)) == other


def test_a_changed_plan_becomes_a_new_version_beside_the_first(session, settings):
    session.type_chain(PLAN)
    assert session.pending
    session.generate(settings, ignore)
    assert not session.pending
    session.act({"action": "resize", "region": 0, "box": [0, 0, 300, 300]})
    assert session.pending
    session.generate(settings, ignore)
    first, second = session.conversation.turns
    assert first.previous is None
    assert second.previous is None
    assert session.compared is first
    assert session.replaced == {1: 0}
    assert second.plan.regions[0].box == (0, 0, 300, 300)


def test_several_seeds_of_a_plan_are_turns_to_choose_from(session, settings):
    session.type_chain(PLAN)
    session.generate(replace(settings, seed=7), ignore, 3)
    assert [turn.seed for turn in session.choices] == [7, 8, 9]
    assert session.conversation.current.number == 0
    images = [turn.image for turn in session.conversation.turns]
    session.go_to(2)
    assert [turn.number for turn in session.choices] == [0, 1, 2]
    assert session.saved().settings.seed == 9
    assert session.compared is None
    alone = Session(session.pipeline, LIMITS)
    alone.type_chain(PLAN)
    alone.generate(replace(settings, seed=9), ignore)
    assert alone.choices == ()
    assert pixels(alone.image) == pixels(images[2])
    session.act({"action": "resize", "region": 0, "box": [0, 0, 300, 300]})
    session.generate(settings, ignore, 2)
    assert session.replaced == {3: 2, 4: 2}
    assert session.compared.number == 2
    session.undo()
    assert session.image is None


def test_seeds_of_a_plan_share_its_source_in_memory_and_count_as_turns(untrained, settings):
    session = Session(untrained, Limits(turns=4))
    session.open_image(Image.new("RGB", (40, 60), "green"))
    session.type_chain(PLAN)
    session.generate(settings, ignore, 3)
    assert session.image_bytes == 40 * 60 * 3 + 3 * 24 * 40 * 3 + 40 * 60 * 3 * 4
    with pytest.raises(Refused, match="start over"):
        session.generate(settings, ignore)


def test_a_box_is_added_where_it_was_drawn_also_as_the_first_one(session):
    session.act({"action": "add", "phrase": "a red circle", "box": [100, 200, 300, 400]})
    assert [region.box for region in session.plan.regions] == [(100, 200, 300, 400)]
    session.act({"action": "add", "phrase": "a blue square"})
    assert [region.box for region in session.plan.regions] == [(100, 200, 300, 400), (350, 350, 650, 650)]
    session.undo()
    assert len(session.plan.regions) == 1


def test_repair_is_possible_only_where_it_leaves_fewer_problems(session, settings):
    assert not session.repairable
    session.type_chain(PLAN)
    assert not session.repairable
    chain = "a red circle (500,300),(900,700) (red) and a blue square (100,300),(460,660) (blue)"
    session.load(Saved(Image.new("RGB", (32, 32)), "a red circle to the left of a blue square", chain, settings))
    assert session.problems
    assert session.repairable
    session.repair()
    assert not session.problems
    session.type_chain("a plan without a box")
    assert session.problems
    assert not session.repairable
    with pytest.raises(Refused, match="does not repair"):
        session.repair()
    dogs = " ".join(f"a dog {n} (100,100),(500,500)" for n in range(7))
    session.load(Saved(Image.new("RGB", (32, 32)), "two dogs", dogs, settings))
    assert len(session.plan.regions) > 6
    assert session.problems
    assert session.repairable


def test_undo_reverts_changes_then_plans_then_turns(session, settings):
    session.type_chain(PLAN)
    session.generate(settings, ignore)
    for x in (10, 20):
        session.act({"action": "resize", "region": 0, "box": [x, 0, 300, 300]})
    session.undo()
    assert session.plan.regions[0].box == (10, 0, 300, 300)
    session.undo()
    assert session.chain == PLAN
    session.plan_request("anything", settings, ignore)
    assert session.pending
    session.undo()
    assert session.chain == PLAN
    session.undo()
    assert session.plan is None
    assert session.image is None
    session.undo()
    session.go_to(0)
    assert session.chain == PLAN


def test_typing_is_one_step_of_undo_and_late_text_is_ignored(session, settings):
    session.type_chain(PLAN)
    session.generate(settings, ignore)
    for text in ("a dog", "a dog [x](1,2)", "a dog [x](1,2),(30,40)"):
        session.type_chain(text)
    session.undo()
    assert session.chain == PLAN
    session.act({"action": "remove", "region": 0})
    session.catch_up(PLAN)
    assert len(session.plan.regions) == 1


def test_requests_beyond_the_limits_are_refused_with_the_reason(untrained, settings):
    session = Session(untrained, Limits(prompt=10, boxes=1, turns=1, chain=200))
    for prompt, reason in ((" ", "say what to generate"), ("x" * 11, "11 characters"), (3, "text"), ("a\x00", "read")):
        with pytest.raises(Refused, match=reason):
            session.plan_request(prompt, settings, ignore)
    with pytest.raises(Refused, match="2 boxes; at most 1"):
        session.type_chain(PLAN)
    with pytest.raises(Refused, match="there is no plan yet"):
        session.generate(settings, ignore)
    session.type_chain("a [dog](1,2),(30,40)")
    session.generate(settings, ignore)
    with pytest.raises(Refused, match="start over"):
        session.generate(settings, ignore)
    with pytest.raises(Refused, match="the image's number must be a number from 0 to 0"):
        session.go_to(7)


def test_one_request_of_a_visitor_at_a_time(session):
    with session.working(), pytest.raises(Refused, match="still running"), session.working():
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
        {"action": "add", "phrase": "a dog", "box": "everywhere"},
        {"action": "add", "phrase": "a dog", "box": [0, 0, 5, 0.5]},
        {"action": "add", "phrase": "a dog", "box": [0, 0, 5]},
        {"action": "add", "phrase": "a dog", "box": [500, 0, 100, 2000]},
        {"action": "remove", "region": -1},
    ],
)
def test_messages_that_are_not_changes_are_refused_and_leave_the_plan(session, message):
    session.type_chain(PLAN)
    with pytest.raises(Refused):
        session.act(message)
    assert session.chain == PLAN


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 1.5), ("seed", None), ("steps", 10**9), ("semantic", float("inf")), ("still", "yes")],
)
def test_settings_out_of_bounds_are_refused(settings, name, value):
    assert Settings.checked(settings.values(), LIMITS) == settings
    with pytest.raises(Refused):
        Settings.checked({**settings.values(), name: value}, LIMITS)


def test_a_saved_image_loads_again_with_all_it_was_generated_from(untrained, session, settings):
    session.open_image(Image.new("RGB", (40, 60), "green"))
    session.type_chain(PLAN)
    session.generate(replace(settings, seed=5), ignore)
    content = write_saved(session.saved())
    loaded = Session(untrained, LIMITS)
    saved = read_saved(content, LIMITS)
    loaded.load(saved)
    assert saved.settings.seed == 5
    assert loaded.chain == PLAN
    assert pixels(loaded.image) == pixels(session.image)
    loaded.generate(saved.settings, ignore)
    assert pixels(loaded.image) == pixels(session.image)


def test_damaged_parts_of_a_saved_file_are_named(settings):
    image = Image.new("RGB", (8, 8))
    good = json.loads(Image.open(io.BytesIO(write_saved(Saved(image, "p", "c", settings)))).text[KEY])
    for change, reason in (
        ({"version": 2}, "version"),
        ({"extra": 1}, "version"),
        ({"settings": []}, "damaged"),
        ({"settings": {}}, "semantic scale"),
        ({"chain": "x" * 10**5}, "saved plan"),
        ({"source": "%%"}, "damaged"),
        ({"source": "aGVsbG8="}, "not a readable image"),
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


def test_files_that_are_too_large_or_not_images_are_refused():
    small = Limits(image_bytes=1000, image_pixels=100)
    assert checked_image(png(Image.new("RGB", (10, 10))), small).size == (10, 10)
    with pytest.raises(Refused, match="11 x 10 pixels"):
        checked_image(png(Image.new("RGB", (11, 10))), small)
    with pytest.raises(Refused, match="larger"):
        checked_image(b"x" * 1001, small)
    with pytest.raises(Refused, match="not a readable image"):
        checked_image(b"GIF89a", small)
    for value in (None, "x", "data:image/png;base64,%%%", "data:;base64,", "data:x;base64," + "A" * 10**4):
        with pytest.raises(Refused):
            checked_image(uploaded_bytes(value), small)


def test_sessions_are_separate_limited_and_removed(untrained):
    now = [0.0]
    sessions = Sessions(lambda: Session(untrained, LIMITS), Limits(sessions=2, idle_seconds=10), lambda: now[0])
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
    few = Sessions(lambda: Session(untrained, LIMITS), Limits(session_bytes=500))
    for name in ("a", "b", "c"):
        few.of(name).open_image(Image.new("RGB", (8, 8)))
    few.of("d")
    assert len(few) == 3
    for name in (None, "", "x" * 200):
        with pytest.raises(Refused):
            sessions.of(name)
