"""What inference takes of a recipe, by an allow-list: components and settings of sampling; nothing else is built."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse._parameter_resolvers import get_signature_parameters

from got_core.errors import UserError, one_line
from got_core.interfaces import DenoisingBackbone, GuidanceEncoder, LatentCodec, NoiseObjective, Reasoner
from got_core.paths import ROOT
from got_core.recipe import add_working_directory, plain_errors
from got_core.system import GoTSystem

INTERFACES: Mapping[str, type] = {
    "reasoner": Reasoner,
    "guidance": GuidanceEncoder,
    "backbone": DenoisingBackbone,
    "codec": LatentCodec,
    "objective": NoiseObjective,
}
"""The components of a system by argument, and what each must be a subclass of."""

SAMPLING = ("generation_scales", "editing_scales", "sampling_steps", "max_chain_tokens")
"""Other arguments of a system, that say how it is sampled from."""

USED = (*INTERFACES, *SAMPLING)
"""The arguments of a system that inference uses."""

TRAINING: Mapping[str, None] = {"optimizer": None, "learning_rates": None}
"""Arguments that only training needs and a system cannot be built without."""

OWN_PACKAGES = ("got_core", "backbones", "reasoners", "guidance")
"""Packages of this project, which are installed together."""

_CLASS, _ARGUMENTS = "class_path", "init_args"
_PLAIN = (int, float, str, bool, type(None), list, tuple, dict, set, Mapping, Sequence, PurePath, Enum)
_REFERENCE = "${"


def inference_settings(settings: Any, place: Path, saved: bool) -> dict[str, Any]:
    """The part of a recipe's `model` that inference uses, known to name only components and plain values.

    A component is a subclass of its interface. In a saved folder or a repository of the hub it comes from an installed
    package; in a run also from the working directory. Its arguments are plain values: no class, function or reference
    to another value. The optimizer and every other argument of training are left out, whatever they are.

    Args:
        settings: What stands under `model`: `class_path` and `init_args`.
        place: The folder it was read from.
        saved: It is a saved folder, which anybody may have made, and not a run.

    Raises:
        UserError: Something else stands there; nothing has been built.
    """
    if not saved:
        add_working_directory()
    name, arguments = _class_and_arguments(settings, place, "model")
    system = _checked_class(name, object, place, saved)
    if not issubclass(system, GoTSystem):
        raise UserError(f"{place}: {system.__name__} draws nothing; a GoTSystem is needed")
    taken: dict[str, Any] = {}
    for part, interface in INTERFACES.items():
        if part not in arguments:
            raise UserError(f"{place}: its model has no {part}")
        path, given = _class_and_arguments(arguments[part], place, part)
        component = _checked_class(path, interface, place, saved)
        taken[part] = {_CLASS: path, _ARGUMENTS: _plain_arguments(component, given, place)}
    taken |= {key: arguments[key] for key in SAMPLING if key in arguments}
    _check_values({key: taken[key] for key in taken.keys() - INTERFACES.keys()}, place)
    return {_CLASS: name, _ARGUMENTS: taken}


def build_system(settings: Mapping[str, Any], place: Path) -> GoTSystem:
    """The system of settings as `inference_settings` returns them.

    Args:
        settings: `class_path` and `init_args`.
        place: The folder they were read from.

    Raises:
        UserError: They do not fit their classes, in one line.
    """
    parser = ArgumentParser(parser_mode="yaml", exit_on_error=False)
    module, _, name = settings[_CLASS].rpartition(".")
    parser.add_class_arguments(getattr(import_module(module), name), "model")
    with plain_errors(parser):
        read = parser.parse_object({"model": {**settings[_ARGUMENTS], **TRAINING}})
        for part in INTERFACES:
            # What was read has been converted, so it is looked at once more.
            given = settings[_ARGUMENTS][part][_ARGUMENTS]
            _check_values({name: read.model[part][_ARGUMENTS][name] for name in given}, place)
        system: GoTSystem = parser.instantiate(read).model
    return system


def _class_and_arguments(settings: Any, place: Path, part: str) -> tuple[str, dict[str, Any]]:
    arguments = settings.get(_ARGUMENTS) or {} if isinstance(settings, dict) else None
    if not isinstance(arguments, dict) or not isinstance(settings.get(_CLASS), str):
        raise UserError(f"{place}: its {part} is not a class_path with init_args")
    return settings[_CLASS], arguments


def _checked_class(path: str, interface: type, place: Path, saved: bool) -> type:
    """A class that is a subclass of its interface and comes from where classes may come from.

    Raises:
        UserError: It is not; of a package that is not allowed, nothing has been imported.
    """
    module, _, name = path.rpartition(".")
    if saved and not _is_installed(module.split(".")[0], place.resolve()):
        raise UserError(f"{place}: {path} is not from an installed package, as classes of a saved model must be")
    try:
        found = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # A module may do anything while it is imported.
        raise UserError(f"{place}: {path} cannot be imported ({one_line(error)})") from error
    if not isinstance(found, type) or not issubclass(found, interface):
        raise UserError(f"{place}: {path} is not a {interface.__name__}")
    return found


def _is_installed(package: str, folder: Path) -> bool:
    """Whether a package belongs to an installed distribution or to this project, and is not found in a folder."""
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    origins = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    files = [Path(origin).resolve() for origin in origins if origin and Path(origin).is_absolute()]
    if not files or any(file.is_relative_to(folder) for file in files):
        return False
    if package in OWN_PACKAGES and all(file.is_relative_to(ROOT) for file in files):
        return True
    return package in packages_distributions()


def _plain_arguments(component: type, given: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """A component's arguments, without those that are its own default class or function.

    Raises:
        UserError: A value is not plain, or is for an argument that takes a class or a function.
    """
    _check_values(given, place)
    arguments = dict(given)
    for parameter in get_signature_parameters(component):
        value = arguments.get(parameter.name)
        if value is None or not _takes_code(parameter.annotation):
            continue
        if not _names(value, parameter.default):
            raise UserError(
                f"{place}: {component.__name__}.{parameter.name} takes a class or a function; "
                "a model is opened with plain values alone"
            )
        del arguments[parameter.name]
    return arguments


def _check_values(values: Any, place: Path) -> None:
    """Look through plain values, and what YAML would make of their texts, for classes, functions and references.

    Raises:
        UserError: There is one.
    """
    waiting = [values]
    seen: dict[
        int, Any
    ] = {}  # By identity, and kept alive so that no other value gets an id: values may hold themselves.
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, str):
            if _REFERENCE in value:
                raise UserError(f"{place}: its config.yaml may not refer to other values, as {value!r} does")
            waiting.append(_as_yaml(value))
        elif isinstance(value, Mapping | Namespace):
            value = vars(value) if isinstance(value, Namespace) else value
            if _CLASS in value:
                raise UserError(f"{place}: {value[_CLASS]} is no component; a model is opened with plain values alone")
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif callable(value):
            raise UserError(f"{place}: {value!r} is no plain value")


def _as_yaml(text: str) -> Any:
    """The mapping or list that a text is in YAML; None if it is neither."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _takes_code(hint: Any) -> bool:
    """Whether an annotation admits a class, a function, a module or an object of a class that is not plain."""
    origin = get_origin(hint)
    if hint in (Any, inspect.Parameter.empty) or origin is Literal:
        return False
    if type in (hint, origin) or Callable in (hint, origin):
        return True
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return any(_takes_code(hints[field.name]) for field in fields(hint))
    if isinstance(hint, type) and origin is None:
        return not issubclass(hint, _PLAIN)
    return any(_takes_code(inner) for inner in get_args(hint) if inner is not Ellipsis)


def _names(path: Any, default: Any) -> bool:
    """Whether a path is that of an argument's default, which has been imported with its component."""
    module, _, name = str(path).rpartition(".")
    return default is not None and getattr(sys.modules.get(module), name, None) is default
