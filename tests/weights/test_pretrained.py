"""Models in the folders that transformers and diffusers write, whole and sharded; folders that hold other weights."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_models import KL, UNET, tiny_qwen

from backbones.sdxl_unet import SDXLUNet
from got_core.diffusion.codecs import AutoencoderCodec
from reasoners.qwen2_5_vl import Qwen2_5_VLReasoner

SHARD = "30KB"
WEIGHTS = {"qwen": "model.safetensors", "unet": "diffusion_pytorch_model.safetensors"}
WEIGHTS["vae"] = WEIGHTS["unet"]


@pytest.fixture
def folder(tmp_path):
    """A folder of Qwen's layout and one of a whole SDXL pipeline's, side by side, in one file each."""
    save(tmp_path)
    return tmp_path


def save(folder, **sharding):
    """Write the folders; the models in them by kind."""
    torch.manual_seed(0)
    models = {"qwen": tiny_qwen(folder / "qwen", **sharding), "unet": UNet2DConditionModel(**UNET)}
    models["vae"] = AutoencoderKL(**KL)
    for kind in ("unet", "vae"):
        models[kind].save_pretrained(folder / "sdxl" / kind, **sharding)
    (folder / "sdxl" / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    return models


def load(kind, folder):
    """The library's model inside the component that is made from a folder."""
    if kind == "qwen":
        return Qwen2_5_VLReasoner(pretrained=str(folder / "qwen"), num_tokens=4, image_size=32).qwen
    if kind == "unet":
        made = SDXLUNet(str(folder / "sdxl"), subfolder="unet", spatial_channels=4, reference_channels=4)
        return made.unet
    return AutoencoderCodec(str(folder / "sdxl"), subfolder="vae").autoencoder


def weights_file(kind, folder):
    return (folder / "qwen" if kind == "qwen" else folder / "sdxl" / kind) / WEIGHTS[kind]


def plain(name):
    return name.replace(".token_adapter", "").replace(".base_layer", "")


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("sharding", [{}, {"max_shard_size": SHARD}])
def test_every_weight_of_a_folder_is_there(tmp_path, kind, sharding):
    saved = save(tmp_path, **sharding)[kind].state_dict()
    assert weights_file(kind, tmp_path).exists() != bool(sharding)
    torch.manual_seed(1)
    loaded = {plain(name): value for name, value in load(kind, tmp_path).state_dict().items()}
    for name, value in saved.items():
        got = loaded[name]
        if name == "conv_in.weight":
            got = got[:, :4]
        assert torch.equal(got[: len(value)], value), name


def test_channels_and_tokens_are_added_after_loading(folder):
    saved = load_file(weights_file("unet", folder))["conv_in.weight"]
    conv = load("unet", folder).conv_in.weight
    assert torch.equal(conv[:, :4], saved)
    assert conv.shape[1] == 12
    assert not conv[:, 4:].any()
    rows = load_file(weights_file("qwen", folder))["model.embed_tokens.weight"]
    grown = load("qwen", folder).get_input_embeddings().weight
    assert torch.equal(grown[: len(rows)], rows)
    assert len(grown) == len(rows) + 6
    assert grown[len(rows) :].unique(dim=0).shape[0] == 6


VICTIMS = {
    "qwen": "visual.blocks.0.attn.proj.weight",
    "unet": "mid_block.resnets.0.conv1.weight",
    "vae": "decoder.conv_in.weight",
}


def spoil(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("problem", ["missing", "unexpected", "of another shape"])
def test_weights_that_do_not_fit_are_one_error_that_names_them(folder, kind, problem):
    victim = VICTIMS[kind]

    def change(tensors):
        if problem == "missing":
            del tensors[victim]
        elif problem == "unexpected":
            tensors["stranger.weight"] = torch.zeros(2)
        else:
            tensors[victim] = torch.zeros(3, 3, 3, 3)

    spoil(weights_file(kind, folder), change)
    with pytest.raises(ValueError, match=f"1 {problem} ") as raised:
        load(kind, folder)
    name = "stranger.weight" if problem == "unexpected" else victim
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)
    if problem == "of another shape":
        assert "[3, 3, 3, 3] instead of [" in str(raised.value)


def test_many_names_are_counted(folder):
    def change(tensors):
        for number in range(7):
            tensors[f"stranger.{number}"] = torch.zeros(1)

    spoil(weights_file("vae", folder), change)
    with pytest.raises(ValueError, match=r"7 unexpected \(stranger.0, stranger.1, stranger.2 and 4 more\)"):
        load("vae", folder)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_another_size_are_refused(folder, kind):
    config = weights_file(kind, folder).parent / "config.json"
    values = json.loads(config.read_text())
    if kind == "qwen":
        values["text_config"]["intermediate_size"] *= 2
    else:
        values["layers_per_block"] += 1
    config.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="another model"):
        load(kind, folder)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_broken_file_is_refused(folder, kind):
    path = weights_file(kind, folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises((ValueError, OSError), match=r"not readable as weights of|Unable to load weights") as raised:
        load(kind, folder)
    assert str(path.parent) in str(raised.value)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_folder_without_weights_is_refused(folder, kind):
    weights_file(kind, folder).unlink()
    with pytest.raises(OSError, match=r"safetensors|\.bin"):
        load(kind, folder)
