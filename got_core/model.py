"""GoTModel: components joined to plan in words and boxes and to generate images; all that inference needs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from got_core.diffusion.sampling import (
    EDITING,
    TEXT_TO_IMAGE,
    Callback,
    GuidanceScales,
    Sampling,
    Times,
    sample,
    sample_seeds,
    seeded,
    starting_noise,
)
from got_core.interfaces import (
    ChainListener,
    Component,
    DenoisingBackbone,
    GuidanceEncoder,
    LatentCodec,
    NoiseObjective,
    Precomputed,
    Processor,
    Reasoner,
    Scheduler,
    check_widths,
)
from got_core.types import TARGET, Batch, Generation, Reasoning
from got_core.weights.loading import convert, fingerprint, keep_all, leave_out_origins
from got_core.weights.quantization import check_bits, follow_weights, is_quantized, quantize

COMPONENTS = ("reasoner", "guidance", "backbone")
"""The attributes of a model that are trained, in the order samples pass them."""

CODEC = "codec"
PARTS = (*COMPONENTS, CODEC)
"""The attributes of a model that have weights."""


class GoTModel(nn.Module):
    """A reasoner, a guidance encoder and a denoising backbone with their codec: reason -> guide -> denoise -> decode.

    Any components that implement `got_core.interfaces` can be used; `got_core.training.system.GoTSystem` trains them.

    Args:
        reasoner, guidance, backbone, codec, objective: The components, built.
        generation_scales, editing_scales: Guidance scales (semantic, spatial, reference) at sampling.
        sampling_steps: Denoising steps of the full procedure, with guidance at all times.
        fast: A procedure that is faster and as good, which is then the default; None for the full one.
        max_chain_tokens: Longest chain that is written at sampling.

    Raises:
        ValueError: Widths of two components do not fit.

    Example:
        >>> model = GoTPipeline.from_pretrained(device="cpu").model
        >>> batch = model.processor([Sample("a red circle", chain="", size=(32, 32))])
        >>> model.generate(batch, seed=1).images.shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        reasoner: Reasoner,
        guidance: GuidanceEncoder,
        backbone: DenoisingBackbone,
        codec: LatentCodec,
        objective: NoiseObjective,
        generation_scales: GuidanceScales = TEXT_TO_IMAGE,
        editing_scales: GuidanceScales = EDITING,
        sampling_steps: int = 50,
        max_chain_tokens: int = 1024,
        fast: Sampling | None = None,
    ) -> None:
        super().__init__()
        check_widths(reasoner, guidance, backbone, codec)
        self.reasoner, self.guidance, self.backbone = reasoner, guidance, backbone
        self.codec, self.objective = codec, objective
        self.generation_scales = generation_scales
        self.editing_scales = editing_scales
        self.sampling_steps = sampling_steps
        self.fast = fast
        self.max_chain_tokens = max_chain_tokens
        self.execution_device: torch.device | None = None
        leave_out_origins(self)

    @property
    def components(self) -> list[Component]:
        """Return what is trained, in the order samples pass it."""
        return [self.reasoner, self.guidance, self.backbone]

    @property
    def processor(self) -> Processor:
        """Return what makes batches, in the loader's workers."""
        return self.reasoner.processor

    @property
    def device(self) -> torch.device:
        """Return the device that computes: that of the weights, unless these wait elsewhere (`execution_device`)."""
        return self.execution_device or next(self.parameters()).device

    def sampling(self, exact: bool = False) -> Sampling:
        """Return how images are denoised unless a call says otherwise; `exact` asks for the full procedure."""
        return Sampling(self.sampling_steps) if exact or self.fast is None else self.fast

    def convert(self, dtype: torch.dtype, contents: bool = True) -> None:
        """Convert the weights of reasoner, guidance encoder and backbone to another precision.

        The codec keeps its own, since some autoencoders overflow in half precision, and so do buffers, such as
        frequencies. Latents between denoising steps stay in float32.

        Args:
            dtype: Floating-point type.
            contents: Whether the weights have values already that matter.

        Raises:
            ValueError: It is no floating-point type, or weights are in 8 or 4 bits.
        """
        if is_quantized(self):
            raise ValueError("weights in 8 or 4 bits have no other precision: open the model again")
        if not dtype.is_floating_point:
            raise ValueError(f"weights have a floating-point type, such as torch.bfloat16, not {dtype}")
        for component in self.components:
            convert(component.parameters(), dtype, contents)

    @torch.no_grad()
    def precompute(self, batch: Batch) -> Precomputed:
        """Compute the latents of a batch that training needs and that depend on no trained weight, for a cache.

        Samples with these as `Sample.precomputed` are trained on without their targets.

        Raises:
            ValueError: The batch has no targets.
        """
        if batch.target is None:
            raise ValueError("a sample without a target image is not for training")
        return {TARGET: self.codec.encode(batch.target).unbind(), **self.guidance.precompute(batch, self.codec)}

    def precomputed_by(self) -> dict[str, Any]:
        """Return what precomputed tensors depend on besides the samples, by readable names."""
        codec = {"codec": type(self.codec).__name__, "weights of the codec": fingerprint(self.codec)}
        parts = (self.codec, self.guidance, self.reasoner)
        return codec | {name: value for part in parts for name, value in part.precomputed_by().items()}

    def quantize(self, bits: int) -> None:
        """Convert the linear layers of reasoner and backbone to 8 or 4 bits; see `got_core.weights.quantization`.

        Raises:
            ValueError, UserError: There is no such precision, or no library for it.
        """
        check_bits(bits)
        for component in (self.reasoner, self.backbone):
            quantize(component, bits)

    def to(self, *arguments: Any, **options: Any) -> "GoTModel":
        """Move or convert as modules do; what belongs to weights in 8 bits goes with them."""
        super().to(*arguments, **options)
        follow_weights(self)
        return self

    def merge_adapters(self) -> None:
        """Merge the components' adapters into their weights, for inference."""
        for component in self.components:
            component.merge_adapters()
        keep_all(self)

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
            seed: Of sampled chains; with one for each sample, a chain does not depend on the batch.
            listener: Called with the chains so far after each token.

        Returns:
            The chains, and states of shape (b, n, d).
        """
        return self.reasoner.generate(
            batch,
            temperature=temperature,
            max_new_tokens=self.max_chain_tokens,
            generator=seeded(sample_seeds(seed, len(batch))),
            listener=listener,
        )

    @torch.no_grad()
    def read(self, batch: Batch, chains: Sequence[str]) -> Reasoning:
        """Read the states of given chains, one for each sample; a chain may be returned cut to the longest allowed."""
        return self.reasoner.summarize(batch, chains)

    @torch.no_grad()
    def generate(self, batch: Batch, chains: Sequence[str] | Reasoning | None = None, **options: Any) -> Generation:
        """Generate images for a batch, from chains that are written or given.

        Args:
            batch, chains, options: Arguments of `generate_latents`.

        Returns:
            Images (b, 3, H, W) in [-1, 1], and the chains.

        Raises:
            ValueError: Not as many seeds as samples, or a size that codec or backbone does not divide.
        """
        latents, chains = self.generate_latents(batch, chains, **options)
        return Generation(images=self.decode(latents), chains=chains)

    @torch.no_grad()
    def generate_latents(
        self,
        batch: Batch,
        chains: Sequence[str] | Reasoning | None = None,
        *,
        seed: int | Sequence[int] = 0,
        temperature: float = 0.0,
        steps: int | None = None,
        guidance_interval: Times | None = None,
        exact: bool = False,
        scales: GuidanceScales | None = None,
        noise: Float[Tensor, "b c h w"] | None = None,
        generators: Sequence[Generator] | None = None,
        scheduler: Scheduler | None = None,
        callback: Callback | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], tuple[str, ...]]:
        """Generate latents for a batch, from chains that are written or given.

        Args:
            batch: From the reasoner's processor; text-to-image and edits may be mixed.
            chains: Chains to generate from, one a sample, or the reasoning of chains that have been read; None to have
                the reasoner write them.
            seed: Of the noise and of sampled chains; a sample's noise also depends on its index in the batch. With one
                seed for each sample, neither depends on the batch.
            temperature: Of the written chains; 0 is greedy.
            steps, guidance_interval, scales, scheduler: In place of the model's own.
            exact: The full procedure instead of the fast one.
            noise: In place of the seed's, of shape (b, c, h, w).
            generators: Of the noise that some schedulers add, one for each sample, in place of the seed's.
            callback: Called after each step, see `got_core.diffusion.sampling.sample`.

        Returns:
            Latents (b, c, h, w), and the chains.
        """
        noise = self.starting_noise(batch, seed) if noise is None else noise
        generators = generators or seeded(sample_seeds(seed, len(batch)))
        scales = scales or GuidanceScales.choose(batch.has_source, self.editing_scales, self.generation_scales)
        own = self.sampling(exact)
        if chains is None:
            chains = self.plan(batch, temperature, seed)
        reasoning = chains if isinstance(chains, Reasoning) else self.read(batch, chains)
        latents = sample(
            self.backbone,
            self.guidance,
            self.guidance(reasoning, batch, self.codec),
            scheduler=scheduler or self.objective.scheduler(),
            noise=noise,
            scales=scales,
            steps=own.steps if steps is None else steps,
            callback=callback,
            generators=generators,
            guidance_interval=own.guidance_interval if guidance_interval is None else guidance_interval,
        )
        return latents, tuple(reasoning.chains)

    def starting_noise(self, batch: Batch, seed: int | Sequence[int]) -> Float[Tensor, "b c h w"]:
        """Return a batch's noise from a seed, or from one for each sample (ValueError: not as many as samples)."""
        return starting_noise(seeded(sample_seeds(seed, len(batch))), self.latent_shape(batch.size)).to(self.device)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode latents to images in [-1, 1]."""
        return self.codec.decode(latents).clamp(-1, 1)

    @property
    def pixel_multiple(self) -> int:
        """Both sides of an image are multiples of it."""
        return self.codec.downsample * self.backbone.latent_multiple

    def check_size(self, size: tuple[int, int]) -> None:
        """Check that images of `size` (height, width) in pixels can be generated.

        Raises:
            ValueError: A side is no multiple of what codec and backbone take; names the nearest size that is.
        """
        step = self.pixel_multiple
        if any(side % step for side in size):
            near = "x".join(str(max(1, round(side / step)) * step) for side in size)
            raise ValueError(
                f"images of {size[0]}x{size[1]} pixels cannot be generated: "
                f"height and width must be multiples of {step}, such as {near}"
            )

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (c, h, w) of the latents of an image of `size` (height, width) in pixels."""
        height, width = (side // self.codec.downsample for side in size)
        return self.codec.latent_channels, height, width
