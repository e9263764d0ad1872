"""Reads recipes and configurations of saved models; inference takes components and plain values alone."""

import argparse
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from omegaconf.errors import OmegaConfBaseException

from got_core.errors import UserError, one_line
from got_core.interfaces import DenoisingBackbone, GuidanceEncoder, LatentCodec, NoiseObjective, Reasoner
from got_core.paths import ROOT
from got_core.training.system import GoTSystem

_KEY = re.compile(r'^Parser key "([^"]+)":\s*(.*)$')
_CLASS_LINE = re.compile(r"^Problem with given class_path '([^']+)':\s*(.*)$")
_MISSPELT = re.compile(r"^Option '([^']+)' is not accepted")
_NOT_A = re.compile(r"^Import path (?:(\S+) )?does not correspond to a subclass of (\w+)")
_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_EXPECTED = re.compile(r"^Expected an? (.+?)(?:\. Got value: (.*))?$")
_CALLABLE = re.compile(r"expects a function or a callable class: (.+?)(?:\. Got value: (.*))?$")
_GIVEN_CLASS = re.compile(r"class_path='([^']+)'")
_NOISE = re.compile(
    r"^(Expected a path but|Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|"
    r"Not a valid subclass|Subclass types expect|an? (class path|dict) )"
)


def explain(error: BaseException, options: Iterable[str] = ()) -> str:
    """One line with the key path and the reason of an error raised while a recipe was read.

    Args:
        error: As raised by jsonargparse, omegaconf or the YAML reader.
        options: Names the parser accepts, from which a misspelt one is guessed.
    """
    text = str(error)
    if type(error).__name__ == "InterpolationKeyError":
        return _interpolation(text)
    if text.startswith("unrecognized arguments:"):
        name = text.split(":", 1)[1].split()[0].split("=")[0]
        return f"unknown option {name}{_guess(name, options)}"
    if "Parser key" not in text and not _MISSPELT.match(text):
        return one_line(error)
    keys, class_path, reason = _deepest(text)
    where = ".".join(keys)
    reason = _plain(reason, class_path, options)
    return one_line(ValueError(f"{where}: {reason}" if where else reason))


def _deepest(text: str) -> tuple[list[str], str | None, str]:
    """Key path, innermost class and the first reason given at the greatest depth of a nested message."""
    best: tuple[int, list[str], str | None, str] = (-1, [], None, text)
    keys: list[tuple[int, str]] = []
    classes: list[tuple[int, str]] = []
    for line in text.splitlines():
        bare = line.lstrip(" -")
        indent = len(line) - len(line.lstrip(" "))
        if not bare:
            continue
        keys = [entry for entry in keys if entry[0] < indent]
        classes = [entry for entry in classes if entry[0] < indent]
        for pattern, stack in ((_KEY, keys), (_CLASS_LINE, classes)):
            if match := pattern.match(bare):
                stack.append((indent, match[1]))
                bare = match[2]
        if bare and not _NOISE.match(bare) and indent > best[0]:
            best = (indent, [key for _, key in keys], classes[-1][1] if classes else None, bare)
    return best[1], best[2], best[3]


def _plain(reason: str, class_path: str | None, options: Iterable[str]) -> str:
    if match := _CALLABLE.search(reason):
        given = _GIVEN_CLASS.search(match[2] or "")
        reason, class_path = match[1], given[1] if given else None
    if match := _MISSPELT.match(reason):
        if class_path is None:
            return f"unknown key '{match[1]}'{_guess(match[1], options)}"
        return f"{class_path} takes no '{match[1]}'{_guess(match[1], _parameters(class_path))}"
    if match := _NOT_A.match(reason):
        return f"{match[1] or 'the class given'} is not a {match[2]}"
    if match := _NO_ATTRIBUTE.search(reason):
        return f"{match[1]} has no '{match[2]}'{_guess(match[2], dir(importlib.import_module(match[1])))}"
    if match := _EXPECTED.match(reason):
        wanted = re.sub(r"<class '([\w.]+)'>", r"\1", match[1]).replace("typing.", "")
        return f"expected {wanted}, got '{match[2]}'" if match[2] is not None else f"expected {wanted}"
    if class_path is not None:
        return f"{class_path}: {reason}"
    return reason


def _interpolation(text: str) -> str:
    first, _, rest = text.partition("\n")
    key = re.search(r"full_key: (\S+)", rest)
    missing = re.search(r"'([^']+)'", first)
    where = key[1].replace(".init_args", "") + ": " if key else ""
    return f"{where}${{{missing[1]}}} names no key of the recipe" if missing else where + first


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return [parameter.name for parameter in get_signature_parameters(getattr(importlib.import_module(module), name))]


def _guess(name: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(options), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


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


_WRAPPINGS = ("Does not validate against any of the Union", "Problem with given class_path")


def add_working_directory() -> None:
    """Let class paths name modules of the working directory, behind everything that is installed."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


@contextmanager
def plain_errors(parser: ArgumentParser) -> Iterator[None]:
    """Turn what is wrong with a recipe into a `UserError`; what is wrong with the code is raised as it is."""
    try:
        yield
    except (argparse.ArgumentError, OmegaConfBaseException) as error:
        options = [option for option in parser._option_string_actions if option.startswith("--")]
        names = {option[2:].split(".")[0] for option in options}
        raise UserError(explain(error, [*options, *names])) from error
    except (ValueError, OSError) as error:
        cause = _raised_by_constructor(error)
        if isinstance(cause, ValueError | OSError):
            raise UserError(one_line(cause)) from error
        raise cause from None


def _raised_by_constructor(error: BaseException) -> BaseException:
    """What a class raised while it was built, without the parser's wrapping."""
    while str(error).startswith(_WRAPPINGS) and error.__cause__ is not None:
        error = error.__cause__
    return error


def read_recipe(file: Path) -> dict[str, Any]:
    """What a recipe's file says, unresolved.

    Raises:
        UserError: It is no readable YAML, or not a mapping.
    """
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable recipe ({type(error).__name__})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{file}, line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not a readable recipe ({one_line(error)})") from None
    if not isinstance(settings, dict):
        raise UserError(f"{file}: not a recipe, which is a mapping of names to values")
    return settings
