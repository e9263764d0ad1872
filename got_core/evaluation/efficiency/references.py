"""Well-known pipelines of diffusers with random weights, counted and timed by stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from got_core.evaluation.efficiency.measure import ROLES, Clock, Drawer
from got_core.inspection.shapes import META, ShapeRun, in_shape

PENULTIMATE = -2
"""The hidden states that SDXL and SD 3 take from CLIP."""

TIME_IDS = 6
"""Numbers that tell SDXL the size and the cut of an image."""


class Embeddings(NamedTuple):
    """A prompt as a denoiser takes it: a sequence, and one vector where it takes that too."""

    sequence: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None


def one_text(outputs: Sequence[Any]) -> Embeddings:
    """SD 1.5, InstructPix2Pix: CLIP's last hidden states."""
    return Embeddings(outputs[0].last_hidden_state)


def two_texts(outputs: Sequence[Any]) -> Embeddings:
    """SDXL: hidden states of both encoders side by side, and the second's projected vector."""
    states = torch.cat([_penultimate(output) for output in outputs], dim=-1)
    return Embeddings(states, outputs[1].text_embeds)


def three_texts(outputs: Sequence[Any]) -> Embeddings:
    """SD 3: both CLIPs side by side, filled up to T5's width and followed by T5; and both projected vectors."""
    first, second, third = outputs
    states = torch.cat([_penultimate(first), _penultimate(second)], dim=-1)
    long = third.last_hidden_state
    states = functional.pad(states, (0, long.shape[-1] - states.shape[-1]))
    return Embeddings(torch.cat([states, long], dim=1), torch.cat([first.text_embeds, second.text_embeds], dim=-1))


def unet_arguments(embeddings: Embeddings) -> dict[str, Any]:
    """Of a UNet that takes a sequence alone."""
    return {"encoder_hidden_states": embeddings.sequence}


def sdxl_arguments(embeddings: Embeddings) -> dict[str, Any]:
    """Of SDXL's UNet."""
    sizes = embeddings.sequence.new_zeros(len(embeddings.sequence), TIME_IDS)
    added = {"text_embeds": embeddings.pooled, "time_ids": sizes}
    return {"encoder_hidden_states": embeddings.sequence, "added_cond_kwargs": added}


def sd3_arguments(embeddings: Embeddings) -> dict[str, Any]:
    """Of SD 3's transformer."""
    return {"encoder_hidden_states": embeddings.sequence, "pooled_projections": embeddings.pooled}


def _penultimate(output: Any) -> Tensor:
    states: Tensor = output.hidden_states[PENULTIMATE]
    return states


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

CLIP_TOKENS, T5_TOKENS = 77, 256
"""Tokens of a prompt, padding included, as the pipelines have them."""

PIXELS_A_LATENT = 8
"""Image pixels to a latent pixel along each side, in all of these."""


@dataclass(frozen=True)
class Text:
    """A text encoder of a pipeline.

    Attributes:
        model, config: Classes of the model and of its configuration.
        values: Its configuration.
        tokens: That it is given.
    """

    model: Any
    config: Any
    values: Config
    tokens: int = CLIP_TOKENS


@dataclass(frozen=True)
class Reference:
    """A pipeline to stand beside.

    Attributes:
        name: What tables call it.
        source: The hub's id that its configurations are from.
        pipeline: Its class; the denoiser is its component `denoiser`.
        texts: Its text encoders, in its own order.
        backbone, values: Class of the denoiser and its configuration.
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


_CLIP = Text(CLIPTextModel, CLIPTextConfig, CLIP_L)
_CLIP_PROJECTED = Text(CLIPTextModelWithProjection, CLIPTextConfig, CLIP_L)
_BIGG = Text(CLIPTextModelWithProjection, CLIPTextConfig, OPENCLIP_BIGG)
_T5 = Text(T5EncoderModel, T5Config, T5_XXL, T5_TOKENS)

REFERENCES = (
    Reference(
        "SD 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", StableDiffusionPipeline, (_CLIP,),
        UNet2DConditionModel, UNET_SD15, KL,
        PNDMScheduler, {**SCALED_LINEAR, "skip_prk_steps": True}, side=512, steps=50,
        embed=one_text, arguments=unet_arguments,
    ),
    Reference(
        "SDXL", "stabilityai/stable-diffusion-xl-base-1.0", StableDiffusionXLPipeline, (_CLIP, _BIGG),
        UNet2DConditionModel, UNET_SDXL, KL_XL,
        EulerDiscreteScheduler, {**SCALED_LINEAR, "timestep_spacing": "leading"}, side=1024, steps=50,
        embed=two_texts, arguments=sdxl_arguments,
    ),
    Reference(
        "SD 3 Medium", "stabilityai/stable-diffusion-3-medium-diffusers", StableDiffusion3Pipeline,
        (_CLIP_PROJECTED, _BIGG, _T5),
        SD3Transformer2DModel, TRANSFORMER_SD3, KL_SD3,
        FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, side=1024, steps=28,
        embed=three_texts, arguments=sd3_arguments,
    ),
    Reference(
        "InstructPix2Pix", "timbrooks/instruct-pix2pix", StableDiffusionInstructPix2PixPipeline, (_CLIP,),
        UNet2DConditionModel, UNET_IP2P, KL,
        EulerAncestralDiscreteScheduler, SCALED_LINEAR, side=512, steps=100,
        embed=one_text, arguments=unet_arguments, passes=3, edits=True,
    ),
)  # fmt: skip
"""In the order of tables. Safety checkers are left out."""


def build_reference(
    reference: Reference, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> DiffusionPipeline:
    """The pipeline with random weights, without tokenizers: it is given token ids or their embeddings.

    Args:
        reference: Which one.
        device: Where its weights are; the meta device for its shape alone.
        dtype: Of its weights.
        seed: Of its weights.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        encoders = [text.model(text.config(**text.values)) for text in reference.texts]
        denoiser = reference.backbone(**reference.values)
        vae = AutoencoderKL(**reference.autoencoder)
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


PROMPTS = 2
"""Texts that are encoded for an image: the prompt and the empty one of classifier-free guidance."""

BLANK = 0.5
"""The value of an image to edit, in 0 to 1."""


class ReferenceDrawer(Drawer):
    """Draws with a pipeline of diffusers, from token ids.

    Its own `__call__` runs, with embeddings of the prompt. `guide` is all that comes before the first denoising step:
    the text encoders, and the encoding of the image to edit. There is nothing to `reason`.

    Args:
        reference: Which one.
        pipeline: The `DiffusionPipeline` that `build_reference` makes of it.
        size: (height, width) in pixels.
        steps: Denoising steps; its class's default when None.
    """

    def __init__(self, reference: Reference, pipeline: Any, size: tuple[int, int], steps: int | None = None) -> None:
        self.reference = reference
        self.pipeline = pipeline
        self.name, self.size, self.passes = reference.name, size, reference.passes
        self.steps = steps or reference.steps
        self.encoders = text_encoders(reference, pipeline)
        self.denoiser: Any = getattr(pipeline, reference.denoiser)
        self.pipeline.set_progress_bar_config(disable=True)

    def modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """By role; there is no guidance encoder."""
        return dict(zip(ROLES, (self.encoders, [], [self.denoiser], [self.pipeline.vae]), strict=True))

    @torch.no_grad()
    def flops(self) -> Mapping[str, int]:
        """By stage; each call of the denoiser costs the same."""
        whole = nn.ModuleList([*self.encoders, self.denoiser, self.pipeline.vae])
        height, width = self.size
        dtype = next(self.denoiser.parameters()).dtype
        latent = (height // PIXELS_A_LATENT, width // PIXELS_A_LATENT)
        with in_shape(whole), ShapeRun() as run:
            embeddings = self._embed(META)
            if self.reference.edits:
                self.pipeline.vae.encode(torch.empty(1, 3, height, width, device=META, dtype=dtype))
            guiding = run.flops
            guided = _rows(embeddings, self.passes)
            channels = self.denoiser.config.in_channels
            noisy = torch.empty(self.passes, channels, *latent, device=META, dtype=dtype)
            times = torch.ones(self.passes, device=META)
            self.denoiser(noisy, timestep=times, **self.reference.arguments(guided))
            step = run.flops - guiding
            made = self.pipeline.vae.config.latent_channels
            self.pipeline.vae.decode(torch.empty(1, made, *latent, device=META, dtype=dtype))
            decoding = run.flops - step - guiding
        return {"reason": 0, "guide": guiding, "denoise": self.calls * step, "decode": decoding}

    @property
    def calls(self) -> int:
        """Calls of the denoiser for an image; PNDM takes one step twice."""
        scheduler = self.reference.scheduler(**self.reference.schedule)
        scheduler.set_timesteps(self.steps)
        return len(scheduler.timesteps)

    @torch.no_grad()
    def draw(self, clock: Clock, steps: int) -> None:
        """Encode the texts, run the pipeline up to its latents, decode them."""
        device = clock.device
        clock.start()
        embeddings = self._embed(device)
        arguments: dict[str, Any] = {
            "prompt_embeds": embeddings.sequence[:1],
            "negative_prompt_embeds": embeddings.sequence[1:],
        }
        if embeddings.pooled is not None:
            arguments["pooled_prompt_embeds"] = embeddings.pooled[:1]
            arguments["negative_pooled_prompt_embeds"] = embeddings.pooled[1:]
        if self.reference.edits:
            arguments["image"] = torch.full((1, 3, *self.size), BLANK)
        else:
            arguments |= {"height": self.size[0], "width": self.size[1]}

        def first_step(denoiser: nn.Module, given: Any) -> None:
            clock.mark("guide")
            hook.remove()

        hook = self.denoiser.register_forward_pre_hook(first_step)
        latents = self.pipeline(num_inference_steps=steps, output_type="latent", **arguments).images
        clock.mark("denoise")
        vae = self.pipeline.vae
        vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0))
        clock.mark("decode")

    def _embed(self, device: torch.device) -> Embeddings:
        """The texts as the denoiser takes them."""
        outputs = [
            encoder(torch.zeros(PROMPTS, text.tokens, dtype=torch.long, device=device), output_hidden_states=True)
            for encoder, text in zip(self.encoders, self.reference.texts, strict=True)
        ]
        return self.reference.embed(outputs)


def _rows(embeddings: Embeddings, rows: int) -> Embeddings:
    """The first text, so many times."""
    sequence, pooled = embeddings
    return Embeddings(
        repeat(sequence[:1], "1 l d -> b l d", b=rows),
        None if pooled is None else repeat(pooled[:1], "1 p -> b p", b=rows),
    )
