"""Checksums of checkpoints: written with them, and compared before anything in them is used."""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemWriter, SavePlan, SavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from got_core.errors import UserError, parse_json
from got_core.weights.files import new_file, write_whole

REST = "meta.pt"
"""In the folder of a distributed checkpoint: what is no tensor, as Lightning names it."""

CHECKSUMS = "checksums.json"
"""In the folder of a distributed checkpoint: the CRC-32 of each of its files, in hexadecimal digits."""

_SEAL = b"got crc32 %08x"
_LENGTH = struct.Struct("<H")
_ZIP = b"PK\3\4"

_CHUNK = 2**24


class SummedFile:
    """Writes into a file from its start to its end, and computes the CRC-32 of what is written.

    CRC-32 notices every flipped bit and every damage of up to 32 bits in a row, at about 1 GB/s on one core.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.crc = 0
        self.tell, self.flush, self.fileno, self.close = file.tell, file.flush, file.fileno, file.close

    def write(self, data: Any) -> int:
        """Write all of some bytes."""
        self.crc = zlib.crc32(data, self.crc)
        written: int = self._file.write(data)
        return written


def write_checkpoint(content: Any, path: Path) -> None:
    """Save as `torch.save` does, with a checksum; the file appears whole, once it is on the disk, or not at all.

    The checksum is the comment of the zip file that torch writes, which its readers skip. Of tensors on a GPU, one at a
    time is copied to host memory.

    Raises:
        OSError, RuntimeError: It cannot be written.
    """
    with new_file(path) as file:
        summed: Any = SummedFile(file)
        torch.save(content, summed)
        seal = _SEAL % summed.crc
        file.seek(-_LENGTH.size, os.SEEK_CUR)
        file.write(_LENGTH.pack(len(seal)) + seal)


class SummedWriter(FileSystemWriter):
    """Writes a distributed checkpoint as torch does, with the checksums of its files in `CHECKSUMS`.

    What goes wrong on one rank, in `complete` too, is raised on all.

    Args:
        folder: Where to.
        rest: What is no tensor; it becomes `meta.pt`, as Lightning names it.
        complete: Called by the first rank once all is on the disk.
    """

    def __init__(self, folder: Path, rest: Any, complete: Callable[[], None]) -> None:
        super().__init__(folder)
        self.fs = self._files = _SummedFiles()
        self._folder = folder
        self._rest = rest
        self._complete = complete

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file, and add its checksum to the results."""
        results = super().write_data(plan, planner).value()
        crcs = self._files.crcs
        summed: Future[list[WriteResult]] = Future()
        summed.set_result(
            [_Summed(r.index, r.size_in_bytes, r.storage_data, crcs[r.storage_data.relative_path]) for r in results]
        )
        return summed

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata, what is no tensor, and the checksums of all files."""
        super().finish(metadata, results)
        with self._files.create_stream(self._folder / REST, "wb") as file:
            torch.save(self._rest, file)
            file.flush()
            os.fsync(file.fileno())
        crcs = {name.removesuffix(".tmp"): crc for name, crc in self._files.crcs.items()}
        for result in (result for part in results for result in part if isinstance(result, _Summed)):
            crcs[result.storage_data.relative_path] = result.crc
        write_whole(self._folder / CHECKSUMS, json.dumps(crcs, indent=1, sort_keys=True))
        self._complete()


class _SummedFiles(FileSystem):
    """Torch's files, with the checksums of those that were written."""

    def __init__(self) -> None:
        self.crcs: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as stream:
            summed = SummedFile(stream)
            yield summed
            self.crcs[Path(path).name] = f"{summed.crc:08x}"


@dataclass(frozen=True)
class _Summed(WriteResult):
    """The result of writing a tensor, with the checksum of the file that it is in."""

    crc: str


def check_intact(checkpoint: Path) -> None:
    """Compare a checkpoint with its checksums: of a file, or the folder of a distributed one; every byte is read.

    A file that has none, as earlier versions wrote them, is compared with torch's own of its parts; an earlier folder
    is not compared.

    Raises:
        UserError: It is damaged, or cannot be read; the file is named.
    """
    if not checkpoint.is_dir():
        _check_file(checkpoint)
        return
    sums = checkpoint / CHECKSUMS
    if not sums.exists():
        return
    try:
        expected = parse_json(sums.read_bytes())
        items = [(checkpoint / name, int(crc, 16)) for name, crc in expected.items()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _damaged(sums) from error
    with ThreadPoolExecutor(8) as threads:
        for file, intact in zip([file for file, _ in items], threads.map(_agrees, items), strict=True):
            if not intact:
                raise _damaged(file)


def _damaged(file: Path) -> UserError:
    return UserError(
        f"{file} is damaged: its content does not agree with its checksum; use a copy or another checkpoint"
    )


def _agrees(item: tuple[Path, int]) -> bool:
    file, crc = item
    return file.is_file() and _crc(file, file.stat().st_size) == crc


def _crc(file: Path, size: int) -> int:
    """Return the CRC-32 of the beginning of a file."""
    crc = 0
    with file.open("rb") as opened:
        while size > 0 and (chunk := opened.read(min(size, _CHUNK))):
            size -= len(chunk)
            crc = zlib.crc32(chunk, crc)
    return crc


def _check_file(file: Path) -> None:
    size, length = file.stat().st_size, len(_SEAL % 0)
    with file.open("rb") as opened:
        start = opened.read(4)
        opened.seek(max(0, size - _LENGTH.size - length))
        written, seal = opened.read(_LENGTH.size), opened.read()
    if written == _LENGTH.pack(length) and seal.startswith(_SEAL[: -len("%08x")]):
        if seal != _SEAL % zlib.crc32(_LENGTH.pack(0), _crc(file, size - _LENGTH.size - length)):
            raise _damaged(file)
    elif start == _ZIP and not _is_whole_zip(file):
        raise _damaged(file)


def _is_whole_zip(file: Path) -> bool:
    """Compare the parts of a file without a comment of ours with their checksums."""
    try:
        with zipfile.ZipFile(file) as parts:
            return not parts.comment and parts.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error, struct.error):
        return False
