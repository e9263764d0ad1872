"""Folders and tables as other programs write them: image endings, repeated names, lists of prompts."""

import json
from pathlib import Path

import pytest
from PIL import Image

from got_core.errors import UserError
from got_core.evaluation.suites.edit_datasets import read_edits, with_outputs
from got_core.evaluation.suites.layout import read_layouts
from got_core.evaluation.suites.prompts import check_prompt, list_prompts, read_prompts
from got_core.evaluation.suites.quality import image_files

FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_images_of_prompts_may_have_any_ending(tmp_path):
    for name in ("00000.jpg", "00001.PNG", "00002.JPEG", "00003.webp", "00003.png", "._00004.png", "grid.png"):
        save(tmp_path / "00000" / "samples" / name)
    images, expected = list_prompts(tmp_path, None, "samples")
    names = [image.name for image in images[tmp_path / "00000"]]
    assert (names, expected) == (["00000.jpg", "00001.PNG", "00002.JPEG", "00003.png"], 4)


def test_layouts_of_images_of_any_ending_are_read(tmp_path):
    chains = tmp_path / "00000" / "chains"
    chains.mkdir(parents=True)
    for number, ending in enumerate(("jpg", "PNG")):
        save(tmp_path / "00000" / "samples" / f"{number:05d}.{ending}")
        (chains / f"{number:05d}.txt").write_text("a cat (1,1),(9,9)")
    folder = read_layouts(tmp_path)
    assert [image.file.name for image in folder.images] == ["00000.jpg", "00001.PNG"]
    assert folder.missing == ()


def test_edits_with_images_of_any_ending_are_read(tmp_path):
    ours, hub = tmp_path / "ours", tmp_path / "hub"
    for name in ("sources/a.jpg", "outputs/a.JPG"):
        save(ours / name)
    (ours / "edits.jsonl").write_text('{"name": "a", "instruction": "make it red"}')
    for name in ("input/a.png", "Ours/a.jpg"):
        save(hub / name)
    (hub / "dataset_lookup.json").write_text('{"a.jpg": {"instruction": "make it red"}}', encoding="utf-8-sig")
    for folder, names in ((ours, ["a.jpg", "a.JPG"]), (hub, ["a.png", "a.jpg"])):
        (case,) = with_outputs(read_edits(folder)).cases
        assert [case.source.name, case.output.name] == names


def test_edits_with_repeated_or_empty_names_are_numbered(tmp_path):
    index = ["7", None, "7", "", "7", "1"]
    rows = [{"image": "a.png", "instruction": "b", "idx": value} for value in index]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [case.name for case in read_edits(tmp_path).cases] == ["7", "1", "7_2", "3", "7_3", "1_2"]
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="no edits can be read there"):
        read_edits(tmp_path)


def test_prompts_are_read_from_any_table(tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_bytes(b"\xef\xbb\xbfprompt,tag\na cat,x\n")
    assert read_prompts(file, check_prompt) == [{"prompt": "a cat", "tag": "x"}]
    for plain in (False, True):
        prompts = read_prompts(FAULTS / "prompts_array.json", check_prompt, plain)
        assert [each["prompt"] for each in prompts] == ["a red circle", "a blue square"]
    file = tmp_path / "prompts.txt"
    file.write_text('a cat\n{"prompt": "a d\\u0000g"}\n')
    with pytest.raises(UserError, match=r"prompts\.txt, line 2: a NUL at character 3"):
        read_prompts(file, check_prompt, plain=True)


def test_sets_for_fid_have_images_of_any_ending_and_no_hidden_ones(tmp_path):
    for name in ("a.TIF", "b.jpg", "._b.jpg"):
        save(tmp_path / name)
    assert [file.name for file in image_files(tmp_path)] == ["a.TIF", "b.jpg"]
