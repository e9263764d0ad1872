"""Files and folders that are written whole or not at all, removed, and identified by checksums."""

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
    """Make a folder that appears with all that is put into it, or not at all.

    Yields:
        A temporary folder beside it, renamed at the end and removed after an error.

    Raises:
        UserError: The path already exists, or it cannot be written to.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: already exists; name a new folder")
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
    """Write a file that appears with all of its text, or not at all."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of its files' names and checksums, in order."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return checksum_of(path, (entry for entry in path.rglob("*") if entry.is_file()))


def checksum_of(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of the names, within `root`, and the checksums of some files, in the order of names."""
    lines = sorted(f"{file.relative_to(root).as_posix()} {checksum(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
