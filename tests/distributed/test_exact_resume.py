"""Two torchrun agents stand for two nodes: one is killed, both are started again, and nothing shows it."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Callback
from small_run import BACKGROUND, LORA, SAVED_EVERY, SHORT_EPOCHS, STEPS, over, train, variant
from small_system import small_system
from tiny_models import tiny_qwen
from two_ranks import free_port, run_on_ranks

from got_core.errors import UserError
from got_core.training.parallel import whole
from got_core.weights.checkpoints import check_fits, load_weights, read_rest
from got_core.weights.integrity import check_intact
from got_core.weights.loading import all_weights

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
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapters and accumulation"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_killed_node_leaves_no_trace(tmp_path, strategy, adapted):
    killed_at = random.Random(strategy).randrange(SAVED_EVERY + 1, STEPS)
    qwen = "none"
    if adapted:
        torch.manual_seed(0)
        tiny_qwen(tmp_path / "qwen")
        qwen = str(tmp_path / "qwen")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    records = run_on_ranks(undisturbed_run, undisturbed, strategy, str(undisturbed), qwen)
    statuses = two_agents(strategy, str(disturbed), str(killed_at), qwen)
    assert statuses[1] == -9
    assert statuses[0] != 0
    assert not list(disturbed.glob("end*.pt"))
    assert two_agents(strategy, str(disturbed), "no", qwen) == [0, 0]
    for rank, (steps, end) in enumerate(records):
        resumed_steps, resumed_end = torch.load(disturbed / f"end{rank}.pt")
        since = killed_at // SAVED_EVERY * SAVED_EVERY
        assert resumed_steps == {step: seen for step, seen in steps.items() if step > since}
        assert differing(end, resumed_end) == []
    assert records[0][0] != records[1][0]


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_node_killed_after_an_epochs_end_leaves_no_trace(tmp_path, strategy):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    records = run_on_ranks(undisturbed_run, undisturbed, strategy, str(undisturbed), SHORT_EPOCHS)
    assert -9 in two_agents(strategy, str(disturbed), "4", SHORT_EPOCHS)
    assert two_agents(strategy, str(disturbed), "no", SHORT_EPOCHS) == [0, 0]
    for rank, (steps, end) in enumerate(records):
        resumed_steps, resumed_end = torch.load(disturbed / f"end{rank}.pt")
        assert resumed_steps == {step: seen for step, seen in steps.items() if step > 3}
        assert differing(end, resumed_end) == []


@pytest.mark.distributed
def test_a_node_killed_while_shards_are_written_in_the_background_leaves_no_trace(tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    records = run_on_ranks(undisturbed_run, undisturbed, "fsdp", str(undisturbed), "none")
    assert -9 in two_agents("fsdp", str(disturbed), "5", BACKGROUND)
    checkpoints = disturbed / "checkpoints"
    check_intact(checkpoints / "last.ckpt")
    # The other node may still complete the fourth step's, of which all shards were written.
    since = read_rest(checkpoints / "last.ckpt")["global_step"]
    assert since in (2, 4)
    assert two_agents("fsdp", str(disturbed), "no", BACKGROUND) == [0, 0]
    for rank, (steps, end) in enumerate(records):
        resumed_steps, resumed_end = torch.load(disturbed / f"end{rank}.pt")
        assert resumed_steps == {step: seen for step, seen in steps.items() if step > since}
        assert differing(end, resumed_end) == []
    assert sorted(os.listdir(checkpoints)) == ["last.ckpt", f"step-{STEPS}.shards"]
    check_intact(checkpoints / "last.ckpt")


def undisturbed_run(rank: int, strategy: str, folder: str, qwen: str) -> tuple:
    record = train(rank, strategy, folder, **variant(qwen))
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
    saved = run_on_ranks(saved_state, tmp_path, strategy, str(tmp_path), 2, over(tmp_path / "qwen"))[0]
    system = small_system(seed=9, reasoner_values=over(tmp_path / "qwen"))
    load_weights(system, tmp_path / "checkpoints" / "last.ckpt")
    parameters = dict(system.named_parameters())
    assert all(torch.equal(parameters[name], average) for name, average in saved["averages"].items())
    for found in run_on_ranks(loaded_state, tmp_path, strategy, str(tmp_path), 2, over(tmp_path / "qwen")):
        assert differing(saved, found) == []
    with pytest.raises(UserError, match=r"does not fit its recipe: \d+ missing \(.*base_layer"):
        check_fits(small_system(reasoner_values=LORA), tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.distributed
def test_ranks_keep_frozen_weights_that_a_checkpoint_has_brought(tmp_path):
    torch.manual_seed(0)
    tiny_qwen(tmp_path / "qwen")
    torch.manual_seed(1)
    tiny_qwen(tmp_path / "other")
    brought = small_system(reasoner_values={**over(tmp_path / "other"), "tune": "full"}).state_dict()
    torch.save({"state_dict": brought}, tmp_path / "brought.ckpt")
    for resume in (False, True):
        for found in run_on_ranks(frozen_weights, tmp_path, str(tmp_path), resume):
            assert found.keys() == {name for name in brought if name.startswith("reasoner.")} != set()
            assert all(torch.equal(value, brought[name]) for name, value in found.items())


def frozen_weights(rank: int, folder: str, resume: bool) -> dict:
    """What a frozen reasoner holds at the end of a run that began with other weights than its base's."""
    found = {}

    class Keep(Callback):
        def on_train_end(self, trainer, pl_module):
            with all_weights():
                state = pl_module.state_dict()
            found.update({name: whole(value).clone() for name, value in state.items() if name.startswith("reasoner.")})

        def setup(self, trainer, pl_module, stage):
            if not resume:
                load_weights(pl_module, Path(folder) / "brought.ckpt")

    frozen = {**over(Path(folder) / "qwen"), "tune": "frozen"}
    steps = SAVED_EVERY + resume
    train(rank, "fsdp", folder, steps=steps, resume=resume, extra=(Keep(),), reasoner_values=frozen)
    return found


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
