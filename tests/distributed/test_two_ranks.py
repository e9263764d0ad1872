"""Sharded and replicated training on two ranks: gradients are the mean of the ranks', whatever a rank's batch holds."""

import math
import os
import resource
import signal
import time
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from small_run import LORA, STRATEGIES, train
from small_system import small_system
from torch.utils.data import DataLoader, Dataset
from two_ranks import run_on_ranks

from got_core.data.scenes.dataset import ScenesDataset
from got_core.errors import UserError
from got_core.training.checkpointing import CheckedIO
from got_core.training.parallel import gathered, whole
from got_core.types import Sample
from got_core.weights.checkpoints import check_fits
from got_core.weights.integrity import SummedWriter

LONG_CHAIN = "a very long story about a red circle (94,188),(469,562) " * 40
ODD = ("no_source", "no_box", "long_chain")
SETTINGS = {"conditioning_dropout": 0.0, "max_nonfinite_steps": 3}


class Steps(Dataset):
    """Two samples a step and rank, text-to-image and an edit; one rank's are odd, another way each step."""

    def __init__(self) -> None:
        self.scenes = ScenesDataset(length=64, tasks={"colors": 1.0, "recolour": 1.0}, balanced=True)

    def __len__(self) -> int:
        return len(ODD)

    def samples(self, step: int, rank: int) -> list[Sample]:
        pair = [self.scenes[4 * step + 2 * rank + place] for place in range(2)]
        if rank == 1 and ODD[step] == "no_source":
            return [replace(sample, source=None) for sample in pair]
        if rank == 1 and ODD[step] == "no_box":
            return [replace(sample, chain="nothing is planned") for sample in pair]
        if rank == 1 and ODD[step] == "long_chain":
            return [pair[0], replace(pair[1], chain=LONG_CHAIN)]
        return pair

    def __getitem__(self, step: int) -> int:
        return step


class Gradients(Callback):
    """Keeps each step's gradients."""

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        self.kept.append({name: whole(gradient).clone() for name, gradient in gradients.items()})


def system_with_fixed_noise(rank: int, **values):
    """A small system whose learning rate is 0 and whose noise is a function of rank and step."""
    system = small_system(learning_rates=dict.fromkeys(("reasoner", "guidance", "backbone"), 0.0), **SETTINGS, **values)
    torch.nn.init.normal_(system.backbone.head.proj.weight, std=0.1)
    step = system.training_step

    def seeded(batch, batch_idx):
        torch.manual_seed(1000 * rank + batch_idx)
        return step(batch, batch_idx)

    system.training_step = seeded
    return system


def gradients_on_two(rank: int, strategy: str, values: dict) -> list[dict[str, torch.Tensor]]:
    warnings.filterwarnings("ignore")
    steps, system, gradients = Steps(), system_with_fixed_noise(rank, **values), Gradients()
    loader = DataLoader(steps, collate_fn=lambda number: system.processor(steps.samples(number[0], rank)))
    trainer = Trainer(
        accelerator="cpu", devices=1, num_nodes=2, strategy=STRATEGIES[strategy](), max_steps=len(ODD), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, gradient_clip_val=1.0, callbacks=[gradients],
    )  # fmt: skip
    trainer.fit(system, loader)
    return gradients.kept


@cache
def mean_gradients() -> list[dict[str, torch.Tensor]]:
    """Without any ranks: the mean of the gradients of both ranks' batches."""
    steps, kept = Steps(), []
    for step in range(len(ODD)):
        parts = []
        for rank in range(2):
            system = system_with_fixed_noise(rank)
            system.log = lambda *arguments, **values: None
            system.training_step(system.processor(steps.samples(step, rank)), step).backward()
            parts.append({name: p.grad for name, p in system.named_parameters() if p.grad is not None})
        kept.append({name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]})
    return kept


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("strategy", "values"),
    [("ddp", {}), ("fsdp", {}), ("fsdp", {"activation_checkpointing": True})],
    ids=["ddp", "fsdp", "fsdp-checkpointing"],
)
def test_mixed_batches_never_hang_and_give_the_mean_gradient(tmp_path, strategy, values):
    expected = mean_gradients()
    for found in run_on_ranks(gradients_on_two, tmp_path, strategy, values):
        assert len(found) == len(expected) == len(ODD)
        for mine, reference in zip(found, expected, strict=True):
            assert mine.keys() == reference.keys()
            for name in mine:
                torch.testing.assert_close(mine[name], reference[name], rtol=1e-3, atol=1e-5, msg=name)


class Spoiling(Callback):
    """Makes a gradient of the last rank alone infinite at one step, before gradients are reduced."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1 and trainer.global_rank == 1:
            hook = pl_module.guidance.register_forward_hook(
                lambda module, inputs, output: (hook.remove(), replace(output, tokens=output.tokens * math.inf))[1]
            )


class Counting(Callback):
    """Notes how many steps were skipped."""

    counted = -1

    def on_train_end(self, trainer, pl_module):
        self.counted = pl_module.nonfinite_steps


def spoiled(rank: int, strategy: str, folder: str) -> tuple[int, dict[str, torch.Tensor]]:
    counting = Counting()
    record = train(rank, strategy, folder, steps=3, extra=(counting, Spoiling()))
    return counting.counted, record.end["weights"]


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_skip_a_step_together(tmp_path, strategy):
    (one, weights), (other, same) = run_on_ranks(spoiled, tmp_path, strategy, str(tmp_path))
    assert one == other == 1
    for name in weights:
        assert weights[name].isfinite().all()
        assert torch.equal(weights[name], same[name])


def lora_run(rank: int, strategy: str, folder: str, precision: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    record = train(rank, strategy, folder, steps=3, precision=precision, reasoner_values=LORA)
    return [loss for loss, _ in record.steps.values()], record.end["weights"]


@pytest.mark.distributed
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-4), ("bf16-mixed", 3e-2)])
def test_adapters_learn_alike_replicated_and_sharded(tmp_path, precision, tolerance):
    losses = {}
    for strategy in ("ddp", "fsdp"):
        (tmp_path / strategy).mkdir()
        ranks = run_on_ranks(lora_run, tmp_path / strategy, strategy, str(tmp_path / strategy), precision)
        losses[strategy] = ranks[0][0]
        names = ranks[0][1].keys()
        assert any("lora_A" in name for name in names)
        assert not any("base_layer" in name for name in names if name.startswith("reasoner"))
    torch.testing.assert_close(torch.tensor(losses["ddp"]), torch.tensor(losses["fsdp"]), rtol=tolerance, atol=0)


def generated(rank: int) -> list:
    warnings.filterwarnings("ignore")
    system = small_system()
    steps, images = Steps(), []

    def validation_step(batch, batch_idx, dataloader_idx=0):
        batch = system.processor(steps.samples(batch_idx, 0)[: 2 - rank])
        with gathered(system.model.components):
            free = system.model.generate(batch, seed=rank).images
            given = system.model.generate(batch, batch.chains, seed=rank).images
        images.append((rank, free, given))

    system.validation_step = validation_step
    loader = DataLoader(steps, collate_fn=lambda number: system.processor(steps.samples(number[0], rank)))
    trainer = Trainer(
        accelerator="cpu", devices=1, num_nodes=2, strategy=STRATEGIES["fsdp"](), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.validate(system, loader, verbose=False)
    return images


@pytest.mark.distributed
def test_sharded_ranks_draw_different_batches_as_one_device_does(tmp_path):
    system = small_system().eval()
    for images in run_on_ranks(generated, tmp_path):
        for rank, free, given in images:
            batch = system.processor(Steps().samples(0, 0)[: 2 - rank])
            torch.testing.assert_close(free, system.model.generate(batch, seed=rank).images, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                given, system.model.generate(batch, batch.chains, seed=rank).images, rtol=1e-4, atol=1e-5
            )


class Signalled(Callback):
    """SIGTERM for the last rank alone."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def signalled(rank: int, strategy: str, folder: str) -> tuple[bool, bool, list[int]]:
    write, finish = CheckedIO.save_checkpoint, SummedWriter.finish

    def slowly(function):
        def slow(*arguments, **values):
            time.sleep(1)
            function(*arguments, **values)

        return slow

    CheckedIO.save_checkpoint, SummedWriter.finish = slowly(write), slowly(finish)
    try:
        train(rank, strategy, folder, extra=(Signalled(),), in_background=True)
    except SystemExit as ended:
        there = (Path(folder) / "checkpoints" / "last.ckpt").exists()
        return bool(ended.code), there, list(train(rank, strategy, folder, steps=4, resume=True).steps)
    return False, False, []


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_one_rank_is_a_signal_to_all(tmp_path, strategy):
    for ended, there, steps in run_on_ranks(signalled, tmp_path, strategy, str(tmp_path)):
        assert ended
        assert there
        assert steps == [4]


def test_lightnings_averaging_is_refused_where_weights_are_sharded(tmp_path):
    (said,) = run_on_ranks(refused, tmp_path, world=1)
    assert "use got_core.training.ema.AveragedWeights" in said


def refused(rank: int) -> str:
    trainer = Trainer(
        accelerator="cpu", devices=1, strategy=STRATEGIES["fsdp"](), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[EMAWeightAveraging()],
    )  # fmt: skip
    try:
        trainer.fit(small_system(), DataLoader(Steps()))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one", "fsdp"])
def test_compiled_and_recomputed_blocks_learn_as_plain_ones_do(tmp_path, strategy):
    found = []
    for number, enabled in enumerate((False, True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found += run_on_ranks(compiled, folder, strategy, str(folder), enabled, world=1, seconds=400)
    (plain, graphs), (fused, fused_graphs) = found
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=0)
    assert graphs == 0 < fused_graphs


def compiled(rank: int, strategy: str, folder: str, enabled: bool) -> tuple[torch.Tensor, int]:
    record = train(rank, strategy, folder, steps=3, ranks=1, compile_blocks=enabled, activation_checkpointing=enabled)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return torch.tensor([loss for loss, _ in record.steps.values()]), graphs


class FullDisk(Callback):
    """From the third step on, no file may grow beyond 4 KiB."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))


def out_of_space(rank: int, folder: str) -> str:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        train(rank, "fsdp", folder, extra=(FullDisk(),))
    except UserError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return str(error)
    return ""


@pytest.mark.distributed
def test_a_full_disk_leaves_the_previous_distributed_checkpoint_whole(tmp_path):
    for said in run_on_ranks(out_of_space, tmp_path, str(tmp_path)):
        assert "step 4 could not be saved" in said
        assert "is the disk full?" in said
        assert "the checkpoint of step 2 before it is whole" in said
    checkpoints = tmp_path / "checkpoints"
    assert sorted(os.listdir(checkpoints)) == ["last.ckpt", "step-2.shards"]
    check_fits(small_system(), checkpoints / "last.ckpt")
