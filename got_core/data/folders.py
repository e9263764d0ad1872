"""Folders that are local or at a URL of fsspec, with files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from got_core.errors import one_line
from got_core.weights.files import new_file


@dataclass(frozen=True)
class Folder:
    """A folder, local or at a URL that fsspec opens, such as `s3://bucket/stream` or `memory://stream`.

    Attributes:
        url: Its path or URL.

    Raises:
        ValueError: fsspec knows no such URL, or lacks a package for it.
    """

    url: str

    def __post_init__(self) -> None:
        self._opened()

    @property
    def local(self) -> Path | None:
        """Its path, if it is local."""
        files, root = self._opened()
        return Path(root) if isinstance(files, LocalFileSystem) else None

    @property
    def in_process(self) -> bool:
        """Whether other processes do not see what is written into it."""
        return isinstance(self._opened()[0], MemoryFileSystem)

    def exists(self, name: str) -> bool:
        """Return whether it holds a file."""
        files, root = self._opened()
        return bool(files.exists(f"{root}/{name}"))

    def names(self) -> set[str]:
        """Return the names of what is in it; none if it does not exist."""
        files, root = self._opened()
        files.invalidate_cache()
        try:
            return {entry.rstrip("/").rsplit("/", 1)[-1] for entry in files.ls(root, detail=False)}
        except FileNotFoundError:
            return set()

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file, or those from `start` to `end`."""
        files, root = self._opened()
        content: bytes = files.cat_file(f"{root}/{name}", start, end)
        return content

    def open(self, name: str) -> Any:
        """Open a file to be read in parts."""
        files, root = self._opened()
        return files.open(f"{root}/{name}", "rb", cache_type="none")

    @contextmanager
    def new_file(self, name: str) -> Iterator[Any]:
        """Open a file that appears with all that is written into it, or not at all; its folder is made."""
        if self.local is not None:
            local = self.local / name
            local.parent.mkdir(parents=True, exist_ok=True)
            with new_file(local) as file:
                yield file
            return
        files, root = self._opened()
        path = PurePosixPath(root, name)
        partial = path.with_name(f".{path.name}.partial")
        files.makedirs(str(path.parent), exist_ok=True)
        with files.open(str(partial), "wb") as file:
            yield file
        files.mv(str(partial), str(path))

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears whole, or not at all."""
        with self.new_file(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a folder in it, if there is one."""
        files, root = self._opened()
        if files.exists(f"{root}/{name}"):
            files.rm(f"{root}/{name}", recursive=True)

    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Opened each time: fsspec holds them for each process."""
        try:
            files, root = fsspec.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{self.url}: cannot be opened ({one_line(error)})") from None
        return files, root.rstrip("/")
