"""`got evaluate editing`: sets of anyone's edits, and edits generated from a checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from edit_sets import write_emu, write_generated, write_imagenhub
from evaluation_runs import quiet_trainer, save_run
from judge_server import GOOD, endpoint
from small_system import small_system
from tiny_judges import random_alexnet, tiny_clip, tiny_dino
from two_ranks import run_on_ranks

from got_core.cli.main import main
from got_core.evaluation.generation import Generator
from got_core.evaluation.suites.edit_datasets import load_rgb, read_edits, with_outputs
from got_core.evaluation.suites.editing import (
    EditGeneration,
    EditScorers,
    EditScoring,
    edit_results,
    missing_edits,
    prepare_edits,
    scene_requests,
)
from got_core.types import to_pil
from got_core.weights.files import checksum

NO_MODELS = ("--clip", "none", "--dino", "none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run") / "small")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models for every metric, as options."""
    folder = tmp_path_factory.mktemp("models")
    tiny_clip(folder / "clip")
    tiny_dino(folder / "dino")
    random_alexnet(folder / "alexnet.pth")
    return "--clip", folder / "clip", "--dino", folder / "dino", "--lpips", folder / "alexnet.pth"


def evaluate(*arguments):
    main(["evaluate", "editing", "--accelerator", "cpu", *map(str, arguments)])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        evaluate(*arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("got: ")]
    assert ended.value.code == 2
    assert len(said) == 1
    return said[0]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_perfect_edits_have_every_metric(tmp_path, models, capsys):
    root = tmp_path / "edits"
    samples = write_generated(root, 7)
    (root / "outputs" / "00005.png").write_bytes(b"broken")
    (root / "outputs" / "00006.png").unlink()
    with endpoint(lambda number, body: (200, GOOD)) as served:
        judge = ("--judge-url", served.url, "--judge-model", "m")
        evaluate("--images", root, *models, *judge, "--batch-size", 3)
        number = len(served.bodies)
        evaluate("--images", root, *models, *judge)
        assert len(served.bodies) == number == 5
        cached = root / "cache" / "scores-0.jsonl"
        assert len(cached.read_text().splitlines()) == 20  # three trivial answers each
        other = root / "outputs" / "00001.png"
        other.write_bytes((root / "outputs" / "00000.png").read_bytes())
        evaluate("--images", root, *models, *judge)
        assert len(served.bodies) == 6
        assert len(cached.read_text().splitlines()) == 24
        to_pil(samples[1].target).save(other)
        evaluate("--images", root, *models, *judge)
        assert len(served.bodies) == 6
        assert len(cached.read_text().splitlines()) == 24
    printed = capsys.readouterr().out
    assert "missing: 00006: no output" in printed
    found = results(root)
    scores = found["scores"]["overall"]
    assert scores["edit_success"] == {"mean": 1, "interval": None, "n": 5}
    assert set(found["scores"]) == {*(sample.meta["tag"] for sample in samples[:5]), "overall"}
    assert scores["background_kept"]["mean"] == 1
    assert scores["l1_outside"]["mean"] < 0.01 < scores["l1"]["mean"]
    assert scores["judge"]["mean"] == scores["judge_kept"]["mean"] == 0.6
    assert scores["judge_followed"]["mean"] == 0.8
    assert {name: score["n"] for name, score in scores.items()} == dict.fromkeys(scores, 5)
    assert len(scores) == 15
    reasons = {entry["item"]: entry["reason"] for entry in found["missing"]}
    assert set(reasons) == {"00005", "00006"}
    assert "not a readable image" in reasons["00005"]
    assert [item["prompt"] for item in found["items"]] == [sample.prompt for sample in samples[:5]]
    assert found["items"][0]["category"] == samples[0].meta["tag"]
    assert set(found["checksums"]) == {"edits"}
    assert set(found["evaluator"]["weights"]) == {"clip/model.safetensors", "dino/model.safetensors", "lpips"}
    assert found["evaluator"]["chat"]["model"] == "m"
    assert found["evaluator"]["from"]["chat"] == served.url
    assert "torchmetrics" in found["versions"]


def test_a_judge_that_answers_nonsense_is_counted_and_scores_nothing(tmp_path, capsys):
    root = tmp_path / "edits"
    samples = write_generated(root, 4)

    def choose(number, body):
        question = body["messages"][0]["content"][0]["text"]
        return (200, "lovely" if samples[2].prompt in question else GOOD)

    with endpoint(choose) as served:
        evaluate("--images", root, *NO_MODELS, "--judge-url", served.url, "--judge-model", "m")
    printed = capsys.readouterr().out
    assert "note: without the judge's score: 00002: not judged: no sensible answer in 3 attempts" in printed
    found = results(root)
    overall = found["scores"]["overall"]
    assert overall["judge"] == {"mean": 0.6, "interval": None, "n": 3}
    assert overall["l1"]["n"] == 4
    assert len(found["notes"]) == 1
    assert found["counts"] == {"edits": 4, "missing": 0, "unjudged": 1}
    with endpoint(lambda number, body: (200, GOOD)) as served:
        evaluate("--images", root, *NO_MODELS, "--judge-url", served.url, "--judge-model", "m")
    assert results(root)["scores"]["overall"]["judge"]["n"] == 4
    assert "judge" not in found["items"][2]["scores"]


def test_published_layouts_are_scored(tmp_path, models):
    write_imagenhub(tmp_path / "hub", ("Ours", "Theirs"))
    evaluate("--images", tmp_path / "hub", "--method", "Ours", *models, "--output", tmp_path / "out")
    with endpoint(lambda number, body: (200, GOOD)) as served:
        write_imagenhub(tmp_path / "one", ("Ours",))
        for _ in range(2):
            evaluate("--images", tmp_path / "one", *NO_MODELS, "--judge-url", served.url, "--judge-model", "m")
    scores = results(tmp_path / "out")["scores"]["overall"]
    assert set(scores) == {"clip_i", "clip_t", "clip_direction", "dino", "l1", "l2", "lpips"}
    answers = results(tmp_path / "out")["answers"]
    assert list(answers) == ["unchanged", "blank", "noise"]
    assert all(set(own["overall"]) == set(scores) for own in answers.values())
    assert answers["unchanged"]["overall"]["l1"]["mean"] == 0
    assert answers["unchanged"]["overall"]["clip_i"]["mean"] == pytest.approx(1, abs=1e-5)
    write_emu(tmp_path / "emu")
    evaluate("--images", tmp_path / "emu", *NO_MODELS)
    found = results(tmp_path / "emu")
    assert found["scores"]["overall"]["l1"]["n"] == 2
    assert found["missing"] == [{"item": "12", "reason": "no output", "category": "add", "count": 1}]


def test_a_checkpoint_edits_scenes_and_resumes_where_it_ended(run, tmp_path, capsys):
    output = tmp_path / "out"
    options = ("--checkpoint", run, "--prompts", "scenes", "--number", 6, "--output", output, *NO_MODELS)
    evaluate(*options, "--seed", 3)
    found = results(output)
    assert found["seeds"] == {"generation": 3, "bootstrap": 0}
    assert found["checksums"]["checkpoint"] == checksum(run / "checkpoints" / "last.ckpt")
    assert found["scores"]["overall"]["edit_success"]["n"] == 6
    assert {item["category"] for item in found["items"]} == {
        "add", "remove", "recolour", "replace", "move", "multi_turn",
    }  # fmt: skip
    images = {file: file.read_bytes() for file in output.rglob("*.png")}
    assert len(images) == 18
    assert list(found["answers"]) == ["unchanged", "blank", "noise", "true"]
    means = {name: scores["overall"]["edit_success"]["mean"] for name, scores in found["answers"].items()}
    assert means == {"unchanged": 0, "blank": 0, "noise": 0, "true": 1}
    printed = capsys.readouterr().out
    assert "unchanged source" in printed
    assert "true image" in printed
    (output / "outputs" / "00004.png").unlink()
    evaluate(*options, "--seed", 3)
    assert results(output) == found
    capsys.readouterr()
    main(["compare", str(output / "results.json"), str(output / "results.json")])
    compared = capsys.readouterr().out
    assert "edit_success (higher is better)" in compared
    assert "too few items" in compared
    assert images == {file: file.read_bytes() for file in output.rglob("*.png")}
    assert "generated with seed 3, not 4" in refused(capsys, *options, "--seed", 4)


def test_a_checkpoint_edits_a_published_set(run, tmp_path, capsys):
    write_emu(tmp_path / "emu")
    (tmp_path / "emu" / "more.jsonl").write_text('{"idx": 99, "image": "gone.png", "instruction": "make it red"}\n')
    output = tmp_path / "out"
    evaluate("--checkpoint", run, "--prompts", tmp_path / "emu", "--output", output, *NO_MODELS)
    found = results(output)
    assert [item["name"] for item in found["items"]] == ["10", "11", "12"]
    (missing,) = found["missing"]
    assert (missing["item"], missing["reason"].split(" (")[0]) == ("99", "no source")
    assert "missing: 99: no source" in capsys.readouterr().out


def test_each_error_is_one_line(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "--images FOLDER to score, or --checkpoint RUN" in refused(capsys)
    assert "--output FOLDER" in refused(capsys, "--checkpoint", run, "--prompts", "scenes")
    assert "--reference-scale is of generation" in refused(capsys, "--images", tmp_path, "--reference-scale", 2)
    assert "no edits can be read" in refused(capsys, "--images", tmp_path / "empty", *NO_MODELS)
    assert "--judge-model" in refused(capsys, "--images", tmp_path / "empty", "--judge-url", "http://localhost")
    nowhere = ("--images", tmp_path / "empty", "--clip", tmp_path / "nowhere")
    assert "cannot be loaded as CLIPModel" in refused(capsys, *nowhere)
    write_generated(tmp_path / "edits", 2)
    for file in (tmp_path / "edits" / "outputs").iterdir():
        file.write_bytes(b"")
    assert "none of 2 edits can be read" in refused(capsys, "--images", tmp_path / "edits", *NO_MODELS)
    options = ("--checkpoint", run, "--prompts", "scenes", *NO_MODELS)
    assert "square" in refused(capsys, *options, "--size", "32x64", "--output", tmp_path / "out")
    assert "--size 30x30: " in refused(capsys, *options, "--size", "30x30", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def scored(rank: int, root: str, ranks: int = 2) -> dict:
    edits = with_outputs(read_edits(Path(root)))
    scoring = EditScoring(edits, EditScorers(), batch_size=2)
    quiet_trainer(ranks).test(scoring, verbose=False)
    return edit_results(edits, scoring).as_json()


GENERATOR = Generator("", (32, 32), 0, {}, {"steps": None})


def generated_and_scored(rank: int, root: str, ranks: int = 2) -> dict:
    edits = missing_edits(Path(root), scene_requests(3, 32, 0), 0)
    trainer = quiet_trainer(ranks)
    trainer.predict(EditGeneration(small_system().model, edits, 2, GENERATOR), return_predictions=False)
    trainer.strategy.barrier()
    return scored(rank, root, ranks)


@pytest.mark.distributed
@pytest.mark.parametrize("number", [1, 5])
def test_two_ranks_score_as_one_does(tmp_path, number):
    root = tmp_path / "edits"
    write_generated(root, number)
    if number > 1:
        (root / "outputs" / "00003.png").write_bytes(b"broken")
    alone = scored(0, str(root), ranks=1)
    assert run_on_ranks(scored, tmp_path, str(root)) == [alone, alone]


@pytest.mark.distributed
def test_two_ranks_generate_each_edit_once(tmp_path):
    prepare_edits(tmp_path / "edits", scene_requests(3, 32, 0), {"seed": 0})
    first, second = run_on_ranks(generated_and_scored, tmp_path, str(tmp_path / "edits"))
    assert first == second
    assert first["scores"]["overall"]["l1"]["n"] == 3
    prepare_edits(tmp_path / "alone", scene_requests(3, 32, 0), {"seed": 0})
    generated_and_scored(0, str(tmp_path / "alone"), ranks=1)
    for edit in read_edits(tmp_path / "alone").cases:
        both = load_rgb(tmp_path / "edits" / "outputs" / edit.output.name)
        torch.testing.assert_close(both, load_rgb(edit.output), rtol=0, atol=2 / 255)
