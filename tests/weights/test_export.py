"""`got export`: what other programs load is what was trained."""

import json

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from released_system import base_folders
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from got_core.cli.main import main
from got_core.paths import ROOT
from got_core.training.recipe import build_model

RECIPE = ROOT / "tests" / "fixtures" / "tiny_official.yaml"


def settings(place, **reasoner):
    recipe = yaml.safe_load(RECIPE.read_text())
    parts = recipe["model"]["init_args"]
    for part, base in {"reasoner": "qwen", "backbone": "sdxl", "codec": "sdxl"}.items():
        parts[part]["init_args"]["pretrained"] = str(place / base)
    parts["reasoner"]["init_args"].update(reasoner)
    return recipe


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_every_component_is_loaded_elsewhere_as_it_was_trained(tmp_path, capsys, tune):
    torch.manual_seed(0)
    base_folders(tmp_path)
    (tmp_path / "qwen" / "preprocessor_config.json").write_text('{"of": "the base"}')
    recipe = settings(tmp_path, tune=tune)
    system = build_model(recipe["model"]).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": system.state_dict()}, run / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text(yaml.safe_dump(recipe))

    main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 == len(list((tmp_path / "out").rglob("*.safetensors")))

    folder = tmp_path / "out"
    text = "a red circle (94,188),(469,562)<|im_gen_start|><|im_gen_0000|>"
    ids = AutoTokenizer.from_pretrained(folder / "reasoner")(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == system.reasoner.processor.vocabulary.encode(text)
    assert ids[0, -1] == system.reasoner.processor.vocabulary.image_tokens[0]
    assert json.loads((folder / "reasoner" / "preprocessor_config.json").read_text()) == {"of": "the base"}
    qwen = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "reasoner").eval()
    with torch.no_grad():
        torch.testing.assert_close(qwen(ids).logits, system.reasoner.qwen(ids).logits, rtol=1e-4, atol=1e-4)
    unet = UNet2DConditionModel.from_pretrained(folder / "backbone")
    assert same(unet.state_dict(), system.backbone.unet.state_dict())
    assert unet.config.in_channels == 12
    codec = AutoencoderKL.from_pretrained(folder / "codec")
    assert same(codec.state_dict(), system.codec.autoencoder.state_dict())
    assert same(load_file(folder / "guidance" / "model.safetensors"), system.guidance.state_dict())
    assert yaml.safe_load((folder / "config.yaml").read_text()) == recipe


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "--checkpoint", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "nowhere: no such run folder or checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_weights_load(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("never read")
    (run / "config.yaml").write_text("model: never read")
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(SystemExit) as stop:
        main(["export", "--checkpoint", str(run), "--output", str(out)])
    assert stop.value.code == 2
    assert "already exists; name a new folder" in capsys.readouterr().err
