"""The recipes of a study: built in shape before training, and the identity of runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from refusals import refused
from tiny_study import TINY, study_file

from got_core.config import OWN_PACKAGES
from got_core.evaluation.results import versions
from got_core.paths import ROOT
from got_core.studies.runs import (
    CODE,
    DIGITS,
    class_paths,
    essentials,
    git_commit,
    made_with,
    plan_runs,
    without_defaults,
)
from got_core.studies.spec import options_of, read_study
from got_core.training.recipe import ResolvedRecipe
from got_core.weights.files import checksum

SHIPPED = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))
NO_MASKS = ["--model.guidance.spatial_channels=null", "--model.backbone.spatial_channels=null"]


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("--model.backbone.dept=2", "variant 'wrong' of backbone 'dit': model.backbone"),
        ("--model.guidance.token_dim=64", "makes tokens of width 64, FlowDiT takes 128"),
        ("--data.chains=some", "variant 'wrong' of backbone 'dit': data"),
        ("--data.batch_size=0", "batch_size and validation_batch_size must be at least 1"),
        ("--trainer.callbacks=[]", "trainer.callbacks lacks got_core.evaluation.callbacks.FinalScores"),
        ("--model.num_workers=0 --model.backbone.depth=1", "variant 'wrong' of backbone 'dit': model"),
    ],
)
def test_a_variant_that_the_recipe_refuses_is_found_before_training(capsys, tmp_path, variant, words):
    path = study_file(tmp_path, variants={"right": [], "wrong": [variant]})
    assert words in refused(capsys, "study", path, "--output", str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.backbone.depth=3", "evaluation 'true-chain': a model of other weights than the trained one"),
        ("--model.backbone.width=64", "evaluation 'true-chain': a model of other weights than the trained one"),
        ("--data.validation.split=nosuch", "evaluation 'true-chain': unknown split"),
        ("--data.chains=some", "evaluation 'true-chain': data"),
        ("--model.validation_chains=given --model.sampling_step=3", "evaluation 'true-chain': model"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_found_before_training(capsys, tmp_path, option, words):
    path = study_file(tmp_path, evaluations={"true-chain": [option]})
    error = refused(capsys, "study", path, "--output", str(tmp_path / "runs"))
    assert f"variant 'whole' of backbone 'dit': {words}" in error
    assert not (tmp_path / "runs").exists()


def test_every_value_of_a_grid_is_read_before_training(capsys, tmp_path):
    axes = {"steps": {"options": ["--model.sampling_steps"], "values": [1, 2, 0.5]}}
    path = study_file(tmp_path, grid={"axes": axes})
    error = refused(capsys, "study", path, "--output", str(tmp_path / "runs"))
    assert "variant 'whole' of backbone 'dit': grid.axes.steps, 0.5: model" in error


def test_two_variants_that_are_the_same_recipe_are_refused(capsys, tmp_path):
    path = study_file(tmp_path, variants={"a": [], "b": ["--model.backbone.depth=1"]})
    error = refused(capsys, "study", path)
    assert "variant 'a' of backbone 'dit' and variant 'b' of backbone 'dit' are the same recipe" in error


def test_shipped_studies_can_be_built_and_share_their_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {}
    for path in SHIPPED:
        study = read_study(f"recipes/studies/{path.name}")
        planned = plan_runs(study, tmp_path)
        assert len(planned) == len(study.combinations) * len(study.seeds)
        found[path.stem] = {(run.backbone, run.variant, run.seed): run.folder for run in planned}
    components, semantic, summary = found["components"], found["semantic"], found["summary"]
    assert len(set(components.values())) == 18
    assert found["planner"] == {key: folder for key, folder in components.items() if key[1] == "chain+ssgm"}
    assert found["scales"]["dit", "chain+ssgm", 1] == components["dit", "chain+ssgm", 1]
    for seed in (1, 2, 3):
        whole, chain = components["dit", "chain+ssgm", seed], components["dit", "chain", seed]
        assert summary["dit", "learned-16", seed] == semantic["dit", "both", seed] == whole
        assert summary["dit", "learned-16-no-masks", seed] == chain


def test_every_pair_of_the_summary_study_differs_in_one_respect():
    """Number of embeddings, source of the states, boxes in the chain, or masks; the chain's own need a number too."""
    study = read_study(str(ROOT / "recipes" / "studies" / "summary.yaml"))

    def of(variant):
        words = study.variants[variant]["dit"]
        values = dict(word.lstrip("-").split("=") for word in words)
        masks = values.pop("model.guidance.spatial_channels", "8"), values.pop("model.backbone.spatial_channels", "8")
        count = values.pop("model.reasoner.num_tokens")
        found = {"masks": masks, "number": count}
        found |= {
            "chains": values.pop("data.chains", "whole"),
            "source": values.pop("model.reasoner.summary", "learned"),
        }
        assert not values
        return found

    for first, second in study.compare:
        a, b = of(first), of(second)
        differs = {name for name in a if a[name] != b[name]}
        assert differs in ({"number"}, {"masks"}, {"chains"}, {"source", "number"}), (first, second)
    assert {name for pair in study.compare for name in pair} == set(study.variants)


def test_a_seed_determines_all_random_numbers(tmp_path):
    study = read_study(study_file(tmp_path, seeds=[7, 8], variants={"whole": []}, evaluations={}, split=None))
    seven, eight = plan_runs(study, tmp_path, workers=0)
    options = set(options_of(seven.overrides))
    assert {"--seed_everything", "--data.seed", "--model.validation_seed"} <= options
    config = ResolvedRecipe(seven.files, seven.overrides).config
    assert (config.seed_everything, config.data.init_args.seed, config.model.init_args.validation_seed) == (7, 7, 7)
    assert (config.trainer.max_steps, config.trainer.max_epochs, config.trainer.max_time) == (2, -1, None)
    assert "--data.num_workers=0" in seven.training.arguments
    assert seven.folder.name == f"{Path(TINY[0]).stem}+{Path(TINY[1]).stem}-{eight.folder.name.split('-')[1]}-seed7"
    assert seven.training.identity.digest != eight.training.identity.digest


def test_a_run_is_identified_by_the_meaning_of_its_recipe(tmp_path):
    """Written-out defaults, comments, machine and seed are not part of it; every other value is."""
    plain = essentials(ResolvedRecipe(TINY))
    options = ["--model.guidance.pooled_dim=null", "--trainer.devices=2", "--seed_everything=5", "--data.seed=5",
            "--model.validation_chains=written", "--model.backbone.mlp_ratio=4.0", "--data.num_workers=3"]  # fmt: skip
    assert essentials(ResolvedRecipe(TINY, options)) == plain
    (tmp_path / "same.yaml").write_text("# the same\nmodel: {init_args: {validation_seed: 3}}\n")
    assert essentials(ResolvedRecipe([*TINY, str(tmp_path / "same.yaml")])) == plain
    for other in ("--model.backbone.depth=2", "--data.chains=none", "--trainer.max_steps=5", "--data.batch_size=5"):
        assert essentials(ResolvedRecipe(TINY, [other])) != plain


@pytest.mark.parametrize("first", ["got_core.studies.runner", "got_core.cli.train"])
def test_a_run_has_the_same_name_whatever_was_imported_before(first):
    """Lightning's `int | float` is read in the order in which some module first wrote it."""
    script = "import sys, json, importlib; importlib.import_module(sys.argv[1])\n"
    script += "from got_core.studies.runs import essentials\n"
    script += "from got_core.training.recipe import ResolvedRecipe\n"
    script += "print(json.dumps(essentials(ResolvedRecipe(sys.argv[2:]))))"
    command = [sys.executable, "-c", script, first, *TINY]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(ended.stdout.splitlines()[-1])
    assert json.dumps(found) == json.dumps(essentials(ResolvedRecipe(TINY)))
    assert str(found["trainer"]["limit_val_batches"]) == "1.0"


def test_an_argument_at_its_default_is_left_out():
    path = "got_core.data.scenes.dataset.ScenesDataset"
    values = {"class_path": path, "init_args": {"size": 32, "length": 5, "object_size": [0.28, 0.47], "tasks": None}}
    assert without_defaults([{"a": values}]) == [{"a": {"class_path": path, "init_args": {"length": 5}}}]
    assert list(class_paths([{"a": values}, values])) == [path, path]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def part(tmp_path, monkeypatch):
    """The file of a class outside of the packages, and a recipe that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_parts_of_a_study", raising=False)
    module = tmp_path / "my_parts_of_a_study.py"
    module.write_text("class Part: pass\n")
    return module, {"model": {"class_path": "my_parts_of_a_study.Part"}, "data": {"class_path": "torch.nn.Linear"}}


def test_versions_are_those_of_libraries_and_of_the_code_that_the_recipe_names(part):
    module, settings = part
    before = made_with(settings)
    assert {name: before[name] for name in versions()} == versions()
    assert before.keys() - versions().keys() == {f"{CODE}got_core", f"{CODE}my_parts_of_a_study"}
    assert before[f"{CODE}my_parts_of_a_study"] == checksum(module)[:DIGITS]
    assert before[f"{CODE}got_core"] == (git_commit(ROOT, OWN_PACKAGES) or versions()["got-framework"])
    module.write_text("class Part: depth = 2\n")
    after = made_with(settings)
    assert {name for name in before if before[name] != after[name]} == {f"{CODE}my_parts_of_a_study"}


def test_a_class_of_another_checkout_is_identified_by_its_commit(part, tmp_path):
    module, settings = part
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    assert made_with(settings)[f"{CODE}{module.stem}"] == checksum(module)[:DIGITS]  # No file of this commit.
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "second")
    commit = git(tmp_path, "rev-parse", "HEAD")[:DIGITS]
    (tmp_path / "other.py").write_text("")
    assert made_with(settings)[f"{CODE}{module.stem}"] == commit
    dirty = []
    for depth in (2, 3):
        module.write_text(f"class Part: depth = {depth}\n")
        dirty.append(made_with(settings)[f"{CODE}{module.stem}"])
    assert all(name.startswith(f"{commit}-dirty-") for name in dirty)
    assert dirty[0] != dirty[1]


def test_without_git_code_is_identified_by_its_version(part, tmp_path, monkeypatch):
    """Also where git refuses a checkout because another user owns it."""
    module, settings = part
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    for name, value in {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "PATH": str(tmp_path)}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert git_commit(tmp_path, ["."]) is None
            found = made_with(settings)
        assert found[f"{CODE}got_core"] == versions()["got-framework"]
        assert found[f"{CODE}{module.stem}"] == checksum(module)[:DIGITS]


def test_shipped_studies_can_be_read():
    for path in SHIPPED:
        assert read_study(str(path)).steps == yaml.safe_load(path.read_text())["steps"]
    for variant in ("learned-16-no-masks", "chain-states-no-masks", "rewritten-prompt"):
        study = read_study(str(ROOT / "recipes" / "studies" / "summary.yaml"))
        assert set(NO_MASKS) <= set(study.variants[variant]["dit"])
