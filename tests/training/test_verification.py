"""A command that says whether a user's own recipe resumes exactly."""

import sys
from pathlib import Path

import pytest
import torch

from got_core.cli.main import main
from got_core.paths import Run
from got_core.training.recipe import ResolvedRecipe
from got_core.training.verification import compare, short_recipe

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECIPE = ("--config", "recipes/scenes_dit.yaml", "--config", "tests/fixtures/tiny_scenes.yaml")


def verify(folder, kind, *options):
    launcher = f"{sys.executable} {FIXTURES / 'counting_run.py'} {kind}"
    main(["verify-resume", *RECIPE, "--output", str(folder), "--launcher", launcher, *options])


def test_a_run_that_was_killed_is_compared_with_one_that_was_not(tmp_path, capsys):
    verify(tmp_path / "exact", "counting", "--steps", "8", "--every", "2", "--kills", "1")
    printed = capsys.readouterr().out
    assert "killed after the checkpoints of steps 2; 1 tensors compared after 8 steps" in printed
    assert "all are the same" in printed
    with pytest.raises(SystemExit) as caught:
        verify(tmp_path / "lost", "forgetful", "--steps", "8", "--every", "2", "--kills", "1")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "1 tensors differ, state_dict.total by" in error
    assert "the run does not resume exactly" in error


def test_a_run_that_fails_names_what_it_printed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        verify(tmp_path / "failed", "failing", "--steps", "2")
    error = capsys.readouterr().err
    assert f"training ended with status 3: see {tmp_path / 'failed' / 'uninterrupted.log'}" in error
    with pytest.raises(SystemExit):
        verify(tmp_path / "failed", "counting")
    assert "already exists; name a new folder by --output" in capsys.readouterr().err


def test_a_short_run_saves_often_and_scores_nothing(tmp_path):
    recipe = ResolvedRecipe(["recipes/scenes_dit.yaml"])
    trainer = short_recipe(recipe, Run(tmp_path / "run"), 20, 4)["trainer"]
    assert [each["class_path"].rpartition(".")[2] for each in trainer["callbacks"]] == [
        "AveragedWeights",
        "LastCheckpoint",
    ]
    assert trainer["callbacks"][1]["init_args"]["every_n_steps"] == 4
    assert (trainer["max_steps"], trainer["limit_val_batches"]) == (20, 0)
    full = ResolvedRecipe(["recipes/got_sdxl_pretrain.yaml"])
    (saving,) = (
        each["init_args"]
        for each in short_recipe(full, Run(tmp_path / "run"), 20, 4)["trainer"]["callbacks"]
        if each["class_path"].endswith("LastCheckpoint")
    )
    assert saving == {"in_background": True, "every_n_steps": 4, "every_n_minutes": 5.0}


def test_every_tensor_of_a_checkpoint_is_compared(tmp_path):
    state = {
        "global_step": 3,
        "state_dict": {"weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "random_states": [{"torch": torch.arange(4, dtype=torch.uint8)}],
    }
    torch.save(state, tmp_path / "one.ckpt")
    assert compare(tmp_path / "one.ckpt", tmp_path / "one.ckpt") == (3, {})
    state["optimizer_states"][0]["state"][0]["exp_avg"] = torch.tensor([0.0, 0.5])
    state["random_states"] = []
    torch.save(state, tmp_path / "other.ckpt")
    assert compare(tmp_path / "one.ckpt", tmp_path / "other.ckpt") == (
        3,
        {"optimizer_states.0.state.0.exp_avg": 0.5, "random_states.0.torch": float("inf")},
    )
