"""Signals to `got fit`: SIGUSR1, SIGTERM, and a worker that is killed."""

import os
import signal
from pathlib import Path

import pytest
import torch

from got_core.cli.main import main
from got_core.paths import ROOT
from got_core.training.checkpointing import LastCheckpoint

TINY = str(Path(__file__).parents[1] / "fixtures" / "tiny_scenes.yaml")
RECIPE = ("--config", str(ROOT / "recipes" / "scenes_dit.yaml"), "--config", TINY)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


SIGNALLING = """
import os
import signal

from lightning import Callback


class Signalling(Callback):
    def __init__(self, hook: str, number: int, of_worker: bool = False):
        setattr(self, hook, lambda trainer, *arguments, **values: self.send(trainer, number, of_worker))

    def send(self, trainer, number, of_worker):
        if of_worker:
            (worker, *_) = trainer.train_dataloader._iterator._workers
            os.kill(worker.pid, number)
            worker.join()
        else:
            os.kill(os.getpid(), number)
"""


@pytest.fixture
def signalled(tmp_path, monkeypatch):
    """What trains the tiny recipe in `tmp_path / "run"` and sends a signal in a hook of the trainer's."""
    (tmp_path / "signalling_callback.py").write_text(SIGNALLING)
    monkeypatch.syspath_prepend(str(tmp_path))

    def fit(hook, number, *options, of_worker=False):
        values = f"hook: {hook}, number: {int(number)}, of_worker: {str(of_worker).lower()}"
        callback = f"--trainer.callbacks+={{class_path: signalling_callback.Signalling, init_args: {{{values}}}}}"
        main(["fit", *RECIPE, f"--trainer.default_root_dir={tmp_path / 'run'}", callback, *options])

    yield fit
    for number in (signal.SIGTERM, signal.SIGUSR1):
        assert signal.getsignal(number) == signal.SIG_DFL


BEFORE = ["setup", "on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_batch_start"]


@pytest.mark.parametrize("hook", BEFORE)
def test_sigusr1_before_the_first_step_is_remembered(signalled, tmp_path, monkeypatch, hook):
    steps = []
    save = LastCheckpoint._save

    def noted(callback, trainer):
        steps.append(trainer.global_step)
        save(callback, trainer)

    monkeypatch.setattr(LastCheckpoint, "_save", noted)
    signalled(hook, signal.SIGUSR1, "--trainer.num_sanity_val_steps=1", "--trainer.max_steps=2")
    # In a hook of each batch the signal is sent again.
    assert steps == [1, 2]
    assert weights(tmp_path / "run")["global_step"] == 2


@pytest.mark.parametrize("hook", BEFORE)
def test_sigterm_ends_a_run_in_one_line_at_any_moment(signalled, tmp_path, capsys, hook):
    with pytest.raises(SystemExit) as ended:
        signalled(hook, signal.SIGTERM, "--trainer.num_sanity_val_steps=1")
    assert ended.value.code == 143
    said = capsys.readouterr().err.strip().splitlines()[-1]
    run = tmp_path / "run"
    if hook == "on_train_batch_start":
        assert said.startswith(f"got: ended by SIGTERM: {run}/checkpoints/last.ckpt is the newest checkpoint; resume")
        assert weights(run)["global_step"] == 1
    else:
        assert said == "got: ended by SIGTERM: nothing was saved"
        assert not (run / "checkpoints").exists()
        main(["fit", *RECIPE, f"--trainer.default_root_dir={run}", "--trainer.max_steps=1"])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_are_heard_while_libraries_load(tmp_path, monkeypatch, number):
    """From the command's first line on, the process is not ended by the system."""

    def send(name):
        os.kill(os.getpid(), number)
        raise KeyError(name)

    monkeypatch.setattr("got_core.cli.main.function_of", send)
    with pytest.raises(KeyError if number == signal.SIGUSR1 else SystemExit) as ended:
        main(["fit", *RECIPE])
    assert getattr(ended.value, "code", 143) == 143


def test_a_killed_worker_of_the_loader_is_one_line(signalled, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        signalled("on_train_batch_end", signal.SIGKILL, "--data.num_workers=1", of_worker=True)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("got: error: a worker of the data loader ended")
    assert "lower data.num_workers" in said
