"""Frozen weights whose origin is known: checkpoints name the origin and leave the weights out."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

FINGERPRINTED = 1024
"""Numbers of each tensor, from its beginning, that a fingerprint is made of."""

ORIGINS = "origins"
"""Where a checkpoint names the origins of what it leaves out."""

_MARK, _ORIGIN, _NAMES = "from_origin", "origin", "names_from_origins"

_leaving_out: ContextVar[bool] = ContextVar("leaving_out", default=True)


def mark_origin(model: nn.Module, place: str) -> None:
    """Note of a model that its weights, as they are now, are those of a folder or hub id."""
    setattr(model, _ORIGIN, {"place": place, "fingerprint": fingerprint(model)})
    for parameter in model.parameters():
        setattr(parameter, _MARK, True)


def mark_changed(parameter: nn.Parameter) -> None:
    """Note of a weight, while its module is being built, that it is no longer that of its origin."""
    setattr(parameter, _MARK, False)


def fingerprint(model: nn.Module) -> str:
    """A short text that differs between weights of other names, shapes, precisions or beginnings."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        beginning = rearrange(parameter.detach(), "... -> (...)")[:FINGERPRINTED].cpu().contiguous()
        digest.update(beginning.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def origins(module: nn.Module, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """`place` and `fingerprint` of each part that was loaded from somewhere and has one of some weights.

    Args:
        module: Its parts are looked at.
        names: Of weights in it.

    Returns:
        By the part's name.
    """
    wanted = tuple(names)
    parts = _loaded_parts(module).items()
    return {part: origin for part, origin in parts if any(name.startswith(f"{part}.") for name in wanted)}


def leave_out_origins(module: nn.Module) -> None:
    """From now on `state_dict()` leaves out what is frozen and was loaded, and `load_state_dict` does not miss it.

    Called once the module is complete and before it is sharded; weights that are trained later are kept, and so are
    those that `load_state_dict` is given.
    """
    named = module.named_parameters(remove_duplicate=False)
    setattr(module, _NAMES, frozenset(name for name, parameter in named if getattr(parameter, _MARK, False)))
    module.register_state_dict_post_hook(_leave_out)
    module.register_load_state_dict_pre_hook(_put_back)


def keep(module: nn.Module, names: Iterable[str]) -> None:
    """From now on `state_dict()` holds these weights: a checkpoint brings them, so they may not be their origin's."""
    setattr(module, _NAMES, getattr(module, _NAMES, frozenset()).difference(names))


@contextmanager
def all_weights() -> Iterator[None]:
    """Inside, `state_dict()` leaves out nothing."""
    token = _leaving_out.set(False)
    try:
        yield
    finally:
        _leaving_out.reset(token)


def check_origins(module: nn.Module, saved: Mapping[str, Mapping[str, str]]) -> None:
    """Hold the origins that a checkpoint names against a module's.

    Raises:
        ValueError: A part was loaded from other weights than the checkpoint was made with.
    """
    own = _loaded_parts(module)
    for name, origin in saved.items():
        if name in own and own[name]["fingerprint"] != origin["fingerprint"]:
            raise ValueError(
                f"the checkpoint leaves {name} to {origin['place']}, but the weights loaded from {own[name]['place']} "
                f"are others, or of another precision (fingerprint {own[name]['fingerprint']}, not "
                f"{origin['fingerprint']})"
            )


def _loaded_parts(module: nn.Module) -> dict[str, dict[str, str]]:
    """The origin of each part that was loaded from somewhere, by the part's name."""
    # Wrappers such as peft's pass attributes on, so only a part's own counts.
    return {name: vars(part)[_ORIGIN] for name, part in module.named_modules() if _ORIGIN in vars(part)}


def left_out(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that `state_dict()` leaves out, by name."""
    names: frozenset[str] = getattr(module, _NAMES, frozenset())
    parameters = {name: module.get_parameter(name) for name in names}
    return {name: parameter for name, parameter in parameters.items() if not parameter.requires_grad}


def _leave_out(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any]) -> None:
    if _leaving_out.get():
        for name in left_out(module):
            state.pop(prefix + name, None)


def _put_back(module: nn.Module, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
    keep(module, (name.removeprefix(prefix) for name in state))
    for name, parameter in left_out(module).items():
        state.setdefault(prefix + name, parameter.detach())
