"""A tiny study from end to end: run, damaged and continued."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from refusals import refused
from tiny_study import study_file

from got_core.cli.main import main
from got_core.errors import UserError
from got_core.evaluation.results import versions
from got_core.paths import ROOT
from got_core.studies.runner import LOG, cores, locked
from got_core.studies.runs import RECORD, Identity, State, made_by
from got_core.weights.files import checksum

VERSIONS = {"torch": "2"}


def test_a_folder_is_new_begun_finished_or_another_runs(tmp_path):
    folder, identity = tmp_path / "run", Identity({"depth": 2}, 5)
    assert identity.state(folder) is State.NEW
    identity.begin(folder, VERSIONS)
    assert identity.state(folder) is State.NEW
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    assert identity.state(folder) is State.BEGUN
    for unfinished in ("{}", '{"step": 2}', '{"step": 5', "[5]"):
        (folder / "metrics.json").write_text(unfinished)
        assert identity.state(folder) is State.BEGUN
    (folder / "metrics.json").write_text('{"step": 5}')
    assert identity.state(folder) is State.FINISHED
    with pytest.raises(UserError, match=r"run contains another run \(see its asked\.json\)"):
        Identity({"depth": 3}, 5).state(folder)
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "metrics.json").write_text('{"step": 2}')
    assert identity.state(folder) is State.NEW
    (folder / RECORD).write_text("{")
    with pytest.raises(UserError, match="not a readable record"):
        identity.state(folder)
    (folder / RECORD).unlink()
    with pytest.raises(UserError, match="contains a run that no study made"):
        identity.state(folder)


def test_a_record_keeps_all_versions_that_a_run_was_made_with(tmp_path):
    identity = Identity({"depth": 2}, 5)
    identity.begin(tmp_path, {"torch": "1"})
    identity.begin(tmp_path, VERSIONS)
    assert made_by(tmp_path) == [VERSIONS]  # Nothing had been trained under the first.
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    for found in (VERSIONS, {"torch": "3"}, VERSIONS):
        identity.begin(tmp_path, found)
    assert made_by(tmp_path) == [VERSIONS, {"torch": "3"}]


def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").touch()
    path = study_file(tmp_path, variants={"whole": []}, evaluations=None, split=None)
    assert str(tmp_path / "file") in refused(capsys, "study", path, "--output", str(tmp_path / "file"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A tiny study that has been run: two variants under one seed, each scored twice."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        main(["study", study_file(folder), "--output", str(folder / "runs"), "--jobs", str(cores())])
    return folder


def saved(ran: Path) -> dict:
    return json.loads((ran / "runs" / "tiny" / "results.json").read_text())


def folder_of(ran: Path, variant: str) -> Path:
    return next(Path(run["folder"]) for run in saved(ran)["runs"] if run["variant"] == variant)


def scored_in(ran: Path, variant: str) -> Path:
    return next(Path(run["scored_in"]["true-chain"]) for run in saved(ran)["runs"] if run["variant"] == variant)


def test_a_study_writes_tables_and_a_diagram(ran):
    found, results = saved(ran), ran / "runs" / "tiny"
    assert [(row["variant"], row["scoring"], row["seed"]) for row in found["figures"]] == [
        ("whole", None, 1), ("whole", "true-chain", 1), ("no-chain", None, 1), ("no-chain", "true-chain", 1),
    ]  # fmt: skip
    metrics = json.loads((folder_of(ran, "whole") / "metrics.json").read_text())
    assert metrics["step"] == 2
    assert found["figures"][0]["figures"] == {
        "geneval.overall": metrics["geneval"]["overall"], "background_kept": metrics["background_kept"],
        "chain_satisfies": metrics["chain_satisfies"],
    }  # fmt: skip
    text = (results / "results.md").read_text()
    assert f"got study {ran / 'tiny.yaml'} --output {ran / 'runs'}" in text
    assert "| dit | no-chain, true-chain | 1 of 1 |" in text
    assert "| one seed: none |" in text
    assert "![results.png](results.png)" in text
    assert "Made with other versions" not in text
    (split,) = [line for line in text.splitlines() if line.startswith("| dit | whole | geneval.overall |")]
    assert split.split(" | ")[3] == f"{metrics['chain_satisfies']:.3f} n=1"
    assert Image.open(results / "results.png").width > 300


def test_results_have_what_they_were_made_from(ran):
    found, folder = saved(ran), folder_of(ran, "no-chain")
    run = next(run for run in found["runs"] if run["variant"] == "no-chain")
    assert {name: run["made_with"][0][name] for name in versions()} == versions()
    assert "code of got_core" in run["made_with"][0]
    assert found["made_with_other_versions"] == []
    assert run["checkpoint_sha256"] == checksum(folder / "checkpoints" / "last.ckpt")
    assert run["recipe"]["data"]["init_args"]["chains"] == "none"
    assert run["recipe"]["data"]["init_args"]["seed"] == run["recipe"]["model"]["init_args"]["validation_seed"] == 1
    assert run["recipe"]["data"]["init_args"]["num_workers"] == 0
    assert found["study"] == {"file": str(ran / "tiny.yaml"), "sha256": checksum(ran / "tiny.yaml")}
    assert set(found["recipes"].values()) == {checksum(Path(file)) for file in found["recipes"]}
    assert found["machine"]["cores"] == cores()


def test_images_from_the_true_chain_are_scored_as_such(ran):
    """The true plan fulfils every prompt; an empty one none."""
    for variant, score in {"whole": 1.0, "no-chain": 0.0}.items():
        metrics = json.loads((scored_in(ran, variant) / "metrics.json").read_text())
        assert metrics["chain_satisfies"] == metrics["chain_parses"] == score
    assert json.loads((folder_of(ran, "no-chain") / "metrics.json").read_text())["chain_parses"] == 0


def test_finished_runs_are_not_run_again_by_any_study(ran, capsys, monkeypatch, tmp_path):
    """Another study of the same runs, called differently, uses them as they are and only scores what is new."""
    monkeypatch.chdir(ROOT)
    metrics = sorted((ran / "runs").rglob("metrics.json"))
    times = [path.stat().st_mtime_ns for path in metrics]
    other = study_file(ran, "other", variants={"chain": [], "none": ["--data.chains none"]})
    for file in (ran / "tiny.yaml", other):
        main(["study", str(file), "--output", str(ran / "runs")])
        text = capsys.readouterr().out
        assert text.count("finished before") == 4
        assert "finished in" not in text
    assert [path.stat().st_mtime_ns for path in metrics] == times
    assert "| dit | none, true-chain | 1 of 1 |" in (ran / "runs" / "other" / "results.md").read_text()


def test_a_run_of_other_steps_has_another_folder(ran, monkeypatch, tmp_path):
    from got_core.studies.runs import plan_runs
    from got_core.studies.spec import read_study

    longer = plan_runs(read_study(study_file(tmp_path, steps=3)), ran / "runs")
    assert not any(run.folder.exists() for run in longer)
    assert all(run.folder.exists() for run in plan_runs(read_study(str(ran / "tiny.yaml")), ran / "runs"))


def test_a_folder_that_another_study_works_on_is_refused(ran, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = folder_of(ran, "whole")
    shutil.copy(folder / "metrics.json", ran / "kept.json")
    (folder / "metrics.json").unlink()
    with locked([folder]):
        text = refused(capsys, "study", str(ran / "tiny.yaml"), "--output", str(ran / "runs"))
    shutil.move(ran / "kept.json", folder / "metrics.json")
    assert f"{folder} is being worked on by another study" in text


def test_the_same_command_continues_and_a_failed_run_is_named(ran, capsys, monkeypatch):
    """A run that was scored too early continues from its checkpoint; a broken one fails alone; versions are noted."""
    monkeypatch.chdir(ROOT)
    command = ["study", str(ran / "tiny.yaml"), "--output", str(ran / "runs")]
    whole, without = folder_of(ran, "whole"), folder_of(ran, "no-chain")
    before = json.loads((whole / "metrics.json").read_text())
    (whole / "metrics.json").write_text(json.dumps({**before, "step": 1, "background_kept": 9}))
    (without / "metrics.json").write_text('{"step": 2, "backgr')
    record = json.loads((whole / RECORD).read_text())
    record["made_with"][0]["torch"] = "1.0"
    (whole / RECORD).write_text(json.dumps(record))
    kept = (without / "checkpoints" / "last.ckpt").read_bytes()
    (without / "checkpoints" / "last.ckpt").write_bytes(b"broken")
    with pytest.raises(SystemExit) as ended:
        main(command)
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert "1 of 4 failed and are left out: dit-no-chain-seed1" in output.err
    assert "dit-no-chain-seed1: failed:" in output.out
    assert "not a readable checkpoint" in output.out
    assert str(without / LOG) in output.out.replace("\n", "")
    assert "had reached its end" in (whole / LOG).read_text()
    assert {**json.loads((whole / "metrics.json").read_text()), "seconds": 0} == {**before, "seconds": 0}
    text = (ran / "runs" / "tiny" / "results.md").read_text()
    assert "| dit | no-chain | 0 of 1 | - | - |" in text
    assert "## Failed" in text
    assert f"- torch was 1.0 and is {versions()['torch']}: dit-whole-seed1\n" in text
    (without / "checkpoints" / "last.ckpt").write_bytes(kept)
    main(command)
    assert "| dit | no-chain | 1 of 1 |" in (ran / "runs" / "tiny" / "results.md").read_text()


def test_a_run_that_ends_before_its_steps_is_a_failure(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    stopping = "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: loss, "
    stopping += "divergence_threshold: -1, check_on_train_epoch_end: true}}"
    options = [f"--trainer.callbacks+='{stopping}'", "--data.samples_per_epoch=4", "--trainer.val_check_interval=1"]
    path = study_file(tmp_path, variants={"short": options}, evaluations=None, split=None)
    with pytest.raises(SystemExit):
        main(["study", path, "--output", str(tmp_path / "runs")])
    output = capsys.readouterr()
    assert "1 of 1 failed and are left out: dit-short-seed1" in output.err
    text = (tmp_path / "runs" / "tiny" / "results.md").read_text()
    assert "dit-short-seed1: it ended with scores of step 1, not 2" in text
    assert "| dit | short | 0 of 1 |" in text
