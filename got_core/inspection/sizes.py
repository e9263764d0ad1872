"""Whether a model can draw images of a size, found out in shape alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from got_core.inference_settings import build_system
from got_core.inspection.costs import shape_batch, step_cost, typical_samples
from got_core.inspection.shape_run import in_shape
from got_core.loading import without_weights


def check_size(settings: Mapping[str, Any], folder: Path, size: tuple[int, int]) -> None:
    """See that a model divides images of `size` (height, width) into its steps and patches.

    Args:
        settings: As `got_core.inference_settings` has them.
        folder: Where they were read.
        size: In pixels.

    Raises:
        ValueError: It does not.
    """
    with without_weights():
        system = build_system(settings, folder).train()
    with in_shape(system, torch.float32):
        step_cost(system, shape_batch(system, typical_samples(size, 1, edit=False), torch.float32))
