"""Builds a component's model with its weights or in shape alone, and remembers where frozen weights came from."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from einops import rearrange
from safetensors import SafetensorError
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


Model = TypeVar("Model", bound=nn.Module)

NAMED = 3
"""Names that an error lists before it only counts: this many of one kind, fewer of several."""

_shape_only: ContextVar[bool] = ContextVar("shape_only", default=False)
_to_follow: ContextVar[bool] = ContextVar("to_follow", default=False)


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
def weights_to_follow() -> Iterator[None]:
    """Inside, `build` makes models from configurations alone: a checkpoint that is loaded next has all weights."""
    token = _to_follow.set(True)
    try:
        yield
    finally:
        _to_follow.reset(token)


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
    if from_pretrained is not None and not (_shape_only.get() or _to_follow.get()):
        return from_pretrained()
    with fresh_weights():
        return from_config()


def build_saved(family: Any, pretrained: str, subfolder: str | None = None) -> Any:
    """A component's model of diffusers from where it is saved; its arguments and errors are those of `load_whole`."""
    return build(
        lambda: family.from_config(family.load_config(pretrained, subfolder=subfolder or "")),
        lambda: load_whole(family, pretrained, subfolder),
    )


def load_whole(family: Any, pretrained: str, subfolder: str | None = None, **settings: Any) -> Any:
    """A model of transformers or diffusers with every one of its weights from a folder or hub id.

    By themselves both libraries only warn of tensors that are not there or do not fit, and go on with random ones.
    Where it is from is noted (`got_core.weights.loading`), so that checkpoints leave out what stays frozen.

    Args:
        family: The model's class.
        pretrained: Folder in the library's own layout, in one file or sharded, or a hub id.
        subfolder: Folder inside `pretrained`, such as "unet" in a pipeline's.
        settings: Further arguments of `from_pretrained`.

    Raises:
        ValueError: Names the tensors that are missing, unexpected or of another shape, or says that the files are no
            readable weights.
        OSError: There are no weights in that place.
    """
    place = f"{pretrained}/{subfolder}" if subfolder else pretrained
    try:
        model, found = family.from_pretrained(
            pretrained,
            subfolder=subfolder or "",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{place}: not readable as weights of {family.__name__} ({_first_line(error)})") from error
    shapes = {name: f"{name}: {list(given)} instead of {list(own)}" for name, given, own in found["mismatched_keys"]}
    missing = set(found["missing_keys"]) - shapes.keys()
    if problem := what_differs(missing, found["unexpected_keys"], shapes.values()):
        raise ValueError(f"{place} holds weights of another model than {family.__name__} of its config: {problem}")
    mark_origin(model, place)
    return model


def what_differs(missing: Collection[str], left_over: Collection[str], misshapen: Collection[str]) -> str:
    """The tensors that keep weights from fitting a model, in one line; empty when there are none.

    Args:
        missing: Names that the model has and the weights lack.
        left_over: Names that the weights have and the model lacks.
        misshapen: Names with both shapes.
    """
    kinds: Mapping[str, Collection[str]] = {
        "missing": missing,
        "unexpected": left_over,
        "of another shape": misshapen,
    }
    found = {kind: names for kind, names in kinds.items() if names}
    most = NAMED // max(1, len(found))
    return "; ".join(f"{len(names)} {kind} ({_some(names, most)})" for kind, names in found.items())


def _some(names: Collection[str], most: int) -> str:
    first = ", ".join(sorted(names)[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
