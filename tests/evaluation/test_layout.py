"""Planned boxes compared with detected ones, from the sums of one image to the command."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from evaluation_runs import Scored, quiet_trainer, save_run
from geneval_scenes import write_prompts, write_scenes
from PIL import Image
from two_ranks import run_on_ranks

from got_core.chain.parser import Region
from got_core.cli.main import main
from got_core.detection.base import Detection
from got_core.detection.loading import load_layout_detector
from got_core.errors import UserError
from got_core.evaluation.metrics.boxes import ImageLayout, image_layout
from got_core.evaluation.results import missing_by_category
from got_core.evaluation.suites.layout import (
    LayoutFolder,
    LayoutScoring,
    PlannedImage,
    layout_results,
    read_layouts,
)

SCENES = load_layout_detector("scenes").detector


def write_plans(root, number=3, per_prompt=2):
    """True images beside the chains that they follow."""
    samples = write_scenes(root, number, per_prompt)
    for index, sample in enumerate(samples):
        chains = root / f"{index:05d}" / "chains"
        chains.mkdir()
        for image in range(per_prompt):
            (chains / f"{image:05d}.txt").write_text(sample.chain + "\n")
    return samples


def score(root, ranks=1, batch_size=4):
    scoring = LayoutScoring(read_layouts(root), SCENES, batch_size)
    quiet_trainer(ranks).test(scoring, verbose=False)
    return scoring


def results(root):
    return layout_results(read_layouts(root), score(root))


def detected(label, *box):
    return Detection(label, None, box, 1.0)


def test_boxes_are_matched_within_labels_alone():
    plan = [
        Region("a circle", (0, 0, 100, 100)),
        Region("a square", (500, 500, 700, 700)),
        Region("the sky", (0, 0, 9, 9)),
    ]
    seen = [
        detected("square", 0, 0, 100, 100),
        detected("square", 500, 500, 700, 600),
        detected("unknown", 0, 0, 100, 100),
    ]
    layout = image_layout(plan, seen, SCENES, (30, 40))
    assert layout.deviation == pytest.approx(1.5 / 50)
    layout = replace(layout, deviation=0)
    assert layout == ImageLayout(planned=2, unknown=1, detected=3, matched=1, iou=0.5, hits=1, any_label_iou=1.5)
    assert image_layout(plan, [], SCENES, (8, 8)) == ImageLayout(planned=2, unknown=1)
    assert image_layout([], seen, SCENES, (8, 8)) == ImageLayout(detected=3)


def test_each_detected_box_is_matched_with_one_planned_box():
    plan = [Region("circle", (0, 0, 100, 100)), Region("circle", (0, 0, 100, 200))]
    layout = image_layout(plan, [detected("circle", 0, 0, 100, 200)], SCENES, (10, 10))
    assert (layout.planned, layout.matched, layout.iou, layout.hits) == (2, 1, 1.0, 1)


def of_layouts(images):
    """The results of images, each a category, the folder of its prompt and its sums."""
    root = Path("images")
    planned = [
        PlannedImage(root / f"{i}.png", "", prompt, "", category) for i, (category, prompt, _) in enumerate(images)
    ]
    scores = torch.tensor([list(asdict(layout).values()) for *_, layout in images])
    return layout_results(LayoutFolder(root, tuple(planned), 1, ()), Scored(scores))


def test_scores_are_over_boxes_and_intervals_over_prompts():
    images = [
        ("a", "0", ImageLayout(planned=1, detected=1, matched=1, iou=1, deviation=0, hits=1, any_label_iou=1)),
        ("a", "1", ImageLayout(planned=3, detected=2, matched=1, iou=0.4, deviation=0.2, hits=0, any_label_iou=1.2)),
        ("b", "2", ImageLayout(planned=2, unknown=1)),
        ("b", "2", ImageLayout(detected=4)),
        ("c", "3", ImageLayout(unknown=2)),
    ]
    found = of_layouts(images)
    assert list(found.scores) == ["a", "b", "c", "overall"]
    a, overall = found.scores["a"], found.scores["overall"]
    assert a["mean_iou"].mean == pytest.approx(1.4 / 4)
    assert a["mean_iou"].interval is None
    assert a["object_position_deviation"].mean == pytest.approx(0.1)
    assert (a["hits"].mean, a["count_right"].mean) == (0.25, 0.5)
    assert a["any_label_iou"].mean == pytest.approx(2.2 / 4)
    assert overall["mean_iou"].mean == pytest.approx(1.4 / 6)
    assert "object_position_deviation" not in found.scores["b"]
    assert found.scores["c"] == {}
    names = ("images", "without_boxes", "nothing_detected", "unknown")
    assert [found.counts[name] for name in names] == [5, 2, 1, 3]
    assert [found.counts[name] for name in ("planned", "detected", "matched")] == [6, 3, 2]
    assert "3 planned boxes have a phrase that the detector does not know" in found.notes
    layouts = [layout for *_, layout in images[:2]]
    many = of_layouts([("a", str(i), layouts[i % 2]) for i in range(40)]).scores["a"]["mean_iou"]
    assert many.mean == pytest.approx(1.4 / 4)
    assert 0.4 / 3 < many.interval[0] < many.mean < many.interval[1] < 1
    repeated = of_layouts([("a", str(i), layouts[i % 2]) for i in range(40) for _ in range(4)]).scores["a"]
    assert repeated["mean_iou"].interval == pytest.approx(many.interval), "the same image four times says no more"
    few = of_layouts([("a", str(i % 2), layouts[i % 2]) for i in range(40)]).scores["a"]["mean_iou"]
    assert (few.mean, few.interval) == (pytest.approx(1.4 / 4), None), "forty images of two prompts are two prompts"


def test_true_images_have_their_objects_where_they_were_planned(tmp_path):
    write_plans(tmp_path, 6)
    found = results(tmp_path)
    overall = found.scores["overall"]
    assert overall["mean_iou"].mean > 0.85
    assert overall["object_position_deviation"].mean < 0.02
    assert overall["hits"].mean == 1
    assert found.counts["planned"] == found.counts["detected"] == found.counts["matched"]


def spoil(root):
    """No image, no chain, an empty chain, a blank image, one that is no image, and one of another size."""
    (root / "00000" / "samples" / "00000.png").unlink()
    (root / "00000" / "chains" / "00001.txt").unlink()
    (root / "00001" / "chains" / "00000.txt").write_text("A grey image.\n")
    Image.new("RGB", (32, 32), "gray").save(root / "00001" / "samples" / "00001.png")
    (root / "00002" / "samples" / "00000.png").write_bytes(b"no image")
    other = root / "00002" / "samples" / "00001.png"
    Image.open(other).resize((64, 64), Image.Resampling.NEAREST).save(other)


def test_what_is_missing_is_counted_and_named(tmp_path):
    write_plans(tmp_path)
    spoil(tmp_path)
    found = results(tmp_path)
    reasons = {entry.item: entry.reason for entry in found.missing}
    assert reasons["00000/chains/00000.txt"] == "no image of this chain"
    assert reasons["00000/samples/00001.png"] == "no chain chains/00001.txt"
    assert "not a readable image" in reasons["00002/samples/00000.png"]
    assert len(reasons) == 3
    assert missing_by_category(found.missing)["overall"] == 3
    assert [note.split(":")[0] for note in found.notes] == [
        "00001/samples/00000.png has no planned box that the detector could look for",
        "nothing was detected in 00001/samples/00001.png",
    ]
    names = ("images", "missing", "without_boxes", "nothing_detected")
    assert [found.counts[name] for name in names] == [3, 3, 1, 1]
    written = found.as_json()
    assert [entry["folder"] for entry in written["items"]] == ["00001", "00002"]
    assert written["items"][0]["scores"]["mean_iou"] == 0
    assert written["items"][0]["scores"]["object_position_deviation"] is None
    assert written["items"][1]["scores"]["mean_iou"] > 0.8
    assert written["metrics"].keys() == written["items"][1]["scores"].keys()
    assert [len(item["images"]) for item in written["items"]] == [2, 1]
    assert json.loads(json.dumps(written)) == written


def test_images_that_are_not_there_are_missing(tmp_path):
    write_plans(tmp_path, 1)
    folder = read_layouts(tmp_path, per_prompt=4)
    assert [(entry.reason, entry.count) for entry in folder.missing] == [("2 of 4 images", 2)]
    cut = read_layouts(tmp_path, per_prompt=1)
    assert ([image.file.name for image in cut.images], cut.missing) == (["00000.png"], ())
    (tmp_path / "00000" / "metadata.jsonl").unlink()
    assert {image.category for image in read_layouts(tmp_path).images} == {"untagged"}


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
        results(tmp_path / "broken")


def scored_by(rank, root):
    scoring = score(root, ranks=2, batch_size=1)
    return scoring.scores, scoring.remarks


@pytest.mark.distributed
@pytest.mark.parametrize("number", [1, 3])
def test_two_ranks_score_as_one_does(tmp_path, number):
    root = tmp_path / "images"
    write_plans(root, number, 2 if number > 1 else 1)
    if number > 1:
        spoil(root)
    alone = score(root)
    for scores, remarks in run_on_ranks(scored_by, tmp_path, root):
        torch.testing.assert_close(scores, alone.scores, rtol=0, atol=0, equal_nan=True)
        assert remarks == alone.remarks


def evaluate(*arguments):
    main(["evaluate", "layout", "--accelerator", "cpu", "--detector", "scenes", *map(str, arguments)])


def test_a_folder_is_scored_and_a_checkpoint_generates_first(tmp_path, capsys):
    write_plans(tmp_path / "true")
    spoil(tmp_path / "true")
    evaluate("--images", tmp_path / "true")
    printed = capsys.readouterr().out
    assert "note: 00001/samples/00000.png has no planned box" in printed
    assert "note: nothing was detected in 00001/samples/00001.png: its planned boxes count as missed" in printed
    assert "missing: 00000/samples/00001.png: no chain" in printed
    written = json.loads((tmp_path / "true" / "results.json").read_text())
    assert written["suite"] == "layout"
    assert written["counts"] == {
        "per_prompt": 2, "images": 3, "missing": 3, "without_boxes": 1, "nothing_detected": 1,
        "planned": 4, "unknown": 0, "detected": 2, "matched": 2,
    }  # fmt: skip
    evaluator = {"from": {"detector": "scenes"}, "detector": "scenes", "settings": {}, "weights": {}}
    assert written["evaluator"] == evaluator
    main(["compare", str(tmp_path / "true" / "results.json"), str(tmp_path / "true" / "results.json")])
    compared = capsys.readouterr().out
    assert "mean_iou (higher is better)" in compared
    assert "object_position_deviation (lower is better)" in compared

    run, output = save_run(tmp_path / "run"), tmp_path / "out"
    prompts = write_prompts(tmp_path / "prompts.txt", 2)
    prompts.write_text(prompts.read_text() + "a red circle\n")
    evaluate("--checkpoint", run, "--prompts", prompts, "--output", output, "--per-prompt", 1)
    written = json.loads((output / "results.json").read_text())
    assert written["counts"]["images"] == 3
    assert written["seeds"] == {"generation": 0, "bootstrap": 0}
    assert set(written["checksums"]) == {"checkpoint", "prompts", "images"}
    assert set(written["scores"]) == {"single_object", "two_object", "untagged", "overall"}
    assert len(list(output.glob("*/chains/*.txt"))) == 3
