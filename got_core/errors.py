"""Errors that users can mend, in one line, and library messages that tell them nothing."""

import logging
import re
import warnings

LONGEST = 400
"""Characters of a reason that are shown."""


class UserError(Exception):
    """A mistake in a recipe, a command line or a file; its text says what and where, and is all that is shown."""


def one_line(error: BaseException) -> str:
    """An exception's text as one line of bounded length; of one that came from a loader's worker, its last line."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught ") and " worker process " in text.split("\n")[0]:
        text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


_LOGGERS = ("lightning.pytorch", "lightning.fabric")

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",  # the codec is frozen
    ".*WeightAveraging callback, but loading.*",  # a checkpoint's weights are the averaged ones
    ".*WeightAveraging callback with a model that overrides.*",  # sharded models are refused
    ".*returned a view tensor.*",  # of sharded modules; nothing is changed in place
    ".*isinstance.treespec, LeafSpec.*",
    ".*is_gradient_checkpointing. is deprecated.*",  # read by peft
    ".*predict returned None.*",  # what is drawn is written to files
    ".*local rank has zero.*",  # there are fewer images than ranks
)


def hide_expected() -> None:
    """Leave out what Lightning says of the machine and of seeds, and expected warnings; those that matter stay.

    To be called once the libraries are imported, which set up their loggers then.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
