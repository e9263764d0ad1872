"""A system of this framework as a drawer: its stages counted and timed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from got_core.evaluation.efficiency.measuring import ROLES, Clock, Drawer
from got_core.inspection.costs import shape_batch, typical_samples
from got_core.inspection.shape_run import META, ShapeRun, in_shape
from got_core.sampling import Branch, branches, sample
from got_core.system import PARTS, GoTSystem
from got_core.types import Batch, Guidance, Sample

CHAIN_TOKENS = 256
"""A chain that is timed is cut here: about what the published 860 characters are in tokens."""

SPREAD = 0.02
"""Standard deviation of random weights."""

CPU = torch.device("cpu")


class SystemDrawer(Drawer):
    """Draws a text-to-image sample whose prompt and chain are as long as those of the reference's datasets.

    Time: the reasoner writes a chain from the prompt, greedily, of at most `CHAIN_TOKENS`; what follows goes by the
    typical chain with its four boxes, so that it is the same for any weights. FLOPs of `reason` are those of one pass
    over prompt, typical chain and image tokens: written token by token from a cache, the products are the same.

    Args:
        system: Built, on a device or in shape alone.
        name: What tables call it.
        size: (height, width) in pixels.
        steps: Denoising steps; the system's own when None.
        dtype: Of the system's weights.
    """

    def __init__(
        self,
        system: GoTSystem,
        name: str,
        size: tuple[int, int],
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.system = system.eval()
        self.name, self.size, self.dtype = name, size, dtype
        self.steps = steps or system.sampling_steps
        self.asked = branches(
            system.generation_scales,
            1,
            CPU,
            system.guidance.spatial_channels is not None,
            system.guidance.reference_channels is not None,
        )
        self.passes = len(self.asked)

    @property
    def most_tokens(self) -> int:
        """Tokens that a chain is cut at."""
        return min(self.system.max_chain_tokens, CHAIN_TOKENS)

    def modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """By role."""
        return dict(zip(ROLES, ([getattr(self.system, name)] for name in PARTS), strict=True))

    @torch.no_grad()
    def flops(self) -> Mapping[str, int]:
        """By stage; each step costs the same."""
        system, codec = self.system, self.system.codec
        with in_shape(system, self.dtype):
            batch = shape_batch(system, self._samples(), self.dtype)
            with ShapeRun() as run:
                reasoning = system.reasoner(batch)
                reasoned = run.flops
                guidance = system.guidance(reasoning, batch, codec)
                guided = run.flops
                parts = Guidance.cat([self._part(guidance, branch) for branch in self.asked])
                bound = run.flops
                height, width = (side // codec.downsample for side in self.size)
                noisy = torch.empty(self.passes, codec.latent_channels, height, width, device=META, dtype=self.dtype)
                system.backbone(noisy, torch.ones(self.passes, device=META), parts)
                step = run.flops - bound
                codec.decode(noisy[:1])
                decoding = run.flops - bound - step
        denoising = bound - guided + self.steps * step
        return {"reason": reasoned, "guide": guided - reasoned, "denoise": denoising, "decode": decoding}

    @torch.no_grad()
    def draw(self, clock: Clock, steps: int) -> None:
        """Reason, guide, denoise and decode."""
        system, device = self.system, clock.device
        batch = self._batch(device)
        noise = system.starting_noise(batch, 0).to(self.dtype)
        mixed = torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)
        with mixed:
            clock.start()
            reasoning = system.reasoner.generate(batch, max_new_tokens=self.most_tokens)
            clock.mark("reason")
            guidance = system.guidance(replace(reasoning, chains=batch.chains), batch, system.codec)
            clock.mark("guide")
            latents = sample(
                system.backbone,
                system.guidance,
                guidance,
                system.objective.scheduler(),
                noise,
                system.generation_scales,
                steps,
            )
            clock.mark("denoise")
            system.codec.decode(latents)
            clock.mark("decode")

    def _samples(self) -> list[Sample]:
        return typical_samples(self.size, 1, edit=False)

    def _batch(self, device: torch.device) -> Batch:
        batch = self.system.processor(self._samples())
        inputs = {
            name: value.to(self.dtype) if value.is_floating_point() else value for name, value in batch.inputs.items()
        }
        return replace(batch, source=batch.source.to(self.dtype), target=None, inputs=inputs).to(device)

    def _part(self, guidance: Guidance, branch: Branch) -> Guidance:
        """The guidance that a branch is asked with, as `got_core.sampling` makes it."""
        kept = (branch.semantic, branch.spatial, branch.reference)
        masks = (torch.full((1,), not part, device=META) for part in kept)
        return self.system.guidance.drop(guidance, *masks)


def random_weights(system: GoTSystem, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a system that was built in shape alone small random weights.

    Buffers that were made in shape alone, such as rotary frequencies, become zeros: time and memory do not depend on
    their values.
    """
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[int, nn.Parameter] = {}
    for part in system.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    shape = torch.empty(parameter.shape, device=device, dtype=dtype)
                    made[id(parameter)] = nn.Parameter(shape.normal_(std=SPREAD, generator=generator), False)
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                kind = dtype if buffer.is_floating_point() else buffer.dtype
                zeros = torch.zeros(buffer.shape, dtype=kind, device=device)
                part._buffers[name] = zeros if buffer.is_meta else buffer.to(device, kind)
