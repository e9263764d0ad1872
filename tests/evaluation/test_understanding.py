"""What training costs a reasoner: probes, their likelihood, and what changed."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from edit_sets import edit_samples
from evaluation_runs import Scored, save_run
from small_system import small_settings, small_system
from tiny_models import tiny_qwen

from got_core.cli.main import main
from got_core.data.scenes.render import DEFAULT_COLOURS
from got_core.detection.base import relations
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError
from got_core.evaluation.statistics import wilson
from got_core.evaluation.suites.edit_datasets import load_rgb
from got_core.evaluation.suites.probes import (
    Probe,
    chance_accuracy,
    read_questions,
    read_texts,
    scene_chains,
    scene_questions,
)
from got_core.evaluation.suites.understanding import UnderstandingScoring, understanding_results
from got_core.training.recipe import build_model
from got_core.types import Sample, to_pil


def test_scene_questions_are_answered_by_what_is_in_the_image():
    probes = scene_questions(90, 64, seed=1)
    assert Counter(probe.category for probe in probes) == {"count": 30, "colour": 30, "position": 30}
    detector = SceneDetector()
    for probe in probes:
        found = detector(probe.image[None])[0]
        answer = probe.candidates[probe.right]
        if probe.category == "count":
            shape = probe.prompt.split()[2][:-1]
            assert ("one", "two", "three").index(answer) + 1 == sum(entry.label == shape for entry in found)
        elif probe.category == "colour":
            shape = probe.prompt.removesuffix("?").split()[-1]
            assert [entry.colour for entry in found if entry.label == shape] == [answer]
        else:
            shape, other = probe.prompt.removesuffix("?").split()[-1], answer.split()[-1]
            boxes = {entry.label: entry.box for entry in found}
            assert answer.removesuffix(f" the {other}") in relations(boxes[shape], boxes[other], size=(64, 64))
    answers = Counter(probe.right for probe in probes if probe.category == "count")
    assert all(answers[index] >= 5 for index in range(3))
    again = scene_questions(90, 64, seed=1)
    assert [probe.prompt for probe in again] == [probe.prompt for probe in probes]
    assert chance_accuracy(probes) == pytest.approx((1 / 3 + 1 / len(DEFAULT_COLOURS) + 1 / 4) / 3)


@pytest.fixture(scope="module")
def reasoner():
    return small_system().reasoner.eval()


@torch.no_grad()
def test_the_likelihood_is_that_of_the_tokens_one_by_one(reasoner):
    """Against the probability of each next token, one forward a token, without padding."""
    source = edit_samples(1)[0].source
    samples = [
        Sample("How many?", "two", (32, 32), source=source),
        Sample("How many?", "two red circles and a square", (32, 32), source=source),
        Sample("And here?", "none", (32, 32)),
    ]
    processor = reasoner.question_processor
    found, tokens = reasoner.likelihood(processor(samples))
    for index, sample in enumerate(samples):
        chain = processor.chain_ids(sample.chain)
        assert tokens[index] == len(chain)
        total = 0.0
        for length in range(len(chain)):
            part = processor([sample])
            prompt = int(part.inputs["prompt_length"][0])
            cut = {**part.inputs, "input_ids": part.inputs["input_ids"][:, : prompt + length]}
            cut["length"] = torch.tensor([prompt + length])
            cut["position_ids"] = part.inputs["position_ids"][:, :, : prompt + length]
            logits = reasoner.qwen.lm_head(reasoner._read(cut)[0, -1])
            total += float(logits.log_softmax(dim=-1)[chain[length]])
        assert float(found[index]) == pytest.approx(total, abs=1e-3)


def test_plain_questions_are_written_as_in_qwens_chat(reasoner):
    batch = reasoner.question_processor([Sample("How many?", "two", (32, 32))])
    text = reasoner.processor.vocabulary.decode(batch.inputs["input_ids"][0].tolist())
    assert text.startswith("<|im_start|>system\n")
    assert "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\ntwo" in text


def test_the_likeliest_candidate_is_the_answer(reasoner):
    image = edit_samples(1)[0].source
    probes = [Probe(str(right), "a", "What?", ("red", "a blue square"), right, image) for right in range(2)]
    scoring = UnderstandingScoring(reasoner, probes)
    scoring.score(dict.fromkeys(range(2), image))
    found = scoring.table.compute()
    samples = [Sample("What?", candidate, (32, 32), source=image) for candidate in probes[0].candidates]
    likelihood, tokens = reasoner.likelihood(reasoner.question_processor(samples))
    chosen = int((likelihood / tokens).argmax())
    assert found[:, 0].tolist() == [float(chosen == 0), float(chosen == 1)]
    torch.testing.assert_close(found[:, 1], -likelihood)
    assert found[:, 2].tolist() == tokens.tolist()


def test_what_changed_is_computed_by_hand():
    probes = [Probe(str(index), "count", "How many?", ("one", "two")) for index in range(24)]
    probes += [Probe(f"t{index}", "texts", "", ("a",)) for index in range(24)] + [Probe("x", "count", "?", ("a", "b"))]
    before, after = torch.full((49, 3), torch.nan), torch.full((49, 3), torch.nan)
    before[:24, 0], after[:24, 0] = torch.ones(24), torch.tensor([1.0, 0.0] * 12)
    tokens = torch.tensor([1.0, 3.0] * 12)
    before[:24, 1:], after[:24, 1:] = 1.0, 1.0
    before[24:48, 1], after[24:48, 1], before[24:48, 2], after[24:48, 2] = tokens * 2, tokens * 1.5, tokens, tokens
    scored = {"before": Scored(before, {48: "not readable"}), "after": Scored(after, {48: "not readable"})}
    result = understanding_results(probes, scored).as_json()
    assert list(result["scores"]) == ["count", "texts"]
    count, texts = result["scores"].values()
    assert count["chance_accuracy"] == {"mean": 0.5, "interval": None, "n": 24}
    changes = [count[name]["mean"] for name in ("accuracy_before", "accuracy", "accuracy_difference")]
    assert changes == [1, 0.5, -0.5]
    assert count["accuracy_before"]["interval"] == pytest.approx(wilson(1, 24), abs=1e-5)
    assert count["accuracy_difference"]["conclusion"] == "significant"
    assert count["accuracy_difference"]["p_value"] < 0.01
    assert count["accuracy_difference"]["interval"][1] < 0
    assert texts["perplexity_before"]["mean"] == pytest.approx(math.exp(2), abs=1e-5)
    assert texts["perplexity_ratio"]["mean"] == pytest.approx(math.exp(-0.5), abs=1e-5)
    assert texts["perplexity_ratio"]["interval"] is None
    assert texts["perplexity_ratio"]["conclusion"] == "significant"
    assert result["missing"] == [{"item": "x", "reason": "not readable", "category": "count", "count": 1}]
    assert result["counts"] == {"probes": 48, "missing": 1}
    assert result["items"][1]["scores"] == {"right": 0, "nats": 1}
    assert result["items"][1]["before"] == {"right": 1, "nats": 1, "tokens": 1}
    unread = Scored(before[-1:], {0: "not readable"})
    with pytest.raises(UserError, match="none of 1 probes can be read"):
        understanding_results(probes[-1:], {"before": unread, "after": unread})


def write_questions(folder, records):
    folder.mkdir(exist_ok=True)
    to_pil(edit_samples(1)[0].source).save(folder / "a.png")
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps({"image": "a.png", **record}) + "\n" for record in records))
    return file


def test_question_sets_of_several_kinds_are_read(tmp_path):
    file = write_questions(
        tmp_path,
        [
            {"question": "A?", "answer": 1, "choices": ["x", "y"]},
            {"question": "B?", "answer": "x", "options": ["x", "y", "z"]},
            {"question": "C?", "answers": [{"answer": "blue"}, {"answer": "red"}]},
            {"question": "D?", "multiple_choice_answer": "red"},
        ],
    )
    probes = read_questions(file, 10, seed=0)
    assert [probe.candidates[probe.right] for probe in probes] == ["y", "x", "blue", "red"]
    assert probes[1].candidates == ("x", "y", "z")
    assert set(probes[2].candidates) == {"blue", "x", "y"}
    assert load_rgb(probes[3].image).shape == (3, 32, 32)
    assert read_questions(file, 10, seed=0)[2].candidates == probes[2].candidates
    assert len(read_questions(file, 2, seed=0)) == 2


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no question"),
        ([{"question": "A?", "answer": "a", "choices": "['a', 'b']"}], "must be lists"),
        ([{"question": "A?"}], "no answer in answer"),
        ([{"question": "A?", "answer": "a"}], "is not one of two or more answers"),
        ([{"question": "A?", "answer": "a", "choices": ["b", "c"]}], "'a' is not one of two or more answers"),
        ([{"answer": "a"}], "no column 'question'"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(tmp_path, records, message):
    with pytest.raises(UserError, match=message):
        read_questions(write_questions(tmp_path, records), 10, seed=0)


def test_wrong_answers_come_from_other_questions_and_are_never_right(tmp_path):
    answers = [["blue", "navy", "navy"], ["Navy"], ["red"], ["Blue"], ["green"], ["two"], [3]]
    file = write_questions(tmp_path, [{"question": f"{index}?", "answers": of} for index, of in enumerate(answers)])
    probes = read_questions(file, 10, seed=0)
    assert [probe.candidates[probe.right] for probe in probes] == ["navy", "Navy", "red", "Blue", "green", "two", "3"]
    for probe, own in zip(probes, answers, strict=True):
        wrong = [word.casefold() for index, word in enumerate(probe.candidates) if index != probe.right]
        assert len(wrong) == 3
        assert not {str(word).casefold() for word in own} & set(wrong)
    assert len({probe.right for probe in probes}) > 1
    assert not any(probe.official for probe in probes)
    again, others = ([probe.candidates for probe in read_questions(file, 10, seed)] for seed in range(2))
    assert again == [probe.candidates for probe in probes] != others


def test_indices_of_answers_count_choices_that_come_twice(tmp_path):
    (probe,) = read_questions(
        write_questions(tmp_path, [{"question": "A?", "answer": 2, "choices": ["x", "x", "y"]}]), 10, seed=0
    )
    assert (probe.candidates, probe.right, probe.official) == (("x", "y"), 1, True)


def test_a_reasoner_without_likelihoods_is_named_and_not_scored(reasoner):
    broken = small_system().reasoner.eval()
    with torch.no_grad():
        broken.qwen.lm_head.weight.fill_(torch.nan)
    probe = Probe("0", "a", "What?", ("red", "blue"))
    scoring = UnderstandingScoring(broken, [probe])
    scoring.score({0: None})
    assert "no likelihood" in scoring.remarks[0]
    assert scoring.table.compute().isnan().all()


def test_texts_of_other_tokens_do_not_compare():
    probes = [Probe("t", "texts", "", ("a",))]
    before, after = torch.tensor([[torch.nan, 1.0, 2.0]]), torch.tensor([[torch.nan, 1.0, 3.0]])
    with pytest.raises(UserError, match="into different tokens"):
        understanding_results(probes, {"before": Scored(before), "after": Scored(after)})


def test_texts_are_read(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "One."}\n{"text": " "}\n{"text": "Two."}\n')
    assert [probe.candidates for probe in read_texts(tmp_path / "texts.jsonl", 10)] == [("One.",), ("Two.",)]
    with pytest.raises(UserError, match="no column 'text'"):
        read_texts(write_questions(tmp_path / "other", [{"question": "A?"}]), 10)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [save_run(folder / f"run{seed}", small_system(seed)) for seed in range(2)]


def evaluate(*arguments):
    main(["evaluate", "understanding", "--accelerator", "cpu", *map(str, arguments)])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        evaluate(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_two_runs_are_compared(runs, tmp_path, capsys):
    (tmp_path / "texts.jsonl").write_text('{"text": "a red circle"}\n')
    options = ("--prompts", "scenes", "--number", 24, "--texts", tmp_path / "texts.jsonl", "--output", tmp_path)
    evaluate("--checkpoint", runs[1], "--before", runs[0], *options)
    printed = capsys.readouterr().out
    assert "too few probes" in printed
    found = json.loads((tmp_path / "results.json").read_text())
    files = sorted((tmp_path / "cache").iterdir())
    lines = files[0].read_text().splitlines(keepends=True)
    files[0].write_text("".join(lines[:60]) + lines[60][:20])
    evaluate("--checkpoint", runs[1], "--before", runs[0], *options)
    again = files[0].read_text().splitlines()
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert (len(lines), len(again)) == (98, 99)
    scores = found["scores"]
    assert {name: max(entry["n"] for entry in metrics.values()) for name, metrics in scores.items()} == {
        "chains": 24, "count": 8, "colour": 8, "position": 8, "texts": 1,
    }  # fmt: skip
    chains = scores["chains"]
    assert chains["perplexity_ratio"]["conclusion"] in ("significant", "not significant")
    ratio = chains["perplexity"]["mean"] / chains["perplexity_before"]["mean"]
    assert chains["perplexity_ratio"]["mean"] == pytest.approx(ratio, rel=1e-4)
    nats = [item["after"]["nats"] for item in found["items"] if item["category"] == "chains"]
    tokens = [item["after"]["tokens"] for item in found["items"] if item["category"] == "chains"]
    assert chains["perplexity"]["mean"] == pytest.approx(np.exp(sum(nats) / sum(tokens)), rel=1e-4)
    evaluate("--checkpoint", runs[1], "--before", runs[1], *options)
    same = json.loads((tmp_path / "results.json").read_text())["scores"]
    unchanged = {"mean": 1, "interval": None, "n": 24, "p_value": 1, "conclusion": "not significant"}
    assert same["chains"]["perplexity_ratio"] == unchanged
    (tmp_path / "first.json").write_text(json.dumps(found))
    capsys.readouterr()
    main(["compare", str(tmp_path / "first.json"), str(tmp_path / "results.json")])
    compared = capsys.readouterr().out
    assert "nats (lower is better)" in compared
    assert "right (higher is better)" in compared


def test_a_pretrained_reasoner_is_compared_with_where_it_started(tmp_path):
    tiny_qwen(tmp_path / "qwen")
    settings = small_settings()
    values = settings["init_args"]["reasoner"]["init_args"]
    del values["config"]
    values.update({"pretrained": str(tmp_path / "qwen"), "tune": "full", "image_size": 16})
    values.pop("tokenizer", None)
    system = build_model(settings)
    with torch.no_grad():
        system.reasoner.qwen.model.language_model.norm.weight.mul_(0.5)
    run = save_run(tmp_path / "run", system, settings)
    evaluate("--checkpoint", run, "--prompts", "scenes", "--number", 3, "--output", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["before"] == "the weights that the recipe starts from"
    chains = found["scores"]["chains"]
    assert chains["perplexity_before"]["mean"] != chains["perplexity"]["mean"]


def test_missing_images_are_named_and_each_error_is_one_line(runs, tmp_path, capsys):
    questions = [{"question": "A?", "answer": "a"}, {"question": "B?", "answer": "b", "image": "gone.png"}]
    file = write_questions(tmp_path, questions)
    evaluate("--checkpoint", runs[0], "--before", runs[1], "--prompts", file, "--output", tmp_path)
    printed = capsys.readouterr().out
    assert "missing: vqa/00001" in printed
    assert "not their set's official score" in printed
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["notes"]) == 1
    assert (found["scores"]["vqa"]["accuracy"]["n"], found["counts"]["missing"]) == (1, 1)
    assert "needs --checkpoint RUN" in refused(capsys, "--prompts", "scenes")
    scenes = ("--prompts", "scenes", "--output", tmp_path)
    assert "started from random weights; give --before RUN" in refused(capsys, "--checkpoint", runs[0], *scenes)
    assert "no such run" in refused(capsys, "--checkpoint", runs[0], "--before", tmp_path / "nowhere", *scenes)


def test_chains_of_scenes_are_written_as_in_training(reasoner):
    probes = scene_chains(12, 32, seed=0)
    assert all(probe.generation and len(probe.candidates) == 1 for probe in probes)
    assert {probe.image is None for probe in probes} == {True, False}
    scoring = UnderstandingScoring(reasoner, probes[:1])
    scoring.score({0: probes[0].image})
    batch = reasoner.processor([Sample(probes[0].prompt, probes[0].candidates[0], (1, 1))])
    likelihood, _ = reasoner.likelihood(batch)
    assert float(scoring.table.compute()[0, 1]) == pytest.approx(-float(likelihood[0]), rel=1e-5)
