"""Errors that users can correct, in one line, and filters of library messages that do not help them."""

import logging
import re
import warnings

LONGEST = 400
"""Most characters of a reason that are shown."""


class UserError(Exception):
    """A mistake in a recipe, a command line or a file; its message names problem and location, and only it is shown."""


def one_line(error: BaseException) -> str:
    """Return an exception's message as one line of limited length; of an error in a loader's worker, the last line."""
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
    ".*predict returned None.*",  # images are written to files
    ".*local rank has zero.*",  # fewer images than ranks
)


def hide_expected() -> None:
    """Hide Lightning's messages about the machine and seeds, and expected warnings. Other warnings stay.

    Call it after the libraries are imported, because they set up their loggers then.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
