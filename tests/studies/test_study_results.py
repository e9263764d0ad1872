"""The results of a study from its scores, in closed form."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import t

from got_core.studies.analysis import Arm, Results, collect, error_splits, score
from got_core.studies.report import (
    DOTS,
    MARGIN,
    PANEL_WIDTH,
    ROW_HEIGHT,
    differences,
    draw_grid,
    draw_means,
    grid_means,
    markdown,
    means,
    split,
    terminal_tables,
    words,
)
from got_core.studies.runs import Identity, TrainedRun
from got_core.studies.spec import Axis, Grid, Split, Study, point_name

T_TWO = 4.302652730
"""Student's t at 97.5% for two degrees of freedom, from tables."""


def a_study(**values) -> Study:
    settings = {
        "name": "small",
        "title": "Small",
        "steps": 10,
        "seeds": (1, 2, 3),
        "backbones": {"dit": ("a.yaml",)},
        "variants": {"plain": {"dit": ()}, "better": {"dit": ()}},
        "columns": ("mean_iou", "geneval.overall"),
    }
    return Study(**{**settings, **values})


PLAIN, BETTER = Arm("dit", "plain"), Arm("dit", "better")
METRICS = {
    PLAIN: {
        seed: {"mean_iou": value, "geneval.overall": None}
        for seed, value in zip((1, 2, 3), (0.1, 0.2, 0.3), strict=True)
    },
    BETTER: {
        seed: {"mean_iou": value, "geneval.overall": 0.5}
        for seed, value in zip((1, 2, 3), (0.5, 0.6, 0.8), strict=True)
    },
}


def test_differences_are_paired_by_seed():
    results = Results(a_study(), METRICS, {})
    (found,) = results.differences()
    half = T_TWO * math.sqrt(((0.4 - 1.3 / 3) ** 2 * 2 + (0.5 - 1.3 / 3) ** 2) / 2) / math.sqrt(3)
    assert (found.first, found.second, found.metric) == (PLAIN, BETTER, "mean_iou")
    assert found.estimate.mean == pytest.approx(1.3 / 3)
    assert found.estimate.low == pytest.approx(1.3 / 3 - half)
    p_value = 2 * float(t.sf(abs(1.3 / 3) / (half / T_TWO), 2))
    assert found.p_value == pytest.approx(p_value)
    assert found.conclusion == "above zero"
    (other,) = Results(a_study(), {BETTER: METRICS[BETTER], PLAIN: METRICS[PLAIN]}, {}).differences()
    assert other.conclusion == "below zero"


def test_a_seed_that_is_missing_on_one_side_is_left_out():
    scores = {PLAIN: {seed: METRICS[PLAIN][seed] for seed in (1, 2)}, BETTER: {2: METRICS[BETTER][2]}}
    (found,) = Results(a_study(), scores, {}).differences()
    assert (found.estimate.mean, found.estimate.number) == (pytest.approx(0.4), 1)
    assert found.conclusion == "one seed: none"


def test_variants_are_compared_and_evaluations_with_their_own_run_but_no_points_of_a_grid():
    grid = Grid({"x": Axis(("--x",), (1.0, 2.0))})
    study = a_study(evaluations={"again": ()}, grid=grid, columns=("mean_iou",))
    row = {1: {"mean_iou": 0.5}}
    arms = [
        Arm("dit", variant, scoring) for variant in ("plain", "better") for scoring in (None, "again", "x=1", "x=2")
    ]
    results = Results(study, dict.fromkeys(arms, row), {})
    pairs = [(found.first.label, found.second.label) for found in results.differences()]
    assert pairs == [("plain", "plain, again"), ("plain", "better"), ("better", "better, again")]


def rows_of(**values: tuple[float | None, ...]) -> dict[int, dict[str, float | None]]:
    """The scores of seeds 1, 2, ... from those of each column."""
    names, columns = list(values), list(values.values())
    return {seed + 1: dict(zip(names, row, strict=True)) for seed, row in enumerate(zip(*columns, strict=True))}


def test_conclusions_are_corrected_for_the_differences_of_a_metric():
    """Ten differences of one metric: one that would be significant alone is not among so many."""
    names = [f"v{index}" for index in range(5)]
    study = a_study(variants={name: {"dit": ()} for name in names}, columns=("mean_iou",))
    noise = [(0.5, 0.52, 0.49), (0.51, 0.5, 0.5), (0.49, 0.5, 0.53), (0.5, 0.51, 0.5), (0.55, 0.6, 0.55)]
    scores = {Arm("dit", name): rows_of(mean_iou=row) for name, row in zip(names, noise, strict=True)}
    among = Results(study, scores, {}).differences()
    assert len(among) == 10
    first, last = Arm("dit", "v0"), Arm("dit", "v4")
    (found,) = (entry for entry in among if (entry.first, entry.second) == (first, last))
    assert found.estimate.low > 0
    assert found.conclusion == "not significant"
    assert found.p_value > found.estimate.chance
    alone = a_study(variants=study.variants, columns=("mean_iou",), compare=(("v0", "v4"),))
    (found,) = Results(alone, scores, {}).differences()
    assert found.conclusion == "above zero"


def test_only_the_pairs_that_a_study_names_are_compared_in_its_order():
    study = a_study(compare=(("better", "plain"),), columns=("mean_iou",))
    (found,) = Results(study, METRICS, {}).differences()
    assert (found.first, found.second) == (BETTER, PLAIN)
    assert found.estimate.mean < 0


def test_seeds_that_agree_give_no_conclusion_but_count():
    variants = {name: {"dit": ()} for name in ("plain", "same", "better")}
    same = rows_of(mean_iou=(0.13125, 0.23125, 0.33125))
    better = rows_of(mean_iou=(0.5, 0.6, 0.8))
    scores = {PLAIN: rows_of(mean_iou=(0.1, 0.2, 0.3)), Arm("dit", "same"): same, BETTER: better}
    agreeing, *others = Results(a_study(variants=variants, columns=("mean_iou",)), scores, {}).differences()
    assert (agreeing.conclusion, agreeing.p_value) == ("no spread: none", None)
    assert min(entry.p_value / entry.estimate.chance for entry in others) >= 2
    assert max(entry.p_value / entry.estimate.chance for entry in others) == pytest.approx(3)


def test_scores_are_read_by_their_dotted_names_once_all_steps_are_done(tmp_path):
    metrics = {"seconds": 3, "mean_iou": None, "geneval": {"overall": 0.25}}
    assert score(metrics, "geneval.overall") == 0.25
    assert score(metrics, "seconds") == 3.0
    assert score(metrics, "mean_iou") is None
    study = a_study()
    run = TrainedRun(study, "dit", "plain", 1, tmp_path, {})
    run.training.identity.begin(run.folder, {})
    metrics_file = run.folder / "metrics.json"
    metrics_file.write_text('{"step": 9, "mean_iou": 0.5}')
    assert collect(study, [run], {}).scores == {PLAIN: {}, BETTER: {}}
    metrics_file.write_text('{"step": 10, "mean_iou": 0.5, "geneval": {"overall": null}}')
    found = collect(study, [run], {"other": "why"})
    assert found.scores == {PLAIN: {1: {"mean_iou": 0.5, "geneval.overall": None}}, BETTER: {}}
    assert found.answers == {}
    answers = {"blank": {"mean_iou": 0.0}, "true": {"mean_iou": 0.99, "geneval": {"overall": 1.0}}}
    metrics_file.write_text(json.dumps({"step": 10, "mean_iou": 0.5, "answers": answers}))
    found = collect(study, [run], {})
    assert found.answers == {
        "blank": {"mean_iou": 0, "geneval.overall": None},
        "true": {"mean_iou": 0.99, "geneval.overall": 1},
    }
    assert means(found).rows[-2:] == [("", "blank image", "", "0.000", "-"), ("", "true image", "", "0.990", "1.000")]


def test_an_evaluation_of_another_name_is_the_same_and_of_other_options_another(tmp_path):
    def folder(name, *options):
        study = a_study(evaluations={name: options})
        return TrainedRun(study, "dit", "plain", 1, tmp_path, {}).scoring(name).folder.name

    assert folder("a", "--x=1") != folder("a", "--x=2")
    assert folder("a", "--x=1").split("-")[1] == folder("b", "--x=1").split("-")[1]
    assert Identity({"b": 1, "a": 2}, 3).digest == Identity({"a": 2, "b": 1}, 4).digest


def test_the_error_is_split_into_the_plans_part_and_the_images():
    """By hand: of errors .4 and .2, true chains leave .1 and .1, so the plan's fractions are 3/4 and 1/2."""
    study = a_study(
        variants={"plain": {"dit": ()}}, evaluations={"true": ()}, columns=("mean_iou",), seeds=(1, 2, 3),
        split=Split("true", {"geneval.overall": "chain_satisfies", "edit_success": None}),
    )  # fmt: skip
    names = ("geneval.overall", "chain_satisfies", "edit_success", "mean_iou")
    own = dict(zip(names, ((0.6, 0.8, None), (0.7, 0.9, 0.8), (0.5, 1.0, 1.0), (0, 0, 0)), strict=True))
    given = dict(zip(names, ((0.9, 0.9, 0.9), (1, 1, 1), (0.25, 1.0, 1.0), (0, 0, 0)), strict=True))
    results = Results(study, {PLAIN: rows_of(**own), Arm("dit", "plain", "true"): rows_of(**given)}, {})
    generated, edited = error_splits(results)
    assert generated.plan.mean == pytest.approx(0.8)
    assert (generated.own.mean, generated.given.mean) == pytest.approx((0.7, 0.9))
    assert (generated.plan_part.mean, generated.image_part.mean) == pytest.approx((0.2, 0.1))
    assert (generated.plan_fraction.mean, generated.image_fraction.mean) == pytest.approx((0.625, 0.375))
    assert generated.plan_fraction.high > 0.625 > generated.plan_fraction.low
    assert edited.plan is None
    assert (edited.plan_fraction.mean, edited.plan_fraction.number) == (-0.5, 1)
    sheet = split(results)
    assert sheet.rows[0][:4] == ("dit", "plain", "geneval.overall", "0.800 [0.552, 1.048] n=3")
    assert sheet.rows[1][3] == "-"
    assert "The plan's part of the error" in markdown(results, command="got study", images=[])
    assert not split(Results(a_study(), METRICS, {})).rows


def test_tables_have_the_scores():
    scores = {
        PLAIN: {**METRICS[PLAIN], 3: {"mean_iou": None, "geneval.overall": None}},
        BETTER: {1: METRICS[BETTER][1]},
    }
    results = Results(a_study(), scores, {"dit-better-seed2": "no room"})
    half = T_TWO * 0.1 / math.sqrt(3)
    sheet = means(Results(a_study(), METRICS, {}))
    assert sheet.headings == ("backbone", "variant", "seeds", "mean_iou", "geneval.overall")
    assert sheet.rows[0] == ("dit", "plain", "3 of 3", f"0.200 [{0.2 - half:.3f}, {0.2 + half:.3f}] n=3", "-")
    assert sheet.rows[1][4] == "0.500 n=3"
    rows = means(results).rows
    assert rows[0][2:4] == ("3 of 3", f"0.150 [{0.15 - 0.6353:.3f}, {0.15 + 0.6353:.3f}] n=2")
    assert rows[1] == ("dit", "better", "1 of 3", "0.500 n=1", "0.500 n=1")
    text = markdown(
        results, command="got study small.yaml", images=["results.png"], mixed=["dit-plain-seed1: torch 1 instead of 2"]
    )
    assert "| dit | better | 1 of 3 | 0.500 n=1 | 0.500 n=1 |" in text
    assert "| dit | better − plain | mean_iou | +0.400 n=1 | - | one seed: none |" in text
    assert "corrected for the 1 differences of each metric (Holm)" in text
    assert "```bash\ngot study small.yaml\n```" in text
    assert "- dit-better-seed2: no room" in text
    assert "- dit-plain-seed1: torch 1 instead of 2" in text
    console = Console(record=True, width=120, quiet=False)
    for table in terminal_tables(results):
        console.print(table)
    assert "better − plain" in console.export_text()
    assert len(differences(results).rows) == 1
    assert words(None) == "-"


def grid_results(axes: int, columns: tuple[str, ...] = ("mean_iou",)) -> Results:
    values = {"x": (1.0, 2.0), "y": (0.5, 1.0, 1.5), "z": (3.0, 4.0)}
    grid = Grid({name: Axis((f"--{name}",), values[name]) for name in list(values)[:axes]})
    study = a_study(variants={"plain": {"dit": ()}}, grid=grid, columns=columns, seeds=(1,))
    scores = {PLAIN: {1: dict.fromkeys(columns, 0.5)}}
    for index, name in enumerate(grid.points()):
        scores[Arm("dit", "plain", name)] = {1: dict.fromkeys(columns, float(index))}
    return Results(study, scores, {})


def test_the_map_of_a_grid_has_each_mean_at_its_point():
    results = grid_results(3)
    found = grid_means(results, "dit", "plain", "mean_iou")
    assert found.tolist() == np.arange(12.0).reshape(2, 3, 2).tolist()
    del results.scores[Arm("dit", "plain", point_name({"x": 1, "y": 1.5, "z": 4}))]
    scores = {**results.scores, Arm("dit", "plain", "x=1,y=1.5,z=4"): {}}
    partly = grid_means(Results(results.study, scores, {}), "dit", "plain", "mean_iou")
    assert np.isnan(partly[0, 2, 1])
    assert np.isnan(partly).sum() == 1


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_grid_is_drawn(tmp_path, axes):
    draw_grid(grid_results(axes, ("mean_iou", "geneval.overall")), "dit", "plain", tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").width > 300


def test_means_are_drawn_if_there_is_something_to_compare(tmp_path):
    assert draw_means(Results(a_study(), METRICS, {}), tmp_path / "means.png")
    assert Image.open(tmp_path / "means.png").width > 300
    assert not draw_means(grid_results(2), tmp_path / "one.png")
    assert not (tmp_path / "one.png").exists()


@pytest.mark.parametrize(("number", "columns", "rows"), [(2, 2, 1), (4, 4, 1), (5, 3, 2), (8, 4, 2), (9, 3, 3)])
def test_many_metrics_are_drawn_in_rows(tmp_path, number, columns, rows):
    names = tuple(f"metric{index}" for index in range(number))
    scores = {arm: {seed: dict.fromkeys(names, 0.5) for seed in (1, 2)} for arm in (PLAIN, BETTER)}
    assert draw_means(Results(a_study(columns=names), scores, {}), tmp_path / "means.png")
    size = MARGIN + rows * (MARGIN + 2 * ROW_HEIGHT), PANEL_WIDTH * (columns + 1)
    assert Image.open(tmp_path / "means.png").size == (round(size[1] * DOTS), round(size[0] * DOTS))


def test_points_of_a_grid_are_no_rows_of_the_table():
    results = grid_results(2)
    assert [row[1] for row in means(results).rows] == ["plain"]
    assert len(results.scores) == 7
