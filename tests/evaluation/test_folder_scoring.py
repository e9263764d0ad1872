"""Folders in GenEval's layout are scored on one rank and on several, with the same outcome."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from geneval_scenes import write_scenes
from lightning import Trainer
from PIL import Image
from small_system import small_system
from two_ranks import run_on_ranks

from got_core.detection.base import CATEGORIES
from got_core.detection.loading import GenEvalDetector, load_geneval_detector
from got_core.detection.scenes import SCENE_RULES, SceneDetector
from got_core.errors import UserError
from got_core.evaluation.results import missing_by_category
from got_core.evaluation.suites.generation import PromptDrawing, still_wanted
from got_core.evaluation.suites.geneval import (
    FolderScoring,
    PromptVerdicts,
    geneval_result,
    read_folder,
    score_table,
    scores,
)

SCENES = load_geneval_detector("scenes", "")


def score(root: Path, batch_size: int = 4, ranks: int = 1, judge: GenEvalDetector = SCENES) -> FolderScoring:
    warnings.filterwarnings("ignore")
    scoring = FolderScoring(read_folder(root), judge, root, batch_size)
    trainer = Trainer(
        accelerator="cpu", devices=1, num_nodes=ranks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.test(scoring, verbose=False)
    return scoring


def outcome(root, scoring):
    return geneval_result(read_folder(root), scoring.found, scoring.details, scoring.notes)


def result(root, **settings):
    return outcome(root, score(root, **settings))


def right(scoring) -> list[bool | None]:
    """Whether each image is right; None where it cannot be read."""
    return [None if value != value else bool(value) for value in scoring.found[:, 0].tolist()]


def forget(root: Path) -> None:
    shutil.rmtree(root / "verdicts")


class Watched(SceneDetector):
    """Counts the images it is shown, and stops as by Ctrl-C after some."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.seen, self.most = 0, most

    def __call__(self, images):
        if self.seen + len(images) > self.most:
            raise KeyboardInterrupt
        self.seen += len(images)
        return super().__call__(images)


def watched(most: int = 1000) -> GenEvalDetector:
    return GenEvalDetector(Watched(most), SCENE_RULES, {"detector": "scenes"})


def spoil(root: Path) -> None:
    """One wrong image, one that is no image, one of another size."""
    Image.new("RGB", (32, 32), "gray").save(root / "00000" / "samples" / "00000.png")
    (root / "00001" / "samples" / "00000.png").write_bytes(b"no image")
    other = root / "00002" / "samples" / "00000.png"
    Image.open(other).resize((64, 64), Image.Resampling.NEAREST).save(other)


def test_true_scenes_are_all_right(tmp_path):
    write_scenes(tmp_path, 12, per_prompt=2)
    found = result(tmp_path)
    assert set(found.scores) == {*CATEGORIES, "overall"}
    assert all(part.share == part.any_right == 1 and part.interval is None for part in found.scores.values())
    assert (found.scores["overall"].prompts, found.scores["overall"].images) == (12, 24)
    assert found.missing == ()


def test_images_that_cannot_be_read_are_missing_and_not_wrong(tmp_path):
    write_scenes(tmp_path, 6, per_prompt=2)
    spoil(tmp_path)
    scoring = score(tmp_path, batch_size=5)
    assert right(scoring) == [False, True, None, *[True] * 9]
    found = outcome(tmp_path, scoring)
    assert found.scores["single_object"].share == 0.5
    assert found.scores["single_object"].any_right == 1
    two = found.scores["two_object"]
    assert (two.share, two.images, two.any_right) == (1, 1, None), "one of its two images cannot be read"
    assert found.scores["overall"].any_right is None
    assert missing_by_category(found.missing) == {"overall": 1, "two_object": 1}
    written = found.as_json()
    assert written["missing"][0]["place"] == "00001/samples/00000.png"
    assert "not a readable image" in written["missing"][0]["reason"]
    assert written["counts"] == {"per_prompt": 2, "images": 11, "missing": 1}
    assert written["items"][0]["scores"] == {"right": 0.5}
    assert "expected 1 " in written["items"][0]["images"][0]["reason"]
    assert len(written["items"][1]["images"]) == 1


def test_scoring_goes_on_after_an_interruption(tmp_path):
    write_scenes(tmp_path, 5, per_prompt=2)
    spoil(tmp_path)
    with pytest.raises(SystemExit):
        score(tmp_path, batch_size=2, judge=watched(most=4))
    rest = watched()
    again = score(tmp_path, batch_size=2, judge=rest)
    assert rest.detector.seen == 9 - 3, "nine of ten can be read; of four judged before, one is of an unfinished batch"
    once_more = watched()
    whole = score(tmp_path, batch_size=2, judge=once_more)
    assert once_more.detector.seen == 0
    forget(tmp_path)
    fresh = score(tmp_path, batch_size=2, judge=watched())
    assert right(fresh) == right(again) == right(whole)
    assert fresh.details == again.details == whole.details
    assert fresh.notes == again.notes == whole.notes


def test_what_has_changed_is_judged_again(tmp_path):
    write_scenes(tmp_path, 3, per_prompt=1)
    score(tmp_path)
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "00001" / "samples" / "00000.png")
    changed = watched()
    assert right(score(tmp_path, judge=changed)) == [True, False, True]
    assert changed.detector.seen == 3, "a detector of another name"
    Image.new("RGB", (32, 32), "black").save(tmp_path / "00001" / "samples" / "00000.png")
    again = watched()
    score(tmp_path, judge=again)
    assert again.detector.seen == 1
    stricter = GenEvalDetector(Watched(), replace(SCENE_RULES, confidence=0.99), {"detector": "scenes"})
    score(tmp_path, judge=stricter)
    assert stricter.detector.seen == 3


def test_nothing_that_can_be_read_is_refused(tmp_path):
    write_scenes(tmp_path, 1, per_prompt=1)
    (tmp_path / "00000" / "samples" / "00000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 images can be read \(.*not a readable image"):
        result(tmp_path)


def test_scores_are_over_images_and_overall_over_categories():
    judged = [
        *[PromptVerdicts("colors", (True, False, False, False))] * 10,
        *[PromptVerdicts("colors", (False,) * 4)] * 10,
        *[PromptVerdicts("position", (True, True, True))] * 5,
        PromptVerdicts("position", (False, False, False, False, True)),
    ]
    found = scores(judged, per_prompt=4)
    assert list(found) == ["colors", "position", "overall"]
    assert (found["colors"].share, found["colors"].any_right, found["colors"].images) == (0.125, 0.5, 80)
    assert (found["position"].share, found["position"].any_right) == (0.8, 0), "whole are only those with four images"
    assert (found["overall"].share, found["overall"].any_right) == (pytest.approx(0.4625), 0.25)
    low, high = found["colors"].interval
    assert 0 < low < 0.125 < high < 0.25
    assert found["position"].interval is found["overall"].interval is None, "six prompts are too few"
    table = score_table(found, {"counting": 3}, 4, "title")
    assert [column.header for column in table.columns][3] == "any of 4 right"
    assert table.row_count == 7
    with pytest.raises(ValueError, match="no prompt"):
        scores([], 4)


def test_an_image_that_nobody_looked_at_is_no_result(tmp_path):
    write_scenes(tmp_path, 1, per_prompt=2)
    with pytest.raises(ValueError, match="was not looked at"):
        geneval_result(read_folder(tmp_path), torch.tensor([[1.0], [torch.nan]]), {0: {"reason": ""}}, {})


def scored_by(rank: int, root: str) -> tuple:
    scoring = score(Path(root), batch_size=2, ranks=2)
    return right(scoring), scoring.details, scoring.notes


@pytest.mark.distributed
@pytest.mark.parametrize(("prompts", "per_prompt"), [(3, 3), (1, 1)])
def test_two_ranks_find_what_one_finds(tmp_path, prompts, per_prompt):
    root = tmp_path / "images"
    write_scenes(root, prompts, per_prompt)
    if prompts > 1:
        spoil(root)
    ranks = run_on_ranks(scored_by, tmp_path, str(root))
    forget(root)
    alone = score(root)
    for found, details, notes in ranks:
        assert found == right(alone)
        assert details == alone.details
        assert notes == alone.notes


def drawn_by(rank: int, root: str, prompts: list[dict]) -> int:
    warnings.filterwarnings("ignore")
    drawing = PromptDrawing(small_system().model, still_wanted(Path(root), prompts, 1, seed=0), (32, 32), batch_size=2)
    trainer = Trainer(
        accelerator="cpu", devices=1, num_nodes=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.predict(drawing, return_predictions=False)
    trainer.strategy.barrier()
    scoring = FolderScoring(read_folder(Path(root)), SCENES, Path(root))
    trainer.test(scoring, verbose=False)
    return len(scoring.found)


@pytest.mark.distributed
@pytest.mark.parametrize("already", [0, 2])
def test_two_ranks_draw_each_image_once_and_go_on_to_score_them(tmp_path, already):
    """With two of three images there, one rank has nothing to draw."""
    root = tmp_path / "images"
    samples = write_scenes(root, 3, per_prompt=1)
    for folder in sorted(root.iterdir()):
        (folder / "chains").mkdir()
        if int(folder.name) >= already:
            (folder / "samples" / "00000.png").unlink()
    prompts = [{"prompt": sample.prompt} for sample in samples]
    assert run_on_ranks(drawn_by, tmp_path, str(root), prompts) == [3, 3]
    assert sorted(path.parent.parent.name for path in root.glob("*/chains/*.txt")) == [
        f"{number:05d}" for number in range(already, 3)
    ]
