"""Folders in GenEval's layout and its prompts are read, and what is missing or wrong is named."""

import json
import shutil
from pathlib import Path

import pytest
from geneval_scenes import scenes, write_prompts, write_scenes

from got_core.detection.base import Detector
from got_core.detection.mask2former import CLASSES, geneval_names
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError
from got_core.evaluation.suites.geneval import check_clauses, check_words, read_folder
from got_core.evaluation.suites.prompts import read_prompts

GOOD = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


def test_nothing_is_missing_in_a_whole_folder(tmp_path):
    samples = write_scenes(tmp_path, 3, per_prompt=2)
    folder = read_folder(tmp_path)
    assert [prompt.metadata["prompt"] for prompt in folder.prompts] == [sample.prompt for sample in samples]
    assert (folder.per_prompt, folder.missing, len(folder.images)) == (2, (), 6)
    assert [image.name for _, image in folder.images[:2]] == ["00000.png", "00001.png"]


def test_what_is_not_there_is_counted_with_its_reason(tmp_path):
    write_scenes(tmp_path, 5, per_prompt=3)
    (tmp_path / "00000" / "samples" / "00001.png").unlink()
    shutil.rmtree(tmp_path / "00001" / "samples")
    (tmp_path / "00002" / "metadata.jsonl").unlink()
    (tmp_path / "00003" / "metadata.jsonl").write_text(json.dumps({**GOOD, "prompt": " "}))
    folder = read_folder(tmp_path)
    assert [prompt.folder for prompt in folder.prompts] == ["00000", "00004"]
    assert [(entry.item, entry.reason, entry.count) for entry in folder.missing] == [
        ("00000/samples", "2 of 3 images", 1),
        ("00001/samples", "0 of 3 images", 3),
        ("00002/metadata.jsonl", "not there", 3),
        ("00003/metadata.jsonl", "it has no prompt", 3),
    ]
    assert [entry.category for entry in folder.missing] == ["single_object", "two_object", None, None]
    assert sum(entry.count for entry in read_folder(tmp_path, per_prompt=4).missing) == 2 + 4 + 4 + 4 + 1


def test_prompts_of_a_file_without_a_folder_are_missing_too(tmp_path):
    write_scenes(tmp_path / "images", 3)
    prompts = read_prompts(write_prompts(tmp_path / "prompts.jsonl", 5), check_clauses)
    (tmp_path / "images" / "00001" / "metadata.jsonl").unlink()
    folder = read_folder(tmp_path / "images", prompts=prompts)
    assert [entry.item for entry in folder.missing] == ["00001/metadata.jsonl", "00003", "00004"]
    with pytest.raises(UserError, match="00002 is of"):
        read_folder(tmp_path / "images", prompts=prompts[:2])
    with pytest.raises(UserError, match="00000 is of"):
        read_folder(tmp_path / "images", prompts=prompts[1:])


def test_only_images_named_by_numbers_are_of_a_prompt(tmp_path):
    write_scenes(tmp_path, 2, per_prompt=4)
    samples = tmp_path / "00000" / "samples"
    for name in ("grid.png", "00000.jpg", ".00001.png", "1a.png"):
        (samples / name).write_bytes((samples / "00000.png").read_bytes())
    folder = read_folder(tmp_path)
    assert (folder.per_prompt, folder.missing, len(folder.images)) == (4, (), 8)
    (samples / "10.png").write_bytes((samples / "00000.png").read_bytes())
    assert [image.name for image in read_folder(tmp_path).prompts[0].images][-2:] == ["00003.png", "10.png"]


def test_as_many_are_expected_as_most_prompts_have_and_no_more_used_than_are_requested(tmp_path):
    write_scenes(tmp_path, 4, per_prompt=2)
    samples = tmp_path / "00001" / "samples"
    (samples / "00002.png").write_bytes((samples / "00000.png").read_bytes())
    folder = read_folder(tmp_path)
    assert (folder.per_prompt, folder.missing, len(folder.images)) == (2, (), 9)
    one = read_folder(tmp_path, per_prompt=1)
    assert [[image.name for image in prompt.images] for prompt in one.prompts] == [["00000.png"]] * 4
    assert one.missing == ()


def test_numbers_that_are_left_out_are_missing(tmp_path):
    write_scenes(tmp_path / "images", 5)
    for number in (1, 3):
        shutil.rmtree(tmp_path / "images" / f"0000{number}")
    folder = read_folder(tmp_path / "images")
    assert [(entry.item, entry.reason, entry.count) for entry in folder.missing] == [
        ("00001", "no folder", 2),
        ("00003", "no folder", 2),
    ]
    prompts = read_prompts(write_prompts(tmp_path / "prompts.jsonl", 5), check_clauses)
    known = read_folder(tmp_path / "images", prompts=prompts)
    assert [entry.item for entry in known.missing] == ["00001", "00003"]
    assert all(entry.category for entry in known.missing)


def test_nothing_to_score_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no folder such as 00000/"):
        read_folder(tmp_path)
    write_scenes(tmp_path, 2)
    for folder in ("00000", "00001"):
        shutil.rmtree(tmp_path / folder / "samples")
    with pytest.raises(UserError, match=r"no image to score in 2 folders \(00000/samples: 0 of 1 images\)"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": None}, "it has no prompt"),
        ({"tag": None}, "it has no tag; a tag is one of single_object"),
        ({"tag": "colour"}, "its tag is 'colour'"),
        ({"include": []}, "include must be a list of clauses with at least one"),
        ({"include": 1}, "include must be a list of clauses with at least one"),
        ({"exclude": 1}, "exclude a list if it is there"),
        ({"include": [{"class": "bench"}]}, "a class and a positive count"),
        ({"include": ["bench"]}, "a class and a positive count"),
        ({"include": [{"class": "bench", "count": 0}]}, "a class and a positive count"),
        ({"exclude": [{"count": 2}]}, "a class and a positive count"),
        ({"include": [{"class": "bench", "count": 1, "color": ["red"]}]}, "color must be a word"),
        ({"include": [{"class": "bench", "count": 1, "position": ["above", 0]}]}, "index of an earlier clause"),
        ({"include": [GOOD["include"][0], {"class": "a", "count": 1, "position": ["over", 0]}]}, "relation"),
        ({"include": [GOOD["include"][0], {"class": "a", "count": 1, "position": "above"}]}, "relation"),
    ],
)
def test_prompts_that_cannot_be_scored_are_named_by_their_line(tmp_path, change, words):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(UserError, match=r"prompts\.jsonl, line 3: ") as raised:
        read_prompts(file, check_clauses)
    assert words in str(raised.value)


def test_files_that_hold_no_prompts_are_refused(tmp_path):
    file = tmp_path / "prompts.jsonl"
    with pytest.raises(UserError, match="no readable prompts"):
        read_prompts(file, check_clauses)
    file.write_text("\n")
    with pytest.raises(UserError, match="no prompt in it"):
        read_prompts(file, check_clauses)
    for text, words in {"{": "not JSON", "[1]": "not a JSON object"}.items():
        file.write_text(text)
        with pytest.raises(UserError, match=f"line 1: {words}"):
            read_prompts(file, check_clauses)


def test_words_that_the_detector_does_not_know_are_named():
    prompts = [{**sample.meta, "prompt": sample.prompt} for sample in scenes(12)]
    check_words(prompts, SceneDetector())
    with pytest.raises(UserError, match="does not know bench, which the prompts name; its classes: circle"):
        check_words([*prompts, GOOD], SceneDetector())
    with pytest.raises(UserError, match=r"its colours: red, green$"):
        check_words(prompts, SceneDetector(colours=("red", "green")))

    class Anything(Detector):
        def __call__(self, images):
            return [[] for _ in images]

    check_words([GOOD], Anything())


def test_a_detectors_labels_are_in_cocos_order():
    coco = dict(enumerate(CLASSES)) | {64: "mouse", 65: "remote", 66: "keyboard", 62: "tvmonitor", 3: "motorbike"}
    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert geneval_names(coco) == CLASSES
    assert (CLASSES[64], CLASSES[65], CLASSES[66]) == ("computer mouse", "tv remote", "computer keyboard")
    assert geneval_names({0: "cube", 1: "ball"}) == ("cube", "ball")
    with pytest.raises(ValueError, match="car is number 1 and not 2"):
        geneval_names(coco | {1: "car", 2: "bicycle"})


@pytest.mark.skipif(not Path("/work/shared/data/geneval").exists(), reason="GenEval's prompts are not on this machine")
def test_genevals_own_prompts_can_be_scored():
    prompts = read_prompts(Path("/work/shared/data/geneval/evaluation_metadata.jsonl"), check_clauses)
    assert len(prompts) == 553
    words = {clause["class"] for entry in prompts for clause in entry["include"] + entry.get("exclude", [])}
    assert words <= set(CLASSES)
