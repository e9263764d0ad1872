"""Whether a model can draw images of a size, found out in shape alone."""

from collections.abc import Mapping
from typing import Any

import torch

from got_core.inspection.costs import shape_batch, step_cost, typical_samples
from got_core.inspection.shape_run import in_shape
from got_core.loading import without_weights
from got_core.recipe import build_model
from got_core.system import GoTSystem


def check_size(model: Mapping[str, Any], size: tuple[int, int]) -> None:
    """See that a recipe's model divides images of `size` (height, width) into its steps and patches.

    Args:
        model: The `model` part of the recipe.
        size: In pixels.

    Raises:
        ValueError: It does not.
    """
    with without_weights():
        system = build_model(dict(model))
    if isinstance(system, GoTSystem):
        system.train()
        with in_shape(system, torch.float32):
            step_cost(system, shape_batch(system, typical_samples(size, 1, edit=False), torch.float32))
