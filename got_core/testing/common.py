"""Checks and helpers that several contracts use."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor, nn

from got_core.interfaces import Component
from got_core.types import Guidance

Part = TypeVar("Part", bound=Component)


def require(holds: bool, words: str) -> None:
    """Raise an AssertionError with a message unless a condition holds."""
    if not holds:
        raise AssertionError(words)


def same(first: Shaped[Tensor, "..."], second: Shaped[Tensor, "..."]) -> bool:
    """Say whether two tensors agree in shape and, within a tolerance for float32, in value."""
    return first.shape == second.shape and torch.allclose(first, second, atol=1e-4, rtol=1e-4)


def normal(generator: Generator, *shape: int) -> Shaped[Tensor, "..."]:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=generator)


def perturbed(component: Part, seed: int) -> Part:
    """Return a copy in eval mode with a little noise on all trainable parameters, so that zeros hide nothing."""
    copy = deepcopy(component).eval()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return copy


def check_attributes(component: nn.Module, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Check that the declared widths exist and are positive integers, or None if they are optional."""
    name = type(component).__name__
    for attribute in (*required, *optional):
        require(hasattr(component, attribute), f"{name} does not declare `{attribute}`")
        value = getattr(component, attribute)
        fits = (isinstance(value, int) and value > 0) or (attribute in optional and value is None)
        require(fits, f"{name}.{attribute} must be a positive int, but is {value!r}")


def check_blocks(component: Component) -> None:
    """Check that `blocks()` names modules inside the component, none of them twice and none inside another."""
    name = type(component).__name__
    inside = {id(module) for module in component.modules()} - {id(component)}
    seen: set[int] = set()
    for block in component.blocks():
        require(id(block) in inside, f"{name}.blocks() names a {type(block).__name__} that is not part of {name}")
        members = {id(module) for module in block.modules()}
        require(
            not members & seen, f"{name}.blocks() overlap: a {type(block).__name__} is named twice or inside another"
        )
        seen |= members


def check_gradients(component: nn.Module, outputs: Sequence[Tensor]) -> None:
    """Check that a finite gradient of the outputs reaches every trainable parameter."""
    name = type(component).__name__
    component.zero_grad()
    torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
    for parameter_name, parameter in component.named_parameters():
        if parameter.requires_grad:
            grad = parameter.grad
            reached = grad is not None and bool(grad.isfinite().all()) and bool(grad.any())
            require(reached, f"no finite gradient reaches the trainable parameter `{parameter_name}` of {name}")


def check_state_dict(component: Part, outputs: Callable[[Part], Sequence[Tensor]]) -> None:
    """Check that a copy with another's state dict gives the same outputs, also if it was run before."""
    source, target = perturbed(component, seed=1), perturbed(component, seed=2)
    with torch.no_grad():
        outputs(target)
        target.load_state_dict(source.state_dict())
        for expected, result in zip(outputs(source), outputs(target), strict=True):
            message = f"{type(component).__name__} gives other results after its state dict is loaded into a copy"
            require(same(expected, result), message)


def check_rows(name: str, function: Callable[..., Tensor], shape: Sequence[int], *inputs: Tensor) -> Tensor:
    """Check that a function maps each sample of a batch independently, and gives the same result each time.

    Args:
        name: Of the function, for messages.
        function: Takes `inputs`.
        shape: Of the output.
        inputs: Batches of samples; they must not be changed.

    Returns:
        The output.
    """
    before = [value.clone() for value in inputs]
    output = function(*inputs)
    given, actual = tuple(inputs[0].shape), tuple(output.shape)
    require(actual == tuple(shape), f"{name} turns shape {given} into {actual} instead of {tuple(shape)}")
    require(bool(output.isfinite().all()), f"{name} gives values that are not finite")
    unchanged = all(torch.equal(one, other) for one, other in zip(before, inputs, strict=True))
    require(unchanged, f"{name} changes its inputs in place")
    require(same(output, function(*inputs)), f"{name} gives two results for the same inputs")
    alone = function(*(value[:1] for value in inputs))
    require(same(output[:1], alone), f"{name} gives another result for a sample when others share its batch")
    return output


def present(guidance: Guidance) -> dict[str, Tensor]:
    """Return the fields of a guidance that are not None."""
    values = {entry.name: getattr(guidance, entry.name) for entry in fields(guidance)}
    return {name: value for name, value in values.items() if value is not None}
