"""Every shipped recipe is read and built; the scenes recipes train, resume and are scored."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from refusals import refused

from got_core.cli.main import main
from got_core.config import read_recipe
from got_core.errors import UserError
from got_core.paths import ROOT
from got_core.training.recipe import ResolvedRecipe

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TRAINED = ["scenes_dit", "scenes_sdxl"]
SHORT = (
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--data.validation.length=12",
    "--model.sampling_steps=2",
    "--model.max_chain_tokens=12",
)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_names_its_run(recipe):
    read = ResolvedRecipe([str(recipe)])
    assert read.run_files.folder == Path("runs") / recipe.stem
    assert read.config.trainer.use_distributed_sampler is False


def test_a_recipe_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ResolvedRecipe(["recipes/scenes_dit.yaml"]).config.model.class_path == "got_core.training.system.GoTSystem"


def test_a_later_file_overrides_an_earlier_one_and_the_command_line_both(tmp_path):
    (tmp_path / "mine.yaml").write_text("trainer: {max_steps: 7}\nmodel: {init_args: {warmup_steps: 9}}\n")
    files = [str(ROOT / "recipes" / "scenes_dit.yaml"), str(tmp_path / "mine.yaml")]
    read = ResolvedRecipe(files, ["--model.warmup_steps=11"])
    assert read.config.trainer.max_steps == 7
    assert read.config.model.init_args.warmup_steps == 11
    assert read.run_files.folder == Path("runs") / "scenes_dit+mine"


def test_a_key_that_stands_twice_is_refused_and_a_merged_one_overridden(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model:\n  init_args:\n    warmup_steps: 9\n    warmup_steps: 8\n")
    with pytest.raises(UserError, match=r"mine\.yaml, line 4: the key 'warmup_steps' stands here twice"):
        ResolvedRecipe([str(ROOT / "recipes" / "scenes_dit.yaml"), str(file)])
    file.write_text("class_path: got_core.diffusion.codecs.PixelCodec\ninit_args: {patch: 4, patch: 2}\n")
    for value in (str(file), "{init_args: {patch: 4, patch: 2}}"):
        with pytest.raises(UserError, match=r"the key 'patch' stands here twice: .*{patch: 4, patch: 2}"):
            ResolvedRecipe([str(ROOT / "recipes" / "scenes_dit.yaml")], [f"--model.codec={value}"])
    file.write_text("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}\nd: {<<: *b, x: 3}\n1: 0\n'1': 0\n")
    assert read_recipe(file) == yaml.safe_load(file.read_text())


def test_null_on_the_command_line_reaches_nested_classes():
    read = ResolvedRecipe([str(ROOT / "recipes" / "scenes_dit.yaml")], ["--model.guidance.spatial_channels", "null"])
    assert read.config.model.init_args.guidance.init_args.spatial_channels is None


TINY = ("fit", "--config", str(ROOT / "recipes" / "scenes_dit.yaml"), "--config",
        str(ROOT / "tests" / "fixtures" / "tiny_scenes.yaml"))  # fmt: skip


def test_a_run_logs_to_any_logger_and_ends_with_its_numbers(tmp_path, capsys):
    run = tmp_path / "run"
    logger = ("--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path}")
    steps = ("--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2")
    main([*TINY, *logger, *steps, f"--trainer.default_root_dir={run}"])
    said = capsys.readouterr().out
    assert "warmup_steps is 100, but the run has 4 steps" in said
    logs = tmp_path / "lightning_logs" / "version_0"
    for name, path in {
        "checkpoint": "checkpoints/last.ckpt",
        "scores": "metrics.json",
        "images": "samples.png",
    }.items():
        assert f"{name}: {run / path}\n" in said
    assert f"logs: {logs}\n" in said
    with (logs / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    of_steps = [row for row in rows if row["loss"]]
    assert len(of_steps) == 4
    assert all(float(row["gradient_norm"]) > 0 for row in of_steps)
    rates = [float(row["learning_rate/reasoner"]) for row in of_steps]
    assert rates == sorted(rates)
    assert rates[0] > 0
    held_out = [
        (float(row["val/chain_loss"]), float(row["val/denoising_loss"])) for row in rows if row["val/chain_loss"]
    ]
    assert len(held_out) >= 2
    assert held_out[1][0] < held_out[0][0]
    metrics = json.loads((run / "metrics.json").read_text())
    main(["validate", "--checkpoint", str(run)])
    again = json.loads((run / "metrics.json").read_text())
    for name in ("val/chain_loss", "val/denoising_loss"):
        assert metrics[name] > 0
        assert again[name] == metrics[name]


def test_samples_of_a_size_that_the_model_cannot_generate_are_refused_before_training(tmp_path, capsys):
    line = refused(capsys, *TINY, f"--trainer.default_root_dir={tmp_path}", "--data.validation.size=66")
    assert "images of 66x66 pixels cannot be generated: height and width must be multiples of 8" in line
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", TRAINED)
def test_a_scenes_recipe_trains_and_resumes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = ["fit", "--config", f"recipes/{name}.yaml", *SHORT, f"--trainer.default_root_dir={tmp_path}"]
    main([*command, "--trainer.max_steps=2"])
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    shutil.copy(tmp_path / "metrics.json", tmp_path / "first.json")
    main([*command, "--trainer.max_steps=3", "--ckpt_path=last"])
    later = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert later["global_step"] == 3
    assert any(not torch.equal(tensor, later["state_dict"][key]) for key, tensor in state["state_dict"].items())
    assert (
        json.loads((tmp_path / "metrics.json").read_text()).keys()
        == json.loads((tmp_path / "first.json").read_text()).keys()
    )
