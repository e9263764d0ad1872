"""Drawing with a system's components: reason -> guide -> denoise -> decode."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Generator, Tensor

from got_core.interfaces import (
    ChainListener,
    Component,
    DenoisingBackbone,
    GuidanceEncoder,
    LatentCodec,
    NoiseObjective,
    Reasoner,
    Scheduler,
)
from got_core.noise import sample_seeds, seeded, starting_noise
from got_core.sampling import Callback, GuidanceScales, sample
from got_core.sharding import gathered
from got_core.types import Batch, Drawing, Reasoning


class DrawingSystem(LightningModule):
    """What of a system plans and draws; `got_core.system.GoTSystem` builds and trains it.

    Attributes:
        reasoner, guidance, backbone, codec, objective: The components.
        generation_scales, editing_scales, sampling_steps, max_chain_tokens: As `GoTSystem` has them.
    """

    reasoner: Reasoner
    guidance: GuidanceEncoder
    backbone: DenoisingBackbone
    codec: LatentCodec
    objective: NoiseObjective
    generation_scales: GuidanceScales
    editing_scales: GuidanceScales
    sampling_steps: int
    max_chain_tokens: int

    @property
    def components(self) -> list[Component]:
        """What is trained, in the order samples pass it."""
        return [self.reasoner, self.guidance, self.backbone]

    @torch.no_grad()
    def plan(
        self,
        batch: Batch,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        listener: ChainListener | None = None,
    ) -> Reasoning:
        """Write a chain for each sample and read its states; deterministic for a seed.

        Args:
            batch: From the reasoner's processor.
            temperature: 0 is greedy.
            seed: Of drawn chains; one for each sample makes a chain independent of the batch.
            listener: Called with the chains so far after each token.
        """
        generators = seeded(sample_seeds(seed, len(batch)))
        with gathered([self.reasoner]):
            return self.reasoner.generate(
                batch,
                temperature=temperature,
                max_new_tokens=self.max_chain_tokens,
                generator=generators,
                listener=listener,
            )

    @torch.no_grad()
    def draw(
        self,
        batch: Batch,
        chains: Sequence[str] | None = None,
        *,
        seed: int | Sequence[int] = 0,
        temperature: float = 0.0,
        steps: int | None = None,
        scales: GuidanceScales | None = None,
        noise: Float[Tensor, "b c h w"] | None = None,
        generators: Sequence[Generator] | None = None,
        scheduler: Scheduler | None = None,
        callback: Callback | None = None,
    ) -> Drawing:
        """Images for a batch, from chains that are written here or given.

        Args:
            batch: From the reasoner's processor; text-to-image and edits may be mixed.
            chains: Chains to draw from, one a sample; None to have the reasoner write them.
            seed: Of the noise and of sampled chains; the noise of a sample depends on its place in the batch alone.
                One for each sample makes both independent of the batch.
            temperature: Of the written chains; 0 is greedy.
            steps, scales, noise, scheduler: Instead of the system's own, and of the noise that the seed means.
            generators: Of the noise that some schedulers add on the way, one for each sample, instead of the seed's.
            callback: Called after each step, as `got_core.sampling.sample` does.
        """
        noise = self.starting_noise(batch, seed) if noise is None else noise
        generators = generators or seeded(sample_seeds(seed, len(batch)))
        scales = scales or GuidanceScales.choose(batch.has_source, self.editing_scales, self.generation_scales)
        steps = self.sampling_steps if steps is None else steps
        with gathered(self.components):
            if chains is None:
                reasoning = self.plan(batch, temperature, seed)
            else:
                reasoning = self.reasoner.summarize(batch, chains)
            guidance = self.guidance(reasoning, batch, self.codec)
            scheduler = scheduler or self.objective.scheduler()
            sampling = (scheduler, noise, scales, steps, callback, generators)
            latents = sample(self.backbone, self.guidance, guidance, *sampling)
        return Drawing(images=self.codec.decode(latents).clamp(-1, 1), chains=tuple(reasoning.chains))

    def starting_noise(self, batch: Batch, seed: int | Sequence[int]) -> Float[Tensor, "b c h w"]:
        """The noise of a batch under a seed, or under one for each sample (ValueError: not as many as samples)."""
        return starting_noise(seeded(sample_seeds(seed, len(batch))), self.latent_shape(batch.size)).to(self.device)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of an image of that (height, width) in pixels."""
        height, width = (side // self.codec.downsample for side in size)
        return self.codec.latent_channels, height, width
