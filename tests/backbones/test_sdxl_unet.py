"""The inflated UNet against the original one."""

from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import POOLED, STATES, UNET
from torch import Tensor

from backbones.sdxl_unet import SDXLUNet
from got_core.types import Guidance

CHANNELS, MAPS = UNET["in_channels"], 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def guidance(seed: int = 1, height: int = 8, width: int = 12) -> Guidance:
    maps = (5 * draw(2, MAPS, height, width, seed=10 * seed + place) for place in range(2))
    return Guidance(draw(2, 5, STATES, seed=1), draw(2, POOLED, seed=2), *maps)


@pytest.fixture
def saved(tmp_path) -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET).eval()
    unet.save_pretrained(tmp_path / "unet")
    return unet


def original(unet: UNet2DConditionModel, x: Tensor, t: Tensor, given: Guidance, height: int, width: int) -> Tensor:
    ids = torch.tensor([[height, width, 0, 0, height, width]] * len(x), dtype=torch.float32)
    added = {"text_embeds": given.pooled, "time_ids": ids}
    return unet(x, t, given.tokens, added_cond_kwargs=added).sample


@pytest.mark.parametrize("size", [(8, 12), (16, 8)])
def test_at_start_it_is_the_original_whatever_the_maps(saved, tmp_path, size):
    model = SDXLUNet(str(tmp_path), subfolder="unet", spatial_channels=MAPS, reference_channels=MAPS).eval()
    x, t = draw(2, CHANNELS, *size), torch.tensor([20.0, 800.0])
    with torch.no_grad():
        for seed in (1, 2):
            given = guidance(seed, *size)
            expected = original(saved, x, t, given, 8 * size[0], 8 * size[1])
            torch.testing.assert_close(model(x, t, given), expected, atol=1e-5, rtol=1e-5)


def test_channels_are_noisy_then_reference_then_spatial(saved, tmp_path):
    model = SDXLUNet(str(tmp_path / "unet"), spatial_channels=MAPS, reference_channels=MAPS).eval()
    x, t, given = draw(2, CHANNELS, 8, 12), torch.tensor([20.0, 800.0]), guidance()
    assert torch.equal(model.unet.conv_in.weight[:, :CHANNELS], saved.conv_in.weight)
    with torch.no_grad():
        start = model(x, t, given)
        model.unet.conv_in.weight[:, CHANNELS : CHANNELS + MAPS] = 0.1
        no_spatial = Guidance(given.tokens, given.pooled, torch.zeros_like(given.spatial), given.reference)
        opened = model(x, t, given)
        assert not torch.allclose(opened, start)
        assert torch.equal(opened, model(x, t, no_spatial))
        model.unet.conv_in.weight[:, CHANNELS + MAPS :] = 0.1
        assert not torch.allclose(model(x, t, given), model(x, t, no_spatial))


@pytest.mark.parametrize(("spatial", "reference"), [(None, None), (MAPS, None), (None, 2)])
def test_maps_can_be_left_out(spatial, reference):
    model = SDXLUNet(config=UNET, spatial_channels=spatial, reference_channels=reference)
    assert (
        model.unet.conv_in.in_channels
        == model.unet.config.in_channels
        == CHANNELS + sum(filter(None, (spatial, reference)))
    )
    given = guidance()
    reduced = Guidance(given.tokens, given.pooled, given.spatial, given.reference[:, :2])
    assert model(draw(2, CHANNELS, 8, 12), torch.ones(2), reduced).shape == (2, CHANNELS, 8, 12)


def test_the_unet_is_told_the_size_in_pixels():
    torch.manual_seed(0)
    model = SDXLUNet(config=UNET, downsample=2).eval()
    x, t, given = draw(2, CHANNELS, 8, 12), torch.tensor([20.0, 800.0]), guidance()
    with torch.no_grad():
        expected = original(model.unet, x, t, given, 16, 24)
        torch.testing.assert_close(model(x, t, given), expected)


def test_widths_and_blocks_are_read_from_the_unet():
    model = SDXLUNet(config=UNET, spatial_channels=MAPS)
    assert (model.latent_channels, model.token_dim, model.pooled_dim) == (CHANNELS, STATES, POOLED)
    assert (model.spatial_channels, model.reference_channels) == (MAPS, None)
    kinds = Counter(type(block).__name__ for block in model.blocks())
    # One layer down, two up and two around the middle; attention at the lower of two stages and in the middle.
    assert kinds == {"ResnetBlock2D": 1 + 1 + 2 + 2 + 2, "BasicTransformerBlock": 1 + 1 + 2}
    inside = [{id(p) for p in block.parameters()} for block in model.blocks()]
    assert len(set.union(*inside)) == sum(map(len, inside))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give exactly one of the two"),
        ({"config": UNET, "pretrained": "x"}, "give exactly one of the two"),
        ({"config": {**UNET, "addition_embed_type": None}}, "addition_embed_type 'text_time', but this one has None"),
        ({"config": {**UNET, "projection_class_embeddings_input_dim": 36}}, "leaves no room for a pooled vector"),
    ],
)
def test_other_unets_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        SDXLUNet(**arguments)


def test_guidance_that_does_not_fit_is_refused():
    model = SDXLUNet(config=UNET, spatial_channels=MAPS)
    given = guidance()
    with pytest.raises(ValueError, match="SDXLUNet takes pooled guidance of width 10, but got none"):
        model(draw(2, CHANNELS, 8, 12), torch.ones(2), Guidance(given.tokens, None, given.spatial))
    with pytest.raises(ValueError, match="SDXLUNet takes spatial guidance of width 4, but got width 3"):
        model(draw(2, CHANNELS, 8, 12), torch.ones(2), Guidance(given.tokens, given.pooled, given.spatial[:, :3]))
