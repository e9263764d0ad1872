"""Commands in-process: training with resume, scores, generation and export from a run."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from got_core.cli.main import main
from got_core.paths import ROOT

TINY = str(Path(__file__).parents[1] / "fixtures" / "tiny_scenes.yaml")
RECIPE = ("--config", str(ROOT / "recipes" / "scenes_dit.yaml"), "--config", TINY)
CHAIN = "a red circle (94,188),(469,562) and a blue square (500,562),(900,962)"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


INTERRUPTING = """
from lightning import Callback

class Interrupting(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps, interrupted before the fourth and resumed from the checkpoint of the second."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "interrupting_callback.py").write_text(INTERRUPTING)
    handler = signal.getsignal(signal.SIGINT)
    kind = "got_core.training.checkpointing.LastCheckpoint"
    every_second = f"--trainer.callbacks+={{class_path: {kind}, init_args: {{every_n_steps: 2}}}}"
    interrupting = "--trainer.callbacks+={class_path: interrupting_callback.Interrupting, init_args: {step: 3}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(str(folder))
        root = f"--trainer.default_root_dir={folder}"
        with pytest.raises(SystemExit) as ended:
            main(["fit", *RECIPE, root, every_second, interrupting])
        signal.signal(signal.SIGINT, handler)
        assert ended.value.code == 130
        assert weights(folder)["global_step"] == 2
        assert not (folder / "metrics.json").exists()
        main(["fit", *RECIPE, root, "--ckpt_path", "last"])
    return folder


def test_a_new_run_begins_with_the_weights_of_another(run, tmp_path):
    still = "--model.learning_rates={reasoner: 0.0, guidance: 0.0, backbone: 0.0}"
    one = ("--trainer.max_steps=1", f"--trainer.default_root_dir={tmp_path}", "--model.optimizer.weight_decay=0")
    main(["fit", *RECIPE, "--weights", str(run), still, *one])
    begun, given = weights(tmp_path), weights(run)
    assert begun["global_step"] == 1
    assert all(torch.equal(value, given["state_dict"][name]) for name, value in begun["state_dict"].items())


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_resumed_run_ends_as_an_uninterrupted_one(run, tmp_path):
    main(["fit", *RECIPE, f"--trainer.default_root_dir={tmp_path}"])
    straight, resumed = weights(tmp_path), weights(run)
    assert straight["global_step"] == resumed["global_step"] == 4
    for kind in ("state_dict", "current_model_state"):
        assert straight[kind].keys() == resumed[kind].keys()
        for name, tensor in straight[kind].items():
            assert torch.equal(tensor, resumed[kind][name]), name


def test_a_run_leaves_scores_and_images(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics) == [
        "seconds", "step", "val/chain_loss", "val/denoising_loss",
        "chain_parses", "chain_satisfies", "mean_iou", "colour_in_box", "object_position_deviation", "edit_success",
        "background_kept", "geneval", "answers",
    ]  # fmt: skip
    assert list(metrics["answers"]) == ["unchanged", "blank", "noise", "another", "true"]
    assert metrics["answers"]["unchanged"] == {"edit_success": 0, "background_kept": 1}
    assert metrics["answers"]["true"]["edit_success"] == metrics["answers"]["true"]["geneval"]["overall"] == 1
    assert list(metrics["geneval"]) == [
        "single_object", "two_object", "counting", "colors", "position", "color_attr", "overall",
    ]  # fmt: skip
    assert metrics["seconds"] > 0
    assert metrics["step"] == 4
    assert Image.open(run / "samples.png").width > 192
    logged = EventAccumulator(str(run / "tensorboard")).Reload().Tags()
    assert "samples" in logged["images"]
    assert "chains/text_summary" in logged["tensors"]
    assert {"val/chain_parses", "val/geneval_overall"} <= set(logged["scalars"])


def test_validate_repeats_the_final_scores(run, capsys):
    before, image = (run / "metrics.json").read_text(), (run / "samples.png").read_bytes()
    (run / "samples.png").unlink()
    main(["validate", "--checkpoint", str(run)])
    assert (run / "metrics.json").read_text() == before
    assert (run / "samples.png").read_bytes() == image
    assert "step 4" in capsys.readouterr().out


def test_a_run_that_has_ended_is_scored_when_fit_resumes_it(run, capsys):
    before = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    main(["fit", *RECIPE, f"--trainer.default_root_dir={run}", "--ckpt_path", "last"])
    after = json.loads((run / "metrics.json").read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    assert "had reached its end" in capsys.readouterr().out


def test_a_size_that_does_not_divide_is_one_line(run, tmp_path, capsys):
    common = ("generate", "a circle", "--checkpoint", str(run), "--output", str(tmp_path / "out"))
    assert "30x30" in refused(capsys, *common, "--size", "30x30")
    assert "0x0" in refused(capsys, *common, "--size", "0x0")
    assert "expected int in 0.." in refused(capsys, *common, "--seed", "-1")
    assert not (tmp_path / "out").exists()


def test_a_chain_and_a_seed_make_the_same_image_again(run, tmp_path, capsys):
    (tmp_path / "chain.txt").write_text(CHAIN)
    common = ["generate", "", "--checkpoint", str(run), "--chain", str(tmp_path / "chain.txt")]
    images = {}
    for name, seed in {"first": "1", "again": "1", "other": "2"}.items():
        main([*common, "--seed", seed, "--output", str(tmp_path / name)])
        assert (tmp_path / name / "chain.txt").read_text().strip() == CHAIN
        assert capsys.readouterr().out == f"{CHAIN}\n{tmp_path / name / 'image.png'}\n"
        images[name] = np.array(Image.open(tmp_path / name / "image.png"))
    assert images["first"].shape == (32, 32, 3)
    assert (images["first"] == images["again"]).all()
    assert (images["first"] != images["other"]).any()
    assert Image.open(tmp_path / "first" / "layout.png").width == 512


def test_less_memory_gives_the_same_image(run, tmp_path, capsys):
    images = []
    for name, options in {"whole": (), "model": ("--offload", "model"), "layer": ("--offload", "layer")}.items():
        common = ("--checkpoint", str(run), "--device", "cpu", "--output", str(tmp_path / name))
        main(["generate", "a circle", *common, *options])
        images.append((tmp_path / name / "image.png").read_bytes())
    assert images[0] == images[1] == images[2]
    capsys.readouterr()
    said = refused(capsys, "generate", "a circle", *common, "--overwrite", "--offload", "model", "--bits", "8")
    assert "are not offloaded" in said
    assert "PixelCodec has no tiles" in refused(capsys, "generate", "a circle", *common, "--overwrite", "--tiling")


def test_several_prompts_and_seeds_are_those_of_single_calls(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\ufeffa circle\r\n\n  two squares \n", encoding="utf-8")
    model = ["--checkpoint", str(run), "--steps", "2"]
    many = ["generate", "", "--prompts", str(tmp_path / "prompts.txt"), "--num", "2", "--seed", "5", *model]
    main([*many, "--output", str(tmp_path / "many")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1::2] == [str(tmp_path / "many" / str(index) / "image.png") for index in range(4)]
    main(["generate", "two squares", "--seed", "6", *model, "--output", str(tmp_path / "one")])
    for name in ("image.png", "layout.png", "chain.txt"):
        assert (tmp_path / "many" / "3" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert (tmp_path / "many" / "2" / "image.png").read_bytes() != (tmp_path / "one" / "image.png").read_bytes()


def test_nothing_is_overwritten_unasked(run, tmp_path, capsys):
    (tmp_path / "1").mkdir()
    kept = tmp_path / "1" / "layout.png"
    kept.write_text("mine")
    common = ["generate", "a circle", "--num", "2", "--output", str(tmp_path), "--steps", "1"]
    said = refused(capsys, *common, "--checkpoint", "runs/nowhere")  # Before the model is looked for.
    assert f"{kept} already exists: choose another --output, or add --overwrite" in said
    assert not (tmp_path / "0").exists()
    main([*common, "--checkpoint", str(run), "--overwrite"])
    assert Image.open(kept).width == 512


def test_a_scheduler_that_does_not_fit_is_refused_without_names_of_functions(run, tmp_path, capsys):
    common = ("generate", "a circle", "--checkpoint", str(run), "--output", str(tmp_path / "out"))
    said = refused(capsys, *common, "--scheduler", "LMSDiscreteScheduler")
    assert "--scheduler LMSDiscreteScheduler: " in said
    assert "got_core" not in said


def test_what_is_kept_stays_and_the_plan_is_checked_and_repaired(run, tmp_path, capsys):
    """Only the changed corner is generated again; boxes that overlap are reported, or separated first."""
    (tmp_path / "chain.txt").write_text("a dog (0,0),(240,240) and a cat (600,600),(990,990).")
    common = ["generate", "a dog and a cat", "--checkpoint", str(run), "--chain", str(tmp_path / "chain.txt")]
    main([*common, "--output", str(tmp_path / "first")])
    assert capsys.readouterr().err == ""
    keep = ["--keep", str(tmp_path / "first" / "image.png")]
    main([*common, *keep, "--change", "replace 0 a bird", "--output", str(tmp_path / "kept")])
    assert capsys.readouterr().err == ""
    main([*common[:1], "a dog, a cat and a bird", *common[2:], "--output", str(tmp_path / "lacking")])
    assert capsys.readouterr().err.strip() == "got: plan: a bird is requested, but no box says where"
    first, kept = (np.array(Image.open(tmp_path / name / "image.png")) for name in ("first", "kept"))
    assert (first[16:] == kept[16:]).all()
    close = ["--change", "move 1 to 50 0"]
    main([*common, *close, "--output", str(tmp_path / "close")])
    assert "got: plan: the boxes of a dog and a cat overlap" in capsys.readouterr().err
    main([*common, *close, "--repair", "--best-of", "2", "--output", str(tmp_path / "repaired")])
    said = capsys.readouterr()
    assert said.err == ""
    assert "(0,0),(240,240)" not in said.out or "(50,0)" not in said.out


def test_a_chain_with_many_problems_is_one_line(run, tmp_path, capsys):
    (tmp_path / "chain.txt").write_text("a dog (5,5),(5,9) and " * 279)
    options = ("--checkpoint", str(run), "--chain", str(tmp_path / "chain.txt"), "--output", str(tmp_path / "out"))
    main(["generate", "a dog", *options])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("got: chain: ")]
    assert len(lines) == 1
    assert lines[0].endswith("; and 276 more")


def test_an_edit_keeps_its_source_outside_the_planned_area(run, tmp_path, capsys):
    Image.new("RGB", (32, 32), "navy").save(tmp_path / "source.png")
    (tmp_path / "chain.txt").write_text("a cat (0,0),(240,240)")
    common = ["edit", str(tmp_path / "source.png"), "add a cat", "--checkpoint", str(run)]
    main([*common, "--chain", str(tmp_path / "chain.txt"), "--keep-rest", "--output", str(tmp_path / "out")])
    image = np.array(Image.open(tmp_path / "out" / "image.png"))
    assert (image[16:] == np.array(Image.open(tmp_path / "source.png"))[16:]).all()


def test_edit_and_reason_take_a_source_image(run, tmp_path, capsys):
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "source.png")
    source = str(tmp_path / "source.png")
    main(["edit", source, "make it red", "--checkpoint", str(run), "--output", str(tmp_path / "out")])
    assert Image.open(tmp_path / "out" / "image.png").size == (40, 24)
    square = ("--size", "32x32", "--output", str(tmp_path / "square"))
    main(["edit", source, "make it red", "--checkpoint", str(run), *square])
    assert Image.open(tmp_path / "square" / "image.png").size == (32, 32)
    chain = (tmp_path / "out" / "chain.txt").read_text()
    capsys.readouterr()
    main(["reason", "make it red", "--source", source, "--checkpoint", str(run)])
    assert capsys.readouterr().out == chain


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("a: [1", "config.yaml, line"), ("a\x00b", "config.yaml: not a readable recipe"), ("plain", "which is a mapping")],
)
def test_a_run_whose_recipe_is_damaged_is_one_line(tmp_path, capsys, recipe, words):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text(recipe)
    assert words in refused(capsys, "reason", "a circle", "--checkpoint", str(tmp_path))
    assert words in refused(capsys, "export", "--checkpoint", str(tmp_path), "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_weights_that_a_run_has_averaged_are_exported(run, tmp_path, capsys):
    main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "out")])
    averaged = weights(run)["state_dict"]
    for part in ("guidance", "backbone"):
        written = load_file(tmp_path / "out" / part / "model.safetensors")
        assert written.keys() == {name.removeprefix(f"{part}.") for name in averaged if name.startswith(part)}
        assert all(torch.equal(value, averaged[f"{part}.{name}"]) for name, value in written.items())
    assert "out/reasoner/model.safetensors: " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "weights", "validate", "export"])
def test_a_flipped_bit_in_a_checkpoint_is_one_line(run, tmp_path, capsys, command):
    copy = shutil.copytree(run, tmp_path / "copy")
    last = copy / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 3] ^= 4
    last.write_bytes(content)
    said = refused(
        capsys,
        *{
            "fit": ("fit", *RECIPE, f"--trainer.default_root_dir={copy}", "--ckpt_path", "last"),
            "weights": ("fit", *RECIPE, f"--trainer.default_root_dir={tmp_path / 'new'}", "--weights", str(copy)),
            "validate": ("validate", "--checkpoint", str(copy)),
            "export": ("export", "--checkpoint", str(copy), "--output", str(tmp_path / "out")),
        }[command],
    )
    assert f"{last} is damaged: its content does not agree with its checksum" in said
    assert last.read_bytes() == content


def test_no_checkpoint_is_unpickled_by_the_trainer(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "copy")
    read = []
    monkeypatch.setattr(torch, "load", lambda *arguments, load=torch.load, **options: (
        read.append(options.get("weights_only")), load(*arguments, **options))[1])  # fmt: skip
    main(["fit", *RECIPE, f"--trainer.default_root_dir={copy}", "--ckpt_path", "last", "--trainer.max_steps=5"])
    main(["validate", "--checkpoint", str(copy)])
    assert len(read) > 3
    assert set(read) == {True}


def test_a_checkpoint_of_another_model_is_one_line(run, tmp_path, capsys):
    broken = tmp_path / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "config.yaml").write_text((run / "config.yaml").read_text())
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    words = refused(capsys, "reason", "a circle", "--checkpoint", str(broken))
    assert "last.ckpt: not a readable checkpoint" in words
    for strange in ([1], {"state_dict": [1]}, {"state_dict": {"a": 1}}, {"weights": {}}):
        torch.save(strange, broken / "checkpoints" / "last.ckpt")
        assert "last.ckpt: not a readable checkpoint (it" in refused(capsys, "reason", "a", "--checkpoint", str(broken))
    state = weights(run)
    state["state_dict"].pop(next(iter(state["state_dict"])))
    torch.save(state, broken / "checkpoints" / "last.ckpt")
    assert "does not fit its recipe" in refused(capsys, "reason", "a circle", "--checkpoint", str(broken))
    assert "does not fit its recipe" in refused(capsys, "validate", "--checkpoint", str(broken))
    last = str(broken / "checkpoints" / "last.ckpt")
    assert "does not fit its recipe" in refused(
        capsys, "fit", *RECIPE, "--ckpt_path", last, f"--trainer.default_root_dir={tmp_path}"
    )


def record_recipe(folder, damaged):
    """An overlay that trains and validates on two records, of which the second image may be damaged."""
    Image.new("RGB", (40, 30), "red").save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "other.png").write_bytes(data[: len(data) // 2] if damaged else data)
    lines = [json.dumps({"prompt": "a red wall", "chain": CHAIN, "image": name}) for name in ("whole.png", "other.png")]
    (folder / "records.jsonl").write_text("\n".join(lines))
    records = {
        "class_path": "got_core.data.records.RecordsDataset",
        "init_args": {"path": str(folder / "records.jsonl"), "size": 32},
    }
    settings = {"batch_size": 2, "num_workers": 0, "samples_per_epoch": 8, "validation": records}
    settings["train"] = [{"dataset": records}]
    (folder / "records.yaml").write_text(json.dumps({"data": {"init_args": settings}}))
    return str(folder / "records.yaml")


def test_a_damaged_image_is_replaced_and_listed_or_one_line_in_the_middle_of_training(tmp_path, capsys):
    recipe = record_recipe(tmp_path, damaged=True)
    words = ["fit", *RECIPE, "--config", recipe, f"--trainer.default_root_dir={tmp_path / 'run'}"]
    assert "other.png: not a readable image" in refused(capsys, *words, "--data.on_bad_record=raise")
    main(words)
    (line,) = (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == f"{tmp_path / 'records.jsonl'}:2"
    assert "other.png: not a readable image" in json.loads(line)["error"]
    words = [*words, "--trainer.max_steps=40", "--data.samples_per_epoch=400", "--overwrite"]
    assert "samples could not be read, more than 5% (max_bad_records)" in refused(capsys, *words)


def test_images_without_known_objects_are_shown_but_not_scored(tmp_path):
    recipe = record_recipe(tmp_path, damaged=False)
    main(["fit", *RECIPE, "--config", recipe, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == {
        "seconds", "step", "val/chain_loss", "val/denoising_loss"
    }  # fmt: skip
    assert (tmp_path / "run" / "samples.png").exists()
