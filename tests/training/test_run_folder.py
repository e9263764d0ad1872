"""A run's folder: one process at a time, and a run is replaced only on request."""

import os
import subprocess
import sys

import pytest
from refusals import refused

from got_core.cli.main import main
from got_core.errors import UserError
from got_core.paths import ROOT, Run
from got_core.training.running import begin, check_replaced, is_first_rank, occupied, replacing

HOLDING = """
import sys
from pathlib import Path
from got_core.paths import Run
from got_core.training.running import occupied
with occupied(Run(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    """A folder in which a run has ended, with a note of the user's."""
    run = Run(tmp_path / "run")
    run.last.parent.mkdir(parents=True)
    run.logs.mkdir()
    for path in (run.last, run.metrics, run.samples, run.recipe, run.logs / "events", run.folder / "note.txt"):
        path.write_text("of a run")
    return run


def content(run):
    return {path.relative_to(run.folder): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def command(run, *options):
    return ("fit", "--config", str(ROOT / "recipes" / "scenes_dit.yaml"), "--config",
            str(ROOT / "tests" / "fixtures" / "tiny_scenes.yaml"), f"--trainer.default_root_dir={run.folder}",
            *options)  # fmt: skip


def test_a_run_is_not_replaced_without_overwrite(run, capsys):
    before = content(run)
    said = refused(capsys, *command(run))
    assert f"{run.folder} holds a run already: resume it with --ckpt_path last, or replace it with --overwrite" in said
    assert before.items() <= content(run).items()


def test_a_run_is_not_replaced_by_another_one_that_is_resumed(run, tmp_path):
    other = tmp_path / "other.ckpt"
    other.write_text("")
    with pytest.raises(UserError, match="holds a run already"):
        check_replaced(run, str(other), None, overwrite=False)
    check_replaced(run, str(other), None, overwrite=True)
    check_replaced(run, str(run.last), None, overwrite=False)


@pytest.mark.parametrize("folder", ["checkpoints", "tensorboard/checkpoints", "."])
def test_what_is_read_is_not_replaced(run, monkeypatch, folder):
    inside = run.folder / folder / "epoch=0.ckpt"
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("")
    monkeypatch.chdir(run.folder)
    for path in (str(inside), f"./{folder}/epoch=0.ckpt"):
        with pytest.raises(UserError, match="--ckpt_path reads the run"):
            check_replaced(run, path, None, overwrite=True)
    with pytest.raises(UserError, match="--weights reads the run"):
        check_replaced(run, None, str(run.folder), overwrite=True)


def test_a_linked_checkpoint_is_the_runs_own(run, tmp_path):
    elsewhere = run.last.rename(tmp_path / "elsewhere.ckpt")
    run.last.symlink_to(elsewhere)
    check_replaced(run, str(run.last), None, overwrite=False)
    with pytest.raises(UserError, match="give one of the two"):
        check_replaced(run, str(run.last), None, overwrite=True)
    elsewhere.unlink()
    with pytest.raises(UserError, match="holds a run already"):
        check_replaced(run, None, None, overwrite=False)


def test_a_run_is_replaced_on_request(run):
    main([*command(run, "--overwrite", "--trainer.max_steps=1")])
    left = content(run)
    assert left.pop(run.folder.joinpath("note.txt").relative_to(run.folder)) == b"of a run"
    assert b"of a run" not in left.values()
    assert run.last.exists()
    assert run.metrics.exists()


def test_a_folder_of_scores_alone_is_said_to_hold_no_checkpoint(run):
    run.last.unlink()
    with pytest.raises(UserError, match="without a newest checkpoint to resume: replace it with --overwrite"):
        check_replaced(run, None, None, overwrite=False)
    run.metrics.unlink()
    check_replaced(run, None, None, overwrite=False)
    (run.logs / "epoch=0.ckpt").write_text("")
    with pytest.raises(UserError, match="without a newest checkpoint"):
        check_replaced(run, None, None, overwrite=False)


def test_a_run_is_either_resumed_or_replaced(run, capsys):
    assert "give one of the two" in refused(capsys, *command(run, "--ckpt_path=last", "--overwrite"))
    assert run.last.read_text() == "of a run"


def test_a_saved_model_is_never_replaced(run, capsys):
    run.weights.write_text("")
    assert "holds a saved model" in refused(capsys, *command(run, "--overwrite"))


def test_a_run_is_put_back_if_its_successor_does_not_begin(run, capsys):
    before = content(run)
    said = refused(capsys, *command(run, "--overwrite", "--data.batch_size=8", "--data.global_batch_size=7"))
    assert "a global batch of 7" in said
    after = content(run)
    after.pop(run.lock.relative_to(run.folder), None)
    assert after == before


def test_a_killed_process_leaves_a_run_that_is_put_back(run):
    before = content(run)
    (run.folder / ".replaced").mkdir()
    for path in (run.last.parent, run.metrics):
        path.rename(run.folder / ".replaced" / path.name)
    (run.folder / ".removed").mkdir()
    with occupied(run):
        after = content(run)
    after.pop(run.lock.relative_to(run.folder), None)
    assert after == before
    assert not (run.folder / ".removed").exists()


def test_what_is_not_of_a_run_is_left_when_it_is_replaced(run):
    with replacing(run):
        assert not run.last.exists()
        begin(run)
    assert [path.name for path in run.folder.iterdir()] == ["note.txt"]


def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys):
    run = Run(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        said = refused(capsys, *command(run))
        assert f"{tmp_path}: another process is training in this folder" in said
        holder.kill()
        holder.wait()
        with occupied(run):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with occupied(run), pytest.raises(UserError, match="another process"), occupied(run):
        pass


def test_other_ranks_leave_the_folder_to_the_first(run, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    with occupied(run), occupied(run), replacing(run):
        check_replaced(run, None, None, overwrite=False)
        begin(run)
    assert run.last.exists()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "SLURM_PROCID": "2"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "SLURM_PROCID": "4"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"PMI_RANK": "1"}, False),
    ],
)
def test_launchers_tell_which_rank_is_the_first(environment, first):
    assert is_first_rank(environment) is first


def test_a_folder_of_the_users_is_left(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with occupied(Run(folder)):
            pass
        assert tmp_path.exists()
    with occupied(Run(tmp_path / "new" / "run")):
        assert (tmp_path / "new" / "run").exists()
    assert not (tmp_path / "new" / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written to"), occupied(Run(tmp_path / "run")):
        pass


def test_a_file_in_the_folders_place_is_said(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="run: cannot be written to"), occupied(Run(tmp_path / "run")):
        pass
