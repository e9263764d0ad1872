"""Reads a command line by the signature and the docstring of a typed function, through jsonargparse."""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from inspect import Parameter, signature
from typing import Any, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse._parameter_resolvers import get_signature_parameters

from got_core.cli.main import did_you_mean
from got_core.cli.options import EXPECTED, read_by
from got_core.errors import UserError

RECIPE_OPTIONS = """
options of a recipe (after --config):
  --model.backbone.depth 8               set a value; init_args may be left out
  --model.backbone my_file.MyBackbone    swap a component for another class
  --trainer.max_steps 100                any argument of Lightning's Trainer
  --trainer.default_root_dir runs/mine   another run folder
  --print_config                         print the resolved recipe and stop
"""

UNDERSCORED = "ckpt_path"
"""The option that is written as Lightning writes it."""

_OF_RECIPES = ("--model", "--data", "--trainer", "--seed_everything", "--print_config")
_NOT_OF_TYPE = re.compile(r"(?:Not of type |Expected an? <class ')(\w+)")


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions and examples as they are."""


def parse(name: str, function: Callable[..., None], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments of a function that a command line stands for.

    Options are parameters by keyword alone, or fields of a parameter whose type is a dataclass. A function with
    `*overrides` takes any other option as well, unread.

    Args:
        name: Of the command.
        function: Of the command.
        words: What follows the name.

    Raises:
        UserError: What is wrong with them, in one line.
        SystemExit: After `--help`.
    """
    parser = parser_of(name, function)
    overrides: list[str] = []
    if _takes_overrides(function):
        words, overrides = _split(words, _options(parser))
    try:
        values = parser.parse_args(list(words)).as_dict()
    except argparse.ArgumentError as error:
        raise UserError(_explain(error, parser, words)) from error
    arguments, options = [], {}
    for parameter in signature(function).parameters.values():
        if parameter.kind is Parameter.KEYWORD_ONLY:
            options[parameter.name] = values[parameter.name]
        elif group := _group(parameter):
            arguments.append(group(**{field.name: values[field.name] for field in get_signature_parameters(group)}))
        elif parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            arguments.append(values[parameter.name])
    return [*arguments, *overrides], options


def parser_of(name: str, function: Callable[..., None]) -> ArgumentParser:
    """The parser of a command; its help is the function's docstring."""
    text = parse_docstring(function.__doc__ or "")
    example = "\n".join(f"  {line}" for found in text.examples for line in (found.description or "").splitlines())
    parser = ArgumentParser(
        prog=f"got {name}",
        description="\n\n".join(filter(None, (text.short_description, text.long_description))),
        epilog=f"{RECIPE_OPTIONS.lstrip() if _takes_overrides(function) else ''}example:\n{example}",
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    for parameter in get_signature_parameters(function):
        group = _group(parameter)
        for option in get_signature_parameters(group) if group else (parameter,):
            _add(parser, option)
    return parser


def _group(parameter: Any) -> type[Any] | None:
    """The dataclass whose fields are options, if the parameter's type is one."""
    kind: type[Any] = parameter.annotation
    return kind if is_dataclass(kind) else None


def _add(parser: ArgumentParser, parameter: Any) -> None:
    name = parameter.name
    described: dict[str, Any] = {"help": " ".join((parameter.doc or "").split()).replace("%", "%%")}
    if parameter.kind is not Parameter.KEYWORD_ONLY:
        parser.add_argument(name, type=read_by(parameter.annotation), **described)
        return
    flags = [f"--{name if name == UNDERSCORED else name.replace('_', '-')}", *(["-c"] if name == "config" else [])]
    if parameter.default is Parameter.empty:
        described["required"] = True
    elif parameter.annotation is bool:
        described["action"] = "store_true"
    elif get_origin(parameter.annotation) is Sequence:
        described |= {"action": "append", "type": get_args(parameter.annotation)[0], "default": []}
    else:
        described["default"] = parameter.default
    if "action" not in described:
        described["type"] = read_by(parameter.annotation)
    parser.add_argument(*flags, **described)


def _takes_overrides(function: Callable[..., None]) -> bool:
    return any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in signature(function).parameters.values())


def _options(parser: ArgumentParser) -> list[str]:
    return [option for option in parser._option_string_actions if option != "--print_shtab"]


def _split(words: Sequence[str], options: Iterable[str]) -> tuple[list[str], list[str]]:
    """What is the command's own, and options of a recipe, each with the value that may follow it."""
    own: list[str] = []
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        option = word.partition("=")[0]
        if not word.startswith("--") or option in options:
            own.append(word)
            continue
        if "." not in option and option not in _OF_RECIPES and (guess := did_you_mean(option, options)):
            raise UserError(f"unknown option {option}{guess}")
        others.append(word)
        if "=" not in word and left and not left[0].startswith("--") and left[0] not in options:
            others.append(left.pop(0))
    return own, others


def _explain(error: argparse.ArgumentError, parser: ArgumentParser, words: Sequence[str]) -> str:
    """One line for what jsonargparse says of a command line."""
    text = str(error)
    if text.startswith("unrecognized arguments: "):
        word = text.split()[2].partition("=")[0]
        if not word.startswith("-"):
            return f"{parser.prog} takes no {word}"
        return f"unknown option {word} of {parser.prog}{did_you_mean(word, _options(parser))}"
    if text.startswith("Parser key"):
        key = text.split('"')[1]
        action = next(action for action in parser._actions if action.dest == key)
        flag = action.option_strings[0] if action.option_strings else key
        pairs = zip(words, [*words[1:], ""], strict=True)
        given = [word.partition("=")[2] or after for word, after in pairs if word.partition("=")[0] == flag]
        value = f", got '{given[-1]}'" if given else ""
        return f"{flag}: expected {_expected(text)}{value}"
    return text.removeprefix("argument ")


def _expected(text: str) -> str:
    if choices := re.search(r"Literal\[([^\]]*)\]", text):
        return "one of " + choices[1].replace("'", "")
    kinds = _NOT_OF_TYPE.findall(text)
    return EXPECTED.get(kinds[0], kinds[0]) if kinds else "another value"
