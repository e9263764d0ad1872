"""Errors that users can correct, in one line, and filters of library messages that do not help them."""

import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """A mistake in a recipe, a command line or a file; its message names problem and location, and only it is shown."""


class Terminated(SystemExit):
    """The end of a process that received SIGTERM, with the exit status that shells report of it.

    Args:
        text: What is shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = 128 + 15
        self.text = text


def one_line(error: BaseException) -> str:
    """Return an exception's message as one line of limited length; of an error in a loader's worker, the last line."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught ") and " worker process " in text.split("\n")[0]:
        text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + " ..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about a misspelt word: the closest known one, if one is close."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return what JSON says; options are those of `json.loads`.

    Raises:
        ValueError: It is not JSON, or is nested too deeply or too large to be read.
    """
    try:
        return json.loads(text, **options)
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"nested too deeply or too large: {type(error).__name__}") from None


_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def check_text(text: str) -> str:
    """Return a text if every tokenizer, file and terminal can take it.

    Raises:
        ValueError: It has a NUL, or half of a character such as an emoji, as when a text is cut by UTF-16 units or
            its bytes could not be decoded.
    """
    fault = _NOT_TEXT.search(text)
    if fault is None:
        return text
    what = "a NUL" if fault[0] == "\0" else f"half of a character or an undecodable byte (\\u{ord(fault[0]):04x})"
    raise ValueError(f"{what} at character {fault.start()} of the text")


@contextmanager
def as_user_error(*kinds: type[Exception]) -> Iterator[None]:
    """Raise errors of some kinds, which a user can mend, as a `UserError` of one line."""
    try:
        yield
    except kinds as error:
        raise UserError(one_line(error)) from error


_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",  # the codec is frozen
    ".*WeightAveraging callback, but loading.*",  # a checkpoint's weights are the averaged ones
    ".*WeightAveraging callback with a model that overrides.*",  # sharded models are refused
    ".*returned a view tensor.*",  # of sharded modules; nothing is changed in place
    ".*isinstance.treespec, LeafSpec.*",
    ".*is_gradient_checkpointing. is deprecated.*",  # read by peft
    ".*predict returned None.*",  # images are written to files
    ".*could be decompression bomb.*",  # images have a lower limit of their own
    ".*local rank has zero.*",  # fewer images than ranks
)


def hide_expected() -> None:
    """Hide Lightning's messages about the machine and seeds, and expected warnings. Other warnings stay.

    Call it after the libraries are imported, because they set up their loggers then.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
