"""`last.ckpt` is whole at any moment: full disks, saves that are cut off, signals."""

import errno
import os
import random
import signal
import stat
import threading
import time
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from got_core.data.datamodule import MixtureSampler, ResumableLoader
from got_core.data.mixture import Mixture, Source
from got_core.errors import UserError
from got_core.training.checkpointing import (
    SHARDS,
    Background,
    BackgroundCheckpointIO,
    CheckedIO,
    LastCheckpoint,
    RandomState,
    publish,
)
from got_core.types import Sample
from got_core.weights.files import partial_folder
from got_core.weights.integrity import check_intact


class Line(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return (self.weight * batch - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class At(Callback):
    """Does something before a step."""

    def __init__(self, step, action) -> None:
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.action()


def fit(folder, *callbacks, steps=8, every=2, resume=None, in_background=False, **settings):
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[*callbacks, LastCheckpoint(every, in_background=in_background)], **settings,
    )  # fmt: skip
    model = Line()
    trainer.fit(model, DataLoader(torch.tensor([0.5, 1.0] * 16), batch_size=2), ckpt_path=resume)
    return model


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


def step_of(folder):
    return torch.load(last(folder), weights_only=True)["global_step"]


def full_disk(monkeypatch):
    """From now on no file's content can be written; a folder's names can, such as that of a file written before."""

    def refuse(descriptor):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        fit(tmp_path, At(3, lambda: full_disk(monkeypatch)))
    said = str(caught.value)
    assert "step 4 could not be saved" in said
    assert "No space left on device" in said
    assert "the checkpoint of step 2 before it is whole" in said
    assert step_of(tmp_path) == 2
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]
    monkeypatch.undo()
    assert torch.equal(fit(tmp_path, resume=last(tmp_path)).weight, fit(tmp_path / "other").weight)


def test_what_is_written_in_the_background_is_a_step_as_it_was(tmp_path, monkeypatch):
    free, begun = threading.Event(), threading.Event()
    write = CheckedIO.save_checkpoint

    def slow(*arguments, **values):
        begun.set()
        free.wait(20)
        write(*arguments, **values)

    monkeypatch.setattr(CheckedIO, "save_checkpoint", slow)
    seen = []

    def look():
        begun.wait(20)
        seen.append(last(tmp_path).exists())
        free.set()

    model = fit(tmp_path, At(3, look), steps=4, in_background=True)
    assert seen == [False]
    assert step_of(tmp_path) == 4
    assert torch.equal(torch.load(last(tmp_path), weights_only=True)["state_dict"]["weight"], model.weight)
    monkeypatch.undo()
    whole = fit(tmp_path / "other").weight
    assert torch.equal(fit(tmp_path, resume=last(tmp_path), in_background=True).weight, whole)
    assert step_of(tmp_path) == 8


def test_a_disk_that_is_full_in_the_background_is_said_at_the_next_checkpoint(tmp_path, monkeypatch):
    def fill():
        while not last(tmp_path).exists():
            time.sleep(0.01)
        full_disk(monkeypatch)

    with pytest.raises(UserError) as caught:
        fit(tmp_path, At(3, fill), in_background=True)
    said = str(caught.value)
    assert "step 4 could not be saved" in said
    assert "No space left on device" in said
    assert "the checkpoint of step 2 before it is whole" in said
    assert step_of(tmp_path) == 2
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]


def test_a_disk_that_is_full_in_the_background_is_said_beside_another_error(tmp_path, monkeypatch):
    def fail():
        raise KeyError("a sample")

    full_disk(monkeypatch)
    with pytest.raises(KeyError), pytest.warns(UserWarning, match="step 2 could not be saved .*No space left"):
        fit(tmp_path, At(3, fail), in_background=True)


def test_tied_weights_are_written_once_in_the_background(tmp_path):
    weight = torch.arange(6.0)
    background = Background()
    state = {"one": weight, "same": weight.detach(), "part": weight[:3], "other": weight + 1}
    BackgroundCheckpointIO(background).save_checkpoint({"global_step": 1, "state_dict": state}, tmp_path / "tied.ckpt")
    weight += 10
    background.wait()
    saved = torch.load(tmp_path / "tied.ckpt", weights_only=True)["state_dict"]
    assert saved["one"].data_ptr() == saved["same"].data_ptr()
    assert {name: value.tolist() for name, value in saved.items()} == {
        "one": [0, 1, 2, 3, 4, 5],
        "same": [0, 1, 2, 3, 4, 5],
        "part": [0, 1, 2],
        "other": [1, 2, 3, 4, 5, 6],
    }


def test_a_full_disk_at_the_first_checkpoint_is_said(tmp_path, monkeypatch):
    full_disk(monkeypatch)
    with pytest.raises(UserError, match="there is no earlier checkpoint"):
        fit(tmp_path)


def test_what_was_cut_off_is_never_taken_for_the_last(tmp_path):
    fit(tmp_path, steps=2)
    left = [last(tmp_path).with_name(name) for name in (".last.ckpt.partial", "last.ckpt.partial")]
    for partial in left:
        partial.write_bytes(last(tmp_path).read_bytes()[:100])
    assert step_of(tmp_path) == 2
    fit(tmp_path, steps=4, resume=last(tmp_path))
    assert step_of(tmp_path) == 4
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]


@pytest.mark.parametrize("in_background", [False, True])
def test_the_last_is_whole_while_the_next_is_written_beside_it(tmp_path, monkeypatch, in_background):
    save, seen = torch.save, []

    def watched(content, file):
        def look(when):
            if last(tmp_path).exists():
                seen.append(
                    (when, step_of(tmp_path), content["global_step"], sorted(os.listdir(last(tmp_path).parent)))
                )

        look("before")
        save(content, file)
        file.flush()
        look("after")

    monkeypatch.setattr(torch, "save", watched)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    fit(tmp_path, steps=4, in_background=in_background)
    names = [".last.ckpt.partial", "last.ckpt"]
    assert seen == [("before", 2, 4, names), ("after", 2, 4, names)]
    assert step_of(tmp_path) == 4


def test_a_checkpoint_of_another_name_stays_where_it_is(tmp_path):
    fit(tmp_path, ModelCheckpoint(tmp_path / "mine", every_n_train_steps=3), in_background=True)
    assert os.listdir(tmp_path / "mine") == ["epoch=0-step=6.ckpt"]
    check_intact(tmp_path / "mine" / "epoch=0-step=6.ckpt")
    assert step_of(tmp_path) == 8


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("killed_at", range(8))
def test_a_folder_takes_the_place_of_the_last_at_one_moment(tmp_path, monkeypatch, killed_at):
    """Whatever the call at which the process is killed, there is a whole checkpoint, and the next save succeeds."""
    path = tmp_path / "last.ckpt"

    def save(content, step):
        with partial_folder(path) as partial:
            (partial / "shard").write_text(content)
            publish(partial, path, step)

    save("0", 2)
    save("1", 4)
    assert (path / "shard").read_text() == "1"
    calls = count()
    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (os, "symlink"), (os, "fsync"), (os, "unlink"), (os, "rmdir")):
            call = getattr(os, name)

            def watched(*arguments, call=call, **values):
                assert (path / "shard").read_text() in "12"
                if next(calls) == killed_at:
                    raise Killed
                call(*arguments, **values)

            patch.setattr(owner, name, watched)
        with suppress(Killed):
            save("2", 4)
    assert (path / "shard").read_text() in "12"
    save("3", 4)
    assert (path / "shard").read_text() == "3"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", path.resolve().name]
    assert path.resolve().name.endswith(SHARDS)


def test_nothing_is_saved_between_the_parts_of_a_step(tmp_path):
    steps = []

    class Noting(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            steps.append((trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.ready))

    fit(tmp_path, At(3, lambda: os.kill(os.getpid(), signal.SIGUSR1)), Noting(), every=100, accumulate_grad_batches=2)
    assert steps == [(4, 8), (8, 16)]


def test_sigusr1_saves_and_training_continues(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    saved = []
    usr1 = At(3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    fit(tmp_path, usr1, At(5, lambda: saved.append(step_of(tmp_path))), every=100)
    assert saved == [4]
    assert step_of(tmp_path) == 8
    assert signal.getsignal(signal.SIGUSR1) == before


def test_sigterm_saves_and_ends_and_the_run_resumes_exactly(tmp_path):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), every=100)
    assert ended.value.code == 143
    assert step_of(tmp_path) == 4
    assert torch.equal(fit(tmp_path, resume=last(tmp_path)).weight, fit(tmp_path / "other").weight)


class Drawing(Callback):
    """Notes a number of each generator before each step, which moves it on."""

    def __init__(self) -> None:
        self.drawn = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.drawn.append(draw())


def test_random_numbers_of_python_numpy_and_torch_continue(tmp_path):
    seed_everything(3)
    whole = Drawing()
    fit(tmp_path, whole, RandomState(), steps=8, every=4)
    seed_everything(4)
    fit(tmp_path / "cut", Drawing(), RandomState(), steps=4)
    seed_everything(3)
    cut = Drawing()
    fit(tmp_path / "cut", cut, RandomState(), steps=4)
    seed_everything(5)
    fit(tmp_path / "cut", cut, RandomState(), steps=8, resume=last(tmp_path / "cut"))
    for kind, name in enumerate(("python", "numpy", "torch")):
        assert [numbers[kind] for numbers in cut.drawn] == [numbers[kind] for numbers in whole.drawn], name


def draw():
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


@pytest.mark.parametrize("rank", range(3))
def test_each_rank_continues_with_its_own_random_numbers(monkeypatch, rank):
    trainer, model, states, following = Trainer(accelerator="cpu", logger=False), Line(), [], []
    for seed in (7, 8):
        seed_everything(seed)
        checkpoint = {}
        RandomState().on_save_checkpoint(trainer, model, checkpoint)
        states += checkpoint["random_states"]
        following.append(draw())
    # The last rank is in no checkpoint and keeps its own.
    seed_everything(9)
    following.append(draw())
    seed_everything(9)
    own = RandomState()
    own.on_load_checkpoint(trainer, model, {"random_states": states})
    monkeypatch.setattr(Trainer, "global_rank", rank)
    own.on_train_start(trainer, model)
    assert draw() == following[rank]


class Seeing(Line):
    """Notes what it trains on, and after which steps it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.trainer.global_step, self.trainer.current_epoch, batch.tolist()))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.trainer.global_step)


class Numbers(Dataset):
    """Each sample is a number of its own."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return Sample(prompt=str(index), chain="", size=(1, 1))


def as_numbers(samples):
    return torch.tensor([int(sample.prompt) / 64 for sample in samples])


class Ended(Exception):
    """A process that is no more."""


def fit_epochs(folder, batches=10**6, resume=None, every=100, **settings):
    """Train on epochs of four batches from a mixture of which each sample is known by its number, until it ends."""
    limits = {"max_steps": 11, "max_epochs": -1, "limit_val_batches": 0} | settings
    left = iter(range(batches))

    def end_in_time():
        if next(left, None) is None:
            raise Ended

    class Counted(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            end_in_time()

    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
        callbacks=[LastCheckpoint(every), Counted()], **limits,
    )  # fmt: skip
    model = Seeing()
    loader = ResumableLoader(MixtureSampler(Mixture([Source(Numbers(), 1.0)], 8), 2), collate_fn=as_numbers)
    validated = DataLoader(torch.zeros(2)) if limits["limit_val_batches"] else None
    with suppress(Ended):
        trainer.fit(model, loader, validated, ckpt_path=resume, weights_only=True)
    return model


@pytest.mark.parametrize("every", [100, 3, 1])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_steps": -1, "max_epochs": 3},
        {"limit_val_batches": 1},
        {"limit_val_batches": 1, "max_steps": -1, "max_epochs": 3},
        {"limit_val_batches": 1, "val_check_interval": 2},
        {"limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"limit_val_batches": 1, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"limit_val_batches": 1, "check_val_every_n_epoch": 2},
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 3},
        {"accumulate_grad_batches": 3, "limit_val_batches": 1, "val_check_interval": 2},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()) or "plain",
)
def test_a_run_killed_after_an_epochs_end_resumes_exactly(tmp_path, settings, every):
    whole = fit_epochs(tmp_path / "whole", every=every, **settings)
    assert len(whole.seen) > 8
    for batches in (4, 5, 7, 8, 9):
        folder = tmp_path / f"killed{batches}"
        fit_epochs(folder, batches, every=every, **settings)
        step = step_of(folder)
        resumed = fit_epochs(folder, resume=last(folder), every=every, **settings)
        assert resumed.seen == [seen for seen in whole.seen if seen[0] >= step], batches
        assert [at for at in resumed.validated if at > step] == [at for at in whole.validated if at > step], batches
        assert torch.equal(resumed.weight, whole.weight), batches


def test_the_end_of_an_epoch_is_saved(tmp_path):
    fit_epochs(tmp_path, 6)
    assert step_of(tmp_path) == 4
    assert torch.load(last(tmp_path), weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [
        {"position": 8}
    ]
