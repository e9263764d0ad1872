"""`got evaluate` and `got compare` on the command line."""

import json

import numpy as np
import pytest
from evaluation_runs import save_run
from geneval_scenes import write_prompts, write_scenes
from PIL import Image
from small_system import small_settings, stirred_system
from tiny_judges import tiny_clip, tiny_mask2former

from got_core.cli.main import main
from got_core.data.scenes.requests import GENERATION_TAGS
from got_core.weights.files import checksum

BFLOAT = ("--precision", "bf16-mixed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run") / "small", stirred_system())


def evaluate(*arguments, suite="geneval"):
    main(["evaluate", suite, "--accelerator", "cpu", *map(str, arguments)])


def refused(capsys, *arguments, suite="geneval"):
    with pytest.raises(SystemExit) as ended:
        evaluate(*arguments, suite=suite)
    said = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("Loading weights")]
    assert ended.value.code == 2
    assert len(said) == 1
    assert said[0].startswith("got: error: ")
    return said[0]


def test_a_checkpoint_generates_and_is_scored_and_compared(run, tmp_path, capsys):
    prompts, output = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "out"
    options = ("--checkpoint", run, "--prompts", prompts, "--output", output, "--detector", "scenes")
    evaluate(*options, "--per-prompt", 2, "--seed", 3)
    printed = capsys.readouterr().out
    assert "any_right" in printed
    result = json.loads((output / "results.json").read_text())
    assert (result["suite"], result["counts"]["per_prompt"]) == ("geneval", 2)
    assert result["seeds"] == {"generation": 3, "bootstrap": 0}
    assert (result["scores"]["overall"]["right"]["n"], result["counts"]["images"]) == (6, 12)
    assert result["checksums"]["prompts"] == checksum(prompts)
    assert result["checksums"]["checkpoint"] == checksum(run / "checkpoints" / "last.ckpt")
    assert result["recipe"]["model"]["class_path"] == "got_core.training.system.GoTSystem"
    assert set(result["versions"]) >= {"got-framework", "torch", "transformers", "diffusers"}
    assert all(image["right"] or image["reason"] for entry in result["items"] for image in entry["images"])

    images = {file: file.read_bytes() for file in output.rglob("*.png")}
    evaluate(*options, "--per-prompt", 2, "--seed", 3)
    assert json.loads((output / "results.json").read_text()) == result
    assert images == {file: file.read_bytes() for file in output.rglob("*.png")}
    assert result["generation"]["precision"] == "32-true"
    assert "generated with precision 32-true, not bf16-mixed" in refused(capsys, *options, "--seed", 3, *BFLOAT)
    assert "generated with seed 3, not 4" in refused(capsys, *options, "--seed", 4)

    write_scenes(tmp_path / "true", 6, per_prompt=2)
    evaluate("--images", tmp_path / "true", "--detector", "scenes", "--output", tmp_path / "scored")
    capsys.readouterr()
    main(["compare", str(output / "results.json"), str(tmp_path / "scored" / "results.json")])
    printed = capsys.readouterr()
    assert "too few items" in printed.out
    assert "corrected for the number of tests (Holm): 12 of categories, 2 overall" in printed.out
    assert "A and B differ in seeds, generation: A 3, B None" in printed.out
    assert "single_object" in printed.out
    assert printed.err == ""
    assert not (tmp_path / "true" / "results.json").exists()


def test_a_folder_of_anyones_images_is_scored_by_mask2former_and_clip(tmp_path, capsys):
    prompts = [
        {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
        {"tag": "counting", "include": [{"class": "tv remote", "count": 2}], "prompt": "a photo of two tv remotes"},
    ]
    write_scenes(tmp_path / "images", 2, per_prompt=2)
    for index, metadata in enumerate(prompts):
        (tmp_path / "images" / f"{index:05d}" / "metadata.jsonl").write_text(json.dumps(metadata))
    tiny_mask2former(tmp_path / "detector")
    tiny_clip(tmp_path / "clip")
    evaluators = ("--detector", tmp_path / "detector", "--clip", tmp_path / "clip")
    (tmp_path / "images" / "00001" / "samples" / "00000.png").write_bytes(b"broken")
    evaluate("--images", tmp_path / "images", *evaluators)
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "overall is the mean of 2 categories, as there is no single_object, two_object, position, color_attr" in printed
    )
    assert "missing: 00001/samples/00000.png" in printed
    result = json.loads((tmp_path / "images" / "results.json").read_text())
    assert result["counts"]["missing"] == 1
    assert len(result["items"][1]["images"]) == 1
    assert result["evaluator"]["rules"]["counting_confidence"] == 0.9
    assert result["evaluator"]["input"] == {"short_side": 800, "long_side": 1333, "multiple": 32}
    weights = {f"{part}/model.safetensors" for part in ("detector", "colours")}
    assert set(result["evaluator"]["weights"]) == weights
    assert result["evaluator"]["weights"]["colours/model.safetensors"] == checksum(
        tmp_path / "clip" / "model.safetensors"
    )
    assert set(result["checksums"]) == {"images"}
    assert result["recipe"] is None
    write_scenes(tmp_path / "true", 1)
    assert "does not know" in refused(capsys, "--images", tmp_path / "true", *evaluators)


def test_other_precisions_and_sizes_are_generated(run, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", 1)
    options = ("--checkpoint", run, "--prompts", prompts, "--detector", "scenes", "--per-prompt", 1)
    evaluate(*options, "--output", tmp_path / "full")
    evaluate(*options, "--output", tmp_path / "mixed", *BFLOAT)
    images = [np.array(Image.open(tmp_path / name / "00000/samples/00000.png")) for name in ("full", "mixed")]
    assert (images[0] != images[1]).any()
    assert json.loads((tmp_path / "mixed" / "results.json").read_text())["generation"]["precision"] == "bf16-mixed"
    evaluate(*options, "--output", tmp_path / "large", "--size", "64x32")
    assert Image.open(tmp_path / "large" / "00000/samples/00000.png").size == (32, 64)


def test_drawn_scenes_are_prompts_and_the_full_procedure_is_another(run, tmp_path, capsys):
    settings = small_settings()
    settings["init_args"]["fast"] = {"steps": 1, "guidance_interval": [0, 1000]}
    fast = save_run(tmp_path / "run", stirred_system(), settings)
    scenes = ("--prompts", "scenes", "--number", 6, "--per-prompt", 1, "--seed", 3, "--detector", "scenes")
    images = {}
    for name, run_, given in (("full", run, ()), ("fast", fast, ()), ("exact", fast, ("--exact",))):
        evaluate("--checkpoint", run_, *scenes, "--output", tmp_path / name, *given)
        files = sorted((tmp_path / name).glob("*/samples/*.png"))
        images[name] = [file.read_bytes() for file in files]
    assert len(images["full"]) == 6
    assert images["exact"] == images["full"] != images["fast"]
    results = json.loads((tmp_path / "fast" / "results.json").read_text())
    assert {item["category"] for item in results["items"]} == set(GENERATION_TAGS)
    assert results["generation"]["scenes"] == 6
    again = ("--checkpoint", fast, *scenes, "--output", tmp_path / "fast", "--exact")
    assert "generated with exact nothing, not True" in refused(capsys, *again)
    evaluate("--images", tmp_path / "fast", "--detector", "scenes", suite="layout")
    assert json.loads((tmp_path / "fast" / "results.json").read_text())["suite"] == "layout"


def test_nothing_is_significant_between_different_evaluators(tmp_path, capsys):
    write_scenes(tmp_path / "true", 2)
    evaluate("--images", tmp_path / "true", "--detector", "scenes")
    file = tmp_path / "true" / "results.json"
    content = json.loads(file.read_text())
    content["evaluator"]["rules"]["confidence"] = 0.9
    (tmp_path / "other.json").write_text(json.dumps(content))
    capsys.readouterr()
    main(["compare", str(file), str(tmp_path / "other.json")])
    printed = capsys.readouterr()
    assert "different evaluators" in printed.out
    assert not any("significant" in line for line in printed.out.splitlines() if line.startswith("│"))
    assert "scored by different evaluators" in printed.err


def test_each_error_is_one_line(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    prompts = write_prompts(tmp_path / "prompts.jsonl", 1)
    scenes = ("--detector", "scenes")
    assert "--images FOLDER to score, or --checkpoint RUN" in refused(capsys)
    assert "--images FOLDER to score, or --checkpoint" in refused(capsys, "--images", "a", "--checkpoint", "b")
    assert "needs --prompts FILE" in refused(capsys, "--checkpoint", run, "--output", "a")
    assert "no folder such as 00000/" in refused(capsys, "--images", tmp_path / "empty", *scenes)
    write_scenes(tmp_path / "true", 1)
    nowhere = refused(capsys, "--images", tmp_path / "true", "--detector", tmp_path / "nowhere")
    assert "nowhere cannot be loaded as Mask2Former" in nowhere
    tiny_mask2former(tmp_path / "detector")
    tiny_clip(tmp_path / "clip")
    for file in (tmp_path / "clip").glob("tokenizer*"):
        file.unlink()
    capsys.readouterr()
    evaluators = ("--detector", tmp_path / "detector", "--clip", tmp_path / "clip")
    assert "tokenizer's files are missing" in refused(capsys, "--images", tmp_path / "true", *evaluators)
    assert "--accelerator tpu" in refused(capsys, "--images", tmp_path / "true", "--accelerator", "tpu")
    options = ("--checkpoint", run, "--prompts", prompts, "--output", tmp_path / "out", *scenes)
    assert "--size 31x31: " in refused(capsys, *options, "--size", "31x31")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in refused(capsys, *options, "--output", tmp_path / "file" / "out")
    scored = ("--images", tmp_path / "true", *scenes)
    assert "cannot be written to" in refused(capsys, *scored, "--output", tmp_path / "file" / "out")
    existing = "is of generation, but the images of --images FOLDER exist"
    for option in (("--seed", 0), ("--steps", 2), ("--size", "32x32"), ("--spatial-scale", 1), ("--exact",), BFLOAT):
        assert f"{option[0]} {existing}" in refused(capsys, *scored, *option)
    assert f"--prompts {existing}" in refused(capsys, *scored, "--prompts", prompts, suite="layout")
    assert "no such run" in refused(capsys, *options[2:], "--checkpoint", tmp_path / "nowhere")
    prompts.write_text("{}\n")
    assert "line 1: it has no prompt" in refused(capsys, *options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main(["compare", str(prompts), str(prompts)])
    assert "not a results.json" in capsys.readouterr().err


def test_options_of_other_suites_are_unknown(capsys):
    said = refused(capsys, "--images", "a", "--judge-url", "X")
    assert said.startswith("got: error: unknown option --judge-url of got evaluate geneval")
    quality = ("--images", "a", "--reference", "b", "--inception", "c")
    others = (("quality", *quality, "--seed", 0), ("quality", *quality, "--warm-up", 2), ("layout", "--clip", "c"),
              ("efficiency", "--config", "a", "--devices", 2))  # fmt: skip
    for suite, *words in others:
        assert f"unknown option {words[-2]} of got evaluate {suite}" in refused(capsys, *words, suite=suite)


def test_a_misspelt_suite_and_an_option_are_guessed(capsys):
    assert "genval is no suite of got evaluate; did you mean 'geneval'?" in refused(capsys, suite="genval")
    assert "unknown option --per-promt of got evaluate geneval; did you mean '--per-prompt'?" in refused(
        capsys, "--per-promt", 2
    )
