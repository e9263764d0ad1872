"""Building a component's model with its weights, or only its shape, to see whether parts fit before weights load."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from got_core.origins import mark_origin

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
    Where it is from is noted (`got_core.origins`), so that checkpoints leave out what stays frozen.

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
