"""GoTSystem: reason -> guide -> drop -> denoise, trained end to end (GoT, section 4.3)."""

import math
from collections.abc import Callable, Iterable, Mapping
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

from got_core.data.datamodule import CUT, PROBLEMS
from got_core.data.framing import OBJECTS_CUT
from got_core.data.quarantine import BAD
from got_core.diffusion.sampling import batch_seed, dropped_conditions
from got_core.interfaces import (
    DenoisingBackbone,
    GuidanceEncoder,
    LatentCodec,
    NoiseObjective,
    Processor,
    Reasoner,
)
from got_core.model import COMPONENTS, GoTModel
from got_core.training.parallel import configure, gathered, whole
from got_core.types import TARGET, Batch, Generation, Guidance
from got_core.weights.checkpoints import load_left_out
from got_core.weights.loading import ORIGINS, check_origins, leave_out_origins, left_out, origins


def warmup_cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Return the factor of the peak learning rate: linear from 0 to 1, then a cosine down to `final` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class GoTSystem(LightningModule):
    """Trains the reasoner, guidance encoder and denoising backbone of a `GoTModel` jointly.

    The loss is `chain_weight` x chain cross-entropy + `denoising_weight` x denoising loss; the latter's gradient
    reaches the reasoner through its states. Any components that implement `got_core.interfaces` can be used. Steps
    whose gradient is not finite are skipped.

    Args:
        reasoner, guidance, backbone, codec, objective: The components, built.
        optimizer: Makes the optimizer from parameter groups, such as a partial `torch.optim.AdamW`.
        learning_rates: Peak learning rate of each of `reasoner`, `guidance`, `backbone`.
        warmup_steps: Steps of linear warm-up, followed by a cosine down to `final_learning_rate` x peak.
        final_learning_rate: Last learning rate as a fraction of the peak.
        chain_weight, denoising_weight: Weights of the two losses; without the latter the reasoner is trained alone.
        conditioning_dropout: Probability of each of the three partly dropped conditions in training.
        noise_draws: Noise levels sampled for each sample of a batch; several share one pass of the reasoner.
        validation_chains: What validation generates from: chains "written" from the prompts, or those "given" with the
            samples, which separates the generation's errors from the plan's.
        validation_seed: Seed of the validation's noise.
        max_nonfinite_steps: Steps with a non-finite gradient in a row after which training stops.
        activation_checkpointing: Recompute the components' blocks in the backward pass: less memory, more time.
        compile_blocks: Compile the components' blocks with `torch.compile`.
        sampling: Further arguments of `GoTModel`: scales, steps, fast procedure and longest chain at sampling.

    Attributes:
        model: The components joined; they are submodules of the system too, so checkpoints have short names.
        nonfinite_steps: Steps that were skipped, over all resumed parts of a run.
        nonfinite_in_a_row: Those among them since the last finite step.

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
        optimizer: Callable[[Iterable], Optimizer],
        learning_rates: Mapping[str, float],
        warmup_steps: int = 500,
        final_learning_rate: float = 0.0,
        chain_weight: float = 1.0,
        denoising_weight: float = 1.0,
        conditioning_dropout: float = 0.05,
        noise_draws: int = 1,
        validation_chains: Literal["written", "given"] = "written",
        validation_seed: int = 0,
        max_nonfinite_steps: int = 10,
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
        **sampling: Any,
    ) -> None:
        super().__init__()
        if set(learning_rates) != set(COMPONENTS):
            raise ValueError(f"learning_rates must name {', '.join(COMPONENTS)}; got {', '.join(learning_rates)}")
        if not 0 <= 3 * conditioning_dropout <= 1:
            raise ValueError(f"conditioning_dropout must lie in 0..1/3, not {conditioning_dropout}")
        model = GoTModel(reasoner, guidance, backbone, codec, objective, **sampling)
        self.reasoner, self.guidance, self.backbone = reasoner, guidance, backbone
        self.codec, self.objective = codec, objective
        # In a tuple it is no submodule: its components would be in checkpoints twice.
        self._model = (model,)
        self.optimizer = optimizer
        self.learning_rates = dict(learning_rates)
        self.warmup_steps = warmup_steps
        self.final_learning_rate = final_learning_rate
        self.chain_weight = chain_weight
        self.denoising_weight = denoising_weight
        self.conditioning_dropout = conditioning_dropout
        self.noise_draws = noise_draws
        self.validation_chains = validation_chains
        self.validation_seed = validation_seed
        self.activation_checkpointing = activation_checkpointing
        self.compile_blocks = compile_blocks
        self.max_nonfinite_steps = max_nonfinite_steps
        self.nonfinite_steps = 0
        self.nonfinite_in_a_row = 0
        self._configured = False
        leave_out_origins(self)

    @property
    def model(self) -> GoTModel:
        """Return the components joined, to plan and generate with."""
        return self._model[0]

    @property
    def processor(self) -> Processor:
        """Return what makes batches, in the loader's workers."""
        return self.model.processor

    # ------------------------------------------------------------------ training

    def configure_model(self) -> None:
        """Compile and checkpoint the blocks as configured and, under a `ModelParallelStrategy`, shard the components.

        The codec is whole on every rank: it is frozen, small compared with the rest, and each rank calls it with
        another number of images.

        Raises:
            ValueError: A callback cannot average sharded weights.
        """
        if not self._configured:
            configure(
                self.model.components,
                activation_checkpointing=self.activation_checkpointing,
                compile_blocks=self.compile_blocks,
                mesh=self.device_mesh,
                trainer=self._trainer,
            )
            self._configured = True

    def setup(self, stage: str) -> None:
        """Convert batches under bf16-true, 16-true and 64-true: Lightning cannot rebuild a frozen dataclass."""
        plugin = self.trainer.precision_plugin
        convert = type(plugin).convert_input

        def convert_input(data: Any) -> Any:
            if isinstance(data, Batch):
                return data.map(lambda tensor: convert(plugin, tensor))
            return convert(plugin, data)

        plugin.convert_input = convert_input  # type: ignore[method-assign]

    def on_fit_start(self) -> None:
        """Give each rank its own random numbers; those of a resumed run are restored after this."""
        if self.trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Return the joint loss of one batch of text-to-image and editing samples."""
        reasoning = self.reasoner(batch)
        losses = {} if reasoning.loss is None else {"chain_loss": (self.chain_weight, reasoning.loss)}
        if self.denoising_weight:
            guidance = self.drop_conditions(self.guidance(reasoning, batch, self.codec))
            losses["denoising_loss"] = (self.denoising_weight, self.denoising_loss(batch, guidance))
        loss = torch.stack([weight * value for weight, value in losses.values()]).sum()
        for name, (_, value) in losses.items():
            self.log(name, value, prog_bar=True, batch_size=len(batch))
        self.log("loss", loss, batch_size=len(batch))
        for name in (PROBLEMS, CUT, OBJECTS_CUT):
            if count := sum(meta.get(name, 0) for meta in batch.meta):
                self.log(name, float(count), batch_size=len(batch))
        if count := sum(len(meta.get(BAD, ())) for meta in batch.meta):
            self.log(BAD, float(count), batch_size=len(batch))
        return loss

    def denoising_loss(self, batch: Batch, guidance: Guidance, generator: Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean denoising loss of the batch's targets under guidance, over `noise_draws` levels each.

        Args:
            batch: With targets.
            guidance: Of the batch.
            generator: Of noise and levels; torch's default generator when None.

        Raises:
            ValueError: The batch has no targets, and no latents of them.
        """
        if (latents := batch.precomputed.get(TARGET)) is None:
            if batch.target is None:
                raise ValueError("training needs samples with a target image")
            latents = self.codec.encode(batch.target)
        latents = torch.cat([latents] * self.noise_draws)
        guidance = Guidance.cat([guidance] * self.noise_draws)
        t = self.objective.sample_t(len(latents), latents.device, generator)
        noise = self.objective.sample_noise(latents, generator)
        return self.objective.loss(lambda x_t, t: self.backbone(x_t, t, guidance), latents, noise, t).mean()

    def drop_conditions(self, guidance: Guidance) -> Guidance:
        """Apply GoT's conditioning dropout in training mode.

        Each of (0,0,0), (0,0,Gr), (Gt,0,Gr) is used with the same small probability.
        """
        if not self.training or self.conditioning_dropout == 0:
            return guidance
        draw = torch.rand(len(guidance.tokens), device=guidance.tokens.device)
        semantic, spatial, reference = dropped_conditions(draw, self.conditioning_dropout)
        return self.guidance.drop(guidance, semantic, spatial, reference)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return an optimizer with one parameter group for each component; warm-up, then cosine over the steps."""
        groups = []
        for name in COMPONENTS:
            parameters = [p for p in getattr(self, name).parameters() if p.requires_grad]
            if parameters:
                groups.append({"params": parameters, "lr": self.learning_rates[name], "name": name})
        optimizer = self.optimizer(groups)
        total = int(self.trainer.estimated_stepping_batches)
        if self.warmup_steps >= total and self.trainer.is_global_zero:
            print(
                f"warmup_steps is {self.warmup_steps}, but the run has {total} steps: the learning rate does not reach "
                "its peak"
            )
        schedule = LambdaLR(
            optimizer, lambda step: warmup_cosine(step, self.warmup_steps, total, self.final_learning_rate)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Skip a step whose gradient is not finite; stop after too many in a row.

        Gradients are already reduced over ranks here, and the norm of sharded ones is summed over them, so all ranks
        decide the same. A gradient scaler (16-mixed) skips such steps itself. The norm and the learning rates are
        logged.

        Raises:
            RuntimeError: `max_nonfinite_steps` such steps in a row.
        """
        for group in optimizer.param_groups:
            self.log(f"learning_rate/{group['name']}", group["lr"])
        if self._scaled:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients)
        norm = whole(self._norm)
        self.log("gradient_norm", norm)
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
        """Clip as the trainer is configured, by the norm that `on_before_optimizer_step` has computed.

        Under bf16-mixed, Lightning would refuse to with a fused optimizer.
        """
        if self._scaled or gradient_clip_val is None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_algorithm == GradClipAlgorithmType.VALUE:
            algorithm = GradClipAlgorithmType.VALUE
            Precision.clip_gradients(self.trainer.precision_plugin, optimizer, gradient_clip_val, algorithm)
        else:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, self._norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the origins of the frozen weights, which the checkpoint leaves out, and the numbers of skipped steps."""
        checkpoint["nonfinite_steps"] = (self.nonfinite_steps, self.nonfinite_in_a_row)
        checkpoint[ORIGINS] = origins(self, left_out(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that what the checkpoint leaves out has been loaded from the same weights.

        Raises:
            ValueError: It has not.
        """
        check_origins(self, checkpoint.get(ORIGINS, {}))
        path = Path(str(self.trainer.ckpt_path))
        if path.is_dir():
            load_left_out(self, path)
        self.nonfinite_steps, self.nonfinite_in_a_row = checkpoint.get("nonfinite_steps", (0, 0))

    @property
    def _scaled(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    # ------------------------------------------------------------------ validation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Generation:  # type: ignore[override]
        """Generate the batch's images, from its prompts unless chains are given; callbacks score and show them.

        The losses of the samples' own chains and targets are logged as `val/chain_loss` and `val/denoising_loss`, the
        latter with noise that is the same in each validation.
        """
        world, rank = self.trainer.world_size, self.trainer.global_rank
        chains = batch.chains if self.validation_chains == "given" else None
        seed = batch_seed(self.validation_seed, dataloader_idx, batch_idx, rank, world)
        with gathered(self.model.components):
            for name, loss in self._held_out_losses(batch, seed).items():
                self.log(f"val/{name}", loss, on_epoch=True, sync_dist=True, batch_size=len(batch))
            return self.model.generate(batch, chains, seed=seed)

    def _held_out_losses(self, batch: Batch, seed: int) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of the batch's own chains and targets, as far as it has them."""
        reasoning = self.reasoner(batch)
        losses = {} if reasoning.loss is None else {"chain_loss": reasoning.loss}
        if batch.target is not None and self.denoising_weight:
            guidance = self.guidance(reasoning, batch, self.codec)
            losses["denoising_loss"] = self.denoising_loss(batch, guidance, Generator().manual_seed(seed))
        return losses
