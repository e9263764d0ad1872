"""Well-known pipelines of diffusers, built from their configurations with random weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from got_core.evaluation.efficiency import reference_configs as configs
from got_core.evaluation.efficiency.reference_configs import Config
from got_core.evaluation.efficiency.reference_texts import (
    Embeddings,
    one_text,
    sd3_arguments,
    sdxl_arguments,
    three_texts,
    two_texts,
    unet_arguments,
)

CLIP_TOKENS, T5_TOKENS = 77, 256
"""Tokens of a prompt, padding included, as the pipelines have them."""

PIXELS_A_LATENT = 8
"""Image pixels to a latent pixel along each side, in all of these."""

SMALL_SIDE = 64
"""Pixels along each side at small scale."""


@dataclass(frozen=True)
class Text:
    """A text encoder of a pipeline.

    Attributes:
        model, config: Classes of the model and of its configuration.
        values, narrow: Its configuration, and what differs at small scale.
        tokens: That it is given.
    """

    model: Any
    config: Any
    values: Config
    narrow: Config
    tokens: int = CLIP_TOKENS


@dataclass(frozen=True)
class Reference:
    """A pipeline to stand beside.

    Attributes:
        name: What tables call it.
        source: The hub's id that its configurations are from.
        pipeline: Its class; the denoiser is its component `denoiser`.
        texts: Its text encoders, in its own order.
        backbone, values, narrow: Class of the denoiser, its configuration, and what differs at small scale.
        autoencoder: Configuration of the autoencoder.
        scheduler, schedule: Class of the scheduler and its configuration.
        side: Pixels of an image along each side.
        steps: Denoising steps, the default of the pipeline's class.
        passes: Of the denoiser in a step, as one batch, under its default guidance.
        embed: Makes the embeddings that it takes of what its text encoders give.
        arguments: Makes the denoiser's arguments of these embeddings, beside latents and time.
        edits: Whether it is given an image to edit.
    """

    name: str
    source: str
    pipeline: Any
    texts: tuple[Text, ...]
    backbone: Any
    values: Config
    narrow: Config
    autoencoder: Config
    scheduler: Any
    schedule: Config
    side: int
    steps: int
    embed: Callable[[Sequence[Any]], Embeddings]
    arguments: Callable[[Embeddings], dict[str, Any]]
    passes: int = 2
    edits: bool = False

    @property
    def denoiser(self) -> str:
        """The name of the pipeline's component that denoises."""
        return "transformer" if issubclass(self.backbone, SD3Transformer2DModel) else "unet"


_CLIP = Text(CLIPTextModel, CLIPTextConfig, configs.CLIP_L, configs.NARROW_TEXT)
_CLIP_PROJECTED = Text(CLIPTextModelWithProjection, CLIPTextConfig, configs.CLIP_L, configs.NARROW_TEXT)
_BIGG = Text(CLIPTextModelWithProjection, CLIPTextConfig, configs.OPENCLIP_BIGG, configs.NARROW_TEXT)
_T5 = Text(T5EncoderModel, T5Config, configs.T5_XXL, configs.NARROW_T5, T5_TOKENS)

REFERENCES = (
    Reference(
        "SD 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", StableDiffusionPipeline, (_CLIP,),
        UNet2DConditionModel, configs.UNET_SD15, configs.NARROW_UNET, configs.KL,
        PNDMScheduler, {**configs.SCALED_LINEAR, "skip_prk_steps": True}, side=512, steps=50,
        embed=one_text, arguments=unet_arguments,
    ),
    Reference(
        "SDXL", "stabilityai/stable-diffusion-xl-base-1.0", StableDiffusionXLPipeline, (_CLIP, _BIGG),
        UNet2DConditionModel, configs.UNET_SDXL, configs.NARROW_UNET_SDXL, configs.KL_XL,
        EulerDiscreteScheduler, {**configs.SCALED_LINEAR, "timestep_spacing": "leading"}, side=1024, steps=50,
        embed=two_texts, arguments=sdxl_arguments,
    ),
    Reference(
        "SD 3 Medium", "stabilityai/stable-diffusion-3-medium-diffusers", StableDiffusion3Pipeline,
        (_CLIP_PROJECTED, _BIGG, _T5),
        SD3Transformer2DModel, configs.TRANSFORMER_SD3, configs.NARROW_TRANSFORMER, configs.KL_SD3,
        FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, side=1024, steps=28,
        embed=three_texts, arguments=sd3_arguments,
    ),
    Reference(
        "InstructPix2Pix", "timbrooks/instruct-pix2pix", StableDiffusionInstructPix2PixPipeline, (_CLIP,),
        UNet2DConditionModel, configs.UNET_IP2P, configs.NARROW_UNET, configs.KL,
        EulerAncestralDiscreteScheduler, configs.SCALED_LINEAR, side=512, steps=100,
        embed=one_text, arguments=unet_arguments, passes=3, edits=True,
    ),
)  # fmt: skip
"""In the order of tables. Safety checkers are left out."""


def build_reference(
    reference: Reference, device: torch.device, dtype: torch.dtype = torch.float32, small: bool = False, seed: int = 0
) -> DiffusionPipeline:
    """The pipeline with random weights, without tokenizers: it is given token ids or their embeddings.

    Args:
        reference: Which one.
        device: Where its weights are; the meta device for its shape alone.
        dtype: Of its weights.
        small: Its narrow counterpart.
        seed: Of its weights.
    """
    texts = [text.config(**{**text.values, **(text.narrow if small else {})}) for text in reference.texts]
    values = {**reference.values, **(reference.narrow if small else {})}
    autoencoder = {**reference.autoencoder, **(configs.NARROW_KL if small else {})}
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        encoders = [text.model(config) for text, config in zip(reference.texts, texts, strict=True)]
        denoiser = reference.backbone(**values)
        vae = AutoencoderKL(**autoencoder)
    parts: dict[str, Any] = {"vae": vae, reference.denoiser: denoiser}
    for place, encoder in enumerate(encoders):
        ending = f"_{place + 1}" if place else ""
        parts |= {f"text_encoder{ending}": encoder, f"tokenizer{ending}": None}
    for model in (vae, denoiser, *encoders):
        nn.Module.to(model, dtype).eval().requires_grad_(False)
    return reference.pipeline(scheduler=reference.scheduler(**reference.schedule), **parts, **_without(reference))


def _without(reference: Reference) -> Mapping[str, Any]:
    """Components that a pipeline's class asks for and that are left out."""
    checked = issubclass(reference.pipeline, StableDiffusionPipeline | StableDiffusionInstructPix2PixPipeline)
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False} if checked else {}


def text_encoders(reference: Reference, pipeline: DiffusionPipeline) -> list[nn.Module]:
    """The pipeline's text encoders, in its own order."""
    return [
        getattr(pipeline, f"text_encoder_{place + 1}" if place else "text_encoder")
        for place in range(len(reference.texts))
    ]
