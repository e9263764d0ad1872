"""Reads a command line by the signature and the docstring of a typed function, through jsonargparse.

Types of options that several commands have are here too; values are checked when the command line is read.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from inspect import BoundArguments, Parameter, signature
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import register_type, restricted_number_type

from got_core.cli.main import COMMANDS, HELP, function_of
from got_core.errors import UserError, did_you_mean
from got_core.paths import LARGEST_SEED

# Help texts and errors show the names of these classes.
_positive: Any = restricted_number_type("positive int", int, (">=", 1))
_not_negative: Any = restricted_number_type("non-negative int", int, (">", -1))
_seed: Any = restricted_number_type(f"int in 0..{LARGEST_SEED}", int, [(">", -1), ("<=", LARGEST_SEED)])
_rate: Any = restricted_number_type("positive number", float, [(">", 0), ("<", float("inf"))])
_fraction: Any = restricted_number_type("number from 0 on", float, [(">=", 0), ("<", float("inf"))])
_memory: Any = type("gigabytes such as 80GB", (int,), {})
_size: Any = type("HEIGHTxWIDTH such as 256x256", (str,), {})

Count = Annotated[int, _positive]
Whole = Annotated[int, _not_negative]
Seed = Annotated[int, _seed]
Rate = Annotated[float, _rate]
Fraction = Annotated[float, _fraction]
Memory = Annotated[int, _memory]
Size = Annotated[tuple[int, int], _size]


def read_by(annotation: Any) -> Any:
    """Return the type that reads an option: that of `Annotated[int, type]`, without the `None` of a union."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return annotation.__metadata__[0] if get_origin(annotation) is Annotated else annotation


def _read_size(text: str) -> Any:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(text)
    return int(height), int(width)


def _read_memory(text: str) -> Any:
    number = text.upper().removesuffix("B").removesuffix("G")
    if not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise ValueError(text)
    return _memory(float(number) * 10**9)


register_type(_size, deserializer=_read_size, type_check=lambda value, _: isinstance(value, tuple))
register_type(_memory, deserializer=_read_memory)

RECIPE_OPTIONS = """\
options of a recipe (after --config):
  --model.backbone.depth 8               set a value; init_args may be left out
  --model.backbone my_file.MyBackbone    swap a component for another class
  --trainer.max_steps 100                any argument of Lightning's Trainer
  --trainer.default_root_dir runs/mine   another run folder
  --print_config                         print the resolved recipe and stop
"""

_OF_RECIPES = ("--model", "--data", "--trainer", "--seed_everything", "--print_config")


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions and examples as they are."""


def parse(name: str, function: Callable[..., None], words: Sequence[str]) -> BoundArguments:
    """Return the arguments of a function that a command line stands for.

    Options are keyword-only parameters, or fields of a parameter whose type is a dataclass. A function with
    `*overrides` takes any other option as well, unread.

    Args:
        name: Of the command.
        function: Of the command.
        words: What follows the name.

    Raises:
        UserError: What is wrong with them, in one line.
        SystemExit: After `--help`.
    """
    overrides: list[str] = []
    if _takes_overrides(function):
        words, overrides = _split(words, _known_flags(function))
    try:
        values = parser_of(name, function).parse_args(list(words)).as_dict()
    except argparse.ArgumentError as error:
        raise UserError(_explain(str(error), name, function, words)) from error
    call = signature(function).bind_partial()
    for parameter in call.signature.parameters.values():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            call.arguments[parameter.name] = tuple(overrides)
        elif group := _group(parameter):
            fields = {field: values[field] for field in signature(group).parameters}
            call.arguments[parameter.name] = group(**fields)
        else:
            call.arguments[parameter.name] = values[parameter.name.rstrip("_")]
    return call


def parser_of(name: str, function: Callable[..., None]) -> ArgumentParser:
    """Return the parser of a command; its help is the function's docstring."""
    text = parse_docstring(function.__doc__ or "")
    example = "\n".join(f"  {line}" for each in text.examples for line in (each.description or "").splitlines())
    parser = ArgumentParser(
        prog=f"got {name}",
        description="\n\n".join(filter(None, (text.short_description, text.long_description))),
        epilog=f"{RECIPE_OPTIONS if _takes_overrides(function) else ''}example:\n{example}",
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    for parameter, description in _parameters(function):
        settings: dict[str, Any] = {"help": " ".join(description.split()).replace("%", "%%")}
        flags = _flags(parameter)
        if flags and parameter.default is Parameter.empty:
            settings["required"] = True
        elif flags:
            settings["default"] = parameter.default
        if parameter.annotation is bool:
            settings["action"] = "store_true"
        elif get_origin(parameter.annotation) is Sequence:
            settings |= {"action": "append", "type": get_args(parameter.annotation)[0], "default": []}
        else:
            settings["type"] = read_by(parameter.annotation)
        parser.add_argument(*(flags or [parameter.name]), **settings)
    return parser


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[Parameter, str]]:
    """Yield what a command line gives, with its description; the fields of a dataclass in place of it."""
    owners = reversed(getattr(function, "__mro__", (function,)))
    described = {each.arg_name: each.description for owner in owners for each in parse_docstring(owner.__doc__).params}
    for parameter in signature(function).parameters.values():
        if group := _group(parameter):
            yield from _parameters(group)
        elif parameter.kind is not Parameter.VAR_POSITIONAL:
            yield parameter, described.get(parameter.name) or ""


def _group(parameter: Parameter) -> type[Any] | None:
    """Return the dataclass whose fields are options, if the parameter's type is one."""
    kind: type[Any] = parameter.annotation
    return kind if is_dataclass(kind) else None


def _flags(parameter: Parameter) -> list[str]:
    """Return how an option is written, as Lightning writes it where it is Lightning's; nothing for a positional."""
    if parameter.kind is not Parameter.KEYWORD_ONLY:
        return []
    # A word of Python's, such as `from`, has `_` behind it.
    name = parameter.name if parameter.name == "ckpt_path" else parameter.name.rstrip("_").replace("_", "-")
    return [f"--{name}", "-c"] if name == "config" else [f"--{name}"]


def _known_flags(function: Callable[..., None]) -> list[str]:
    return [*(flag for parameter, _ in _parameters(function) for flag in _flags(parameter)), *HELP]


def _takes_overrides(function: Callable[..., None]) -> bool:
    return any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in signature(function).parameters.values())


def _split(words: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the command's own words from options of a recipe, each with the value that may follow it."""
    own: list[str] = []
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        option = word.partition("=")[0]
        if not word.startswith("--") or option in known:
            own.append(word)
            continue
        if "." not in option and option not in _OF_RECIPES and (guess := did_you_mean(option, known)):
            raise UserError(f"unknown option {option}{guess}")
        others.append(word)
        if "=" not in word and left and not left[0].startswith("--") and left[0] not in known:
            others.append(left.pop(0))
    return own, others


def _explain(text: str, name: str, function: Callable[..., None], words: Sequence[str]) -> str:
    """Return one line for what jsonargparse says of a command line."""
    if text.startswith("unrecognized arguments: "):
        word = text.split()[2].partition("=")[0]
        if not word.startswith("-"):
            return f"got {name} takes no {word}"
        return f"unknown option {word} of got {name}{did_you_mean(word, _known_flags(function))}"
    if text.startswith("Parser key"):
        key = text.split('"')[1]
        parameter = next(parameter for parameter, _ in _parameters(function) if parameter.name.rstrip("_") == key)
        kind, flag = read_by(parameter.annotation), (_flags(parameter) or [key])[0]
        expected = f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else kind.__name__
        pairs = zip(words, [*words[1:], ""], strict=True)
        given = [word.partition("=")[2] or after for word, after in pairs if word.partition("=")[0] == flag]
        return f"{flag}: expected {expected}" + (f", got '{given[-1]}'" if given else "")
    return text.removeprefix("argument ")


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script that completes `got` in a shell.

    Args:
        shell: bash or zsh.

    Example:
        got completion bash > ~/.local/share/bash-completion/completions/got
    """
    top, groups = ArgumentParser(prog="got"), {}
    commands = top.add_subcommands()
    for name, command in COMMANDS.items():
        group, _, member = name.rpartition(" ")
        if group and group not in groups:
            parser = ArgumentParser(prog=f"got {group}")
            commands.add_subcommand(group, parser, help=group)
            groups[group] = parser.add_subcommands()
        siblings = groups[group] if group else commands
        siblings.add_subcommand(member, parser_of(name, function_of(name)), help=command.help)
    print(top.get_completion_script(f"shtab-{shell}"))
