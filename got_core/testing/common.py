"""What the checks of all components share."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor, nn

from got_core.interfaces import Component
from got_core.types import Guidance

TOLERANCE = 1e-4
"""How far results may differ that should be the same, in float32."""

SHAKE = 0.05
"""Standard deviation of what is added to the parameters, so that nothing hides behind a zero."""

Part = TypeVar("Part", bound=Component)


def require(holds: bool, words: str) -> None:
    """Raise an AssertionError with these words unless the condition holds."""
    if not holds:
        raise AssertionError(words)


def same(first: Shaped[Tensor, "..."], second: Shaped[Tensor, "..."]) -> bool:
    """Whether two tensors agree in shape and, within the tolerance, in value."""
    return first.shape == second.shape and torch.allclose(first, second, atol=TOLERANCE, rtol=TOLERANCE)


def normal(generator: Generator, *shape: int) -> Shaped[Tensor, "..."]:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator)


def shaken(component: Part, seed: int) -> Part:
    """A copy in eval mode whose trainable parameters are all moved a little."""
    copy = deepcopy(component).eval()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.requires_grad:
                parameter.add_(SHAKE * torch.randn(parameter.shape, generator=generator).to(parameter))
    return copy


def check_attributes(component: nn.Module, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """See that the declared widths are there: positive whole numbers, or None where that is allowed."""
    name = type(component).__name__
    for attribute in (*required, *optional):
        require(hasattr(component, attribute), f"{name} does not declare `{attribute}`")
        value = getattr(component, attribute)
        fits = (isinstance(value, int) and value > 0) or (attribute in optional and value is None)
        require(fits, f"{name}.{attribute} must be a positive whole number, but is {value!r}")


def check_blocks(component: Component) -> None:
    """See that `blocks()` names modules inside the component, none of them twice and none inside another."""
    name = type(component).__name__
    inside = {id(module) for module in component.modules()} - {id(component)}
    seen: set[int] = set()
    for block in component.blocks():
        require(id(block) in inside, f"{name}.blocks() names a {type(block).__name__} that is no part of {name}")
        members = {id(module) for module in block.modules()}
        require(
            not members & seen, f"{name}.blocks() overlap: a {type(block).__name__} is named twice or inside another"
        )
        seen |= members


def check_gradients(component: nn.Module, outputs: Sequence[Tensor]) -> None:
    """See that every trainable parameter has a part in the outputs."""
    name = type(component).__name__
    component.zero_grad()
    torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
    for parameter_name, parameter in component.named_parameters():
        if parameter.requires_grad:
            grad = parameter.grad
            reached = grad is not None and bool(grad.isfinite().all()) and bool(grad.any())
            require(reached, f"no finite gradient reaches the trainable parameter `{parameter_name}` of {name}")


def check_state_dict(component: Part, outputs: Callable[[Part], Sequence[Tensor]]) -> None:
    """See that loading one copy's state dict into another gives the same outputs, also if that one has run before."""
    source, target = shaken(component, seed=1), shaken(component, seed=2)
    with torch.no_grad():
        outputs(target)
        target.load_state_dict(source.state_dict())
        for wanted, found in zip(outputs(source), outputs(target), strict=True):
            words = f"{type(component).__name__} gives other results after its state dict is loaded into a copy"
            require(same(wanted, found), words)


def present(guidance: Guidance) -> dict[str, Tensor]:
    """The fields of a guidance that are not None."""
    values = {entry.name: getattr(guidance, entry.name) for entry in fields(guidance)}
    return {name: value for name, value in values.items() if value is not None}


def rows(guidance: Guidance, chosen: slice) -> Guidance:
    """Some samples of a guidance."""
    return replace(guidance, **{name: value[chosen] for name, value in present(guidance).items()})
