"""A judge behind an endpoint that answers well, badly, slowly, or not at all."""

import base64
import io
import json

import pytest
import torch
from judge_server import BREAK_OFF, GOOD, endpoint
from PIL import Image

from got_core.errors import UserError
from got_core.evaluation.metrics.chat_judge import Answer, ChatJudge, JudgeError, SavedAnswers, read_answer

SOURCE, OUTPUT = torch.zeros(3, 8, 12), torch.ones(3, 8, 12)


def judge(url, **settings):
    return ChatJudge(url, "a-model", **{"key_variable": "A_KEY", "backoff": 0.01, "timeout": 5.0, **settings})


def test_the_lower_score_counts_and_the_images_arrive(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    with endpoint(lambda number, body: (200, f"Here it is: {GOOD} That is all.")) as served:
        answer = judge(served.url + "/")("make it red", SOURCE, OUTPUT)
    assert answer == Answer(8, 6, "it is red now")
    assert answer.score == 0.6
    (body,) = served.bodies
    assert served.keys == ["Bearer secret"]
    assert (body["model"], body["temperature"]) == ("a-model", 0)
    words, *images = body["messages"][0]["content"]
    assert "make it red" in words["text"]
    opened = [Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1]))) for part in images]
    assert [image.size for image in opened] == [(12, 8), (12, 8)]
    assert [image.getpixel((0, 0)) for image in opened] == [(128, 128, 128), (255, 255, 255)]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again(status, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with endpoint(lambda number, body: (status, "busy") if number < 2 else (200, GOOD)) as served:
        assert judge(served.url)("a", SOURCE, OUTPUT).score == 0.6
    assert len(served.bodies) == 3
    assert served.keys == [None] * 3
    with endpoint(lambda number, body: (status, "busy")) as served, pytest.raises(JudgeError, match=f"{status}"):
        judge(served.url, retries=2)("a", SOURCE, OUTPUT)
    assert len(served.bodies) == 3


def test_a_slow_answer_is_asked_for_again_and_given_up_at_last():
    with endpoint(lambda number, body: 1.5 if number == 0 else (200, GOOD)) as served:
        assert judge(served.url, timeout=0.3)("a", SOURCE, OUTPUT).score == 0.6
    with endpoint(lambda number, body: 1.5) as served, pytest.raises(JudgeError, match=r"no answer in 0\.3 s"):
        judge(served.url, timeout=0.3, retries=1)("a", SOURCE, OUTPUT)


def test_a_connection_that_is_broken_off_costs_one_edit_and_not_the_run():
    with endpoint(lambda number, body: BREAK_OFF) as served:
        with pytest.raises(JudgeError, match="the connection was broken off"):
            judge(served.url, retries=1)("a", SOURCE, OUTPUT)
        assert len(served.bodies) == 2


def test_nonsense_is_asked_again_without_the_temperature_and_named_at_last():
    with endpoint(lambda number, body: (400, "no temperature") if "temperature" in body else (200, GOOD)) as served:
        assert judge(served.url)("a", SOURCE, OUTPUT).score == 0.6
    assert len(served.bodies) == 2
    with endpoint(lambda number, body: (200, "I cannot tell.")) as served:
        with pytest.raises(JudgeError, match=r"no sensible answer in 3 attempts: no scores in 'I cannot tell\.'"):
            judge(served.url)("a", SOURCE, OUTPUT)
        assert len(served.bodies) == 3


def test_an_endpoint_that_refuses_or_is_not_there_stops_the_run():
    with endpoint(lambda number, body: (401, "wrong key")) as served, pytest.raises(UserError, match=r"401.*wrong key"):
        judge(served.url)("a", SOURCE, OUTPUT)
    assert len(served.bodies) == 1
    with pytest.raises(UserError, match="cannot be reached"):
        judge(served.url, retries=1)("a", SOURCE, OUTPUT)
    with pytest.raises(UserError, match="must begin with http"):
        judge("localhost:8000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n{"followed": 0, "kept": 10}\n```', Answer(0, 10)),
        ('{"followed": 1, "kept": 1} No: {"followed": 2.5, "kept": 9, "reason": "{odd"}', Answer(2.5, 9, "{odd")),
        ('{"scores": {"followed": 3, "kept": 4}}', Answer(3, 4)),
    ],
)
def test_scores_are_read_from_what_stands_around_them(text, expected):
    assert read_answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{" * 50,
        "followed: 3, kept: 4",
        '{"followed": 3}',
        '{"followed": 11, "kept": 4}',
        '{"followed": -1, "kept": 4}',
        '{"followed": true, "kept": 4}',
        '{"followed": "3", "kept": 4}',
        '{"followed": NaN, "kept": 4}',
        '{"followed": null, "kept": 4}',
    ],
)
def test_nonsense_has_no_scores(text):
    with pytest.raises(ValueError, match=r"no scores in|is not a score from 0 to 10"):
        read_answer(text)


def test_answers_are_kept_for_the_same_question_alone(tmp_path):
    with endpoint(lambda number, body: (200, json.dumps({"followed": number, "kept": 10}))) as served:
        saved = SavedAnswers(judge(served.url), tmp_path / "judge")
        assert [saved("one", "a", SOURCE, OUTPUT).followed for _ in range(2)] == [0, 0]
        assert saved("one", "b", SOURCE, OUTPUT).followed == 1
        assert saved("one", "b", SOURCE, SOURCE).followed == 2
        assert saved("two", "b", SOURCE, SOURCE).followed == 3
        again = SavedAnswers(judge(served.url), tmp_path / "judge")
        assert again("two", "b", SOURCE, SOURCE).followed == 3
    assert sorted(file.name for file in (tmp_path / "judge").iterdir()) == ["one.json", "two.json"]
