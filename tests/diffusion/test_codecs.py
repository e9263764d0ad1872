"""Round trips of both codecs, their scales, and that they are never trained."""

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_models import TINY_AUTOENCODER as TINY

from got_core.diffusion.codecs import AutoencoderCodec, PixelCodec

KL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def images(height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_pixel_codec_loses_nothing(patch):
    codec = PixelCodec(patch=patch)
    latents = codec.encode(images())
    assert latents.shape == (3, codec.latent_channels, 16 // patch, 24 // patch)
    assert torch.equal(codec.decode(latents), images())


def test_pixel_codec_scales_by_mean_and_std():
    codec = PixelCodec(patch=4, mean=0.2, std=0.5)
    raw = codec.encode(images(), scaled=False)
    torch.testing.assert_close(codec.encode(images()), (raw - 0.2) / 0.5)
    torch.testing.assert_close(codec.decode(codec.encode(images())), images())


def test_pixel_codec_keeps_pixels_in_their_patch():
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:8, 0:4] = 1
    latents = PixelCodec(patch=4).encode(image)
    assert torch.equal(latents[0].amin(0), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(latents[0].amax(0), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_codec_says_which_sizes_do_not_divide():
    with pytest.raises(ValueError, match=r"images of 18x24 pixels .* steps of 4"):
        PixelCodec(patch=4).encode(images(18, 24))


def test_kl_latents_are_the_posterior_mode_scaled():
    codec = AutoencoderCodec(config={**KL, "scaling_factor": 0.5, "shift_factor": 0.1})
    assert (codec.latent_channels, codec.downsample) == (4, 2)
    mode = codec.autoencoder.encode(images()).latent_dist.mode()
    torch.testing.assert_close(codec.encode(images(), scaled=False), mode)
    torch.testing.assert_close(codec.encode(images()), (mode - 0.1) * 0.5)
    torch.testing.assert_close(codec.decode(codec.encode(images())), codec.autoencoder.decode(mode).sample)


def test_levels_of_the_config_are_read_as_diffusers_pipelines_do():
    means, stds = [0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]
    codec = AutoencoderCodec(config={**KL, "scaling_factor": 0.5, "latents_mean": means, "latents_std": stds})
    raw = codec.encode(images(), scaled=False)
    shape = (1, 4, 1, 1)
    expected = (raw - torch.tensor(means).view(shape)) * 0.5 / torch.tensor(stds).view(shape)
    torch.testing.assert_close(codec.encode(images()), expected)


def test_given_levels_replace_those_of_the_config():
    codec = AutoencoderCodec(config=KL, mean=[1.0, 2.0, 3.0, 4.0], std=2.0)
    raw = codec.encode(images(), scaled=False)
    torch.testing.assert_close(codec.encode(images()), (raw - torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)) / 2)
    with pytest.raises(ValueError, match="mean has 3 values, but a latent has 4 channels"):
        AutoencoderCodec(config=KL, mean=[1.0, 2.0, 3.0])


def test_tiny_autoencoder_works_the_same_way():
    codec = AutoencoderCodec(config=TINY, model_class="AutoencoderTiny")
    assert (codec.latent_channels, codec.downsample) == (5, 4)
    latents = codec.encode(images())
    torch.testing.assert_close(latents, codec.autoencoder.encode(images()).latents)
    assert codec.decode(latents).shape == images().shape


def test_chunks_change_nothing():
    whole = AutoencoderCodec(config=KL)
    parts = AutoencoderCodec(config=KL, images_at_once=2)
    parts.load_state_dict(whole.state_dict())
    torch.testing.assert_close(parts.encode(images()), whole.encode(images()))
    torch.testing.assert_close(parts.decode(parts.encode(images())), whole.decode(whole.encode(images())))


def test_folder_gives_back_the_saved_autoencoder(tmp_path):
    saved = AutoencoderKL(**KL).eval()
    saved.save_pretrained(tmp_path / "model" / "vae")
    codec = AutoencoderCodec(pretrained=str(tmp_path / "model"), subfolder="vae")
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(images(), scaled=False), saved.encode(images()).latent_dist.mode())
    again = AutoencoderCodec(pretrained=str(tmp_path / "model" / "vae"))
    torch.testing.assert_close(again.encode(images()), codec.encode(images()))


def test_codec_is_frozen_and_stays_in_eval_mode():
    codec = AutoencoderCodec(config=KL)
    codec.train()
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert not codec.encode(images().requires_grad_()).requires_grad


@pytest.mark.parametrize("arguments", [{}, {"pretrained": "somewhere", "config": KL}])
def test_codec_wants_one_origin(arguments):
    with pytest.raises(ValueError, match="give exactly one of the two"):
        AutoencoderCodec(**arguments)
