"""Records that cannot be read are replaced, the same ones in every run, counted and listed once."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small_system import small_system
from test_datamodule import Brightness
from torch.utils.data import Dataset

from got_core.data.datamodule import GoTDataModule
from got_core.data.mixture import Mixture, Source
from got_core.data.quarantine import BAD, LEAST, Quarantine, Tolerant, record_name
from got_core.data.records import RecordsDataset, bad_chains
from got_core.errors import UserError
from got_core.training.checkpointing import RandomState
from got_core.types import Sample


class Some(Dataset[Sample]):
    """Samples named by their number, of which some cannot be read."""

    def __init__(self, length: int, bad: set[int], kind: type[Exception] = ValueError) -> None:
        self.length, self.bad, self.kind = length, bad, kind

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise self.kind(f"r:{index}: not a readable image")
        return Sample(str(index), "", (32, 32), target=torch.full((3, 32, 32), index / 100), meta={"kind": "t2i"})

    def name(self, index: int) -> str:
        return f"r:{index}"


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_the_next_record_that_can_be_read_takes_the_place(kind):
    dataset = Tolerant(Some(10, {2, 3, 9}, kind))
    assert [dataset[i].prompt for i in range(10)] == ["0", "1", "4", "4", "4", "5", "6", "7", "8", "0"]
    assert dataset[2].meta == {
        "kind": "t2i",
        BAD: (("r:2", "r:2: not a readable image"), ("r:3", "r:3: not a readable image")),
    }
    assert dataset[1].meta == {"kind": "t2i"}


@given(length=st.integers(1, 60), data=st.data())
def test_a_damaged_part_is_left_in_few_steps(length, data):
    bad = set(range(data.draw(st.integers(0, length)), data.draw(st.integers(0, length))))
    dataset = Tolerant(Some(length, bad))
    for index in range(length):
        if len(bad) > length // 2:
            continue
        sample = dataset[index]
        assert int(sample.prompt) not in bad
        assert len(sample.meta.get(BAD, ())) <= (length - 1).bit_length()
        assert index in bad or sample.prompt == str(index)


def test_a_source_of_bad_records_is_an_error():
    with pytest.raises(ValueError, match="none of 4 records could be read to replace the first of them: r:3: not a"):
        Tolerant(Some(7, set(range(7))))[3]


def test_other_errors_are_raised():
    with pytest.raises(KeyError):
        Tolerant(Some(3, {0}, KeyError))[0]


def test_a_record_has_the_name_of_the_dataset_that_reads_it():
    assert record_name(Tolerant(Some(3, set())), 1) == "r:1"
    assert record_name([0, 1], 1) == "list 1"


def entry(*records: int) -> dict:
    return {BAD: tuple((f"r:{number}", "bad") for number in records)} if records else {}


def listed(file: Path) -> list[str]:
    return [json.loads(line)["record"] for line in file.read_text().splitlines()]


def test_each_record_is_listed_once_by_all_ranks(tmp_path, capsys):
    file = tmp_path / "run" / "bad_records.jsonl"
    ranks = [Quarantine(0.5), Quarantine(0.5)]
    ranks[0].count([entry(1, 2), entry()], file)
    ranks[1].count([entry(2, 3), entry(3)], file)
    ranks[0].count([entry(3), entry(1), entry(4)], file)
    assert listed(file) == ["r:1", "r:2", "r:3", "r:4"]
    assert (ranks[0].read, ranks[0].replaced, ranks[1].read, ranks[1].replaced) == (5, 4, 2, 2)
    with file.open("a") as lines:
        lines.write('{"record": "r:5", "err\n')
    Quarantine(0.5).add([entry(4), entry(5)], file)
    assert file.read_text().endswith('{"record": "r:5", "error": "bad"}\n')
    assert len(file.read_text().splitlines()) == 6
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_too_many_end_the_run_once_they_are_twenty(tmp_path):
    file = tmp_path / "bad_records.jsonl"
    quarantine = Quarantine(0.05)
    for number in range(LEAST - 1):
        quarantine.count([entry(number)], file)
    with pytest.raises(
        UserError, match=r"20 of 20 samples could not be read, more than 5% \(max_bad_records\): .*jsonl"
    ):
        quarantine.count([entry(LEAST)], file)
    quarantine = Quarantine(0.05)
    for number in range(3 * LEAST):
        quarantine.count([entry(number), *[entry()] * 19], file)
    with pytest.raises(UserError, match="61 of 1,201 samples"):
        quarantine.count([entry(0)], file)


def fit(folder: Path, dataset: Dataset, steps: int = 8, workers: int = 0, resume: Path | None = None, **options):
    module = GoTDataModule(
        [Source(dataset)], Some(3, {1}), batch_size=3, num_workers=workers, samples_per_epoch=12, **options
    )
    torch.manual_seed(0)
    model = Brightness()
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=steps, max_epochs=-1, num_sanity_val_steps=0,
        val_check_interval=2, check_val_every_n_epoch=None, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RandomState(), ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(model, module, ckpt_path=resume and str(resume))
    return model, module.quarantine


def test_a_resumed_run_replaces_the_same_records_and_goes_on_counting(tmp_path):
    bad = {0, 1, 2, 7, 11, 19}
    whole, counted = fit(tmp_path, Some(20, bad))
    prompts = [prompt for prompts, _ in whole.history for prompt in prompts]
    order = Mixture([Source(Some(20, bad))])
    replaced = sum(order.locate(index)[1] in bad for index in range(24))
    assert (counted.read, counted.replaced) == (24, replaced)
    assert not bad & set(map(int, prompts))
    assert whole.validated[:3] == [(0, "0"), (0, "2"), (0, "2")]
    names = listed(tmp_path / "bad_records.jsonl")
    assert sorted(names) == sorted({f"r:{number}" for number in bad} | {"r:1"})
    for step, workers in ((2, 2), (5, 0)):
        resumed, again = fit(tmp_path, Some(20, bad), 8, workers, tmp_path / f"step={step}.ckpt")
        assert resumed.history == whole.history[step:]
        assert (again.read, again.replaced) == (24, replaced)
        assert listed(tmp_path / "bad_records.jsonl") == names
    fit(tmp_path, Some(20, set()), 2)
    assert listed(tmp_path / "bad_records.jsonl") == ["r:1"]  # Of validation; another run begins another list.


def test_a_run_with_too_many_bad_records_ends_and_another_policy_raises(tmp_path):
    with pytest.raises(UserError, match=r"samples could not be read, more than 10% \(max_bad_records\)"):
        fit(tmp_path, Some(20, set(range(0, 20, 2))), 60, max_bad_records=0.1)
    with pytest.raises(ValueError, match="not a readable image"):
        fit(tmp_path, Some(20, {3}), 8, on_bad_record="raise")


def test_checks_before_training_leave_bad_records_out(tmp_path):
    lines = [{"prompt": "a", "chain": "a car (1200,300),(1800,900)", "image": "a.png"}] * 4
    (tmp_path / "r.jsonl").write_text("{\n" + "\n".join(json.dumps(line) for line in lines))
    dataset = RecordsDataset(str(tmp_path / "r.jsonl"), 8, check_first=False)
    bad, checked = bad_chains(dataset, tolerant=True)
    assert (len(bad), checked) == (4, 5)
    with pytest.raises(ValueError, match=r"r\.jsonl:1: not JSON"):
        bad_chains(dataset)
    inside = [{"prompt": "a", "chain": "a car (100,30),(180,90)", "image": "a.png"}] * 4
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(line) for line in inside))
    dataset = RecordsDataset(str(tmp_path / "r.jsonl"), 8, check_first=False)
    assert bad_chains(dataset, tolerant=True) == ([], 4)
    with pytest.raises(FileNotFoundError, match="no such image file"):
        bad_chains(dataset)


def test_training_logs_how_many_were_replaced(monkeypatch):
    system = small_system()
    logged = {}
    monkeypatch.setattr(system, "log", lambda name, value, **options: logged.update({name: value}))
    samples = [
        Sample("a red circle", "a red circle (1,2),(30,40)", (32, 32), target=torch.zeros(3, 32, 32), meta=meta)
        for meta in (entry(1, 2), entry(), entry(3))
    ]
    system.training_step(system.processor(samples), 0)
    assert logged[BAD] == 3.0
    logged.clear()
    system.training_step(system.processor(samples[1:2]), 0)
    assert BAD not in logged
