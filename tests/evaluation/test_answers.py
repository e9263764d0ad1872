"""Trivial answers and true ones stand beside the scores of the same requests."""

import json
from dataclasses import replace

import pytest
import torch
from geneval_scenes import write_scenes

from got_core.cli.main import main
from got_core.data.scenes.dataset import EDIT_TAGS, GENERATION_TAGS, ScenesDataset
from got_core.detection.base import CATEGORIES
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.answers import (
    Answer,
    SceneAnswers,
    chain_objects,
    is_drawable,
    scene_image,
    text_to_image_answers,
)
from got_core.evaluation.callbacks import ANSWERS, table, to_metrics
from got_core.evaluation.results import print_table
from got_core.evaluation.suites.conversation import CONVERSATION
from got_core.evaluation.suites.interaction import INTERACTION
from got_core.types import Batch

DETECTOR = SceneDetector()


@pytest.fixture(scope="module")
def samples():
    tasks = dict.fromkeys((*GENERATION_TAGS, *EDIT_TAGS), 1.0)
    dataset = ScenesDataset(length=240, tasks=tasks, balanced=True, seed=1, split="test")
    return [dataset[index] for index in range(len(dataset))]


def scored(samples, batch_size):
    answers = SceneAnswers(DETECTOR)
    for start in range(0, len(samples), batch_size):
        batch = Batch.collate(samples[start : start + batch_size])
        answers.update(batch.target, batch.chains, batch.meta, batch.source)
    return answers


@pytest.fixture(scope="module")
def computed(samples):
    return scored(samples, 64).compute()


def test_floors_and_ceiling_of_every_score(computed):
    assert list(computed) == ["unchanged", "blank", "noise", "another", "true"]
    assert computed["unchanged"] == {"edit_success": 0, "background_kept": 1, "geneval": {}}
    true = computed["true"]
    assert true["mean_iou"] > 0.99
    assert true["object_position_deviation"] < 0.001
    ones = ("chain_parses", "chain_satisfies", "colour_in_box", "edit_success", "background_kept")
    assert [true[name] for name in ones] == [1] * 5
    assert true["geneval"] == dict.fromkeys((*CATEGORIES, "overall"), 1)
    for name in ("blank", "noise"):
        own = computed[name]
        assert own["edit_success"] == own["colour_in_box"] == 0
        assert own["mean_iou"] < 0.05  # in some noise there is an object
        assert own["geneval"] == dict.fromkeys((*CATEGORIES, "overall"), 0)
        assert not {"chain_parses", "chain_satisfies"} & set(own)
    assert 0.8 < computed["blank"]["background_kept"] < 0.9
    assert computed["noise"]["background_kept"] < 0.02
    another = computed["another"]
    assert 0.05 < another["geneval"]["overall"] < 0.25
    assert 0.05 < another["mean_iou"] < 0.35
    assert "edit_success" not in another


def test_the_image_of_another_request_is_that_of_the_text_to_image_request_before(samples):
    """Whatever the batches are."""
    alone = scored(samples[:24], 1)
    assert alone.compute()["another"] == scored(samples[:24], 24).compute()["another"]
    alone.reset()
    batch = Batch.collate(samples[:1])
    alone.update(batch.target, batch.chains, batch.meta, batch.source)
    assert set(alone.compute()) == {"blank", "noise", "true"}


def test_chains_that_are_not_there_are_not_scored(samples):
    true = scored([replace(sample, chain="") for sample in samples[:2]], 2).compute()["true"]
    assert true["geneval"]["overall"] == 1
    assert not {"chain_parses", "chain_satisfies", "mean_iou"} & set(true)


def test_no_shared_random_numbers_are_used(samples):
    before = torch.get_rng_state()
    scored(samples[:12], 12).compute()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_final_scores_are_printed_beside_the_answers(computed, capsys):
    metrics = {"seconds": 1.0, **to_metrics({"edit_success": 0.5}), ANSWERS: computed}
    print_table(table(metrics, "title"))
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
            for line in capsys.readouterr().out.splitlines()]  # fmt: skip
    header = ["metric", "value", "unchanged source", "blank image", "noise", "another's true image", "true image"]
    assert header in rows
    assert ["edit_success", "0.5", "0", "0", "0", "", "1"] in rows
    assert ["seconds", "1", "", "", "", "", ""] in rows
    assert not [row for row in rows if row[0].startswith("answers")]


def test_true_images_are_rendered_from_metadata_and_from_chains(samples):
    for sample in samples[:24]:
        assert torch.equal(scene_image(sample.meta["objects"], sample.size), sample.target)
        if sample.meta["kind"] == "t2i":
            assert torch.equal(scene_image(chain_objects(sample.chain), sample.size), sample.target)


def test_only_answers_that_exist_are_given(samples):
    objects = samples[0].meta["objects"]
    assert list(text_to_image_answers([objects, objects])) == ["blank", "noise", "another", "true"]
    assert list(text_to_image_answers([objects])) == ["blank", "noise", "true"]
    assert list(text_to_image_answers([objects, None])) == ["blank", "noise"]
    first = dict(objects[0])
    wrong = [None, [], "x", [1], [{}], [{**first, "shape": "dog"}], [{**first, "color": ["red"]}]]
    wrong += [[{**first, "box": box}] for box in (None, [1, 2], [0, 0, 9, "9"], [0, 0, 10**9, 10**9])]
    assert not any(map(is_drawable, wrong))
    assert text_to_image_answers([])["blank"] == []


def test_a_scene_needs_a_square_and_pixels(samples):
    answer = Answer(samples[0].meta["objects"])
    with pytest.raises(ValueError, match="square, not 32x40"):
        answer.image((32, 40))
    with pytest.raises(ValueError, match="has no pixel"):
        Answer([{**samples[0].meta["objects"][0], "box": [5, 5, 6, 6]}]).image((32, 32))
    assert Answer().image((32, 40)).shape == Answer(noise=1).image((32, 40)).shape == (3, 32, 40)


@pytest.mark.parametrize(
    ("suite", "score", "unchanged"), [(CONVERSATION, "all_turns", 0), (INTERACTION, "as_requested", 0)]
)
def test_answers_of_cases_are_scored_by_the_same_measure(suite, score, unchanged):
    for case in suite.cases(6, 32, 0, "test"):
        scores = {}
        for name, answers in suite.answers(case).items():
            assert answers.keys() == case.images.keys()
            images = {key: answer.image((32, 32)) for key, answer in answers.items()}
            scores[name] = suite.measure(case, images, {}, DETECTOR)[score]
        removed = case.category == "remove"  # of interaction, which asks of a removal only that the object is gone
        trivial = {"unchanged": unchanged, "blank": float(removed), "noise": float(removed)}
        assert scores == {**trivial, "true": 1}, case


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_geneval_prints_the_answers_of_drawn_scenes(tmp_path, capsys):
    root = tmp_path / "images"
    write_scenes(root, 6, per_prompt=2)
    (root / "00001" / "samples" / "00000.png").write_bytes(b"broken")
    command = ["evaluate", "geneval", "--images", str(root), "--detector", "scenes", "--accelerator", "cpu"]
    main(command)
    printed = capsys.readouterr().out
    found = results(root)
    overall = {name: scores["overall"]["right"] for name, scores in found["answers"].items()}
    assert {name: score["mean"] for name, score in overall.items() if name != "another"} == {
        "blank": 0, "noise": 0, "true": 1,
    }  # fmt: skip
    assert {score["n"] for score in overall.values()} == {6}
    assert "true image" in printed
    assert found["counts"]["images"] == 11
    main(command)
    assert results(root) == found
    for file in root.glob("*/metadata.jsonl"):
        kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "objects"}
        file.write_text(json.dumps(kept) + "\n")
    main(command)
    assert list(results(root)["answers"]) == ["blank", "noise"]


def test_layout_prints_the_answers_of_chains_that_can_be_rendered(tmp_path, capsys):
    samples = write_scenes(tmp_path, 6, per_prompt=1)
    for index, sample in enumerate(samples):
        chains = tmp_path / f"{index:05d}" / "chains"
        chains.mkdir()
        (chains / "00000.txt").write_text(sample.chain + "\n")
    command = ["evaluate", "layout", "--images", str(tmp_path), "--detector", "scenes", "--accelerator", "cpu"]
    main(command)
    assert "another's true image" in capsys.readouterr().out
    overall = {name: scores["overall"] for name, scores in results(tmp_path)["answers"].items()}
    assert list(overall) == ["blank", "noise", "another", "true"]
    assert overall["blank"]["mean_iou"]["mean"] == overall["noise"]["hits"]["mean"] == 0
    assert overall["true"]["mean_iou"]["mean"] > 0.99
    assert overall["another"]["mean_iou"]["mean"] < 0.5
    box = "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(1,1),(300,300)<|box_end|>"
    (tmp_path / "00000" / "chains" / "00000.txt").write_text(f"There is {box}.\n")
    main(command)
    assert list(results(tmp_path)["answers"]) == ["blank", "noise"]
