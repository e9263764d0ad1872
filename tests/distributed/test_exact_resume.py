"""Two torchrun agents stand for two nodes: one is killed, both are started again, and nothing shows it."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import SAVED_EVERY, STEPS, train
from small_system import small_system
from tiny_models import tiny_qwen
from two_ranks import free_port, run_on_ranks

from got_core.checkpoints import check_fits, load_weights
from got_core.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECONDS = 240


def two_agents(*arguments: str) -> list[int]:
    """Start small_run.py under two agents, one process each; their exit statuses."""
    common = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    root = str(FIXTURES.parents[1])
    environment = {**os.environ, "PYTHONPATH": f"{root}:{FIXTURES}", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agents = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *common,
                f"--node_rank={node}",
                str(FIXTURES / "small_run.py"),
                *arguments,
            ],
            env=environment,
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in range(2)
    ]
    try:
        return [agent.wait(SECONDS) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()


def differing(one: dict, other: dict) -> list[str]:
    """What is not the same, bit for bit, in two states."""
    assert all(one[kind].keys() == other[kind].keys() != set() for kind in one)
    return [
        f"{kind} {name}" for kind in one for name in one[kind] if not torch.equal(one[kind][name], other[kind][name])
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_killed_node_leaves_no_trace(tmp_path, strategy):
    killed_at = random.Random(strategy).randrange(SAVED_EVERY + 1, STEPS)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    records = run_on_ranks(undisturbed_run, undisturbed, strategy, str(undisturbed))
    statuses = two_agents(strategy, str(disturbed), str(killed_at))
    assert statuses[1] == -9
    assert statuses[0] != 0
    assert not list(disturbed.glob("end*.pt"))
    assert two_agents(strategy, str(disturbed), "no") == [0, 0]
    for rank, (steps, end) in enumerate(records):
        resumed_steps, resumed_end = torch.load(disturbed / f"end{rank}.pt")
        since = killed_at // SAVED_EVERY * SAVED_EVERY
        assert resumed_steps == {step: seen for step, seen in steps.items() if step > since}
        assert differing(end, resumed_end) == []
    assert records[0][0] != records[1][0]


def undisturbed_run(rank: int, strategy: str, folder: str) -> tuple:
    record = train(rank, strategy, folder)
    return record.steps, record.end


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_begins_with_the_same_state(tmp_path, strategy, before, after):
    saved = run_on_ranks(saved_state, tmp_path, strategy, str(tmp_path), before, world=before)[0]
    for found in run_on_ranks(loaded_state, tmp_path, strategy, str(tmp_path), after, world=after):
        assert differing(saved, found) == []


def saved_state(rank: int, strategy: str, folder: str, ranks: int, reasoner: dict | None = None) -> dict:
    return train(rank, strategy, folder, steps=SAVED_EVERY, ranks=ranks, reasoner_values=reasoner).end


def loaded_state(rank: int, strategy: str, folder: str, ranks: int, reasoner: dict | None = None) -> dict:
    record = train(rank, strategy, folder, steps=SAVED_EVERY + 1, ranks=ranks, resume=True, reasoner_values=reasoner)
    return record.begin


@pytest.mark.distributed
def test_what_was_cut_off_is_never_taken_for_the_last(tmp_path):
    run_on_ranks(saved_state, tmp_path, "fsdp", str(tmp_path), 2)
    checkpoints = tmp_path / "checkpoints"
    whole = (checkpoints / "last.ckpt").resolve()
    for name in ("last.ckpt.partial", f"step-{2 * SAVED_EVERY}.shards"):
        for file in shutil.copytree(whole, checkpoints / name).iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for steps in run_on_ranks(continued, tmp_path, "fsdp", str(tmp_path)):
        assert steps == list(range(SAVED_EVERY + 1, 2 * SAVED_EVERY + 1))
    last = (checkpoints / "last.ckpt").resolve()
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last.ckpt", last.name]
    check_fits(small_system(), last)


def continued(rank: int, strategy: str, folder: str) -> list[int]:
    return list(train(rank, strategy, folder, steps=2 * SAVED_EVERY, resume=True).steps)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_leave_what_is_frozen_to_its_origin(tmp_path, strategy):
    torch.manual_seed(0)
    tiny_qwen(tmp_path / "qwen")
    saved = run_on_ranks(saved_state, tmp_path, strategy, str(tmp_path), 2, over(tmp_path))[0]
    system = small_system(seed=9, reasoner_values=over(tmp_path))
    load_weights(system, tmp_path / "checkpoints" / "last.ckpt")
    parameters = dict(system.named_parameters())
    assert all(torch.equal(parameters[name], average) for name, average in saved["averages"].items())
    for found in run_on_ranks(loaded_state, tmp_path, strategy, str(tmp_path), 2, over(tmp_path)):
        assert differing(saved, found) == []
    with pytest.raises(UserError, match=r"does not fit its recipe: \d+ missing \(.*base_layer"):
        check_fits(small_system(reasoner_values=LORA), tmp_path / "checkpoints" / "last.ckpt")


LORA = {"tune": "lora", "lora_rank": 2, "lora_alpha": 2, "lora_dropout": 0.0}


def over(folder: Path) -> dict:
    return {"config": None, "pretrained": str(folder / "qwen"), "tokenizer": None, **LORA}


@pytest.mark.distributed
def test_a_distributed_checkpoint_is_read_in_one_process(tmp_path):
    saved = run_on_ranks(saved_state, tmp_path, "fsdp", str(tmp_path), 2)[0]
    last = tmp_path / "checkpoints" / "last.ckpt"
    system = small_system(seed=9)
    load_weights(system, last)
    parameters = dict(system.named_parameters())
    assert all(torch.equal(parameters[name], average) for name, average in saved["averages"].items())
    with pytest.raises(UserError, match=r"does not fit its recipe: .*of another shape \(.*\[\d+.*\] instead of \["):
        check_fits(small_system(reasoner_values={"num_tokens": 5}), last)
    whole = (last / ".metadata").read_bytes()
    for damaged in (b"cut off", b"", whole[: len(whole) // 2], whole[:-1]):
        (last / ".metadata").write_bytes(damaged)
        with pytest.raises(UserError, match="not a readable checkpoint"):
            check_fits(system, last)
