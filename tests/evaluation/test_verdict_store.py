import json

import pytest

from got_core.errors import UserError
from got_core.evaluation.results import check_writable
from got_core.evaluation.scoring import VerdictStore, verdict_key

JUDGE = {"from": {"detector": "here"}, "rules": {"confidence": 0.3}, "weights": {"model": "abc"}}
SAID = {"right": False, "reason": "expected 1 dog, found 0"}


def test_a_verdict_is_known_to_the_next_run_wherever_the_judge_lies(tmp_path):
    key = verdict_key(b"image", {"class": "dog"})
    VerdictStore(tmp_path, JUDGE).add(key, SAID)
    assert VerdictStore(tmp_path, {**JUDGE, "from": {"detector": "there"}}).known == {key: SAID}


@pytest.mark.parametrize("change", [{"rules": {"confidence": 0.4}}, {"weights": {"model": "abd"}}, {"input": 800}])
def test_another_judge_knows_nothing(tmp_path, change):
    VerdictStore(tmp_path, JUDGE).add(verdict_key(b"image", {}), SAID)
    assert VerdictStore(tmp_path, JUDGE | change).known == {}


def test_another_image_or_question_is_another_key():
    keys = {verdict_key(image, {"class": name}) for image in (b"a", b"b") for name in ("dog", "cat")}
    assert len(keys) == 4
    assert verdict_key(b"a", {"x": 1, "y": 2}) == verdict_key(b"a", {"y": 2, "x": 1})


def test_ranks_write_apart_and_read_all(tmp_path):
    for rank in range(2):
        VerdictStore(tmp_path, JUDGE, rank).add(str(rank), SAID)
    assert set(VerdictStore(tmp_path, JUDGE, 5).known) == {"0", "1"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["verdicts-0.jsonl", "verdicts-1.jsonl"]


def test_a_line_that_was_cut_off_is_passed_over_and_spoils_no_other(tmp_path):
    store = VerdictStore(tmp_path, JUDGE)
    store.add("one", SAID)
    with store.file.open("a") as file:
        file.write(json.dumps({"judge": store.judge, "key": "two", "said": SAID})[:30])
    again = VerdictStore(tmp_path, JUDGE)
    again.add("three", SAID)
    assert set(VerdictStore(tmp_path, JUDGE).known) == {"one", "three"}


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out cannot be written to \(Not a directory\); name another"):
        check_writable(tmp_path / "file" / "out")
