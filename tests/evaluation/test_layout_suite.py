"""Planned boxes held against found ones, from figures of one image to the command."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
import yaml
from geneval_scenes import write_prompts, write_scenes
from lightning import Trainer
from PIL import Image
from small_system import small_settings, small_system
from two_ranks import run_on_ranks

from got_core.chain.parser import Region
from got_core.cli.main import main
from got_core.detection.base import Detection
from got_core.detection.loading import load_layout_detector
from got_core.errors import UserError
from got_core.evaluation.metrics.boxes import ImageLayout, image_layout
from got_core.evaluation.results import missing_by_category
from got_core.evaluation.suites.layout import LayoutScoring, layout_result, layout_scores, layout_table, read_layouts

SCENES = load_layout_detector("scenes").detector


def write_plans(root, number=3, per_prompt=2):
    """True drawings beside the chains that they follow."""
    samples = write_scenes(root, number, per_prompt)
    for place, sample in enumerate(samples):
        chains = root / f"{place:05d}" / "chains"
        chains.mkdir()
        for image in range(per_prompt):
            (chains / f"{image:05d}.txt").write_text(sample.chain + "\n")
    return samples


def look(root, ranks=1, batch_size=4, per_prompt=None):
    warnings.filterwarnings("ignore")
    scoring = LayoutScoring(read_layouts(root, per_prompt), SCENES, batch_size)
    trainer = Trainer(
        accelerator="cpu", devices=1, num_nodes=ranks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.test(scoring, verbose=False)
    return scoring


def result(root, **settings):
    scoring = look(root, **settings)
    return layout_result(scoring.folder, scoring.layouts, scoring.notes)


def found(label, *box):
    return Detection(label, None, box, 1.0)


def test_boxes_are_matched_within_labels_alone():
    plan = [
        Region("a circle", (0, 0, 100, 100)),
        Region("a square", (500, 500, 700, 700)),
        Region("the sky", (0, 0, 9, 9)),
    ]
    seen = [found("square", 0, 0, 100, 100), found("square", 500, 500, 700, 600), found("unknown", 0, 0, 100, 100)]
    layout = image_layout(plan, seen, SCENES, (30, 40))
    assert layout.deviation == pytest.approx(1.5 / 50)
    layout = replace(layout, deviation=0)
    assert layout == ImageLayout(planned=2, unasked=1, found=3, matched=1, iou=0.5, hits=1, any_label_iou=1.5)
    assert image_layout(plan, [], SCENES, (8, 8)) == ImageLayout(planned=2, unasked=1)
    assert image_layout([], seen, SCENES, (8, 8)) == ImageLayout(found=3)


def test_each_found_box_is_given_to_one_planned_box():
    plan = [Region("circle", (0, 0, 100, 100)), Region("circle", (0, 0, 100, 200))]
    layout = image_layout(plan, [found("circle", 0, 0, 100, 200)], SCENES, (10, 10))
    assert (layout.planned, layout.matched, layout.iou, layout.hits) == (2, 1, 1.0, 1)


def test_scores_are_over_boxes_and_intervals_over_prompts():
    images = [
        ("a", "0", ImageLayout(planned=1, found=1, matched=1, iou=1, deviation=0, hits=1, any_label_iou=1)),
        ("a", "1", ImageLayout(planned=3, found=2, matched=1, iou=0.4, deviation=0.2, hits=0, any_label_iou=1.2)),
        ("b", "2", ImageLayout(planned=2, unasked=1)),
        ("b", "2", ImageLayout(found=4)),
        ("c", "3", ImageLayout(unasked=2)),
    ]
    scores = layout_scores(images)
    assert list(scores) == ["a", "b", "c", "overall"]
    a, overall = scores["a"].figures, scores["overall"].figures
    assert a["mean_iou"].mean == pytest.approx(1.4 / 4)
    assert a["mean_iou"].interval is None
    assert a["object_position_deviation"].mean == pytest.approx(0.1)
    assert (a["hits"].mean, a["count_right"].mean) == (0.25, 0.5)
    assert a["any_label_iou"].mean == pytest.approx(2.2 / 4)
    assert overall["mean_iou"].mean == pytest.approx(1.4 / 6)
    assert scores["b"].figures["object_position_deviation"] is None
    assert scores["c"].figures["mean_iou"] is None
    total = scores["overall"]
    assert (total.images, total.without_boxes, total.nothing_found, total.unasked) == (5, 2, 1, 3)
    assert (total.planned, total.found, total.matched) == (6, 3, 2)
    table = layout_table(scores, {"d": 2, "overall": 2}, "title")
    assert table.row_count == 5
    layouts = [layout for _, _, layout in images[:2]]
    many = layout_scores([("a", str(i), layouts[i % 2]) for i in range(40)])["a"].figures["mean_iou"]
    assert many.mean == pytest.approx(1.4 / 4)
    assert 0.4 / 3 < many.interval[0] < many.mean < many.interval[1] < 1
    repeated = layout_scores([("a", str(i), layouts[i % 2]) for i in range(40) for _ in range(4)])["a"].figures
    assert repeated["mean_iou"].interval == pytest.approx(many.interval), "the same image four times says no more"
    few = layout_scores([("a", str(i % 2), layouts[i % 2]) for i in range(40)])["a"].figures["mean_iou"]
    assert (few.mean, few.interval) == (pytest.approx(1.4 / 4), None), "forty images of two prompts are two prompts"
    with pytest.raises(ValueError, match="no image"):
        layout_scores([])


def test_true_drawings_lie_where_they_were_planned(tmp_path):
    write_plans(tmp_path, 6)
    overall = result(tmp_path).scores["overall"]
    assert overall.figures["mean_iou"].mean > 0.85
    assert overall.figures["object_position_deviation"].mean < 0.02
    assert overall.figures["hits"].mean == 1
    assert overall.planned == overall.found == overall.matched


def spoil(root):
    """No image, no chain, an empty chain, a blank image, one that is no image, and one of another size."""
    (root / "00000" / "samples" / "00000.png").unlink()
    (root / "00000" / "chains" / "00001.txt").unlink()
    (root / "00001" / "chains" / "00000.txt").write_text("A grey picture.\n")
    Image.new("RGB", (32, 32), "gray").save(root / "00001" / "samples" / "00001.png")
    (root / "00002" / "samples" / "00000.png").write_bytes(b"no image")
    other = root / "00002" / "samples" / "00001.png"
    Image.open(other).resize((64, 64), Image.Resampling.NEAREST).save(other)


def test_what_is_missing_is_counted_and_named(tmp_path):
    write_plans(tmp_path)
    spoil(tmp_path)
    outcome = result(tmp_path)
    reasons = {entry.place: entry.reason for entry in outcome.missing}
    assert reasons["00000/chains/00000.txt"] == "no image of this chain"
    assert reasons["00000/samples/00001.png"] == "no chain chains/00001.txt"
    assert "not a readable image" in reasons["00002/samples/00000.png"]
    assert len(reasons) == 3
    assert missing_by_category(outcome.missing)["overall"] == 3
    assert outcome.without_boxes == ["00001/samples/00000.png"]
    assert outcome.nothing_found == ["00001/samples/00001.png"]
    assert outcome.scores["overall"].images == 3
    written = outcome.as_json()
    assert [entry["folder"] for entry in written["items"]] == ["00001", "00002"]
    assert written["items"][0]["scores"]["mean_iou"] == 0
    assert written["items"][0]["scores"]["object_position_deviation"] is None
    assert written["items"][1]["scores"]["mean_iou"] > 0.8
    assert written["figures"].keys() == written["items"][1]["scores"].keys()
    assert len(written["images"]) == 3
    assert json.loads(json.dumps(written)) == written


def test_images_that_are_not_there_are_missing(tmp_path):
    write_plans(tmp_path, 1)
    folder = read_layouts(tmp_path, per_prompt=4)
    assert [(entry.reason, entry.images) for entry in folder.missing] == [("2 of 4 images", 2)]
    cut = read_layouts(tmp_path, per_prompt=1)
    assert ([drawn.image.name for drawn in cut.drawn], cut.missing) == (["00000.png"], ())
    (tmp_path / "00000" / "metadata.jsonl").unlink()
    assert {drawn.category for drawn in read_layouts(tmp_path).drawn} == {"untagged"}


def test_a_folder_without_images_or_chains_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder such as 00000"):
        read_layouts(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_layouts(tmp_path / "nowhere")
    write_scenes(tmp_path, 1)
    with pytest.raises(UserError, match=r"no image with a chain in 1 folders.*no chain chains/00000.txt"):
        read_layouts(tmp_path)
    write_plans(tmp_path / "broken", 1, 1)
    (tmp_path / "broken" / "00000" / "samples" / "00000.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of 1 images can be read"):
        result(tmp_path / "broken")


def looked_at_by(rank, root):
    scoring = look(root, ranks=2, batch_size=1)
    return scoring.layouts, scoring.notes


@pytest.mark.distributed
@pytest.mark.parametrize("number", [1, 3])
def test_two_ranks_find_what_one_finds(tmp_path, number):
    root = tmp_path / "images"
    write_plans(root, number, 2 if number > 1 else 1)
    if number > 1:
        spoil(root)
    alone = look(root)
    for layouts, reasons in run_on_ranks(looked_at_by, tmp_path, root):
        assert (layouts, reasons) == (alone.layouts, alone.notes)


def evaluate(*arguments):
    main(["evaluate", "layout", "--accelerator", "cpu", "--detector", "scenes", *map(str, arguments)])


def test_a_folder_is_looked_at_and_a_checkpoint_is_drawn_first(tmp_path, capsys):
    write_plans(tmp_path / "true")
    spoil(tmp_path / "true")
    evaluate("--images", tmp_path / "true")
    printed = capsys.readouterr().out
    assert "chain without a box: 00001/samples/00000.png" in printed
    assert "nothing found: 00001/samples/00001.png: its boxes count as missed" in printed
    assert "missing, not looked at: 00000/samples/00001.png: no chain" in printed
    written = json.loads((tmp_path / "true" / "results.json").read_text())
    assert written["suite"] == "layout"
    assert written["counts"] == {"per_prompt": 2, "images": 3, "missing": 3}
    judge = {"from": {"detector": "scenes"}, "detector": "scenes", "settings": {}, "weights": {}}
    assert written["judge"] == judge
    main(["compare", str(tmp_path / "true" / "results.json"), str(tmp_path / "true" / "results.json")])
    compared = capsys.readouterr().out
    assert "mean_iou (higher is better)" in compared
    assert "object_position_deviation (lower is better)" in compared

    run, output = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"model": small_settings(), "data": {"size": 32}}))
    torch.save({"global_step": 0, "state_dict": small_system().state_dict()}, run / "checkpoints" / "last.ckpt")
    prompts = write_prompts(tmp_path / "prompts.txt", 2)
    prompts.write_text(prompts.read_text() + "a red circle\n")
    evaluate("--checkpoint", run, "--prompts", prompts, "--output", output, "--per-prompt", 1)
    drawn = json.loads((output / "results.json").read_text())
    assert len(drawn["images"]) == 3
    assert drawn["seeds"] == {"drawing": 0, "bootstrap": 0}
    assert set(drawn["checksums"]) == {"checkpoint", "prompts", "images"}
    assert set(drawn["scores"]) == {"single_object", "two_object", "untagged", "overall"}
    assert len(list(output.glob("*/chains/*.txt"))) == 3
