"""Builds a component's model, with its weights or in shape alone, and records where frozen weights came from."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from got_core.paths import locate

ORIGINS = "origins"
"""Key under which a checkpoint names the origins of what it leaves out."""

_MARK, _ORIGIN, _NAMES = "from_origin", "origin", "names_from_origins"

_leaving_out: ContextVar[bool] = ContextVar("leaving_out", default=True)


def mark_origin(model: nn.Module, origin: str) -> None:
    """Record that a model's weights, as they are now, are those of a folder or hub id."""
    setattr(model, _ORIGIN, {"place": origin, "fingerprint": fingerprint(model)})
    for parameter in model.parameters():
        setattr(parameter, _MARK, True)


def mark_changed(parameter: nn.Parameter) -> None:
    """Record, while a module is built, that one of its weights is no longer that of its origin."""
    setattr(parameter, _MARK, False)


def fingerprint(model: nn.Module) -> str:
    """Return a short text that depends on names, shapes, precisions and the first 1024 numbers of all weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        beginning = rearrange(parameter.detach(), "... -> (...)")[:1024].cpu().contiguous()
        digest.update(beginning.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def origins(module: nn.Module, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return `place` and `fingerprint` of each part that was loaded and has one of some weights, by the part's name.

    Args:
        module: Its parts are searched.
        names: Of weights in it.
    """
    wanted = tuple(names)
    parts = _loaded_parts(module).items()
    return {part: origin for part, origin in parts if any(name.startswith(f"{part}.") for name in wanted)}


def leave_out_origins(module: nn.Module) -> None:
    """Make `state_dict()` leave out frozen weights that were loaded, and `load_state_dict` not require them.

    Call it once the module is complete and before it is sharded. Weights that are trained later stay in, and so do
    those that `load_state_dict` is given.
    """
    named = module.named_parameters(remove_duplicate=False)
    setattr(module, _NAMES, frozenset(name for name, parameter in named if getattr(parameter, _MARK, False)))
    module.register_state_dict_post_hook(_leave_out)
    module.register_load_state_dict_pre_hook(_put_back)


def keep_all(module: nn.Module) -> None:
    """Make `state_dict()` hold all weights from now on."""
    setattr(module, _NAMES, frozenset())


def keep(module: nn.Module, names: Iterable[str]) -> None:
    """Make `state_dict()` hold these weights: they come from a checkpoint, so they may not be their origin's."""
    setattr(module, _NAMES, getattr(module, _NAMES, frozenset()).difference(names))


def all_weights() -> AbstractContextManager[None]:
    """Inside, `state_dict()` leaves out nothing."""
    return _set(_leaving_out, False)


@contextmanager
def _set(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def check_origins(module: nn.Module, saved: Mapping[str, Mapping[str, str]]) -> None:
    """Compare the origins that a checkpoint names with a module's.

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
    """Return the origin of each part that was loaded, by the part's name."""
    # Wrappers such as peft's forward attributes, so only a part's own counts.
    return {name: vars(part)[_ORIGIN] for name, part in module.named_modules() if _ORIGIN in vars(part)}


def left_out(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that `state_dict()` leaves out, by name."""
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

_shape_only: ContextVar[bool] = ContextVar("shape_only", default=False)
_to_follow: ContextVar[bool] = ContextVar("to_follow", default=False)


def without_weights() -> AbstractContextManager[None]:
    """Inside, `build` and `fresh_weights` make models on the meta device: no weight is read or initialised."""
    return _set(_shape_only, True)


@contextmanager
def weights_to_follow() -> Iterator[None]:
    """Inside, `build` makes models from configurations alone: a checkpoint that is loaded next has all weights.

    Parameters are not initialised: their memory is as it is, and none of it is used.
    """
    with _set(_to_follow, True), _Unfilled():
        yield


FILLING = frozenset(
    {"constant_", "fill_", "kaiming_normal_", "kaiming_uniform_", "mul_", "normal_", "uniform_", "zero_"}
)
"""The functions and methods by which torch, transformers and diffusers initialise parameters of these models."""


class _Unfilled(TorchFunctionMode):
    """Inside, filling a parameter does nothing, and converting one copies nothing: no page of its memory is used."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        name = getattr(function, "__name__", "")
        if isinstance(filled, nn.Parameter) and name in FILLING:
            return filled
        if isinstance(filled, nn.Parameter) and name == "to":
            like = filled.new_empty(0).to(*args[1:], **kwargs)
            return torch.empty_like(filled, dtype=like.dtype, device=like.device)
        return function(*args, **kwargs)


def convert(parameters: Iterable[nn.Parameter], dtype: torch.dtype, contents: bool = True) -> None:
    """Convert floating-point parameters to another precision in place; buffers, such as frequencies, keep theirs.

    Args:
        parameters: Of a model.
        dtype: Floating-point type.
        contents: Whether they have any that matter; without, no memory is touched.
    """
    for parameter in parameters:
        if parameter.is_floating_point() and parameter.dtype != dtype:
            data = parameter.detach()
            parameter.data = data.to(dtype) if contents else torch.empty_like(data, dtype=dtype)


def fresh_weights() -> AbstractContextManager[Any]:
    """Inside, a component makes its own modules; in shape alone they are on the meta device."""
    return torch.device("meta") if _shape_only.get() else nullcontext()


def build(from_config: Callable[[], Model], from_pretrained: Callable[[], Model] | None = None) -> Model:
    """Build a component's model.

    Args:
        from_config: Makes it with fresh weights.
        from_pretrained: Loads it; None for a model that has no trained weights.
    """
    if from_pretrained is not None and not (_shape_only.get() or _to_follow.get()):
        return from_pretrained()
    with fresh_weights():
        return from_config()


def build_diffusers(
    family: Any, pretrained: str | None, subfolder: str | None, config: Mapping[str, Any] | None
) -> Any:
    """Build a component's model of diffusers, from where it is saved or from a configuration with fresh weights.

    Args:
        family: The model's class.
        pretrained, subfolder: See `load_whole`; `pretrained` is given exactly if `config` is not.
        config: Arguments of the class.

    Raises:
        ValueError: Both or neither of `pretrained` and `config`, or as `load_whole`.
        OSError: There are no such weights.
    """
    if (pretrained is None) == (config is None):
        raise ValueError(f"{family.__name__} is built from `pretrained` or from `config`; give exactly one of the two")
    if pretrained is None:
        return build(lambda: family(**(config or {})))
    path = locate(pretrained)
    return build(
        lambda: family.from_config(family.load_config(path, subfolder=subfolder or "")),
        lambda: load_whole(family, path, subfolder),
    )


def load_whole(family: Any, pretrained: str, subfolder: str | None = None, **settings: Any) -> Any:
    """Load a model of transformers or diffusers with every one of its weights from a folder or hub id.

    By themselves both libraries only warn about tensors that are missing or do not fit, and continue with random ones.
    The origin is recorded, so that checkpoints leave out what stays frozen.

    Args:
        family: The model's class.
        pretrained: Folder in the library's own layout, in one file or sharded, or a hub id.
        subfolder: Folder inside `pretrained`, such as "unet" in a pipeline's.
        settings: Further arguments of `from_pretrained`.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape, or the files are not readable as weights.
        OSError: There are no such weights.
    """
    origin = f"{pretrained}/{subfolder}" if subfolder else pretrained
    try:
        model, report = family.from_pretrained(
            pretrained,
            subfolder=subfolder or "",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{origin}: not readable as weights of {family.__name__} ({reason})") from error
    shapes = {name: f"{name}: {list(given)} instead of {list(own)}" for name, given, own in report["mismatched_keys"]}
    missing = set(report["missing_keys"]) - shapes.keys()
    if problem := what_differs(missing, report["unexpected_keys"], shapes.values()):
        raise ValueError(f"{origin} holds weights of another model than {family.__name__} of its config: {problem}")
    mark_origin(model, origin)
    return model


def what_differs(missing: Collection[str], left_over: Collection[str], misshapen: Collection[str]) -> str:
    """Return in one line the tensors that keep weights from fitting a model; empty if all fit.

    Args:
        missing: Names that the model has and the weights lack.
        left_over: Names that the weights have and the model lacks.
        misshapen: Names with both shapes.
    """
    kinds = {"missing": missing, "unexpected": left_over, "of another shape": misshapen}
    problems = {kind: sorted(names) for kind, names in kinds.items() if names}
    most = 3 // max(1, len(problems))  # names of each kind, before they are only counted
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:most])}{f' and {len(names) - most} more' if names[most:] else ''})"
        for kind, names in problems.items()
    )
