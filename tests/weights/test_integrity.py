"""One flipped bit in a checkpoint is refused in one line, wherever it is; what has no checksum still opens."""

import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from refusals import refused
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint

from got_core.errors import UserError
from got_core.weights.checkpoints import load_weights
from got_core.weights.integrity import CHECKSUMS, SummedWriter, check_intact, write_checkpoint

EARLIER = Path(__file__).parents[1] / "fixtures" / "a8a5d36" / "run"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "last.ckpt"
    state = nn.Linear(50, 40).state_dict()
    write_checkpoint({"state_dict": state, "optimizer_states": [{"step": 3, "of": state}], "text": "a" * 99}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "last.ckpt"
    path.mkdir()
    content = {"state_dict": nn.Linear(50, 40).state_dict(), "optimizer_0": {"step": 3}}
    with warnings.catch_warnings(action="ignore"):
        writer = SummedWriter(path, {"global_step": 3}, lambda: None)
        distributed_checkpoint.save(content, storage_writer=writer, no_dist=True)
    return path


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << (position % 8)
    file.write_bytes(content)


def test_one_flipped_bit_of_a_file_is_refused_wherever_it_is(file, tmp_path):
    check_intact(file)
    size = file.stat().st_size
    chosen = random.Random(0)
    positions = {*range(70), *range(size - 120, size), *(chosen.randrange(size) for _ in range(100))}
    copy = tmp_path / "last.ckpt"
    for position in positions:
        shutil.copy(file, copy)
        flip(copy, position)
        with pytest.raises(UserError, match=f"{copy} is damaged: its content does not agree with its checksum"):
            check_intact(copy)
    for length in (size // 2, size - 1, size - 20, size - 21):
        copy.write_bytes(file.read_bytes()[:length])
        with pytest.raises(UserError, match="is damaged"):
            check_intact(copy)


def test_one_flipped_bit_of_a_folder_is_refused_wherever_it_is(folder, tmp_path):
    check_intact(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".metadata", "__0_0.distcp", CHECKSUMS, "meta.pt"]
    for name in names:
        size = (folder / name).stat().st_size
        for position in {*range(0, size, max(1, size // 40)), size - 1}:
            copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
            flip(copy / name, position)
            with pytest.raises(UserError, match="is damaged") as caught:
                check_intact(copy)
            assert name == CHECKSUMS or str(copy / name) in str(caught.value)
    for name in (".metadata", "__0_0.distcp", "meta.pt"):
        copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        (copy / name).unlink()
        with pytest.raises(UserError, match=f"{name} is damaged"):
            check_intact(copy)


def test_torch_reads_what_has_a_checksum(file, folder):
    for options in ({}, {"mmap": True}):
        assert torch.load(file, weights_only=True, **options)["optimizer_states"][0]["step"] == 3
    assert torch.load(folder / "meta.pt", weights_only=True) == {"global_step": 3}
    read = {"state_dict": nn.Linear(50, 40).state_dict()}
    with warnings.catch_warnings(action="ignore"):
        distributed_checkpoint.load(read, checkpoint_id=folder, no_dist=True)
    assert torch.load(file, weights_only=True)["state_dict"].keys() == read["state_dict"].keys()


def test_earlier_checkpoints_open_and_their_parts_are_compared(file, folder, tmp_path):
    check_intact(EARLIER / "checkpoints" / "last.ckpt")
    earlier = tmp_path / "last.ckpt"
    torch.save(torch.load(file, weights_only=True), earlier)
    check_intact(earlier)
    flip(earlier, earlier.stat().st_size // 2)
    with pytest.raises(UserError, match="is damaged"):
        check_intact(earlier)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / CHECKSUMS).unlink()
    check_intact(copy)


def test_a_run_whose_checkpoint_is_damaged_is_not_opened(tmp_path, capsys):
    run = shutil.copytree(EARLIER, tmp_path / "run")
    last = run / "checkpoints" / "last.ckpt"
    write_checkpoint(torch.load(last, weights_only=True), last)
    flip(last, last.stat().st_size // 3)
    commands = [
        ("generate", "a red circle", "--checkpoint", str(run), "--output", str(tmp_path / "out")),
        ("export", "--checkpoint", str(run), "--output", str(tmp_path / "out")),
    ]
    for command in commands:
        assert f"{last} is damaged" in refused(capsys, *command), command
    with pytest.raises(UserError, match="is damaged"):
        load_weights(nn.Linear(1, 1), last)
