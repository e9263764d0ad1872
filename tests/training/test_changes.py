"""A run is resumed exactly, or what differs from the checkpoint's recipe is said; if allowed, what fits is loaded."""

import shutil

import pytest
import torch
import yaml
from lightning import Callback
from refusals import refused

from got_core.cli.main import main
from got_core.paths import ROOT
from got_core.training.changes import RECIPE, Changed, changes
from got_core.training.recipe import Recipe

COMMAND = ("fit", "--config", str(ROOT / "recipes" / "scenes_dit.yaml"), "--config",
           str(ROOT / "tests" / "fixtures" / "tiny_scenes.yaml"), "--trainer.limit_val_batches=0")  # fmt: skip
EMA = "got_core.training.ema.AveragedWeights"
LIGHTNINGS = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging}"
SGD = "--model.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}"
OBJECTIVE = "--model.objective={class_path: got_core.diffusion.objectives.EpsilonDiffusion}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        main([*COMMAND, f"--trainer.default_root_dir={folder}", "--trainer.max_steps=2"])
    return folder


@pytest.fixture
def copy(run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return shutil.copytree(run, tmp_path / "run")


def resume(folder, *options):
    return (*COMMAND, f"--trainer.default_root_dir={folder}", "--trainer.max_steps=3", "--ckpt_path=last", *options)


REFUSED = [
    ("--seed_everything=5", "seed_everything (was 1, is 5)"),
    ("--data.batch_size=8", "data.batch_size (was 4, is 8)"),
    ("--data.seed=7", "data.seed (was 0, is 7)"),
    ("--data.samples_per_epoch=1000", "data.samples_per_epoch (was 51200, is 1000)"),
    (OBJECTIVE, "model.objective (was got_core.diffusion.objectives.RectifiedF..., is got_core."),
    ("--model.objective.shift=2.0", "model.objective.shift (was 3.0, is 2.0)"),
    (SGD, "model.optimizer (was torch.optim.AdamW, is torch.optim.SGD)"),
    ("--model.optimizer.weight_decay=0.5", "model.optimizer.weight_decay (was 0.01, is 0.5)"),
    ("--model.learning_rates.backbone=0.5", "model.learning_rates.backbone (was 0.001, is 0.5)"),
    ("--model.chain_weight=2", "model.chain_weight (was 1.0, is 2.0)"),
    ("--trainer.strategy={class_path: lightning.pytorch.strategies.DDPStrategy}", "trainer.strategy (was auto, is "),
    ("--trainer.precision=bf16-mixed", "trainer.precision (was None, is bf16-mixed)"),
    ("--trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches (was 1, is 2)"),
    ("--trainer.gradient_clip_val=2.0", "trainer.gradient_clip_val (was 1.0, is 2.0)"),
    ("--trainer.max_steps=1", "trainer.max_steps (was 2, is 1)"),
    ("--trainer.callbacks=null", f"trainer.callbacks.{EMA} (was {EMA[:40]}"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "words"), REFUSED, ids=[words.split()[0] for _, words in REFUSED])
def test_what_cannot_be_exact_is_refused_and_named(copy, capsys, option, words):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    said = refused(capsys, *resume(copy, option))
    assert "last.ckpt was saved by another recipe, so it cannot be resumed exactly" in said
    assert "--allow-changes" in said
    assert words in said
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def found(folder, *options):
    """Changes of a recipe that are seen before its weights would load."""

    class Enough(Exception):
        pass

    seen = []

    def prepare(recipe):
        seen.extend(changes(folder / "checkpoints" / "last.ckpt", recipe.as_yaml()))
        raise Enough

    with pytest.raises(Enough):
        Recipe([COMMAND[2], COMMAND[4]], [COMMAND[5], *resume(folder, *options)[6:8], *options], "last", prepare)
    return seen


HARMLESS = (
    "--trainer.max_steps=30", "--trainer.max_time=00:01:00:00", "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=1", "--trainer.log_every_n_steps=3",
    "--trainer.logger=false", "--trainer.enable_progress_bar=true", "--model.sampling_steps=3",
    "--model.max_chain_tokens=13", "--model.validation_seed=4", "--data.num_workers=2",
    "--data.validation_batch_size=3", "--data.validation.length=5",
    "--trainer.callbacks+={class_path: got_core.training.checkpointing.LastCheckpoint, init_args: {every_n_steps: 1}}",
    "--trainer.callbacks+={class_path: lightning.pytorch.callbacks.LearningRateMonitor}",
)  # fmt: skip


def test_what_changes_no_step_is_allowed(copy):
    assert found(copy, *HARMLESS) == []
    names = [change.name for change in found(copy, *HARMLESS, "--data.seed=3", f"--trainer.callbacks+={LIGHTNINGS}")]
    assert names == ["trainer.callbacks.lightning.pytorch.callbacks.EMAWeightAveraging", "data.seed"]


def test_the_recipe_in_the_checkpoint_counts_and_else_the_one_beside_it(copy):
    last = copy / "checkpoints" / "last.ckpt"
    beside = copy / "config.yaml"
    settings = yaml.safe_load(beside.read_text())
    settings["data"]["init_args"]["batch_size"] = 9
    beside.write_text(yaml.safe_dump(settings))
    assert found(copy) == []
    state = torch.load(last, weights_only=True)
    del state[RECIPE]
    torch.save(state, last)
    assert [str(change) for change in found(copy)] == ["data.batch_size (was 9, is 4)"]
    # As an earlier version left it, without what has a default now, and without the file.
    del settings["data"]["init_args"]["max_bad_chains"], settings["model"]["init_args"]["noise_draws"]
    settings["data"]["init_args"]["batch_size"] = 4
    beside.write_text(yaml.safe_dump(settings))
    assert found(copy) == []
    settings["model"]["init_args"]["optimizer"]["init_args"].pop("betas")
    beside.write_text(yaml.safe_dump(settings))
    assert [change.name for change in found(copy)] == ["model.optimizer.betas"]
    beside.unlink()
    assert found(copy) == []


class Seen(Callback):
    """Notes the optimizer as training begins."""

    def on_train_start(self, trainer, pl_module):
        (optimizer,) = trainer.optimizers
        self.groups = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
        states = [optimizer.state[group["params"][0]] for group in optimizer.param_groups]
        self.steps = [int(state["step"]) if state else None for state in states]


@pytest.fixture
def seen(monkeypatch):
    """What `Changed` leaves to the first step."""
    noted = Seen()
    start = Changed.on_train_start

    def watched(changed, trainer, pl_module):
        start(changed, trainer, pl_module)
        noted.on_train_start(trainer, pl_module)

    monkeypatch.setattr(Changed, "on_train_start", watched)
    return noted


def test_another_optimizer_begins_without_state_if_that_is_allowed(copy, capsys, seen):
    main(resume(copy, SGD, OBJECTIVE, "--allow-changes"))
    said = capsys.readouterr().out
    assert "resuming with changes: model.optimizer (was torch.optim.AdamW, is torch.optim.SGD)" in said or (
        "resuming with changes: model.objective" in said and "torch.optim.SGD" in said
    )
    assert "not loaded from the checkpoint: the optimizer's state" in said
    assert all(group["momentum"] == 0.9 for group in seen.groups)
    assert seen.steps == [None] * 3
    assert torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    # The recipe of the newest checkpoint is the one that it was resumed with.
    main(resume(copy, SGD, OBJECTIVE, "--trainer.max_steps=4"))


def test_allowed_settings_of_the_optimizer_take_effect_and_its_state_stays(copy, capsys, seen):
    main(resume(copy, "--model.learning_rates.backbone=0.5", "--model.optimizer.weight_decay=0.25", "--allow-changes"))
    assert "not loaded" not in capsys.readouterr().out
    rates = {group["name"]: group["lr"] for group in seen.groups}
    # Two steps of a warm-up of 100 are over.
    assert rates == pytest.approx({"reasoner": 0.0015 * 0.03, "guidance": 0.001 * 0.03, "backbone": 0.5 * 0.03})
    assert {group["weight_decay"] for group in seen.groups} == {0.25}
    assert seen.steps == [2] * 3


def test_another_seed_leaves_out_random_states_if_that_is_allowed(copy, capsys):
    main(resume(copy, "--seed_everything=5", "--allow-changes"))
    assert "not loaded from the checkpoint: random states" in capsys.readouterr().out


def test_another_number_of_devices_is_refused(copy, capsys):
    last = copy / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["random_states"] *= 2
    torch.save(state, last)
    said = refused(capsys, *resume(copy))
    assert "it was saved by 2, now there are 1; allow that by --allow-changes" in said
    main(resume(copy, "--allow-changes"))
