"""Folders that one process works on at a time."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from got_core.errors import UserError

LOCK = "lock"
"""The file in a folder that is locked, and holds the id of the process that locked it last."""


@contextmanager
def held(folders: Iterable[Path]) -> Iterator[dict[Path, int]]:
    """Hold folders, made if they are not there, against other studies.

    Yields:
        A file descriptor for each: a process that inherits it holds the folder on, also when this one is killed.

    Raises:
        UserError: Another process holds one of them.
    """
    with ExitStack() as stack:
        found = {}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            found[folder] = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, found[folder])
            _take(folder, found[folder])
        yield found


def _take(folder: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = (folder / LOCK).read_text() or "?"
        raise UserError(f"{folder} is being worked on by process {owner}: wait until that study has ended") from None
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
