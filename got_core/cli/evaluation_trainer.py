"""What the suites of `got evaluate` share on the command line: the Trainer, and what they say."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from got_core.errors import UserError, one_line
from got_core.evaluation.results import RESULTS

PRECISION = "32-true"
"""Of drawings, where none is asked for."""

BOOTSTRAP_SEED = 0
"""Of the intervals."""

KEPT = "what was found so far is kept in {}; the same command goes on"
"""Said after Ctrl-C."""

SHOWN = 5
"""Entries of a list that are named in the terminal; all are in the results."""


def evaluation_trainer(options: argparse.Namespace) -> Trainer:
    """A Trainer for `predict` and `test` on the devices that `options` name; it shards no data and logs nothing.

    Args:
        options: With `accelerator`, `devices`, `num_nodes` and `precision`.

    Raises:
        UserError: There are no such devices.
    """
    precision: Any = options.precision or PRECISION
    try:
        return Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            precision=precision,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
        )
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        raise UserError(
            f"--accelerator {options.accelerator} --devices {options.devices}: {one_line(error)}"
        ) from error


@contextmanager
def interruptible(trainer: Trainer, kept: str) -> Iterator[None]:
    """Say after Ctrl-C what is kept."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt(kept) from None
        raise


def print_entries(entries: Mapping[str, str], what: str) -> None:
    """Name the first of some entries, each with its reason, and count the rest."""
    for name, reason in list(entries.items())[:SHOWN]:
        print(f"{what}: {name}: {reason}")
    if len(entries) > SHOWN:
        print(f"{what}: {len(entries) - SHOWN} more, all of them in {RESULTS}")
