"""Arguments of the pipeline that may be given once or several times."""

from collections.abc import Sequence
from typing import Any


def several(text: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list.

    Raises:
        ValueError: There is none.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError("there is no prompt")
    return texts


def one_each(given: Any, count: int, kind: type | tuple[type, ...], name: str) -> list[Any]:
    """What is given for each of `count` plans, or once for all of them.

    Args:
        given: One of `kind`, or a sequence of them.
        count: How many are needed.
        kind: What a single one is.
        name: Of the argument, for errors.

    Raises:
        ValueError: Another number is given.
    """
    each = [given] * count if isinstance(given, kind) else list(given)
    if len(each) != count:
        raise ValueError(f"{len(each)} {name} for {count} plans: give one, or one for each")
    return each
