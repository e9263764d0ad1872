"""Checkpoints leave out what is frozen and loaded from elsewhere, and notice when elsewhere has changed."""

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import load_file, save_file
from small_run import LORA
from small_run import over as over_base
from small_system import scenes_batch, small_system
from tiny_models import tiny_qwen
from torch.utils.data import DataLoader

from got_core.errors import UserError
from got_core.training.checkpointing import LastCheckpoint
from got_core.training.ema import AveragedWeights
from got_core.weights.checkpoints import check_fits, load_weights
from got_core.weights.loading import all_weights

AVERAGES = {
    "ours": lambda: AveragedWeights(0.8),
    "Lightning's": lambda: EMAWeightAveraging(decay=0.8, use_buffers=False),
}


@pytest.fixture
def qwen(tmp_path):
    torch.manual_seed(0)
    tiny_qwen(tmp_path / "qwen")
    return tmp_path / "qwen"


def over(qwen, seed=0, **values):
    return small_system(seed, reasoner_values={**over_base(qwen), **values}, conditioning_dropout=0.0)


def trained(system, folder, steps, averaging, resume=False):
    batch = scenes_batch(system, 2)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[averaging(), LastCheckpoint(2)], limit_val_batches=0,
    )  # fmt: skip
    last = folder / "checkpoints" / "last.ckpt"
    torch.manual_seed(steps if resume else 0)
    trainer.fit(system, DataLoader([batch] * 4, batch_size=None), ckpt_path=last if resume else None)
    return last


def test_what_is_frozen_and_has_an_origin_is_left_out(qwen):
    system = over(qwen)
    with all_weights():
        everything = system.state_dict()
    kept = system.state_dict()
    left_out = everything.keys() - kept.keys()
    frozen = {name for name, p in system.named_parameters(remove_duplicate=False) if not p.requires_grad}
    assert left_out == frozen != set()
    assert all(name.startswith("reasoner.") for name in left_out)
    assert any("lora_A" in name for name in kept)
    system.reasoner.mllm.requires_grad_(True)
    assert system.state_dict().keys() == everything.keys()


def test_new_rows_of_a_frozen_embedding_are_kept(qwen):
    kept = {name for name in over(qwen, tune="frozen").state_dict() if name.startswith("reasoner.")}
    assert kept == {"reasoner.mllm.model.language_model.embed_tokens.weight", "reasoner.mllm.lm_head.weight"}


def test_weights_without_an_origin_are_all_kept():
    system = small_system(reasoner_values={"tune": "frozen"})
    kept = system.state_dict().keys()
    with all_weights():
        assert system.state_dict().keys() == kept != set()


@pytest.mark.parametrize("averaging", AVERAGES)
def test_a_run_resumes_from_such_a_checkpoint(qwen, tmp_path, averaging):
    torch.manual_seed(0)
    system = over(qwen)
    last = trained(system, tmp_path, 2, AVERAGES[averaging])
    saved = torch.load(last, weights_only=True)
    assert not any("base_layer" in name for name in saved["state_dict"])
    assert saved["origins"]["reasoner.mllm.base_model.model"]["place"] == str(qwen)
    again = over(qwen, seed=5)
    check_fits(again, last)
    load_weights(again, last)
    for name, value in system.state_dict().items():
        assert torch.equal(again.state_dict()[name], saved["state_dict"][name]), name
        assert torch.equal(value, saved["state_dict"][name]), name
    trained(again, tmp_path, 3, AVERAGES[averaging], resume=True)
    assert torch.load(last, weights_only=True)["global_step"] == 3


def test_a_whole_checkpoint_is_still_read(qwen, tmp_path):
    system = over(qwen)
    with all_weights():
        torch.save({"state_dict": system.state_dict()}, tmp_path / "whole.ckpt")
    load_weights(over(qwen, seed=5), tmp_path / "whole.ckpt")


def same_weights(one, other):
    with all_weights():
        own, theirs = one.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)


def test_frozen_weights_that_a_checkpoint_has_brought_are_kept(qwen, tmp_path):
    first = trained(over(qwen, tune="full"), tmp_path / "first", 2, AVERAGES["ours"])
    frozen = over(qwen, tune="frozen")
    load_weights(frozen, first)
    assert not same_weights(frozen, over(qwen, tune="frozen"))
    second = trained(frozen, tmp_path / "second", 2, AVERAGES["ours"])
    again = over(qwen, tune="frozen")
    load_weights(again, second)
    assert same_weights(again, frozen)
    resumed = over(qwen, tune="frozen")
    third = trained(resumed, tmp_path / "second", 3, AVERAGES["ours"], resume=True)
    assert torch.load(third, weights_only=True)["state_dict"].keys() == frozen.state_dict().keys()


def test_a_checkpoint_that_leaves_out_nothing_names_no_origin(qwen, tmp_path):
    last = trained(over(qwen, tune="full"), tmp_path, 2, AVERAGES["ours"])
    assert torch.load(last, weights_only=True)["origins"] == {}
    change(qwen)
    load_weights(over(qwen, tune="full"), last)


def change(qwen):
    tensors = load_file(qwen / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, qwen / "model.safetensors", {"format": "pt"})


def test_another_origin_is_refused(qwen, tmp_path):
    last = trained(over(qwen), tmp_path, 2, AVERAGES["ours"])
    change(qwen)
    other = over(qwen)
    with pytest.raises(UserError, match=r"leaves reasoner\.mllm\.base_model\.model to .*qwen, but the weights loaded"):
        load_weights(other, last)
    with pytest.raises(ValueError, match="are others, or of another precision"):
        trained(other, tmp_path, 3, AVERAGES["ours"], resume=True)


def test_a_model_without_that_origin_misses_what_was_left_out(qwen, tmp_path):
    last = trained(over(qwen), tmp_path, 2, AVERAGES["ours"])
    with pytest.raises(UserError, match=r"does not fit its recipe: \d+ missing"):
        check_fits(small_system(reasoner_values=LORA), last)
