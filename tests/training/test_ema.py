"""Averaged weights on one device: those of Lightning's averaging of copies, also through a checkpoint."""

from functools import partial

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from got_core.training.ema import AveragedWeights

STEPS = 5

ROUNDING = 1e-5
"""Relative, between two orders of adding up an average."""


class Regression(LightningModule):
    """Two maps that share a weight, a frozen one, and a buffer; notes what it validates with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
        self.second.weight = self.first.weight
        self.register_buffer("number", torch.tensor(7))
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        return self.frozen(self.second(self.first(batch).tanh())).square().mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.second.weight.detach().clone())

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 1e-2)


def fit(folder, callback, steps=STEPS, resume=None, accumulated=1):
    torch.manual_seed(1)
    loader = DataLoader(torch.randn(2, 3).repeat(STEPS * accumulated, 1), batch_size=2)
    model = Regression()
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], val_check_interval=2, num_sanity_val_steps=0,
        default_root_dir=folder, accumulate_grad_batches=accumulated,
    )  # fmt: skip
    path = folder / f"{type(callback).__name__}{steps}.ckpt"
    callback_of_saving = Saving(path, steps)
    trainer.callbacks.append(callback_of_saving)
    trainer.fit(model, loader, loader, ckpt_path=resume)
    return model, torch.load(path, weights_only=True)


class Saving(Callback):
    """Saves at a step, as a run that is still going on would."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def assert_same(one: dict, other: dict, rounding: float = 0.0) -> None:
    assert one.keys() == other.keys() != set()
    torch.testing.assert_close(one, other, rtol=rounding, atol=0)


def test_it_is_lightnings_average_up_to_rounding(tmp_path):
    library, kept = fit(tmp_path, EMAWeightAveraging(decay=0.8, use_buffers=False))
    ours, saved = fit(tmp_path, AveragedWeights(0.8))
    assert_same(library.state_dict(), ours.state_dict(), ROUNDING)
    assert_same(kept["state_dict"], saved["state_dict"], ROUNDING)
    assert saved["current_model_state"].keys() == {"first.weight", "first.bias", "second.weight", "second.bias"}
    for name, value in saved["current_model_state"].items():
        assert torch.equal(value, kept["current_model_state"][name])
        assert not torch.equal(value, saved["state_dict"][name])
    assert len(ours.validated) == len(library.validated) > 2
    torch.testing.assert_close(ours.validated, library.validated, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("first", [AveragedWeights, partial(EMAWeightAveraging, use_buffers=False)])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_it_resumes_from_a_checkpoint_of_its_own_and_of_lightnings(tmp_path, first, accumulated):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, end = fit(tmp_path / "whole", AveragedWeights(0.8), accumulated=accumulated)
    averaging = first(decay=0.8)
    fit(tmp_path / "parts", averaging, steps=2, accumulated=accumulated)
    begun = tmp_path / "parts" / f"{type(averaging).__name__}2.ckpt"
    resumed, again = fit(tmp_path / "parts", AveragedWeights(0.8), resume=begun, accumulated=accumulated)
    rounding = 0.0 if first is AveragedWeights else ROUNDING
    assert_same(end["state_dict"], again["state_dict"], rounding)
    assert_same(end["current_model_state"], again["current_model_state"])
    assert_same(whole.state_dict(), resumed.state_dict(), rounding)


def test_a_share_outside_of_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"decay must lie in 0\.\.1, not 1\.5"):
        AveragedWeights(1.5)
