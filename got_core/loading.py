"""Building a component's model with its weights, or only its shape, to see whether parts fit before weights load."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)

_shape_only: ContextVar[bool] = ContextVar("shape_only", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, `build` makes models on the meta device: every width is there, no weight is read or initialised."""
    token = _shape_only.set(True)
    try:
        yield
    finally:
        _shape_only.reset(token)


def build(from_config: Callable[[], Model], from_pretrained: Callable[[], Model] | None = None) -> Model:
    """A component's model.

    Args:
        from_config: Makes it with fresh weights.
        from_pretrained: Loads it; None for a model that has no trained weights.
    """
    if _shape_only.get():
        with torch.device("meta"):
            return from_config()
    return from_config() if from_pretrained is None else from_pretrained()
