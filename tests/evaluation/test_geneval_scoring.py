"""Folders in GenEval's layout are scored on one rank and on several, with the same results."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_runs import Scored, quiet_trainer
from geneval_scenes import write_scenes
from PIL import Image
from small_system import small_system
from two_ranks import run_on_ranks

from got_core.detection.base import CATEGORIES
from got_core.detection.loading import GenEvalDetector, load_geneval_detector
from got_core.detection.scenes import SCENE_RULES, SceneDetector
from got_core.errors import UserError
from got_core.evaluation.generation import Generator
from got_core.evaluation.results import missing_by_category
from got_core.evaluation.scoring import ScoreCache
from got_core.evaluation.suites.geneval import GenEvalFolder, GenEvalScoring, Prompt, geneval_results, read_folder
from got_core.evaluation.suites.prompts import PromptGeneration, missing_images

SCENES = load_geneval_detector("scenes", "")


def score(root: Path, batch_size: int = 4, ranks: int = 1, judge: GenEvalDetector = SCENES) -> GenEvalScoring:
    scoring = GenEvalScoring(read_folder(root), judge, batch_size, cache=ScoreCache(root, judge.description))
    quiet_trainer(ranks).test(scoring, verbose=False)
    return scoring


def results(root, **settings):
    return geneval_results(read_folder(root), score(root, **settings))


def right(scoring) -> list[bool | None]:
    """Whether each image is right; None where it cannot be read."""
    return [None if value != value else bool(value) for value in scoring.scores[:, 0].tolist()]


def clear_cache(root: Path) -> None:
    shutil.rmtree(root / "cache")


class Watched(SceneDetector):
    """Counts the images that it is given, and stops as by Ctrl-C after some."""

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
    found = results(tmp_path)
    assert list(found.scores)[-1] == "overall"
    assert set(found.scores) == {*CATEGORIES, "overall"}
    for summaries in found.scores.values():
        assert all(entry.mean == 1 and entry.interval is None for entry in summaries.values())
    assert (found.scores["overall"]["right"].n, found.counts["images"]) == (12, 24)
    assert list(found.missing) == []


def test_images_that_cannot_be_read_are_missing_and_not_wrong(tmp_path):
    write_scenes(tmp_path, 6, per_prompt=2)
    spoil(tmp_path)
    scoring = score(tmp_path, batch_size=5)
    assert right(scoring) == [False, True, None, *[True] * 9]
    found = geneval_results(read_folder(tmp_path), scoring)
    assert found.scores["single_object"]["right"].mean == 0.5
    assert found.scores["single_object"]["any_right"].mean == 1
    assert found.scores["two_object"]["right"].mean == 1
    assert "any_right" not in found.scores["two_object"], "one of its two images cannot be read"
    assert "any_right" not in found.scores["overall"]
    assert missing_by_category(found.missing) == {"overall": 1, "two_object": 1}
    written = found.as_json()
    assert written["missing"][0]["item"] == "00001/samples/00000.png"
    assert "not a readable image" in written["missing"][0]["reason"]
    assert written["counts"] == {"per_prompt": 2, "images": 11, "missing": 1}
    assert written["items"][0]["scores"] == {"right": 0.5, "any_right": 1}
    assert "expected 1 " in written["items"][0]["images"][0]["reason"]
    assert written["items"][1]["scores"] == {"right": 1, "any_right": None}
    assert len(written["items"][1]["images"]) == 1


def test_scoring_resumes_after_an_interruption(tmp_path):
    write_scenes(tmp_path, 5, per_prompt=2)
    spoil(tmp_path)
    with pytest.raises(SystemExit):
        score(tmp_path, batch_size=2, judge=watched(most=4))
    rest = watched()
    again = score(tmp_path, batch_size=2, judge=rest)
    assert rest.detector.seen == 9 - 3, "nine of ten can be read; of four scored before, one is of an unfinished batch"
    once_more = watched()
    whole = score(tmp_path, batch_size=2, judge=once_more)
    assert once_more.detector.seen == 0
    clear_cache(tmp_path)
    fresh = score(tmp_path, batch_size=2, judge=watched())
    assert right(fresh) == right(again) == right(whole)
    assert fresh.details == again.details == whole.details
    assert fresh.remarks == again.remarks == whole.remarks


def test_what_has_changed_is_scored_again(tmp_path):
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


def test_a_folder_without_a_readable_image_is_refused(tmp_path):
    write_scenes(tmp_path, 1, per_prompt=1)
    (tmp_path / "00000" / "samples" / "00000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 images can be read \(.*not a readable image"):
        results(tmp_path)


def scored_folder(prompts: list[tuple[str, list[bool]]], per_prompt: int):
    """The results of prompts of a category, by which of their images are right."""
    root = Path("images")
    entries = [
        Prompt(f"{index:05d}", {"prompt": f"{index}", "tag": tag}, tuple(root / f"{k}.png" for k in range(len(images))))
        for index, (tag, images) in enumerate(prompts)
    ]
    scores = torch.tensor([[float(value)] for _, images in prompts for value in images])
    return geneval_results(GenEvalFolder(root, tuple(entries), per_prompt, ()), Scored(scores))


def test_scores_are_over_images_and_overall_over_categories():
    found = scored_folder(
        [
            *[("colors", [True, False, False, False])] * 10,
            *[("colors", [False] * 4)] * 10,
            *[("position", [True, True, True])] * 5,
            ("position", [False, False, False, False, True]),
        ],
        per_prompt=4,
    )
    assert list(found.scores) == ["colors", "position", "overall"]
    colors, position, overall = found.scores.values()
    assert (colors["right"].mean, colors["any_right"].mean, colors["right"].n) == (0.125, 0.5, 20)
    assert found.counts["images"] == 100
    assert position["right"].mean == 0.8
    assert (position["any_right"].mean, position["any_right"].n) == (0, 1), "of the first four, where there are four"
    assert (overall["right"].mean, overall["any_right"].mean) == (pytest.approx(0.4625), 0.25)
    low, high = colors["right"].interval
    assert 0 < low < 0.125 < high < 0.25
    assert position["right"].interval is overall["right"].interval is None, "six prompts are too few"
    assert list(found.notes) == [
        "overall is the mean of 2 categories, as there is no single_object, two_object, counting, color_attr"
    ]


def scored_by(rank: int, root: str) -> tuple:
    scoring = score(Path(root), batch_size=2, ranks=2)
    return right(scoring), scoring.details, scoring.remarks


@pytest.mark.distributed
@pytest.mark.parametrize(("prompts", "per_prompt"), [(3, 3), (1, 1)])
def test_two_ranks_score_as_one_does(tmp_path, prompts, per_prompt):
    root = tmp_path / "images"
    write_scenes(root, prompts, per_prompt)
    if prompts > 1:
        spoil(root)
    ranks = run_on_ranks(scored_by, tmp_path, str(root))
    clear_cache(root)
    alone = score(root)
    for found, details, remarks in ranks:
        assert found == right(alone)
        assert details == alone.details
        assert remarks == alone.remarks


GENERATOR = Generator("", (32, 32), 0, {}, {"steps": None})


def generated_by(rank: int, root: str, prompts: list[dict]) -> int:
    images = missing_images(Path(root), prompts, 1, seed=0)
    trainer = quiet_trainer(2)
    trainer.predict(PromptGeneration(small_system().model, images, 2, GENERATOR), return_predictions=False)
    trainer.strategy.barrier()
    scoring = GenEvalScoring(read_folder(Path(root)), SCENES)
    trainer.test(scoring, verbose=False)
    return len(scoring.scores)


@pytest.mark.distributed
@pytest.mark.parametrize("already", [0, 2])
def test_two_ranks_generate_each_image_once_and_then_score_them(tmp_path, already):
    """With two of three images there, one rank has nothing to generate."""
    root = tmp_path / "images"
    samples = write_scenes(root, 3, per_prompt=1)
    for folder in sorted(root.iterdir()):
        (folder / "chains").mkdir()
        if int(folder.name) >= already:
            (folder / "samples" / "00000.png").unlink()
    prompts = [{"prompt": sample.prompt} for sample in samples]
    assert run_on_ranks(generated_by, tmp_path, str(root), prompts) == [3, 3]
    assert sorted(path.parent.parent.name for path in root.glob("*/chains/*.txt")) == [
        f"{number:05d}" for number in range(already, 3)
    ]
