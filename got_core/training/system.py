"""GoTSystem: reason -> guide -> drop -> denoise, trained end to end (GoT, section 4.3)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from got_core.diffusion.sampling import (
    EDITING,
    TEXT_TO_IMAGE,
    Callback,
    GuidanceScales,
    batch_seed,
    dropped_conditions,
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
    Processor,
    Reasoner,
    Scheduler,
    check_widths,
)
from got_core.training.parallel import configure, gathered, whole
from got_core.types import Batch, Drawing, Guidance, Reasoning
from got_core.weights.checkpoints import load_left_out
from got_core.weights.loading import ORIGINS, check_origins, leave_out_origins, left_out, origins


def warmup_cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Factor of the peak learning rate at a step: linear from 0 to 1, then a cosine down to `final` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


SKIPPED_STEPS = "nonfinite_steps"
"""Where a checkpoint holds how many steps were skipped, in all and in a row."""


class GuardedGradients(LightningModule):
    """Skips steps whose gradient is not finite, and clips the gradients of fused optimizers too.

    Args:
        max_nonfinite_steps: Such steps in a row after which training stops.

    Attributes:
        nonfinite_steps: Steps that were skipped, over all resumed parts of a run.
        nonfinite_in_a_row: Those among them since the last good step.
    """

    def __init__(self, max_nonfinite_steps: int) -> None:
        super().__init__()
        self.max_nonfinite_steps = max_nonfinite_steps
        self.nonfinite_steps = 0
        self.nonfinite_in_a_row = 0

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Skip a step whose gradient is not finite; stop after too many in a row.

        Gradients are already reduced over ranks here, and the norm of sharded ones is summed over them, so every rank
        decides alike. A gradient scaler (16-mixed) has a guard of its own.

        Raises:
            RuntimeError: `max_nonfinite_steps` such steps in a row.
        """
        if self._scaled:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if bool(torch.isfinite(norm)):
            self.nonfinite_in_a_row = 0
        else:
            optimizer.zero_grad(set_to_none=True)
            self.nonfinite_steps += 1
            self.nonfinite_in_a_row += 1
            if self.nonfinite_in_a_row >= self.max_nonfinite_steps:
                raise RuntimeError(
                    f"the gradient was not finite {self.nonfinite_in_a_row} times in a row (step {self.global_step}); "
                    "lower the learning rates or look at the last batches' data"
                )
        self.log("nonfinite_steps", float(self.nonfinite_steps))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is told to; under bf16-mixed, Lightning would refuse to with a fused optimizer."""
        if self._scaled or gradient_clip_val is None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
        Precision.clip_gradients(self.trainer.precision_plugin, optimizer, gradient_clip_val, algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the counts."""
        checkpoint[SKIPPED_STEPS] = (self.nonfinite_steps, self.nonfinite_in_a_row)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.nonfinite_steps, self.nonfinite_in_a_row = checkpoint.get(SKIPPED_STEPS, (0, 0))

    @property
    def _scaled(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None


class DrawingSystem(LightningModule):
    """What of a system plans and draws; `got_core.training.system.GoTSystem` builds and trains it.

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
            callback: Called after each step, as `got_core.diffusion.sampling.sample` does.
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


COMPONENTS = ("reasoner", "guidance", "backbone")
"""The attributes of a system that are trained, in the order samples pass them."""

CODEC = "codec"
PARTS = (*COMPONENTS, CODEC)
"""The attributes of a system that have weights."""


class GoTSystem(GuardedGradients, DrawingSystem):
    """A reasoner, a guidance encoder and a denoising backbone, trained jointly.

    The loss is `chain_weight` x chain cross-entropy + `denoising_weight` x denoising loss; the latter's gradient
    reaches the reasoner through its states. No component is known by name here: any that keep to `got_core.interfaces`
    will do.

    Args:
        reasoner, guidance, backbone, codec, objective: The components, built.
        optimizer: Makes the optimizer from parameter groups, such as a partial `torch.optim.AdamW`; None for a system
            that is not trained.
        learning_rates: Peak learning rate of each of `reasoner`, `guidance`, `backbone`; None where there is no
            optimizer.
        warmup_steps: Steps of linear warm-up, followed by a cosine down to `final_learning_rate` x peak.
        final_learning_rate: Last learning rate as a fraction of the peak.
        chain_weight, denoising_weight: Weights of the two losses; without the latter the reasoner is trained alone.
        conditioning_dropout: Probability of each of the three partly dropped conditions in training.
        noise_draws: Noise levels drawn for each sample of a batch; more than one shares a reasoner pass among them.
        generation_scales, editing_scales: Guidance scales (semantic, spatial, reference) at sampling.
        sampling_steps: Denoising steps at sampling.
        max_chain_tokens: Longest chain that is written at sampling.
        validation_chains: What validation draws from: chains "written" from the prompts, or those "given" with the
            samples, which tells the drawing's errors from the plan's.
        validation_seed: Another one has validation draw from other noise.
        max_nonfinite_steps: Steps with a non-finite gradient in a row after which training stops.
        activation_checkpointing: Recompute the components' blocks in the backward pass: less memory, more time.
        compile_blocks: Compile the components' blocks with `torch.compile`.

    Raises:
        ValueError: Widths of two components do not fit, or a learning rate is missing or names no component.
    """

    def __init__(
        self,
        reasoner: Reasoner,
        guidance: GuidanceEncoder,
        backbone: DenoisingBackbone,
        codec: LatentCodec,
        objective: NoiseObjective,
        optimizer: Callable[[Iterable], Optimizer] | None,
        learning_rates: Mapping[str, float] | None,
        warmup_steps: int = 500,
        final_learning_rate: float = 0.0,
        chain_weight: float = 1.0,
        denoising_weight: float = 1.0,
        conditioning_dropout: float = 0.05,
        noise_draws: int = 1,
        generation_scales: GuidanceScales = TEXT_TO_IMAGE,
        editing_scales: GuidanceScales = EDITING,
        sampling_steps: int = 50,
        max_chain_tokens: int = 1024,
        validation_chains: Literal["written", "given"] = "written",
        validation_seed: int = 0,
        max_nonfinite_steps: int = 10,
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__(max_nonfinite_steps)
        check_widths(reasoner, guidance, backbone, codec)
        if optimizer is not None and set(learning_rates or ()) != set(COMPONENTS):
            given = ", ".join(learning_rates or ()) or "none"
            raise ValueError(f"learning_rates must name {', '.join(COMPONENTS)}; got {given}")
        if not 0 <= 3 * conditioning_dropout <= 1:
            raise ValueError(f"conditioning_dropout must lie in 0..1/3, not {conditioning_dropout}")
        self.reasoner = reasoner
        self.guidance = guidance
        self.backbone = backbone
        self.codec = codec
        self.objective = objective
        self.optimizer = optimizer
        self.learning_rates = dict(learning_rates or {})
        self.warmup_steps = warmup_steps
        self.final_learning_rate = final_learning_rate
        self.chain_weight = chain_weight
        self.denoising_weight = denoising_weight
        self.conditioning_dropout = conditioning_dropout
        self.noise_draws = noise_draws
        self.generation_scales = generation_scales
        self.editing_scales = editing_scales
        self.sampling_steps = sampling_steps
        self.max_chain_tokens = max_chain_tokens
        self.validation_chains = validation_chains
        self.validation_seed = validation_seed
        self.activation_checkpointing = activation_checkpointing
        self.compile_blocks = compile_blocks
        self._configured = False
        leave_out_origins(self)

    @property
    def processor(self) -> Processor:
        """Makes batches, in the loader's workers."""
        return self.reasoner.processor

    # ------------------------------------------------------------------ training

    def configure_model(self) -> None:
        """Compile and checkpoint the blocks as asked and, under a `ModelParallelStrategy`, shard the components.

        The codec is whole on every rank: it is frozen, small beside the rest, and asked for other numbers of images on
        each rank.

        Raises:
            ValueError: A callback that cannot average sharded weights.
        """
        if not self._configured:
            settings = (self.activation_checkpointing, self.compile_blocks)
            configure(self.components, *settings, self.device_mesh, self._trainer)
            self._configured = True

    def on_fit_start(self) -> None:
        """Give each of several ranks random numbers of its own; a resumed run's are restored after this."""
        if self.trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Joint loss of one batch of text-to-image and editing samples."""
        reasoning = self.reasoner(batch)
        losses = {} if reasoning.loss is None else {"chain_loss": (self.chain_weight, reasoning.loss)}
        if self.denoising_weight:
            guidance = self.drop_conditions(self.guidance(reasoning, batch, self.codec))
            losses["denoising_loss"] = (self.denoising_weight, self.denoising_loss(batch, guidance))
        loss = torch.stack([weight * value for weight, value in losses.values()]).sum()
        for name, (_, value) in losses.items():
            self.log(name, value, prog_bar=True, batch_size=len(batch))
        self.log("loss", loss, batch_size=len(batch))
        return loss

    def denoising_loss(self, batch: Batch, guidance: Guidance) -> Float[Tensor, ""]:
        """Mean denoising loss of the batch's targets under guidance, over `noise_draws` noise levels each."""
        if batch.target is None:
            raise ValueError("training needs samples with a target image")
        latents = self.codec.encode(batch.target)
        latents = torch.cat([latents] * self.noise_draws)
        guidance = Guidance.cat([guidance] * self.noise_draws)
        t = self.objective.sample_t(len(latents), latents.device)
        noise = self.objective.sample_noise(latents)
        return self.objective.loss(lambda x_t, t: self.backbone(x_t, t, guidance), latents, noise, t).mean()

    def drop_conditions(self, guidance: Guidance) -> Guidance:
        """Conditioning dropout of GoT: each of (0,0,0), (0,0,Gr), (Gt,0,Gr) with the same small probability.

        Outside of training mode the guidance is returned as it is.
        """
        if not self.training or self.conditioning_dropout == 0:
            return guidance
        draw = torch.rand(len(guidance.tokens), device=guidance.tokens.device)
        semantic, spatial, reference = dropped_conditions(draw, self.conditioning_dropout)
        return self.guidance.drop(guidance, semantic, spatial, reference)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One parameter group a component; warm-up, then cosine over the trainer's steps.

        Raises:
            ValueError: The system has no optimizer.
        """
        if self.optimizer is None:
            raise ValueError("this system has no optimizer: it cannot be trained")
        groups = []
        for name in COMPONENTS:
            parameters = [p for p in getattr(self, name).parameters() if p.requires_grad]
            if parameters:
                groups.append({"params": parameters, "lr": self.learning_rates[name], "name": name})
        optimizer = self.optimizer(groups)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(
            optimizer, lambda step: warmup_cosine(step, self.warmup_steps, total, self.final_learning_rate)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the origins of the frozen weights, which the checkpoint leaves out."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[ORIGINS] = origins(self, left_out(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that what the checkpoint leaves out has been loaded from the same weights.

        Raises:
            ValueError: It has not.
        """
        check_origins(self, checkpoint.get(ORIGINS, {}))
        place = Path(str(self.trainer.ckpt_path))
        if place.is_dir():
            load_left_out(self, place)
        super().on_load_checkpoint(checkpoint)

    # ------------------------------------------------------------------ validation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Drawing:  # type: ignore[override]
        """Draw the batch, from its prompts alone unless chains are given; callbacks score and show the drawing."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        chains = batch.chains if self.validation_chains == "given" else None
        return self.draw(batch, chains, seed=batch_seed(self.validation_seed, dataloader_idx, batch_idx, rank, world))
