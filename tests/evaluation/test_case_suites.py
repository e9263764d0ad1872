"""The suites interaction, plans and conversation: true images score 1, others do not, and runs resume."""

import json

import pytest
import torch
from evaluation_runs import save_run

from got_core.chain.parser import parse, to_pixels
from got_core.cli.main import main
from got_core.data.images import load_image
from got_core.data.scenes.render import Scene, SceneObject, render
from got_core.data.scenes.requests import SINGLE_EDIT_TAGS
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.metrics.scenes import planned_object
from got_core.evaluation.suites.cases import case_results
from got_core.evaluation.suites.conversation import CONVERSATION, TURNS
from got_core.evaluation.suites.interaction import INTERACTION
from got_core.evaluation.suites.plans import DISTURBED, PLANS, WAYS, WRITTEN, is_right
from got_core.pipelines.conversation import Conversation
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.check import plan_problems, repaired
from got_core.planning.plan import Plan
from got_core.types import to_pil

DETECTOR = SceneDetector()
SIZE = 32


def image_of(objects):
    """A perfect image of entries of metadata."""
    each = [SceneObject(e["shape"], e["color"], _pixels(e["box"])) for e in objects]
    return render(Scene(tuple(each), size=SIZE))


def _pixels(box):
    return tuple(round(edge) for edge in to_pixels(box, SIZE, SIZE))


def of_chain(chain):
    """A perfect image of what a chain plans."""
    planned = [planned_object(region) for region in parse(chain).regions]
    return image_of([{"shape": entry.label, "color": entry.colour, "box": entry.box} for entry in planned])


@pytest.fixture(scope="module")
def interactions():
    return INTERACTION.cases(10, SIZE, 0, "test")


def test_every_change_is_made_and_detected(interactions):
    assert {case.category for case in interactions} == {"replace", "move", "resize", "recolour", "add", "remove"}
    for case in interactions:
        before, after = map(of_chain, case.details["chains"])
        found = INTERACTION.measure(case, {"before": before, "after": after, "kept": before}, {}, DETECTOR)
        assert found["as_requested"] == 1, case
        assert found["iou"] == found["iou_90"] == found["seen_before"] == 1, case
        assert found["as_requested_kept"] == 0, case
        assert found["iou_kept"] == 1, case


def test_objects_that_move_or_change_have_not_stayed(interactions):
    case = next(case for case in interactions if len(case.details["stay"]) == 1 and case.category == "recolour")
    before, after = map(of_chain, case.details["chains"])
    (stays,), result = case.details["stay"], case.details["result"]
    x1, y1, x2, y2 = stays["box"]
    shapes = [shape for shape in ("circle", "square") if shape != stays["shape"]]
    for other in ({"shape": shapes[0]}, {"box": (x1, y1, (x1 + x2) // 2, (y1 + y2) // 2)}):
        images = {"before": before, "after": image_of([result, {**stays, **other}]), "kept": after}
        found = INTERACTION.measure(case, images, {}, DETECTOR)
        assert found["as_requested"] == found["iou_kept"] == 1
        assert found["iou"] < 0.5
        assert found["iou_90"] == 0
    lost = INTERACTION.measure(case, {"before": before, "after": image_of([result]), "kept": after}, {}, DETECTOR)
    assert lost["iou"] == 0
    never = INTERACTION.measure(case, {"before": image_of([result]), "after": after, "kept": after}, {}, DETECTOR)
    assert never["seen_before"] == 0
    assert "iou" not in never


@pytest.fixture(scope="module")
def conversations():
    return CONVERSATION.cases(16, SIZE, 0, "test")


def test_conversations_have_three_turns_that_follow_from_each_other(conversations):
    assert len({case.prompt for case in conversations}) > 12
    assert {case.category for case in conversations} == {"it", "another object"}
    ops = {meta["edits"][0]["op"] for case in conversations for meta in case.details["turns"][1:]}
    assert ops == set(SINGLE_EDIT_TAGS)
    for case in conversations:
        _, second, third = case.details["turns"]
        assert second["objects"] == third["source_objects"]
        words = case.details["requests"][2].split()
        assert ("it" in words) == (case.category == "it")
        if case.category == "it":
            assert third["edits"][0]["object"] == second["edits"][0]["result"]


def test_true_conversations_succeed_and_idle_ones_fail(conversations):
    for case in conversations:
        caption, *edits = case.details["turns"]
        true = [image_of(caption["objects"]), *(image_of(meta["objects"]) for meta in edits)]
        found = CONVERSATION.measure(case, dict(zip(TURNS, true, strict=True)), {}, DETECTOR)
        assert set(found.values()) == {1.0}, case.prompt
        idle = CONVERSATION.measure(case, dict.fromkeys(TURNS, true[0]), {}, DETECTOR)
        assert idle["turn_1"] == 1
        assert idle["success"] == idle["all_turns"] == idle["turn_2"] == 0, case.prompt


def test_a_turn_is_compared_with_the_image_that_it_edits(conversations):
    """The whole scene upside down: positions differ, and all turns that request none succeed."""
    for case in conversations:
        caption, *edits = case.details["turns"]
        if any(meta["edits"][0]["position"] for meta in edits):
            continue
        turned = [[_upside_down(e) for e in meta["objects"]] for meta in (caption, *edits)]
        images = dict(zip(TURNS, map(image_of, turned), strict=True))
        assert set(CONVERSATION.measure(case, images, {}, DETECTOR).values()) == {1.0}, case.prompt


def test_relations_of_turns_last_to_the_end():
    circle = {"shape": "circle", "color": "red", "box": [0, 0, 312, 312]}
    anchor = {"shape": "square", "color": "blue", "box": [562, 0, 875, 312]}
    added = {"op": "add", "object": None, "result": circle, "position": ["left of", anchor["box"]]}
    turned = {"op": "recolour", "object": anchor, "result": {**anchor, "color": "green"}, "position": None}
    after = [circle, {**anchor, "color": "green"}]
    turns = [
        {"kind": "t2i", "objects": [anchor]},
        {"kind": "edit", "edits": [added], "source_objects": [anchor], "objects": [anchor, circle]},
        {"kind": "edit", "edits": [turned], "source_objects": [anchor, circle], "objects": after},
    ]
    case = CONVERSATION.cases(1, SIZE, 0, "test")[0]
    case.details.clear()
    case.details.update(turns=turns)
    right = [image_of([anchor]), image_of([anchor, circle]), image_of(after)]
    other_side = image_of([{**circle, "box": [562, 562, 875, 875]}, {**anchor, "color": "green"}])
    assert CONVERSATION.measure(case, dict(zip(TURNS, right, strict=True)), {}, DETECTOR)["success"] == 1
    found = CONVERSATION.measure(case, dict(zip(TURNS, [*right[:2], other_side], strict=True)), {}, DETECTOR)
    assert found["success"] == 0
    assert found["turn_2"] == 1
    assert found["turn_3"] == 0


def test_a_turn_that_changes_another_object_has_failed(conversations):
    """Whatever the image before it holds must stay, planned or not."""
    corner = {"shape": "star", "color": "orange", "box": [0, 0, 250, 250]}
    tried = 0
    for case in conversations:
        caption, *edits = case.details["turns"]
        if any(_near(e["box"]) for meta in (caption, *edits) for e in meta["objects"]):
            continue
        tried += 1
        true = [image_of(meta["objects"]) for meta in (caption, *edits)]
        more = [image_of([*meta["objects"], corner]) for meta in (caption, *edits)]
        kept = CONVERSATION.measure(case, dict(zip(TURNS, more, strict=True)), {}, DETECTOR)
        assert (kept["turn_1"], kept["turn_2"], kept["turn_3"], kept["success"]) == (0, 1, 1, 0), case.prompt
        lost = CONVERSATION.measure(case, dict(zip(TURNS, [*more[:2], true[2]], strict=True)), {}, DETECTOR)
        assert (lost["turn_2"], lost["turn_3"], lost["success"]) == (1, 0, 1), case.prompt
    assert tried > 2


def _near(box):
    return box[0] < 320 and box[1] < 320


def _upside_down(entry):
    x1, y1, x2, y2 = entry["box"]
    return {**entry, "box": (x1, 1000 - y2, x2, 1000 - y1)}


def test_checks_and_repairs_of_plans_are_counted():
    scenes = {case.name: case for case in PLANS.cases(12, SIZE, 0, "test")}
    assert {case.category for case in scenes.values()} == {"written", "sampled", "pushed", "swapped", "dropped"}
    for case in scenes.values():
        true = _true_plan(case)
        first = DISTURBED[case.category](true) if case.category in DISTURBED else true
        plans = dict(zip(WAYS, (first, repaired(first), true, true), strict=True))
        images = {way: of_chain(plan.chain) for way, plan in plans.items()}
        record = {"chains": {case.name: {way: plan.chain for way, plan in plans.items()}}}
        found = PLANS.measure(case, images, record, DETECTOR)
        assert found["right_best"] == found["generated_best"] == 1
        if case.category in DISTURBED:
            assert found["precision"] == found["recall"] == 1, case
            assert found["right_first"] == 0
            assert found["right_repaired"] == (case.category != "dropped"), plans["repaired"].chain
        else:
            assert "precision" not in found
            assert "recall" not in found
    assert PLANS.measure(case, images, {"chains": {case.name: None}}, DETECTOR) == {}


def _true_plan(case):
    objects = case.details["meta"]["objects"]
    regions = [
        f"a {e['color']} {e['shape']} ({','.join(map(str, e['box'][:2]))}),({e['box'][2]},{e['box'][3]})"
        for e in objects
    ]
    return Plan(case.prompt, " and ".join(regions), (SIZE, SIZE))


def test_boxes_that_overlap_make_no_right_plan():
    (case, *_) = [case for case in PLANS.cases(6, SIZE, 0, "test") if case.category == "pushed"]
    plan = _true_plan(case)
    assert is_right(plan, case.details["meta"])
    assert not plan_problems(plan)
    assert not is_right(DISTURBED["pushed"](plan), case.details["meta"])


def test_overall_is_by_scene(interactions):
    """The mean of each scene's mean, and as many items as there are scenes."""
    cases = [case for case in interactions if case.category in ("add", "remove")]
    found = torch.full((len(cases), len(INTERACTION.metrics)), torch.nan)
    found[:, 0] = torch.tensor([float(case.category == "add") for case in cases])
    result = case_results(INTERACTION, cases, found, {})
    groups = {}
    for case in cases:
        groups.setdefault(case.group, []).append(float(case.category == "add"))
    overall = result.scores["overall"]["as_requested"]
    assert overall.n == len(groups) == 10
    assert overall.mean == pytest.approx(sum(sum(own) / len(own) for own in groups.values()) / len(groups))
    assert result.scores["add"]["as_requested"].mean == 1
    assert "iou" not in result.scores["add"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run") / "small")


@pytest.mark.parametrize("suite", [INTERACTION, PLANS, CONVERSATION], ids=lambda suite: suite.name)
def test_suites_are_generated_scored_and_resumed(suite, run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", suite.name, "--checkpoint", str(run), "--output", str(out), "--number", "2"]
    main([*command, "--accelerator", "cpu", "--seed", "1"])
    results = json.loads((out / "results.json").read_text())
    assert results["suite"] == suite.name
    assert results["counts"]["scenes"] == 2
    assert not results["missing"]
    assert results["generation"]["number"] == 2
    assert results["checksums"].keys() == {"checkpoint", "cases"}
    assert suite.name in capsys.readouterr().out
    made = sorted((out / "images").iterdir())
    times = {file: file.stat().st_mtime_ns for file in made}
    (out / "records" / "00001.json").unlink()
    again = [file for file in made if file.name.startswith("00001")]
    before = {file: file.read_bytes() for file in again}
    for file in again:
        file.write_bytes(b"")
    main([*command, "--accelerator", "cpu", "--seed", "1"])
    assert {file for file in made if file.stat().st_mtime_ns != times[file]} == set(again)
    assert {file: file.read_bytes() for file in again} == before
    assert json.loads((out / "results.json").read_text())["scores"] == results["scores"]
    with pytest.raises(SystemExit):
        main([*command, "--accelerator", "cpu", "--seed", "2"])
    assert "were generated with seed 1, not 2" in capsys.readouterr().err


def test_a_conversation_is_generated_as_by_its_class(run, tmp_path):
    """Each turn edits the image of the one before, and is given the requests before it."""
    out = tmp_path / "out"
    command = ["evaluate", "conversation", "--checkpoint", str(run), "--output", str(out), "--number", "1"]
    main([*command, "--accelerator", "cpu"])
    (case,) = CONVERSATION.cases(1, SIZE, 0, "test")
    chains = json.loads((out / "records" / "00000.json").read_text())["chains"]
    conversation = Conversation(GoTPipeline.from_pretrained(run, "cpu"))
    for turn, request in enumerate(case.details["requests"]):
        plan, seed = conversation.plan(request), case.seed + turn
        made = conversation.append(plan, conversation.pipeline.generate(plan, seed=[seed]).images[0], seed)
        assert made.plan.chain == chains[turn]
        written = to_pil(load_image(out / "images" / f"00000-{turn + 1}.png"))
        assert written.tobytes() == made.image.tobytes()


def test_edits_of_a_conversation_can_keep_the_rest(run, tmp_path):
    """The untrained reasoner plans no box, so that all of the first image stays."""
    command = ["evaluate", "conversation", "--checkpoint", str(run), "--number", "1", "--accelerator", "cpu"]
    for name, options in {"plain": [], "kept": ["--keep-rest"]}.items():
        main([*command, *options, "--output", str(tmp_path / name)])
    first, second, third = sorted((tmp_path / "kept" / "images").iterdir())
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    assert len({file.read_bytes() for file in (tmp_path / "plain" / "images").iterdir()}) == 3


def test_a_written_plan_replaces_one_that_cannot_be_disturbed(run, tmp_path):
    """The untrained reasoner writes no boxes: nothing can be disturbed, and such cases have no scores."""
    out = tmp_path / "out"
    command = ["evaluate", "plans", "--checkpoint", str(run), "--output", str(out), "--number", "2"]
    main([*command, "--accelerator", "cpu", "--best-of", "2"])
    results = json.loads((out / "results.json").read_text())
    scores = results["scores"]
    assert WRITTEN in scores
    assert not [name for name in DISTURBED if scores.get(name)]
    assert scores["overall"]["recall"]["mean"] == 1
    assert all(entry["scores"] == {} for entry in results["items"] if entry["category"] in DISTURBED)
