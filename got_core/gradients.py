"""What happens to gradients between the backward pass and the optimizer's step."""

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer

from got_core.sharding import whole

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
