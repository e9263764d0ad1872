"""Images of prompts are generated one by one, each from its own seed, whatever is there already."""

import json

import numpy as np
import pytest
from evaluation_runs import quiet_trainer
from geneval_scenes import write_prompts
from PIL import Image
from small_system import small_system, stirred_system

from got_core.errors import UserError
from got_core.evaluation.generation import Generator, first_difference, image_seed
from got_core.evaluation.suites import prompts as prompts_module
from got_core.evaluation.suites.geneval import check_clauses
from got_core.evaluation.suites.prompts import PromptGeneration, missing_images, prepare_prompts, read_prompts
from got_core.model import GoTModel
from got_core.types import Sample

SETTINGS = {"seed": 1, "checkpoint": "abc"}


@pytest.fixture
def prompts(tmp_path):
    return read_prompts(write_prompts(tmp_path / "prompts.jsonl", 3), check_clauses)


def generate(root, prompts, batch_size, seed=1, model=None):
    prepare_prompts(root, prompts, SETTINGS)
    images, generator = missing_images(root, prompts, 2, seed), Generator("", (32, 32), seed, {}, {"steps": None})
    generation = PromptGeneration(model or small_system().model, images, batch_size, generator)
    quiet_trainer().predict(generation, return_predictions=False)
    return {file.relative_to(root).as_posix(): np.array(Image.open(file), dtype=int) for file in root.rglob("*.png")}


def test_existing_images_stay_and_the_others_come_out_the_same(tmp_path, prompts):
    root = tmp_path / "images"
    first = generate(root, prompts, batch_size=4)
    assert sorted(first) == [f"0000{i}/samples/0000{k}.png" for i in range(3) for k in range(2)]
    assert json.loads((root / "00002" / "metadata.jsonl").read_text()) == prompts[2]
    assert (root / "00001" / "chains" / "00001.txt").exists()
    (root / "00001" / "samples" / "00001.png").unlink()
    (root / "00002" / "samples" / "00000.png").unlink()
    existing = root / "00000" / "samples" / "00000.png"
    Image.new("RGB", (32, 32), "red").save(existing)
    again = generate(root, prompts, batch_size=1)
    assert (again.pop("00000/samples/00000.png") == [255, 0, 0]).all()
    for name, image in again.items():
        assert np.abs(image - first[name]).max() <= 1, name
    assert not list(root.rglob(".*"))


def test_images_of_a_prompt_and_of_other_seeds_differ(tmp_path, prompts):
    one, other = generate(tmp_path / "one", prompts, 6), generate(tmp_path / "other", prompts, 6, seed=2)
    assert (one["00000/samples/00000.png"] != one["00000/samples/00001.png"]).any()
    assert (one["00000/samples/00000.png"] != other["00000/samples/00000.png"]).any()


def test_seeds_follow_from_seed_prompt_and_image_alone():
    seeds = {image_seed(seed, prompt, image) for seed in range(3) for prompt in range(4) for image in range(5)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert image_seed(1, 2, 3) == image_seed(1, 2, 3)


def test_all_images_of_a_prompt_are_generated_from_one_chain_that_is_written_once(tmp_path, prompts, monkeypatch):
    root, planned, plan = tmp_path / "images", [], GoTModel.plan
    monkeypatch.setattr(GoTModel, "plan", lambda self, batch: planned.extend(batch.prompts) or plan(self, batch))
    first = generate(root, prompts, batch_size=4)
    assert sorted(planned) == sorted(metadata["prompt"] for metadata in prompts)
    chains = {file: file.read_bytes() for file in root.glob("*/chains/*.txt")}
    assert len(chains) == 6
    assert all(chains[file] == chains[file.with_name("00000.txt")] for file in chains)
    (root / "00001" / "samples" / "00001.png").unlink()
    (root / "00001" / "chains" / "00001.txt").unlink()
    again = generate(root, prompts, batch_size=4)
    assert len(planned) == 3, "the chain is read, not written again"
    assert {file: file.read_bytes() for file in root.glob("*/chains/*.txt")} == chains
    name = "00001/samples/00001.png"
    assert np.abs(again[name] - first[name]).max() <= 1


def test_chains_of_many_prompts_are_written_together_however_many_images_are_generated(tmp_path, prompts, monkeypatch):
    at_once, plan, read = [], GoTModel.plan, []
    monkeypatch.setattr(GoTModel, "plan", lambda self, batch: at_once.append(len(batch)) or plan(self, batch))
    reading = GoTModel.read
    monkeypatch.setattr(GoTModel, "read", lambda self, *rest: read.append(len(rest[1])) or reading(self, *rest))
    first = generate(tmp_path / "images", prompts, batch_size=1)
    assert (at_once, sum(read)) == ([3], sum(read[:1]))
    at_once.clear()
    monkeypatch.setattr(prompts_module, "PROMPTS_AT_ONCE", 2)
    again = generate(tmp_path / "again", prompts, batch_size=4)
    assert at_once == [2, 1]
    assert max(np.abs(again[name] - image).max() for name, image in first.items()) <= 1


def test_an_image_is_generated_from_the_chain_that_is_there(tmp_path, prompts):
    first = generate(tmp_path / "images", prompts, batch_size=6, model=stirred_system().model)
    other = tmp_path / "other"
    prepare_prompts(other, prompts, SETTINGS)
    (other / "00000" / "chains" / "00000.txt").write_text("a red circle <|box_start|>(0,0),(999,999)<|box_end|>\n")
    second = generate(other, prompts, batch_size=6, model=stirred_system().model)
    assert (first["00000/samples/00001.png"] != second["00000/samples/00001.png"]).any()
    assert (other / "00000" / "chains" / "00001.txt").read_text().startswith("a red circle")
    assert np.abs(first["00001/samples/00001.png"] - second["00001/samples/00001.png"]).mean() < 1


def test_the_first_setting_that_differs_is_named():
    one = {"seed": 1, "recipe": {"model": {"depth": 2, "width": 3}}}
    assert first_difference(one, one) is None
    assert first_difference(one, {"seed": 1, "recipe": {"model": {"depth": 2, "width": 4}}}) == (
        "recipe.model.width",
        3,
        4,
    )
    assert first_difference(one, {"seed": 1}) == ("recipe", one["recipe"], "nothing")


def test_a_folder_that_was_generated_otherwise_is_refused(tmp_path, prompts):
    prepare_prompts(tmp_path / "images", prompts, SETTINGS | {"seed": 2})
    stale = tmp_path / "images" / "00000" / "chains" / "00000.txt"
    stale.write_text("of the first settings")
    prepare_prompts(tmp_path / "images", prompts, SETTINGS)
    assert json.loads((tmp_path / "images" / "generation.json").read_text()) == SETTINGS
    assert not stale.exists()
    (tmp_path / "images" / "00000" / "samples" / "00000.png").write_bytes(b"")
    prepare_prompts(tmp_path / "images", prompts, SETTINGS)
    with pytest.raises(UserError, match="its images were generated with seed 1, not 2; name a new folder"):
        prepare_prompts(tmp_path / "images", prompts, SETTINGS | {"seed": 2})
    with pytest.raises(UserError, match="not generated here"):
        prepare_prompts(tmp_path, prompts, SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        prepare_prompts(tmp_path / "file" / "images", prompts, SETTINGS)


def test_there_must_be_a_seed_for_each_sample():
    model = small_system().model
    batch = model.processor([Sample(prompt=prompt, chain="", size=(32, 32)) for prompt in ("a circle", "a square")])
    noise = model.starting_noise(batch, [3, 4])
    assert (noise == model.starting_noise(batch, [4, 3]).flip(0)).all()
    with pytest.raises(ValueError, match="1 seeds for 2 samples"):
        model.starting_noise(batch, [3])
