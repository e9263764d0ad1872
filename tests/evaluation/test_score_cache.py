"""Scores that are cached item by item, for one evaluator, by every rank."""

import json

import pytest

from got_core.errors import UserError
from got_core.evaluation.results import check_writable
from got_core.evaluation.scoring import ScoreCache, cache_key

EVALUATOR = {"from": {"detector": "here"}, "rules": {"confidence": 0.3}, "weights": {"model": "abc"}}
ENTRY = {"right": 0.0, "reason": "expected 1 dog, found 0"}


def test_a_score_is_known_to_the_next_run_wherever_the_evaluator_was_loaded_from(tmp_path):
    key = cache_key(b"image", {"class": "dog"})
    ScoreCache(tmp_path, EVALUATOR).append(0, key, ENTRY)
    assert ScoreCache(tmp_path, {**EVALUATOR, "from": {"detector": "there"}}).read() == {key: ENTRY}


@pytest.mark.parametrize("change", [{"rules": {"confidence": 0.4}}, {"weights": {"model": "abd"}}, {"input": 800}])
def test_scores_of_another_evaluator_are_not_used(tmp_path, change):
    ScoreCache(tmp_path, EVALUATOR).append(0, cache_key(b"image", {}), ENTRY)
    assert ScoreCache(tmp_path, EVALUATOR | change).read() == {}


def test_another_image_or_question_is_another_key():
    keys = {cache_key(image, {"class": name}) for image in (b"a", b"b") for name in ("dog", "cat")}
    assert len(keys) == 4
    assert cache_key(b"a", {"x": 1, "y": 2}) == cache_key(b"a", {"y": 2, "x": 1})


def test_each_rank_writes_its_own_file_and_reads_all(tmp_path):
    for rank in range(2):
        ScoreCache(tmp_path, EVALUATOR).append(rank, str(rank), ENTRY)
    assert set(ScoreCache(tmp_path, EVALUATOR).read()) == {"0", "1"}
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["scores-0.jsonl", "scores-1.jsonl"]


def test_a_line_that_was_cut_off_is_skipped_and_spoils_no_other(tmp_path):
    cache = ScoreCache(tmp_path, EVALUATOR)
    cache.append(0, "one", ENTRY)
    with (cache.folder / "scores-0.jsonl").open("a") as file:
        file.write(json.dumps({"evaluator": cache.evaluator, "key": "two", "entry": ENTRY})[:30])
    ScoreCache(tmp_path, EVALUATOR).append(0, "three", ENTRY)
    assert set(ScoreCache(tmp_path, EVALUATOR).read()) == {"one", "three"}


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out cannot be written to \(Not a directory\); name another"):
        check_writable(tmp_path / "file" / "out")
