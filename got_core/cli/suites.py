"""`got evaluate`: what can be measured, and who does it. Nothing heavy is imported before a suite is chosen."""

import argparse
from collections.abc import Sequence
from importlib import import_module

from got_core.errors import UserError, hide_expected

SUITES = {
    "geneval": "got_core.cli.geneval_evaluation:evaluate",
    "layout": "got_core.cli.layout_evaluation:evaluate",
    "editing": "got_core.cli.editing_evaluation:evaluate",
    "quality": "got_core.cli.quality_evaluation:evaluate",
    "understanding": "got_core.cli.understanding_evaluation:evaluate",
    "efficiency": "got_core.cli.efficiency_evaluation:evaluate",
    **dict.fromkeys(("interaction", "plans", "conversation"), "got_core.cli.case_evaluation:evaluate"),
}
"""A suite's name, and its function of options and the words that are left."""

_DRAWING = ("checkpoint", "prompts", "output", "seed", "size", "steps", "precision", "semantic_scale", "spatial_scale")
_SCORING = ("images", "output", "batch_size", "num_workers", "accelerator", "devices", "num_nodes")
_CASES = {"checkpoint", "output", "seed", "size", "steps", "precision", "batch_size", "num_workers", "accelerator"} | {
    *("devices", "num_nodes", "semantic_scale", "spatial_scale", "reference_scale", "number", "split"),
}
_JUDGE = ("judge_url", "judge_model", "judge_key", "judge_timeout")

OPTIONS = {
    "geneval": {*_DRAWING, *_SCORING, "per_prompt", "detector", "clip"},
    "layout": {*_DRAWING, *_SCORING, "per_prompt", "detector"},
    "editing": {*_DRAWING, *_SCORING, *_JUDGE, "reference_scale", "number", "method", "clip", "dino", "lpips"},
    "quality": {*_SCORING, "reference", "inception"},
    "understanding": {"checkpoint", "prompts", "output", "seed", "size", "number", "before", "texts"}
    | {"num_workers", "accelerator", "devices", "num_nodes"},
    "efficiency": {"checkpoint", "config", "output", "size", "steps", "repeats", "warm_up", "accelerator"},
    "interaction": _CASES,
    "plans": {*_CASES, "best_of", "temperature"},
    "conversation": {*_CASES, "keep_rest"},
}
"""What each suite takes, as options are called in `argparse.Namespace`."""


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run the suite that is asked for.

    Raises:
        UserError: An option is of other suites.
    """
    check_options(options)
    module, function = SUITES[options.suite].split(":")
    run = getattr(import_module(module), function)
    hide_expected()
    run(options, rest)


def check_options(options: argparse.Namespace) -> None:
    """See that only options of the suite are given, which are those that differ from what `default_of` says of them.

    Raises:
        UserError: One of others is.
    """
    for name, value in vars(options).items():
        suites = [suite for suite, taken in OPTIONS.items() if name in taken]
        if suites and options.suite not in suites and value != options.default_of(name):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is no option of --suite {options.suite}, but of {', '.join(suites)}")
