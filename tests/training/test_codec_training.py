"""A codec is trained, written, and read again; the shipped one draws scenes faithfully."""

import torch
from diffusers import AutoencoderDC
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from got_core.data.scenes.dataset import ScenesDataset
from got_core.diffusion.codecs import AutoencoderCodec
from got_core.evaluation.metrics.scenes import SceneScores
from got_core.paths import ROOT
from got_core.training.codec_training import CodecTraining, level_penalty

SMALL = {
    "in_channels": 3,
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": [8, 16],
    "decoder_block_out_channels": [8, 16],
    "encoder_layers_per_block": [0, 1],
    "decoder_layers_per_block": [0, 1],
    "encoder_qkv_multiscales": [[], []],
    "decoder_qkv_multiscales": [[], []],
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "encoder_out_shortcut": False,
    "decoder_in_shortcut": False,
}


def test_training_lowers_the_error_and_writes_what_a_codec_reads(tmp_path):
    seed_everything(0)
    training = CodecTraining(AutoencoderDC, SMALL, lambda parameters: torch.optim.AdamW(parameters), 5e-3, noise=0.2)
    scenes = ScenesDataset(length=8 * 60)
    trainer = Trainer(
        accelerator="cpu", max_steps=60, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, log_every_n_steps=1,
    )  # fmt: skip
    losses = []
    training.log = lambda name, value, **settings: losses.append(float(value.detach()))
    trainer.fit(training, DataLoader(scenes, 8, collate_fn=training.processor))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    codec = AutoencoderCodec(pretrained=str(tmp_path / "codec"), model_class="AutoencoderDC")
    assert (codec.latent_channels, codec.downsample) == (4, 2)
    images = torch.stack([scenes[index].target for index in range(4)])
    torch.testing.assert_close(codec.encode(images), training.encode(images).detach())


def test_level_penalty_is_zero_for_standard_latents():
    latents = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    standard = (latents - latents.mean((0, 2, 3), keepdim=True)) / latents.std((0, 2, 3), keepdim=True)
    assert float(level_penalty(standard)) < 1e-6
    torch.testing.assert_close(level_penalty(2 * standard + 1), torch.tensor(2.0), rtol=1e-2, atol=0)


def test_the_shipped_codec_keeps_every_object_of_held_out_scenes():
    codec = AutoencoderCodec(str(ROOT / "recipes" / "assets" / "scenes_codec"), model_class="AutoencoderDC")
    scenes = ScenesDataset(split="test", balanced=True, length=48)
    samples = [scenes[index] for index in range(len(scenes))]
    images = codec.decode(codec.encode(torch.stack([sample.target for sample in samples]))).clamp(-1, 1)
    scores = SceneScores()
    scores.update(images, [s.chain for s in samples], [s.meta for s in samples], [s.source for s in samples])
    reached = scores.compute()
    assert reached["geneval"]["overall"] == 1.0
    assert reached["edit_success"] == 1.0
    assert reached["mean_iou"] > 0.95
