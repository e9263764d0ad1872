"""The `got` command: a table of its commands, of which each is imported when it is called."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple

from got_core.errors import Terminated, UserError, did_you_mean, hide_expected, one_line
from got_core.paths import importing

KINDS = {
    "": "command of got",
    "evaluate ": "suite of got evaluate",
    "bench ": "benchmark of got bench",
    "data ": "command of got data",
    "chain ": "command of got chain",
}
"""What follows the words of a group of commands."""

HELP = ("--help", "-h")


class Command(NamedTuple):
    """Where a command's function is, and the sentence that its docstring begins with."""

    module: str
    function: str
    help: str


COMMANDS = {
    "fit": Command("train", "fit", "Train a recipe, then score it."),
    "validate": Command("train", "validate", "Score a checkpoint on its recipe's validation set."),
    "inspect": Command("train", "inspect", "Print what training a recipe costs, or what its images take in memory."),
    "verify-resume": Command(
        "train", "verify_resume", "Kill a short run of a recipe and check that it resumes exactly."
    ),
    "study": Command("train", "study", "Train and score variants x backbones x seeds, or what is left of them."),
    "generate": Command("generate", "generate", "Generate images from prompts."),
    "edit": Command("generate", "edit", "Edit an image by an instruction."),
    "reason": Command("generate", "reason", "Print only the reasoning chain."),
    "studio": Command("studio", "studio", "Serve a web page to plan, generate, change and edit images."),
    "evaluate geneval": Command("evaluate", "geneval", "Score GenEval's prompts by a detector."),
    "evaluate layout": Command("evaluate", "layout", "Score how well images keep to their planned boxes."),
    "evaluate editing": Command("evaluate", "editing", "Score edits by CLIP, DINO, LPIPS and a judge."),
    "evaluate quality": Command("evaluate", "quality", "Compute FID and KID of images against others."),
    "evaluate understanding": Command("evaluate", "understanding", "Measure what training cost the reasoner."),
    "evaluate efficiency": Command("evaluate", "efficiency", "Measure what one image costs on one device."),
    "evaluate interaction": Command("evaluate", "interaction", "Check that a change changes nothing else."),
    "evaluate plans": Command("evaluate", "plans", "Measure what checks of plans add."),
    "evaluate conversation": Command("evaluate", "conversation", "Score edits in several turns."),
    "bench inference": Command("bench", "inference", "Time an image by stage, over the released algorithm."),
    "bench training": Command("bench", "training", "Time a training step, over a bare loop and plain code."),
    "bench startup": Command("bench", "startup", "Time a new process up to its first image, over its imports."),
    "bench limits": Command("bench", "limits", "Hold each stage against what the machine can do."),
    "bench reading": Command("bench", "reading", "Time image records in Parquet, shuffled over in order."),
    "bench shards": Command("bench", "shards", "Time formats of shards: Parquet, tar with an index, and MDS."),
    "bench data": Command("bench", "data", "Time the loading of samples, over decoding images and reading bytes."),
    "bench memory": Command("bench", "memory", "Measure the memory of an image, beside what is predicted."),
    "bench ranks": Command("bench", "ranks", "Time a training step on two ranks, over one rank."),
    "bench scaling": Command("bench", "scaling", "Measure how time and memory grow with what is asked for."),
    "chain convert": Command("chain", "convert", "Convert boxes from one form in use to another."),
    "data peek": Command(
        "data", "peek", "Print a source's columns, three of its records, and how a recipe could name them."
    ),
    "data check": Command("data", "check", "Read all records of a recipe once and report what training would meet."),
    "data build": Command("data", "build", "Build a stream of records: indexed shards with their images."),
    "data show": Command("data", "show", "Write a contact sheet and a web page of some records."),
    "data cache": Command("data", "cache", "Compute once what training would compute of each image at every step."),
    "compare": Command("evaluate", "compare", "Say whether one results.json is better than another, item by item."),
    "import-official": Command("weights", "import_official", "Turn the released GoT checkpoint into a folder of ours."),
    "export": Command("weights", "export", "Write a run's components in the layouts of transformers and diffusers."),
    "completion": Command("parsing", "completion", "Print a script that completes `got` in a shell."),
}
"""Each command by the words that call it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        argv: What follows `got`; by default that of the process.

    Raises:
        SystemExit: 2 and one line on stderr after an error of the user's; as in shells, 130 after Ctrl-C and 143 after
            SIGTERM.
        UserError: An error of the user's, if the environment variable GOT_TRACEBACK is set.
    """
    # Chains, names and errors have characters that a terminal's encoding may lack.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        if os.environ.get("GOT_TRACEBACK"):
            raise
        print(f"got: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        print(f"got: interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        sys.exit(130)
    except Terminated as error:
        print(f"got: {error.text}", file=sys.stderr)
        raise


def _run(words: list[str]) -> None:
    if words == ["--version"]:
        from importlib.metadata import version

        print(version("got-framework"))
        return
    name = ""
    while name not in COMMANDS:
        group = {command.removeprefix(name).split()[0] for command in COMMANDS if command.startswith(name)}
        if not words or words[0] in HELP:
            print(_overview(name))
            return
        if words[0] not in group:
            kind = KINDS[name]
            known = f"; known: {', '.join(sorted(group))}"
            raise UserError(f"{words[0]} is no {kind}{did_you_mean(words[0], group) or known}")
        name += words.pop(0)
        name += "" if name in COMMANDS else " "
    with listening() if name == "fit" else nullcontext():
        from got_core.cli.parsing import parse

        function = function_of(name)
        call = parse(name, function, words)
        hide_expected()
        function(*call.args, **call.kwargs)


@contextmanager
def listening() -> Iterator[None]:
    """Remember signals to training from here on."""
    from got_core.training.signals import INTERRUPTION

    INTERRUPTION.listen()
    try:
        yield
    finally:
        INTERRUPTION.leave()


def function_of(name: str) -> Callable[..., None]:
    """Return the typed function of a command."""
    command = COMMANDS[name]
    with importing():
        function: Callable[..., None] = getattr(import_module(f"got_core.cli.{command.module}"), command.function)
    return function


def _overview(group: str) -> str:
    """Return the help of `got`, or of a group of its commands such as `evaluate `."""
    commands = {name: command.help for name, command in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, commands))
    about = "Train and use models that reason about an image before they generate it.\n\n" if not group else ""
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in commands.items())
    options = "" if group else " | --version"
    return (
        f"usage: got {group}COMMAND ...{options}\n\n{about}commands:\n{lines}\n\n"
        f"`got {group}COMMAND --help` says more about one."
    )


if __name__ == "__main__":
    main()
