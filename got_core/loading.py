"""Building a component's model with its weights, or only its shape, to see whether parts fit before weights load."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)

_shape_only: ContextVar[bool] = ContextVar("shape_only", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, `build` and `fresh_weights` make models on the meta device: widths are there, but no weight is read or
    initialised."""
    token = _shape_only.set(True)
    try:
        yield
    finally:
        _shape_only.reset(token)


@contextmanager
def fresh_weights() -> Iterator[None]:
    """Where a component makes its own modules, so that a large one costs neither time nor memory in shape alone."""
    with torch.device("meta") if _shape_only.get() else nullcontext():
        yield


def build(from_config: Callable[[], Model], from_pretrained: Callable[[], Model] | None = None) -> Model:
    """A component's model.

    Args:
        from_config: Makes it with fresh weights.
        from_pretrained: Loads it; None for a model that has no trained weights.
    """
    if from_pretrained is not None and not _shape_only.get():
        return from_pretrained()
    with fresh_weights():
        return from_config()
