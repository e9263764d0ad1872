"""Sets of edits in the layouts they are published in."""

import json
import pickle

import pytest
from edit_sets import write_emu, write_generated, write_imagenhub

from got_core.errors import UserError
from got_core.evaluation.results import Missing
from got_core.evaluation.suites.edit_datasets import load_rgb, read_edits, with_outputs

LEVEL = 2 / 255


def near(image, expected, within=LEVEL):
    return bool(((image - expected).abs() <= within).all())


def test_a_generated_set_is_read_with_chains_and_scenes(tmp_path):
    samples = write_generated(tmp_path, 4)
    (tmp_path / "chains" / "00001.txt").unlink()
    edits = with_outputs(read_edits(tmp_path))
    assert [case.name for case in edits.cases] == [f"{index:05d}" for index in range(4)]
    assert [case.chain for case in edits.cases] == [
        None if index == 1 else sample.chain for index, sample in enumerate(samples)
    ]
    for case, sample in zip(edits.cases, samples, strict=True):
        assert (case.instruction, case.category) == (sample.prompt, sample.meta["tag"])
        assert case.meta == json.loads(json.dumps(sample.meta))
        assert near(load_rgb(case.source), sample.source)
        assert near(load_rgb(case.output), sample.target)
    assert load_rgb(edits.cases[0].source, (16, 24)).shape == (3, 16, 24)


def test_imagenhubs_folders_are_read_one_method_at_a_time(tmp_path):
    samples = write_imagenhub(tmp_path, ("InstructPix2Pix", "Ours"))
    with pytest.raises(UserError, match="outputs of InstructPix2Pix, Ours are there: give --method"):
        read_edits(tmp_path)
    with pytest.raises(UserError, match="no outputs of Theirs; there are InstructPix2Pix, Ours"):
        read_edits(tmp_path, "Theirs")
    edits = with_outputs(read_edits(tmp_path, "Ours"))
    assert [case.output.parent.name for case in edits.cases] == ["Ours", "Ours"]
    assert [(case.source_caption, case.target_caption) for case in edits.cases] == [("before", "after")] * 2
    assert [case.name for case in edits.cases] == ["sample_0_1", "sample_1_1"]
    assert (load_rgb(edits.cases[0].source) - samples[0].source).abs().mean() < 0.1


def test_emu_edits_tables_are_read_and_missing_outputs_are_named(tmp_path):
    samples = write_emu(tmp_path / "emu")
    edits = read_edits(tmp_path / "emu")
    scored = with_outputs(edits)
    assert [case.name for case in scored.cases] == ["10", "11"]
    assert scored.missing == (Missing("12", "no output", "add"),)
    case = pickle.loads(pickle.dumps(scored.cases[1]))
    assert (case.category, case.target_caption) == ("add", "after")
    assert near(load_rgb(case.source), samples[1].source)
    assert near(load_rgb(case.output), samples[1].target)


def test_requests_alone_are_edits_without_outputs(tmp_path):
    line = {"image": "a.png", "instruction": "make it blue"}
    (tmp_path / "requests.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
    edits = read_edits(tmp_path / "requests.jsonl")
    assert [case.name for case in edits.cases] == ["0", "1"]
    assert edits.cases[0].source.read() == tmp_path / "a.png"
    with pytest.raises(UserError, match=r"no output to score for 2 edits \(0: no output\)"):
        with_outputs(edits)


def test_missing_files_are_named(tmp_path):
    write_generated(tmp_path, 3)
    (tmp_path / "sources" / "00001.png").unlink()
    (tmp_path / "outputs" / "00002.png").unlink()
    edits = with_outputs(read_edits(tmp_path))
    assert [case.name for case in edits.cases] == ["00000"]
    reasons = {entry.item: entry.reason for entry in edits.missing}
    assert set(reasons) == {"00001", "00002"}
    assert "no source" in reasons["00001"]
    assert "00002.png" in reasons["00002"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no edits can be read there"),
        ({"edits.jsonl": ""}, "there is no edit in it"),
        ({"edits.jsonl": '{"name": "a", "instruction": " "}'}, "'instruction' of an edit has no words"),
        ({"edits.jsonl": '{"name": "a", "instruction": "b"}\n' * 2}, "several edits are called a"),
        ({"dataset_lookup.json": "[]"}, "no edits can be read there"),
        ({"dataset_lookup.json": "{"}, "no edits can be read there"),
        ({"other.jsonl": '{"image": "a"}'}, "no column 'instruction'"),
    ],
)
def test_other_files_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_edits(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        read_edits(tmp_path / "nowhere")


def test_the_error_of_an_unreadable_image_names_its_row(tmp_path):
    (tmp_path / "requests.jsonl").write_text('{"image": "a.png", "instruction": "b"}\n{"image": 3, "instruction": "b"}')
    first, second = read_edits(tmp_path).cases
    with pytest.raises(FileNotFoundError, match=r"requests\.jsonl:1: column 'image': no such image file"):
        load_rgb(first.source)
    with pytest.raises(ValueError, match=r"requests\.jsonl:2: column 'image' holds no image"):
        load_rgb(second.source)
