"""Configurations of well-known pipelines, as their `config.json` files have them; what is a default there is left out.

Sources: on the Hugging Face hub, stable-diffusion-v1-5/stable-diffusion-v1-5, stabilityai/stable-diffusion-xl-base-1.0,
stabilityai/stable-diffusion-3-medium-diffusers and timbrooks/instruct-pix2pix (folders unet or transformer, vae,
text_encoder, text_encoder_2, text_encoder_3). Each has a narrow counterpart of the same structure.
"""

from typing import Any

Config = dict[str, Any]

CLIP_L: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}

OPENCLIP_BIGG: Config = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}

T5_XXL: Config = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "is_encoder_decoder": False,
    "use_cache": False,
}

KL: Config = {
    "sample_size": 512,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
KL_XL: Config = {**KL, "sample_size": 1024, "scaling_factor": 0.13025}
KL_SD3: Config = {
    **KL,
    "sample_size": 1024,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

UNET_SD15: Config = {
    "sample_size": 64,
    "in_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
}
UNET_IP2P: Config = {**UNET_SD15, "in_channels": 8}
UNET_SDXL: Config = {
    "sample_size": 128,
    "in_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TRANSFORMER_SD3: Config = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}

SCALED_LINEAR: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}

NARROW_TEXT: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 64,
    "vocab_size": 1000,
    "bos_token_id": 998,
    "eos_token_id": 999,
}
NARROW_T5: Config = {"vocab_size": 1000, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}
NARROW_KL: Config = {"sample_size": 64, "block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
NARROW_UNET: Config = {
    "sample_size": 8,
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 64,
}
NARROW_UNET_SDXL: Config = {
    "sample_size": 8,
    "block_out_channels": [32, 64, 128],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [1, 2, 4],
    "cross_attention_dim": 128,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 64 + 6 * 32,
}
NARROW_TRANSFORMER: Config = {
    "sample_size": 8,
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "joint_attention_dim": 128,
    "caption_projection_dim": 128,
    "pooled_projection_dim": 128,
    "pos_embed_max_size": 16,
}
