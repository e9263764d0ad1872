"""Files and folders appear whole or not at all, and nothing is left of processes that were killed."""

import os
import subprocess
import sys

import pytest

from got_core.errors import UserError
from got_core.paths import ROOT
from got_core.weights import files
from got_core.weights.files import new_file, new_folder, partial_folder, partial_of, remove_left, write_whole

HOLDING = """
import sys
from pathlib import Path
from got_core.weights.files import new_file, partial_folder
kind, path = sys.argv[1:]
if kind == "file":
    with new_file(Path(path)) as file:
        file.write(b"half")
        file.flush()
        print("held", flush=True)
        sys.stdin.read()
with partial_folder(Path(path)) as folder:
    (folder / "shard").write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["file", "folder"])
def holder(request, tmp_path):
    """A process that is writing a file or folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, request.param, str(tmp_path / "it")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_what_a_living_process_writes_stays_and_what_a_killed_one_has_left_is_removed(holder, tmp_path):
    remove_left(tmp_path / "it")
    assert os.listdir(tmp_path) == [".it.partial"]
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == [".it.partial"]
    remove_left(tmp_path / "it")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_one_overwrites_what_a_killed_process_has_left(holder, tmp_path, kind):
    holder.kill()
    holder.wait()
    if kind == "file":
        write_whole(tmp_path / "it", "whole")
        assert (tmp_path / "it").read_text() == "whole"
    else:
        with new_folder(tmp_path / "it") as folder:
            (folder / "other").write_text("whole")
        assert os.listdir(tmp_path / "it") == ["other"]
    assert os.listdir(tmp_path) == ["it"]


def test_a_file_is_replaced_at_one_moment_after_it_is_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "it"
    path.write_text("old")
    done = []
    replace, fsync = os.replace, os.fsync

    def noted(descriptor):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def replaced(source, target):
        done.append("renamed")
        assert path.read_text() == "old"
        assert source.parent == path.parent
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", noted)
    monkeypatch.setattr(files.os, "replace", replaced)
    with new_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert done == ["file", "renamed", "folder"]


def test_nothing_is_left_of_what_failed(tmp_path):
    with pytest.raises(KeyError), new_file(tmp_path / "it"):
        raise KeyError
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "it"):
        raise FileNotFoundError
    with pytest.raises(KeyError), partial_folder(tmp_path / "it"):
        raise KeyError
    with pytest.raises(UserError, match="cannot be written"), new_folder(tmp_path / "it") as folder:
        (folder / "nowhere" / "file").write_text("")
    assert os.listdir(tmp_path) == []


def test_what_is_named_like_it_is_left_alone(tmp_path):
    (tmp_path / "it.partial").mkdir()
    partial_of(tmp_path / "other").write_text("of another")
    write_whole(tmp_path / "it", "whole")
    remove_left(tmp_path / "it")
    assert sorted(os.listdir(tmp_path)) == [".other.partial", "it", "it.partial"]
