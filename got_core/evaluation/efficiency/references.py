"""Well-known pipelines of diffusers with random weights, counted and timed by stage."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
import yaml
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from got_core.evaluation.efficiency.measure import ROLES, Clock, Workload
from got_core.inspection.shapes import META, ShapeRun, in_shape

PENULTIMATE = -2
"""The hidden states that SDXL and SD 3 take from CLIP."""

TIME_IDS = 6
"""Numbers for SDXL of the size and the crop of an image."""


class Embeddings(NamedTuple):
    """A prompt as a denoiser takes it: a sequence, and one vector where it takes that too."""

    sequence: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None


def embeddings_of(outputs: Sequence[Any]) -> Embeddings:
    """Return the embeddings of a prompt from the outputs of a pipeline's text encoders.

    One encoder (SD 1.5, InstructPix2Pix): CLIP's last hidden states. Two (SDXL): hidden states of both side by side,
    and the second's projected vector. Three (SD 3): both CLIPs side by side, padded to T5's width and followed by T5;
    and both projected vectors.
    """
    if len(outputs) == 1:
        return Embeddings(outputs[0].last_hidden_state)
    first, second, *others = outputs
    states = torch.cat([output.hidden_states[PENULTIMATE] for output in (first, second)], dim=-1)
    if not others:
        return Embeddings(states, second.text_embeds)
    t5 = others[0].last_hidden_state
    states = functional.pad(states, (0, t5.shape[-1] - states.shape[-1]))
    return Embeddings(torch.cat([states, t5], dim=1), torch.cat([first.text_embeds, second.text_embeds], dim=-1))


def arguments_of(embeddings: Embeddings, reference: "Reference") -> dict[str, Any]:
    """Return a denoiser's arguments beside latents and time."""
    states, pooled = embeddings
    if pooled is None:
        return {"encoder_hidden_states": states}
    if reference.component == "transformer":
        return {"encoder_hidden_states": states, "pooled_projections": pooled}
    added = {"text_embeds": pooled, "time_ids": states.new_zeros(len(states), TIME_IDS)}
    return {"encoder_hidden_states": states, "added_cond_kwargs": added}


PIXELS_A_LATENT = 8
"""Image pixels to a latent pixel along each side, in all of these."""

Config = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A text encoder of a pipeline.

    Attributes:
        model, config_class: Classes of transformers.
        config: Its configuration.
        tokens: Of a prompt, padding included.
    """

    model: str
    config_class: str
    config: Config
    tokens: int


@dataclass(frozen=True)
class Reference:
    """A pipeline to compare with.

    Attributes:
        name: In tables.
        source: The hub id that its configurations are from.
        pipeline: Its class in diffusers.
        texts: Its text encoders, in its own order.
        denoiser_class, denoiser: Class in diffusers and configuration.
        autoencoder: Configuration of the autoencoder.
        scheduler_class, scheduler: Class in diffusers and configuration.
        side: Pixels of an image along each side.
        steps: Denoising steps, the default of the pipeline's class.
        passes: Of the denoiser in a step, as one batch, under its default guidance.
        edits: Whether it is given an image to edit.
    """

    name: str
    source: str
    pipeline: str
    texts: tuple[Text, ...]
    denoiser_class: str
    denoiser: Config
    autoencoder: Config
    scheduler_class: str
    scheduler: Config
    side: int
    steps: int
    passes: int
    edits: bool = False

    @property
    def component(self) -> str:
        """The name of the pipeline's component that denoises."""
        return "transformer" if "Transformer" in self.denoiser_class else "unet"

    def new_scheduler(self) -> Any:
        """Return a scheduler of its class and configuration."""
        return getattr(diffusers, self.scheduler_class)(**self.scheduler)


def _read() -> Iterator[Reference]:
    file = Path(__file__).with_suffix(".yaml")
    for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["references"]:
        yield Reference(**{**entry, "texts": tuple(Text(**text) for text in entry["texts"])})


REFERENCES = tuple(_read())
"""In the order of tables."""


def build_reference(
    reference: Reference, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Any:
    """The pipeline with random weights, without tokenizers: it is given token ids or their embeddings.

    Args:
        reference: Which one.
        device: Where its weights are; the meta device for its shape alone.
        dtype: Of its weights.
        seed: Of its weights.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        encoders = [
            getattr(transformers, text.model)(getattr(transformers, text.config_class)(**text.config))
            for text in reference.texts
        ]
        denoiser = getattr(diffusers, reference.denoiser_class)(**reference.denoiser)
        vae = diffusers.AutoencoderKL(**reference.autoencoder)
    parts: dict[str, Any] = {"vae": vae, reference.component: denoiser}
    for place, encoder in enumerate(encoders):
        ending = f"_{place + 1}" if place else ""
        parts |= {f"text_encoder{ending}": encoder, f"tokenizer{ending}": None}
    for model in (vae, denoiser, *encoders):
        nn.Module.to(model, dtype).eval().requires_grad_(False)
    pipeline = getattr(diffusers, reference.pipeline)
    optional = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    parts |= {name: value for name, value in optional.items() if name in signature(pipeline).parameters}
    return pipeline(scheduler=reference.new_scheduler(), **parts)


def text_encoders(reference: Reference, pipeline: Any) -> list[nn.Module]:
    """The pipeline's text encoders, in its own order."""
    return [
        getattr(pipeline, f"text_encoder_{place + 1}" if place else "text_encoder")
        for place in range(len(reference.texts))
    ]


PROMPTS = 2
"""Texts that are encoded for an image: the prompt and the empty one of classifier-free guidance."""

BLANK = 0.5
"""The value of an image to edit, in 0 to 1."""


class ReferenceWorkload(Workload):
    """Generates with a pipeline of diffusers, from token ids.

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
        self.denoiser: Any = getattr(pipeline, reference.component)
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
            self.denoiser(noisy, timestep=times, **arguments_of(guided, self.reference))
            step = run.flops - guiding
            made = self.pipeline.vae.config.latent_channels
            self.pipeline.vae.decode(torch.empty(1, made, *latent, device=META, dtype=dtype))
            decoding = run.flops - step - guiding
        return {"reason": 0, "guide": guiding, "denoise": self.calls * step, "decode": decoding}

    @property
    def calls(self) -> int:
        """Calls of the denoiser for an image; PNDM takes one step twice."""
        scheduler = self.reference.new_scheduler()
        scheduler.set_timesteps(self.steps)
        return len(scheduler.timesteps)

    @torch.no_grad()
    def run(self, clock: Clock, steps: int) -> None:
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
        return embeddings_of(outputs)


def _rows(embeddings: Embeddings, rows: int) -> Embeddings:
    """The first text, so many times."""
    sequence, pooled = embeddings
    return Embeddings(
        repeat(sequence[:1], "1 l d -> b l d", b=rows),
        None if pooled is None else repeat(pooled[:1], "1 p -> b p", b=rows),
    )
