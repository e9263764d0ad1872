"""A well-known pipeline as a drawer: its stages counted and timed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import repeat
from torch import nn

from got_core.evaluation.efficiency.measuring import ROLES, Clock, Drawer
from got_core.evaluation.efficiency.reference_texts import Embeddings
from got_core.evaluation.efficiency.references import PIXELS_A_LATENT, Reference, text_encoders
from got_core.inspection.shape_run import META, ShapeRun, in_shape

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
