"""GoTSystem: reason -> guide -> drop -> denoise, trained end to end (GoT, section 4.3)."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from got_core.conditioning import dropped_conditions
from got_core.distributed_files import load_left_out
from got_core.drawing_system import DrawingSystem
from got_core.gradients import GuardedGradients
from got_core.interfaces import (
    DenoisingBackbone,
    GuidanceEncoder,
    LatentCodec,
    NoiseObjective,
    Processor,
    Reasoner,
)
from got_core.noise import batch_seed
from got_core.origins import ORIGINS, check_origins, leave_out_origins, left_out, origins
from got_core.sampling import EDITING, TEXT_TO_IMAGE, GuidanceScales
from got_core.schedules import warmup_cosine
from got_core.sharding import configure
from got_core.types import Batch, Drawing, Guidance
from got_core.widths import check_widths

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
