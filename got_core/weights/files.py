"""Files and folders that appear whole or not at all, and checksums of both."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from got_core.errors import UserError, one_line


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears with all that is put into it, or not at all.

    Yields:
        A temporary folder beside it, renamed at the end and removed after an error.

    Raises:
        UserError: There is something in that place already, or it cannot be written to.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: there is something already; name a new folder")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(file: Path, text: str) -> None:
    """Write a file that is there with all that is in it, or not at all."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def checksum(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of its files' names and checksums, in order."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return checksum_of(path, (entry for entry in path.rglob("*") if entry.is_file()))


def checksum_of(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names, within `root`, and the checksums of some files, in the order of their names."""
    lines = sorted(f"{file.relative_to(root).as_posix()} {checksum(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
