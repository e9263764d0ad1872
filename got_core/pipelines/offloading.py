"""Weights that wait in host memory, or on disk, until they compute: whole components, or layer by layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn

from got_core.model import PARTS, GoTModel
from got_core.weights.quantization import is_quantized

ENTRANCES = ("forward", "generate", "summarize", "continues", "likelihood", "drop", "encode", "decode")
"""The methods by which the components of `got_core.interfaces` compute."""


def prepare(model: GoTModel, device: torch.device) -> None:
    """Put all weights into host memory.

    Raises:
        ValueError: They are in 8 or 4 bits, which come with more than a tensor.
        RuntimeError: There is no such device.
    """
    if is_quantized(model):
        raise ValueError("weights in 8 or 4 bits are not offloaded: give one of the two")
    torch.empty(0, device=device)
    model.to("cpu")


class ComponentOffload:
    """Keeps the weights of a model in host memory, and on a device those of the components that compute.

    A component's weights go to the device when one of `ENTRANCES` is called, and stay until another component is. They
    are not copied back: inference changes none.

    Args:
        model: Moved to the CPU.
        device: Computes.

    Attributes:
        loaded: The components whose weights are on the device.

    Raises:
        ValueError, RuntimeError: See `prepare`.
    """

    def __init__(self, model: GoTModel, device: torch.device) -> None:
        prepare(model, device)
        self.model, self.device = model, device
        self._host = {name: [(tensor, tensor.data) for tensor in _tensors(getattr(model, name))] for name in PARTS}
        self._computing: list[str] = []
        self.loaded: set[str] = set()
        for name in PARTS:
            part = getattr(model, name)
            for entrance in ENTRANCES:
                if hasattr(part, entrance):
                    vars(part)[entrance] = self._entered(name, getattr(part, entrance))
        model.execution_device = device

    def remove(self) -> None:
        """Leave all weights in host memory, and the model as it was."""
        self._keep(set())
        for name in PARTS:
            for entrance in ENTRANCES:
                vars(getattr(self.model, name)).pop(entrance, None)
        self.model.execution_device = None

    def _entered(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def entered(*arguments: Any, **options: Any) -> Any:
            with self._on_device(name):
                return method(*arguments, **options)

        return entered

    @contextmanager
    def _on_device(self, name: str) -> Iterator[None]:
        self._keep({*self._computing, name})
        if name not in self.loaded:
            self.loaded.add(name)  # Before its tensors: if memory runs out among them, all are put back.
            try:
                for tensor, host in self._host[name]:
                    tensor.data = host.to(self.device)
            except BaseException:
                self._keep(self.loaded - {name})
                raise
        self._computing.append(name)
        try:
            yield
        finally:
            self._computing.pop()

    def _keep(self, names: set[str]) -> None:
        """Release the device's copies of all other components."""
        for name in self.loaded - names:
            for tensor, host in self._host[name]:
                tensor.data = host
        self.loaded &= names


class LayerOffload:
    """Keeps the weights of a model in host memory or on disk, and on a device those of the layer that computes.

    By accelerate. What a component holds outside of its layers is small and stays on the device.

    Args:
        model: Moved to the CPU.
        device: Computes.
        folder: Gets the weights as files, if they are not to stay in host memory; a new or an empty one.

    Raises:
        ValueError, RuntimeError: See `prepare`; or the folder holds something.
    """

    def __init__(self, model: GoTModel, device: torch.device, folder: str | Path | None) -> None:
        from accelerate import cpu_offload, disk_offload

        if folder is not None and Path(folder).exists() and any(Path(folder).iterdir()):
            raise ValueError(f"{folder} holds something already: name a new folder for the weights")
        prepare(model, device)
        self.model, self.device = model, device
        self._names: dict[int, list[str]] = {}
        for full_name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(full_name)
        model.execution_device = device
        try:
            for name in PARTS:
                part = getattr(model, name)
                for tensor in [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
                    tensor.data = tensor.data.to(device)
                for child, layers in part.named_children():
                    if folder is None:
                        cpu_offload(layers, device)
                    else:
                        disk_offload(layers, str(Path(folder) / name / child), device)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Put all weights into host memory, and leave the model as it was: tied weights are tied again."""
        from accelerate.hooks import remove_hook_from_module

        for name in PARTS:
            remove_hook_from_module(getattr(self.model, name), recurse=True)
        for first, *others in self._names.values():
            for other in others:
                module, _, weight = other.rpartition(".")
                setattr(self.model.get_submodule(module), weight, self.model.get_parameter(first))
        self.model.to("cpu")
        self.model.execution_device = None


def _tensors(part: nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers, shared ones once."""
    return [*part.parameters(), *part.buffers()]
