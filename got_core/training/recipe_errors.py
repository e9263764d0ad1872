"""Errors of recipes in one line: jsonargparse's nested messages reduced to key, class and reason."""

import argparse
import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentParser
from omegaconf.errors import OmegaConfBaseException

from got_core.errors import UserError, did_you_mean, one_line

_WRAPPINGS = ("Does not validate against any of the Union", "Problem with given class_path")
_KEY = re.compile(r'^Parser key "([^"]+)":\s*(.*)$')
_CLASS_LINE = re.compile(r"^Problem with given class_path '([^']+)':\s*(.*)$")
_MISSPELT = re.compile(r"^Option '([^']+)' is not accepted")
_NOT_A = re.compile(r"^Import path (?:(\S+) )?does not correspond to a subclass of (\w+)")
_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_EXPECTED = re.compile(r"^Expected an? (.+?)(?:\. Got value: (.*))?$")
_CALLABLE = re.compile(r"expects a function or a callable class: (.+?)(?:\. Got value: (.*))?$")
_GIVEN_CLASS = re.compile(r"class_path='([^']+)'")
_GIVEN_VALUE = re.compile(r"^ *Given value: (.*)", re.MULTILINE)
_NOISE = re.compile(
    r"^(Expected a path but|Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|"
    r"Not a valid subclass|Subclass types expect|an? (class path|dict) )"
)


def explain(error: BaseException, options: Iterable[str] = ()) -> str:
    """Return one line with the key path and the reason of an error raised while a recipe was read.

    Args:
        error: As raised by jsonargparse, omegaconf or the YAML reader.
        options: Names that the parser accepts; the closest one to a misspelt name is suggested.
    """
    text = str(error)
    if type(error).__name__ == "InterpolationKeyError":
        return _interpolation(text)
    if text.startswith("unrecognized arguments:"):
        name = text.split(":", 1)[1].split()[0].split("=")[0]
        return f"unknown option {name}{did_you_mean(name, options)}"
    if "Parser key" not in text and not _MISSPELT.match(text):
        return one_line(error)
    keys, class_path, raw = _deepest(text)
    where = ".".join(keys)
    reason = _plain(raw, class_path, options)
    # For a union, jsonargparse gives the value once, below the reasons of all types.
    if (
        reason.startswith("expected ")
        and "Got value" not in raw
        and (given := _GIVEN_VALUE.search(text.partition(raw)[2]))
    ):
        reason = f"{reason}, got '{given[1]}'"
    return one_line(ValueError(f"{where}: {reason}" if where else reason))


def _deepest(text: str) -> tuple[list[str], str | None, str]:
    """Return key path, innermost class and first reason at the greatest depth of a nested message."""
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
            return f"unknown key '{match[1]}'{did_you_mean(match[1], options)}"
        return f"{class_path} takes no '{match[1]}'{did_you_mean(match[1], _parameters(class_path))}"
    if match := _NOT_A.match(reason):
        return f"{match[1] or 'the class given'} is not a {match[2]}"
    if match := _NO_ATTRIBUTE.search(reason):
        return f"{match[1]} has no '{match[2]}'{did_you_mean(match[2], dir(importlib.import_module(match[1])))}"
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
    named, parser = getattr(importlib.import_module(module), name), ArgumentParser()
    if isinstance(named, type):
        return parser.add_class_arguments(named, fail_untyped=False)
    return parser.add_function_arguments(named, fail_untyped=False)


@contextmanager
def plain_errors(parser: ArgumentParser) -> Iterator[None]:
    """Raise errors of a recipe as a `UserError`; errors of the code are raised as they are."""
    try:
        yield
    except (argparse.ArgumentError, OmegaConfBaseException) as error:
        keys = parser.get_defaults().keys(branches=True)
        options = [name for key in keys for name in (f"--{key}", key.partition(".")[0])]
        raise UserError(explain(error, options)) from error
    except (ValueError, OSError) as error:
        # What a class raised while it was built, without the parser's wrapping.
        cause: BaseException = error
        while str(cause).startswith(_WRAPPINGS) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ValueError | OSError):
            raise UserError(one_line(cause)) from error
        raise cause from None
    except (RecursionError, MemoryError) as error:
        raise UserError(
            f"a value of the recipe, or a file that it names, is nested too deeply or too large "
            f"({type(error).__name__}: {one_line(error)})"
        ) from error
