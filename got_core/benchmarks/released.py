"""The released system's algorithm on the modules of a `GoTModel`: the baseline of everything that is measured.

Attention is eager, adapters stay apart from the weights, the whole sequence is read a second time for its states, masks
are encoded one by one, and each denoising step takes four passes, one by one or, in a second baseline, as one batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor
from torch.nn import functional

from got_core.benchmarks.measuring import Stopwatch
from got_core.chain.parser import SIDE, Region, parse
from got_core.diffusion.sampling import GuidanceScales
from got_core.model import GoTModel
from got_core.types import BLACK, Batch, Guidance, Reasoning, from_pil

PASSES = 4


class Released:
    """Generates as the released code does.

    Args:
        model: Of `got_core.benchmarks.models`, with adapters unmerged; it is copied, because its language model is
            switched to eager attention.
        batched: Whether the four passes of a step are one batch.
    """

    def __init__(self, model: GoTModel, batched: bool) -> None:
        self.model = deepcopy(model).eval()
        self.reasoner: Any = self.model.reasoner
        language: Any = self.reasoner.qwen
        language.set_attn_implementation("eager")
        self.batched = batched

    def generate(
        self,
        watch: Stopwatch,
        batch: Batch,
        tokens: int,
        noise: Float[Tensor, "b c h w"],
        scales: GuidanceScales,
        steps: int,
        counted: int,
    ) -> None:
        """Write `tokens` tokens, then generate from the batch's chain, timed by stage.

        Of `counted` denoising steps, which are alike, only `steps` are taken.
        """
        with eager_attention():
            with watch.stage("write"):
                self.write(batch, tokens)
            with watch.stage("read"):
                reasoning = self.read(batch)
            with watch.stage("guide"):
                guidance = self.guide(reasoning, batch)
            with watch.stage("denoise", counted / steps):
                latents = self.denoise(guidance, noise, scales, steps)
            with watch.stage("decode"):
                self.model.codec.decode(latents)

    def write(self, batch: Batch, tokens: int) -> None:
        """Write a chain of so many tokens by the library's `generate`."""
        length = int(batch.inputs["prompt_length"][0])
        self.reasoner.mllm.generate(
            **self._arguments(batch, length),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=self.reasoner.processor.vocabulary.start,
            pad_token_id=self.reasoner.processor.vocabulary.padding,
        )

    def read(self, batch: Batch) -> Reasoning:
        """Read the whole sequence again, for the last of the hidden states of all layers."""
        length = batch.inputs["input_ids"].shape[1]
        arguments = self._arguments(batch, length)
        output = self.reasoner.mllm(**arguments, output_hidden_states=True, use_cache=False)
        states = output.hidden_states[-1][batch.inputs["summary_mask"]]
        return Reasoning(rearrange(states, "(b n) d -> b n d", b=len(batch)), batch.chains)

    def guide(self, reasoning: Reasoning, batch: Batch) -> Guidance:
        """Project the states; encode black, the source and each mask by itself, and average the masks."""
        module: Any = self.model.guidance
        codec = self.model.codec
        tokens, pooled = module.projector(reasoning.states), None
        if module.pooled_projector is not None:
            pooled = reduce(module.pooled_projector(reasoning.states), "b n d -> b d", "mean")
        black = codec.encode(torch.full_like(batch.source[:1], BLACK), scaled=False)
        spatial = []
        for chain in reasoning.chains:
            canvases = [canvas(region, batch.size).to(batch.source) for region in parse(chain).regions]
            masks = [codec.encode(rearrange(image, "c h w -> 1 c h w"), scaled=False) for image in canvases]
            spatial.append(reduce(torch.cat(masks), "k c h w -> 1 c h w", "mean") if masks else black)
        sources = zip(batch.source.split(1), batch.has_source.tolist(), strict=True)
        reference = [codec.encode(source, scaled=False) if edit else black for source, edit in sources]
        return Guidance(tokens, pooled, torch.cat(spatial), torch.cat(reference))

    def denoise(
        self, guidance: Guidance, noise: Float[Tensor, "b c h w"], scales: GuidanceScales, steps: int
    ) -> Float[Tensor, "b c h w"]:
        """Take all steps by the published formula of four passes."""
        module: Any = self.model.guidance
        states = guidance.tokens.new_zeros(*guidance.tokens.shape[:2], module.state_dim)
        zero = torch.zeros_like(noise)
        nothing = replace(guidance, tokens=module.projector(states), spatial=zero, reference=zero)
        image_only = replace(nothing, reference=guidance.reference)
        parts = [nothing, image_only, replace(image_only, tokens=guidance.tokens), guidance]
        scheduler: Any = self.model.objective.scheduler()
        scheduler.set_timesteps(steps, device=noise.device)
        x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
            first, second, third, fourth = self._passes(scaled, repeat(time.float(), "-> b", b=len(x)), parts)
            prediction = (
                first
                + scales.reference * (second - first)
                + scales.semantic * (third - second)
                + scales.spatial * (fourth - third)
            )
            x = scheduler.step(prediction, time, x, return_dict=False)[0]
        return x

    def _passes(self, x: Tensor, t: Tensor, parts: Sequence[Guidance]) -> Sequence[Tensor]:
        if not self.batched:
            return [self.model.backbone(x, t, part) for part in parts]
        all_parts = self.model.backbone(torch.cat([x] * PASSES), torch.cat([t] * PASSES), Guidance.cat(parts))
        return all_parts.chunk(PASSES)

    def _arguments(self, batch: Batch, length: int) -> dict[str, Tensor]:
        """Return the language model's arguments for the first tokens of a batch."""
        ids = batch.inputs["input_ids"][:, :length]
        images = ids == self.reasoner.processor.vocabulary.image_pad
        self.reasoner.qwen.model.rope_deltas = None
        arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": images.long()}
        if bool(images.any()):
            arguments |= {name: batch.inputs[name] for name in ("pixel_values", "image_grid_thw")}
        return arguments


def canvas(region: Region, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Draw a region's box in the colour that is named behind it, as PIL does."""
    height, width = size
    image = Image.new("RGB", (width, height))
    left, top, right, bottom = region.box
    corners = (left * width // SIDE, top * height // SIDE, right * width // SIDE, bottom * height // SIDE)
    ImageDraw.Draw(image).rectangle(corners, fill=ImageColor.getrgb(region.colour or "black"))
    return from_pil(image)


@contextmanager
def eager_attention() -> Iterator[None]:
    """Inside, attention keeps its matrix of scores, as before there were fused kernels."""
    fused = functional.scaled_dot_product_attention

    def eager(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any) \
            -> Tensor:  # fmt: skip
        scores = query @ rearrange(key, "... l d -> ... d l") * query.shape[-1] ** -0.5
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return scores.softmax(dim=-1) @ value

    functional.scaled_dot_product_attention = eager
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused
