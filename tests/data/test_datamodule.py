"""A resumed run has the samples, random numbers and losses of the uninterrupted one; recipes build the DataModule."""

from pathlib import Path

import jsonargparse
import pytest
import torch
from einops import rearrange
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from photo_records import photo_records
from torch import nn

from got_core.data.datamodule import GoTDataModule, accumulated_batches
from got_core.data.mixture import Source
from got_core.data.records import RecordsDataset
from got_core.data.scenes.dataset import ScenesDataset
from got_core.training.checkpointing import RandomState
from got_core.types import Batch

SIZE = 32
BATCH = 3
STEPS_PER_EPOCH = 4
STEPS = 11


class Brightness(LightningModule):
    """Linear regression of an image's brightness from noisy pixels; records its batches."""

    processor = staticmethod(Batch.collate)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIZE * SIZE, 1)
        nn.init.zeros_(self.linear.weight)
        self.history: list[tuple[tuple[str, ...], float]] = []
        self.validated: list[tuple[int, str]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        pixels = rearrange(batch.target, "b c h w -> b (c h w)")
        loss = (self.linear(pixels + torch.randn_like(pixels)) - pixels.mean(1, keepdim=True)).square().mean()
        self.history.append((batch.prompts, loss.item()))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated += [(dataloader_idx, prompt) for prompt in batch.prompts]
        torch.rand(3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    records = photo_records(tmp_path_factory.mktemp("photos"))
    scenes = ScenesDataset(SIZE, 50, tasks={"single_object": 1.0, "colors": 1.0})
    return RecordsDataset(str(records), SIZE, source_column="source"), scenes


def fit(folder: Path, datasets, workers: int = 0, resume: Path | None = None, validate: bool = False) -> Brightness:
    records, scenes = datasets
    module = GoTDataModule(
        [Source(records, 1.0), Source(scenes, 2.0)],
        validation=[records, scenes],
        batch_size=BATCH,
        validation_batch_size=4,
        num_workers=workers,
        seed=5,
        samples_per_epoch=BATCH * STEPS_PER_EPOCH + 1,
    )
    torch.manual_seed(0 if resume is None else 1)
    model = Brightness()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        num_sanity_val_steps=0,
        limit_val_batches=2 if validate else 0,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        callbacks=[RandomState(), ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, module, ckpt_path=resume and str(resume))
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, datasets, workers):
    whole = fit(tmp_path, datasets, workers, validate=True)
    assert len(whole.history) == STEPS
    assert len({prompts for prompts, _ in whole.history}) > STEPS // 2
    for step in (2, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2, 2 * STEPS_PER_EPOCH + 1):
        resumed = fit(tmp_path / "again", datasets, workers, tmp_path / f"step={step}.ckpt")
        assert resumed.history == whole.history[step:], f"resumed at step {step}"


def test_workers_and_validation_leave_training_as_it_is(tmp_path, datasets):
    plain = fit(tmp_path / "plain", datasets)
    assert plain.validated == []
    validated = fit(tmp_path / "validated", datasets, workers=1, validate=True)
    assert validated.history == plain.history
    first_check = [(0, datasets[0][i].prompt) for i in range(7)] + [(1, datasets[1][i].prompt) for i in range(8)]
    assert validated.validated == first_check * (STEPS // 3)


def test_samples_resume_with_other_workers_and_random_numbers_only_with_the_callback(tmp_path, datasets):
    whole = fit(tmp_path, datasets)
    state = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    del state["random_states"]
    torch.save(state, tmp_path / "bare.ckpt")
    resumed = fit(tmp_path / "again", datasets, workers=1, resume=tmp_path / "bare.ckpt")
    assert [prompts for prompts, _ in resumed.history] == [prompts for prompts, _ in whole.history[2:]]
    assert [loss for _, loss in resumed.history] != [loss for _, loss in whole.history[2:]]


def test_a_recipe_builds_it_from_class_paths(datasets):
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(GoTDataModule, "data")
    path = str(Path(datasets[0][0].meta["record"]).parent / "records.jsonl")
    recipe = f"""
      data:
        class_path: got_core.data.datamodule.GoTDataModule
        init_args:
          train:
            - dataset:
                class_path: got_core.data.records.RecordsDataset
                init_args: {{path: {path}, size: [16, 24], source_column: source}}
              weight: 3
            - dataset:
                class_path: got_core.data.scenes.dataset.ScenesDataset
                init_args: {{length: 20}}
          validation:
            class_path: got_core.data.scenes.dataset.ScenesDataset
            init_args: {{length: 7}}
          batch_size: 4
    """
    built = parser.instantiate(parser.parse_string(recipe)).data
    records, scenes = built.mixture.sources
    assert (records.weight, scenes.weight) == (3.0, 1.0)
    assert records.dataset[0].size == (16, 24)
    assert len(built.mixture) == 7 + 20
    assert [len(dataset) for dataset in built.validation] == [7]
    assert built.validation_batch_size == 4


def test_errors_are_raised_at_once(datasets):
    with pytest.raises(ValueError, match="batch_size and validation_batch_size must be at least 1"):
        GoTDataModule([Source(datasets[0])], batch_size=0)
    with pytest.raises(ValueError, match="at least one source"):
        GoTDataModule([], samples_per_epoch=3)
    with pytest.raises(ValueError, match="pass the DataModule to fit or validate"):
        GoTDataModule([Source(datasets[0])]).train_dataloader()


@pytest.mark.parametrize(("batch_size", "devices", "batches"), [(4, 1, 32), (4, 8, 4), (1, 128, 1)])
def test_a_global_batch_is_the_same_on_any_number_of_devices(batch_size, devices, batches):
    assert accumulated_batches(128, batch_size, devices) == batches


def test_gradients_are_accumulated_until_the_global_batch_is_full(tmp_path, datasets):
    module = GoTDataModule([Source(datasets[1])], batch_size=2, global_batch_size=6, samples_per_epoch=24)
    trainer = Trainer(
        max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    model = Brightness()
    trainer.fit(model, datamodule=module)
    assert trainer.global_step == 4
    assert len(model.history) == 4 * 3


@pytest.mark.parametrize(
    ("global_batch", "accumulated", "message"),
    [
        (7, 1, "a global batch of 7 does not divide into batches of 2 on 1 device:"),
        (6, 2, "a global batch of 6 takes 3"),
    ],
)
def test_an_impossible_global_batch_is_refused_before_training(global_batch, accumulated, message, datasets):
    module = GoTDataModule([Source(datasets[1])], batch_size=2, global_batch_size=global_batch)
    trainer = Trainer(
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accumulate_grad_batches=accumulated,
    )
    with pytest.raises(ValueError, match=message):
        trainer.fit(Brightness(), datamodule=module)
