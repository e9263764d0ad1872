"""Files and folders that are written whole or not at all, removed, and identified by checksums."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from got_core.errors import UserError, one_line

try:
    import fcntl
except ImportError:  # Windows, where what is open cannot be removed or replaced.
    fcntl = None  # type: ignore[assignment]


def partial_of(path: Path) -> Path:
    """Return where a file or folder is written before it is renamed: beside it, in the same file system."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears with all that is written into it and replaces an older one, or not at all.

    It is written beside the path, and is on the disk before it is renamed. It is locked while it is written, so what a
    process has left that was killed is overwritten, and of two processes that write the second waits.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    partial = partial_of(path)
    if partial.is_dir() or partial.is_symlink():
        remove_left(path)
    with _locked(partial, partial.touch) as descriptor, open(descriptor, "wb", closefd=False) as file:
        try:
            file.truncate()
            yield file
            file.flush()
            os.fsync(descriptor)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder beside a path, named by `partial_of`, which the caller fills and renames.

    It is locked as `new_file` locks files; what is still there at the end is removed.

    Raises:
        OSError: It cannot be made.
    """
    partial = partial_of(path)
    if partial.is_file() or partial.is_symlink():
        remove_left(path)
    with _locked(partial, lambda: partial.mkdir(parents=True, exist_ok=True)):
        try:
            for left in partial.iterdir():
                remove(left)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder that appears with all that is put into it, or not at all.

    Yields:
        A temporary folder beside it, renamed at the end, once all is on the disk, and removed after an error.

    Raises:
        UserError: The path already exists, or it cannot be written to.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: already exists; name a new folder")
    try:
        with partial_folder(folder) as partial:
            yield partial
            for entry in (*partial.rglob("*"), partial):
                sync(entry)
            os.replace(partial, folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error


def write_whole(file: Path, text: str) -> None:
    """Write a file that appears with all of its text, or not at all."""
    with new_file(file) as opened:
        opened.write(text.encode())


def remove_left(path: Path) -> None:
    """Remove what a killed process has left of a file or folder that it wrote; that of a living process stays."""
    partial = partial_of(path)
    if partial.is_symlink():
        partial.unlink()
    with suppress(FileNotFoundError, BlockingIOError), _locked(partial, partial.stat, wait=False):
        remove(partial)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if fcntl is None and path.is_dir():
        return  # Windows opens no folders.
    descriptor = os.open(path, os.O_RDONLY if fcntl else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, make: Callable[[], object], wait: bool = True) -> Iterator[int]:
    """Lock a file or folder, which is made first, and yield its descriptor; a lock ends with its process.

    Raises:
        BlockingIOError: Another one has locked it, and this one should not wait.
    """
    descriptor = None
    while descriptor is None:
        make()
        descriptor = _open_locked(path, wait)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_locked(path: Path, wait: bool) -> int | None:
    """Open and lock; None if the process that had locked it before has renamed or removed it."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        with ExitStack() as on_error:
            on_error.callback(os.close, descriptor)
            _lock(descriptor, wait)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                on_error.pop_all()
                return descriptor
    return None


def _lock(descriptor: int, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        pass  # The file system has no locks.


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
