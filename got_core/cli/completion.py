"""`got completion`."""

from typing import Literal

from jsonargparse import ArgumentParser

from got_core.cli.main import COMMANDS, function_of
from got_core.cli.parsing import parser_of


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
