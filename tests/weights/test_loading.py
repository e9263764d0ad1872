"""Parts that do not fit are found before any weights load."""

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from small_system import small_settings
from torch import nn

from got_core.errors import UserError
from got_core.paths import ROOT
from got_core.training.recipe import build_model
from got_core.weights.loading import build, weights_to_follow, what_differs, without_weights

KL = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 5, "sample_size": 8}


def test_without_weights_nothing_is_loaded_and_every_width_is_there():
    def load():
        raise AssertionError("weights were loaded")

    with without_weights():
        model = build(lambda: nn.Linear(3, 4), load)
    assert model.weight.is_meta
    assert model.weight.shape == (4, 3)
    with pytest.raises(AssertionError, match="weights were loaded"):
        build(lambda: nn.Linear(3, 4), load)


def test_where_weights_are_to_follow_parameters_are_left_as_they_are():
    values = torch.full((3, 3), 5.0)
    with weights_to_follow():
        weight = nn.Parameter(values.clone())
        nn.init.normal_(tensor=weight)
        nn.init.zeros_(weight)
        nn.init.kaiming_uniform_(weight)
        nn.init.constant_(weight, 1.0)
        nn.init.xavier_uniform_(weight)
        assert torch.equal(weight, values)
        assert nn.Parameter(torch.zeros(2)).requires_grad_(False).requires_grad is False
    buffer = torch.empty(3)
    with weights_to_follow():
        buffer.fill_(2.0)
    assert torch.equal(buffer, torch.full((3,), 2.0))
    nn.init.zeros_(weight)
    assert not weight.any()


def test_a_codec_that_does_not_fit_is_refused_before_its_weights_are_read(tmp_path):
    AutoencoderKL(**KL).save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    settings = small_settings()
    codec = {"class_path": "got_core.diffusion.codecs.AutoencoderCodec", "init_args": {"pretrained": str(tmp_path)}}
    settings["init_args"]["codec"] = codec
    with without_weights(), pytest.raises(UserError, match="AutoencoderCodec makes latents of 5 channels"):
        build_model(settings)


@pytest.mark.parametrize(("recipe", "part"), [("scenes_dit", "reasoner"), ("scenes_sdxl", "backbone")])
def test_a_shipped_recipe_is_built_without_weights(recipe, part):
    settings = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text())["model"]
    with without_weights():
        system = build_model(settings)
    assert all(parameter.is_meta for parameter in getattr(system, part).parameters())
    assert all(parameter.is_meta for parameter in system.codec.parameters())
    assert not any(parameter.is_meta for parameter in getattr(build_model(settings), part).parameters())


def test_every_kind_of_difference_is_counted_within_an_errors_length():
    long = [f"reasoner.mllm.base_model.model.model.language_model.layers.{n}.self_attn.q_proj.weight" for n in range(9)]
    text = what_differs(long, long[:2], [f"{long[0]}: [2048, 2048] instead of [128, 128]"])
    assert all(words in text for words in ("9 missing (", "and 8 more", "2 unexpected (", "1 of another shape ("))
    assert len(text) < 400
    assert what_differs([], long, []) == f"9 unexpected ({', '.join(long[:3])} and 6 more)"
    assert what_differs([], [], []) == ""
