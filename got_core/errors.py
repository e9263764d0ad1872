"""Errors that are the user's to mend, in one line."""

import re

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
