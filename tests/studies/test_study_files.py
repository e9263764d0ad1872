"""Study files and their mistakes."""

import pytest
from refusals import refused
from tiny_study import study_file

from got_core.studies.spec import Axis, Grid, number, options_of, read_study


def test_a_study_is_read_as_its_file_says(tmp_path):
    variants = {"a": ["--model.backbone.depth 2", "--model.guidance.palette='order'"], "b": {"dit": []}}
    axes = {"semantic": {"options": ["--x", "--y"], "values": [1, 2.5]}, "spatial": {"options": ["--z"], "values": [0]}}
    grid = {"overrides": ["--data.validation.split=validation"], "axes": axes}
    backbones = {"dit": "recipes/scenes_dit.yaml", "sdxl": "recipes/scenes_sdxl.yaml"}
    changes = {"variants": variants, "grid": grid, "backbones": backbones, "compare": [["b", "a"]]}
    read = read_study(study_file(tmp_path, **changes))
    depth = ("--model.backbone.depth", "2", "--model.guidance.palette=order")
    assert read.variants == {"a": {"dit": depth, "sdxl": depth}, "b": {"dit": ()}}
    assert read.combinations == [("dit", "a"), ("dit", "b"), ("sdxl", "a")]
    assert read.scorings == {
        "true-chain": ("--model.validation_chains=given",),
        "semantic=1,spatial=0": ("--data.validation.split=validation", "--x=1", "--y=1", "--z=0"),
        "semantic=2.5,spatial=0": ("--data.validation.split=validation", "--x=2.5", "--y=2.5", "--z=0"),
    }
    assert read.compare == (("b", "a"),)
    assert read.split.metrics == {"geneval.overall": "chain_satisfies"}
    assert read.metrics == ("geneval.overall", "background_kept", "chain_satisfies")


def test_values_of_a_grid_are_written_in_full():
    grid = Grid({"x": Axis(("--x",), (1234567.0, 0.30000000000000004))})
    assert list(grid.points().values()) == [("--x=1234567",), ("--x=0.30000000000000004",)]
    assert number(-3.0) == "-3"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": None}, "the following arguments are required: steps"),
        ({"steps": 0}, "steps: Not of type PositiveInt: 0 does not conform to restriction v>0"),
        ({"title": 3}, "title: expected str, got '3'"),
        ({"seeds": [1, 1]}, "seeds must be a list of different values"),
        ({"seeds": [True]}, "seeds: Not of type Seed: True not a number"),
        ({"seeds": [2**31]}, "seeds: Not of type Seed: 2147483648 does not conform to restriction v>=0 and v<=2147483"),
        ({"variant": {}}, "unknown key 'variant'; did you mean 'variants'?"),
        ({"columns": ["geneval.overal"]}, "no metric is called 'geneval.overal'; did you mean 'geneval.overall'?"),
        ({"backbones": {}}, "the following arguments are required: backbones"),
        ({"backbones": {"dit": []}}, "backbones.dit must be a list of different values, not []"),
        ({"backbones": {"dit": 3}}, "backbones: expected str, got '3'"),
        ({"variants": {"a/b": []}}, "'a/b' may only have letters"),
        ({"variants": {"a": "--x=1"}}, "variants: expected list, got '--x=1'"),
        ({"variants": {"a": {"dit": "--x"}}}, "variants: expected list, got '{'dit': '--x'}'"),
        ({"variants": {"a": {}}}, "variants: expected list, got 'None'"),
        ({"variants": {"a": ["x=1"]}}, "variants.a: an option begins with --"),
        ({"variants": {"a": {"unet": []}}}, "variants.a: no backbone is called 'unet'; there are dit"),
        ({"evaluations": {"a": {"dit": []}}}, "evaluations: expected list, got '{'dit': []}'"),
        ({"grid": 3}, "the following arguments are required: grid.axes"),
        ({"grid": {"axis": {}}}, "Group 'grid' does not accept option 'axis'"),
        ({"grid": {"axes": {"a": {"options": ["--x"]}}}}, "Axis: the following arguments are required: values"),
        ({"grid": {"axes": {"a": {"options": ["--x"], "value": [1]}}}}, "takes no 'value'; did you mean 'values'?"),
        ({"grid": {"axes": {"a": {"options": ["--x"], "values": ["b"]}}}}, "grid.axes.values: expected float, got 'b'"),
        (
            {"grid": {"axes": {"a": {"options": ["--x"], "values": [float("inf")]}}}},
            "grid.axes.a.values must be finite",
        ),
        ({"compare": [["whole", "no-chains"]]}, "compare: no variant is called 'no-chains'; did you mean 'no-chain'?"),
        ({"compare": [["whole"]]}, "compare: expected tuple with 2 elements, got '['whole']'"),
        ({"compare": [["whole", "whole"]]}, "compare: 'whole' is paired with itself"),
        (
            {"split": {"given": "x", "metrics": {"mean_iou": None}}},
            "split.given: no evaluation is called 'x'; there ar",
        ),
        ({"split": {"given": "true-chain", "metrics": {"iou": None}}}, "split.metrics: no metric is called 'iou'"),
        ({"split": {"given": "true-chain"}}, "Split: the following arguments are required: metrics"),
        (
            {"backbones": {"a": "x.yaml", "a-b": "y.yaml"}, "variants": {"b-c": {"a": []}, "c": {"a-b": []}}},
            "two combinations of backbone and variant are called a-b-c",
        ),
        ({"backbones": {"dit": "nowhere.yaml"}}, "of backbone 'dit': nowhere.yaml: no such recipe"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(capsys, tmp_path, changes, words):
    path = study_file(tmp_path, **changes)
    error = refused(capsys, "study", path, "--output", str(tmp_path / "runs"))
    assert error.startswith(f"got: error: {path}: ")
    assert words in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--trainer.max_steps=9", "--trainer.max_steps is set by the study's own key steps"),
        ("--trainer.max_epochs=1 --data.samples_per_epoch=32", "--trainer.max_epochs is set by the study's own key"),
        ("--data.samples_per_epoch=32 --trainer.max_time 00:00:01:00", "--trainer.max_time is set by the study's own"),
        ("--model.warmup_steps 2 --seed_everything 9", "--seed_everything is set by the study's own key seeds"),
        ("--data.init_args.seed=3", "--data.seed is set by the study's own key seeds"),
        ("--trainer.limit_val_batches=1", "--trainer.limit_val_batches would change what all runs are scored on"),
        ("--ckpt_path=last", "--ckpt_path is set by the study"),
        ("--weights runs/other", "--weights is set by the study"),
        ("--config=other.yaml", "--config belongs to backbones"),
        ("--model.warmup_steps=2 -c other.yaml", "--config belongs to backbones"),
        ("--trainer.devices=2", "--trainer.devices is set by the machine"),
        ("--trainer='{limit_val_batches: 1}'", "--trainer would replace all that the study sets there"),
        ("--x='a", "No closing quotation in"),
    ],
)
def test_options_that_are_the_studys_own_are_refused_everywhere(capsys, tmp_path, option, words):
    for part in ("variants", "evaluations"):
        error = refused(capsys, "study", study_file(tmp_path, **{part: {"a": [option]}, "split": None}))
        assert f"{part}.a: {words}" in error


@pytest.mark.parametrize("option", ["--data.validation.split=train", "--data.init_args.validation={}", "--data=Scenes"])
def test_all_variants_are_scored_on_the_recipes_own_samples(capsys, tmp_path, option):
    error = refused(capsys, "study", study_file(tmp_path, variants={"a": [option]}))
    assert "would change what all runs are scored on alike: score on other samples under evaluations" in error
    assert read_study(study_file(tmp_path, evaluations={"true-chain": [option]})).evaluations == {
        "true-chain": (option,)
    }


def test_options_are_distinguished_from_their_values():
    words = ("--model.init_args.warmup_steps", "-3", "--trainer.callbacks+=a.B", "--x=--y", "-c", "f", "-c=f", "-.5")
    assert options_of(words) == ["--model.warmup_steps", "--trainer.callbacks", "--x", "--config", "--config"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: [", "broken.yaml, line 1: "),
        ("title: a\x07b", "broken.yaml: not a readable study (ReaderError)"),
        ("title: a\nsteps: 2\ntitle: b", "broken.yaml, line 3: the key 'title' stands here twice"),
        ("variants:\n  a: []\n  a: [--x=1]", "broken.yaml, line 3: the key 'a' stands here twice"),
        ("{[1]: 2}", "broken.yaml, line 1: found unhashable key"),
        ("3", "broken.yaml: not a study, which is a mapping of names to values"),
        ("{}", "broken.yaml: the following arguments are required: title, steps, seeds"),
    ],
)
def test_a_file_that_is_not_a_study_is_refused_in_one_line(capsys, tmp_path, text, words):
    (tmp_path / "broken.yaml").write_text(text)
    assert words in refused(capsys, "study", str(tmp_path / "broken.yaml"))


def test_a_missing_file_is_refused_in_one_line(capsys):
    assert "nowhere.yaml: no such file" in refused(capsys, "study", "nowhere.yaml")
