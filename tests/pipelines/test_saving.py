"""Pipelines saved, opened in any precision, and pushed to the hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors import safe_open
from small_system import small_settings, stirred_system

from got_core.cli.main import main
from got_core.diffusion.schedulers import scheduler_named
from got_core.errors import UserError
from got_core.pipelines import saving
from got_core.pipelines.pipeline import GoTPipeline

CHAIN = "a red circle (94,188),(469,562) (red) and a blue square (500,562),(900,962) (blue)"
PROMPTS = ["a red circle", "two blue squares", "a cross"]


@pytest.fixture(scope="module")
def pipe():
    return GoTPipeline(stirred_system().model, (32, 32), small_settings())


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_saved_pipeline_can_be_opened_again(pipe, photo, tmp_path, dtype):
    pipe.save_pretrained(tmp_path / "saved", dtype=dtype)
    again = GoTPipeline.from_pretrained(tmp_path / "saved", "cpu")
    assert again.size == (32, 32)
    plan = pipe.given_plan(CHAIN, "swap", photo)
    images, expected = (each.generate(plan, output_type="pt").images for each in (again, pipe))
    torch.testing.assert_close(images, expected, atol=0.02 if dtype else 0, rtol=0)
    assert sorted(str(file.relative_to(tmp_path / "saved")) for file in (tmp_path / "saved").rglob("*.*")) == [
        "README.md", "config.yaml", "model.safetensors", "reasoner/tokenizer.json",
    ]  # fmt: skip
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {dtype or torch.float32, torch.int64}  # noqa: SIM118
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "library_name: got-framework" in card
    assert "| backbone | `backbones.flow_dit.FlowDiT` |" in card
    with pytest.raises(UserError, match="already exists; name a new folder"):
        pipe.save_pretrained(tmp_path / "saved")


def test_adapters_are_merged_when_a_model_is_opened_and_saved_so(tmp_path):
    settings = small_settings()
    settings["init_args"]["reasoner"]["init_args"].update({"tune": "lora", "lora_rank": 2, "lora_alpha": 2})
    adapted = GoTPipeline(stirred_system(settings).model, (32, 32), settings)
    adapted.save_pretrained(tmp_path / "adapted")
    merged = GoTPipeline.from_pretrained(tmp_path / "adapted", "cpu")
    assert any("lora_A" in name for name in adapted.model.state_dict())
    assert not any("lora_A" in name for name in merged.model.state_dict())
    images = adapted(PROMPTS, seed=2, output_type="pt").images
    torch.testing.assert_close(merged(PROMPTS, seed=2, output_type="pt").images, images, atol=1e-5, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = GoTPipeline.from_pretrained(tmp_path / "merged", "cpu")
    assert type(again.model.reasoner.mllm) is type(again.model.reasoner.qwen)
    assert torch.equal(
        again(PROMPTS, seed=2, output_type="pt").images, merged(PROMPTS, seed=2, output_type="pt").images
    )


def test_a_saved_model_is_opened_in_any_precision(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    for dtype in (None, torch.bfloat16):
        opened = GoTPipeline.from_pretrained(tmp_path / "saved", "cpu", dtype=dtype)
        for name, weight in opened.model.named_parameters():
            assert torch.equal(weight, pipe.model.get_parameter(name).to(weight.dtype)), name


def test_a_scheduler_that_was_set_is_saved(pipe, tmp_path):
    own = pipe.scheduler
    pipe.scheduler = scheduler_named(pipe.model.objective, "UniPCMultistepScheduler", solver_order=3)
    try:
        pipe.save_pretrained(tmp_path / "saved")
    finally:
        pipe.scheduler = own
    again = GoTPipeline.from_pretrained(tmp_path / "saved", "cpu")
    assert type(again.scheduler).__name__ == "UniPCMultistepScheduler"
    assert again.scheduler.config.solver_order == 3
    config = tmp_path / "saved" / "scheduler_config.json"
    for broken, words in [
        (config.read_text().replace("UniPCMultistepScheduler", "UNet2DModel"), "no scheduler 'UNet2DModel'"),
        (config.read_text().replace("flow_prediction", "epsilon"), "does not fit RectifiedFlow"),
        ("[]", "'list' object has no attribute"),
        ("{", "Expecting"),
    ]:
        config.write_text(broken)
        with pytest.raises(UserError, match=words):
            GoTPipeline.from_pretrained(tmp_path / "saved", "cpu")


def test_only_schedulers_of_diffusers_are_saved(pipe, tmp_path):
    class Own(type(pipe.scheduler)):
        """Defined here alone."""

    pipe.scheduler, own = Own.from_config(pipe.scheduler.config), pipe.scheduler
    try:
        with pytest.raises(UserError, match="Own is not a scheduler of diffusers"):
            pipe.save_pretrained(tmp_path / "saved")
    finally:
        pipe.scheduler = own
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("backbones.flow_dit.FlowDiT", "helpers.FlowDiT"), "helpers.FlowDiT is not from an installed package"),
        (("folder://reasoner", "folder://../reasoner"), "which is not in the folder"),
        (("folder://reasoner/tokenizer.json", "${oc.env:HOME}"), "may not refer to other values"),
        (("pipeline: 1", "pipeline: 2"), "of another version of the format"),
        (("model:", "modell:"), "there is no model in it"),
    ],
)
def test_a_saved_folder_runs_no_code_and_reads_no_other_files(pipe, tmp_path, monkeypatch, change, words):
    pipe.save_pretrained(tmp_path / "saved")
    config = tmp_path / "saved" / "config.yaml"
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change))
    (tmp_path / "saved" / "helpers.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path / "saved")
    monkeypatch.syspath_prepend(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(".", "cpu")


def test_weights_are_saved_as_floating_point_numbers(pipe, tmp_path):
    with pytest.raises(ValueError, match=r"not in torch\.int8"):
        pipe.save_pretrained(tmp_path / "saved", dtype=torch.int8)
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_without_settings_is_not_saved(pipe, tmp_path):
    with pytest.raises(UserError, match="made without `settings`"):
        GoTPipeline(pipe.model, (32, 32)).save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


class Hub:
    """Stands in for huggingface_hub's API; keeps what is uploaded in a folder."""

    folder: Path
    calls: list[dict]

    def __init__(self, token):
        Hub.calls = [{"token": token}]

    def create_repo(self, repository, **settings):
        Hub.calls.append({"repository": repository, **settings})
        return type("Address", (), {"repo_id": f"owner/{repository}"})

    def upload_folder(self, repo_id, folder_path, commit_message):
        Hub.calls.append({"repo_id": repo_id})
        Path(folder_path).rename(Hub.folder)
        return "the commit"


def test_a_hub_out_of_reach_is_one_line(pipe, monkeypatch):
    class Broken(Hub):
        def create_repo(self, repository, **settings):
            raise RuntimeError("no network\nat all")

    monkeypatch.setattr(saving, "HfApi", Broken)
    with pytest.raises(UserError, match="mine: the upload to the hub failed"):
        pipe.push_to_hub("mine")


def test_a_pipeline_is_pushed_to_the_hub_and_opened_from_it(pipe, tmp_path, monkeypatch):
    Hub.folder = tmp_path / "hub"
    monkeypatch.setattr(saving, "HfApi", Hub)
    assert pipe.push_to_hub("mine", private=True, token="secret") == "the commit"
    assert Hub.calls == [
        {"token": "secret"}, {"repository": "mine", "private": True, "exist_ok": True}, {"repo_id": "owner/mine"},
    ]  # fmt: skip
    downloads = []

    def download(repository, **settings):
        downloads.append((repository, settings["revision"]))
        return str(Hub.folder)

    monkeypatch.setattr(saving, "snapshot_download", download)
    again = GoTPipeline.from_pretrained("owner/mine", "cpu", revision="v1")
    assert downloads == [("owner/mine", "v1")]
    plan = pipe.given_plan(CHAIN)
    assert torch.equal(again.generate(plan, output_type="pt").images, pipe.generate(plan, output_type="pt").images)


def test_a_missing_model_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="nowhere: no such run folder, checkpoint or hub id"):
        GoTPipeline.from_pretrained("nowhere", "cpu")
    with pytest.raises(FileNotFoundError, match="'no/where' is not a folder here, and the hub did not provide it"):
        GoTPipeline.from_pretrained("no/where", "cpu")


def test_commands_open_change_and_export_a_saved_pipeline(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "saved")
    (tmp_path / "chain.txt").write_text(CHAIN)
    command = ["generate", "", "--checkpoint", str(tmp_path / "saved"), "--device", "cpu"]
    command += ["--chain", str(tmp_path / "chain.txt"), "--scheduler", "FlowMatchHeunDiscreteScheduler"]
    main([*command, "--output", str(tmp_path / "out"), "--change", "move 0 100 0", "--change", "remove 1"])
    said = capsys.readouterr().out
    assert said == f"a red circle (194,188),(569,562) (red)\n{tmp_path / 'out' / 'image.png'}\n"
    assert (tmp_path / "out" / "chain.txt").read_text() == "a red circle (194,188),(569,562) (red)\n"
    error = refused(capsys, *command, "--output", str(tmp_path / "no"), "--change", "move 5 1 1")
    assert "'move 5 1 1': the chain has no region 5" in error
    error = refused(capsys, *command[:-1], "DDIMScheduler", "--output", str(tmp_path / "no"))
    assert "DDIMScheduler" in error
    assert not (tmp_path / "no").exists()
    export = [
        "export",
        "--checkpoint",
        str(tmp_path / "saved"),
        "--output",
        str(tmp_path / "half"),
        "--dtype",
        "float16",
    ]
    assert "--dtype is of --pipeline" in refused(capsys, *export)
    main([*export, "--pipeline"])
    whole, half = (Path(tmp_path / name / "model.safetensors").stat().st_size for name in ("saved", "half"))
    assert half < 0.6 * whole
    assert json.loads((tmp_path / "half" / "reasoner" / "tokenizer.json").read_text())["version"]


def test_other_bits_and_a_missing_library_are_refused_before_weights_are_read(monkeypatch):
    monkeypatch.setattr("got_core.pipelines.saving.find_model", None)
    with pytest.raises(ValueError, match="8 or 4 bits, not 3"):
        GoTPipeline.from_pretrained(bits=3)
    monkeypatch.setattr("got_core.weights.quantization.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"got-framework\[quantized\]"):
        GoTPipeline.from_pretrained(bits=8)
