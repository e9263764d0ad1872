"""Caches of what training computes without trained weights: latents of images and boxes, features of a frozen tower.

A cache has a folder for each source, of shards of `ROWS` rows. A shard is the offsets of its rows (64 bits each, the
end last) and the rows, each a message of safetensors with the sample's words as metadata. Tensors that many samples
have, such as the latents of a missing source, are files of their own in `shared/`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy import ndarray
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from got_core.errors import UserError, one_line, parse_json
from got_core.model import GoTModel
from got_core.types import BLACK, Batch, Sample
from got_core.weights.files import new_file, write_whole

ROWS = 256
"""Rows of a shard; a killed process loses at most so many."""

DESCRIPTION, SHARED, SAMPLE = "cache.json", "shared", "sample"
"""The file that says what a cache was made with, the folder of shared tensors, and a row's metadata."""

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Of tensors, by their names in safetensors."""

Collate = Callable[[Sequence[Sample]], Batch]
_Group = tuple[list[int], list[Sample], Batch]


class CachedDataset(Dataset[Sample]):
    """The samples of a dataset with what was precomputed of them: no image is read or encoded.

    The source of an edit is read from the dataset where the cache has no features of a vision tower instead.

    Args:
        folder: Of the source in a cache.
        dataset: What the cache was made from; the order of samples stays the same.
    """

    def __init__(self, folder: Path, dataset: Dataset[Sample]) -> None:
        self.folder, self.dataset = folder, dataset
        self._offsets: dict[int, ndarray] = {}
        self._shared: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        words, tensors = self._row(index)
        if (error := words.get("error")) is not None:
            raise ValueError(error)
        for name, key in words["shared"].items():
            tensors[name] = self._shared_tensor(key)
        source = None
        if words["edit"]:
            source = self.dataset[index].source if words["reads_source"] else torch.full((3, 1, 1), BLACK)
        return Sample(
            prompt=words["prompt"],
            chain=words["chain"],
            size=tuple(words["size"]),
            source=source,
            meta=words["meta"],
            earlier=tuple(words["earlier"]),
            precomputed={name: tensor.float() for name, tensor in tensors.items()},
        )

    def at_size(self, index: int, size: tuple[int, int]) -> Sample:
        """Return a sample that was cached in a size (ValueError: it was cached in another)."""
        sample = self[index]
        if sample.size != size:
            raise ValueError(f"{self.folder}: sample {index} was cached in {sample.size}, not in {size}")
        return sample

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a sample's image in its file."""
        return self.dataset.image_size(index)  # type: ignore[attr-defined]

    @property
    def groups(self) -> Sequence[int] | None:
        """The dataset's own: its samples have the same order."""
        return getattr(self.dataset, "groups", None)

    def check(self) -> None:
        """Compare the first, the middle and the last row with the dataset (ValueError: it has changed)."""
        for index in sorted({0, len(self) // 2, len(self) - 1}):
            words, _ = self._row(index)
            try:
                sample = self.dataset[index]
            except (ValueError, OSError):
                continue
            given = {"prompt": sample.prompt, "chain": sample.chain, "size": list(sample.size)}
            if differing := [name for name, value in given.items() if words.get(name) != value]:
                raise ValueError(
                    f"{self.folder}: row {index} of the cache has another {differing[0]} than the data: make the cache "
                    "again, in another folder"
                )

    def bytes_of(self, index: int) -> ndarray:
        """Read the bytes of a row (OSError: it cannot be read)."""
        shard, row = divmod(index, ROWS)
        path = shard_file(self.folder, shard)
        try:
            with path.open("rb") as file:
                if shard not in self._offsets:
                    rows = min(ROWS, len(self) - shard * ROWS)
                    self._offsets[shard] = np.frombuffer(file.read(8 * (rows + 1)), "<u8")
                start, end = (int(offset) for offset in self._offsets[shard][row : row + 2])
                file.seek(start)
                return np.fromfile(file, np.uint8, end - start)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: the cache is not complete: run got data cache again") from None
        except (OSError, ValueError) as error:
            raise OSError(f"{path}: row {row} of the cache is damaged ({one_line(error)})") from None

    def _row(self, index: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        message = self.bytes_of(index)
        try:
            return _parsed(message)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            path = shard_file(self.folder, index // ROWS)
            raise OSError(f"{path}: row {index % ROWS} of the cache is damaged ({one_line(error)})") from None

    def _shared_tensor(self, key: str) -> Tensor:
        if key not in self._shared:
            self._shared[key] = load_file(self.folder / SHARED / f"{key}.safetensors")[key]
        return self._shared[key]


def open_cache(folder: str, datasets: Sequence[Dataset[Sample]], settings: Mapping[str, Any]) -> list[CachedDataset]:
    """Open the cache of some sources.

    Args:
        folder: Of `build_cache`.
        datasets: The sources, in order.
        settings: What the cache must have been made with: those of `build_cache`.

    Raises:
        UserError: There is no cache, or it was made by another model, from other data, or is not complete.
    """
    path = Path(folder)
    if not (path / DESCRIPTION).is_file():
        raise UserError(f"{folder}: there is no cache; make one by got data cache --config RECIPE --output {folder}")
    _check(path, _description(datasets, settings))
    opened = [CachedDataset(path / str(number), dataset) for number, dataset in enumerate(datasets)]
    for cached in opened:
        if missing := _missing(cached.folder, len(cached)):
            raise UserError(
                f"{cached.folder}: {len(missing):,} shards are missing: run got data cache again, which goes on where "
                "it was"
            )
        try:
            cached.check()
        except (ValueError, OSError) as error:
            raise UserError(one_line(error)) from None
    return opened


def build_cache(
    folder: Path,
    datasets: Sequence[Dataset[Sample]],
    model: GoTModel,
    collate: Collate,
    settings: Mapping[str, Any],
    batch_size: int,
    workers: int,
    dtype: torch.dtype,
) -> int:
    """Write what can be precomputed of all samples of some sources; finished shards of an earlier call stay.

    A sample that cannot be read becomes a row with the reason, which training meets as it meets the sample.

    Args:
        folder: Of the cache.
        datasets: The sources, in order.
        model: On the device that computes.
        collate: Makes batches of samples of one size.
        settings: What the tensors depend on; `open_cache` compares them.
        batch_size: Samples of a batch.
        workers: Processes that read images.
        dtype: Of the tensors on disk.

    Returns:
        The number of samples that could not be read, of those that this call has read.

    Raises:
        UserError: The folder holds another cache, or another process writes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            description = _description(datasets, settings)
            if (folder / DESCRIPTION).is_file():
                _check(folder, description)
            elif any(entry.name != ".lock" for entry in folder.iterdir()):
                raise UserError(f"{folder}: holds something else than a cache; name a new folder")
            else:
                write_whole(folder / DESCRIPTION, json.dumps(description, indent=2))
            total = sum(len(dataset) for dataset in datasets)  # type: ignore[arg-type]
            with tqdm(total=total, unit=" samples", smoothing=0.05) as bar:
                return sum(
                    _Writer(folder / str(number), dataset, model, dtype).write(collate, batch_size, workers, bar)
                    for number, dataset in enumerate(datasets)
                )
    except Timeout:
        raise UserError(f"{folder}: another process writes this cache") from None


def precomputed(model: GoTModel, samples: Sequence[Sample], batch: Batch) -> list[Sample]:
    """Return samples as a cache gives them, with tensors on the batch's device; `batch` is of these samples."""
    tensors = {**model.precompute(batch), **model.reasoner.precompute(batch)}
    return [
        replace(sample, target=None, precomputed={name: rows[number] for name, rows in tensors.items()})
        for number, sample in enumerate(samples)
    ]


class _Writer:
    """Writes the missing shards of one source."""

    def __init__(self, folder: Path, dataset: Dataset[Sample], model: GoTModel, dtype: torch.dtype) -> None:
        self.folder, self.dataset, self.model, self.dtype = folder, dataset, model, dtype
        (folder / SHARED).mkdir(parents=True, exist_ok=True)
        self.last: dict[str, str] = {}
        self.shared = {file.stem for file in (folder / SHARED).glob("*.safetensors")}

    def write(self, collate: Collate, batch_size: int, workers: int, bar: tqdm) -> int:
        length, unread = len(self.dataset), 0  # type: ignore[arg-type]
        missing = _missing(self.folder, length)
        shards = [range(shard * ROWS, min((shard + 1) * ROWS, length)) for shard in missing]
        bar.update(length - sum(map(len, shards)))
        starts = ((shard, start) for shard in shards for start in range(0, len(shard), batch_size))
        parts = [list(shard[start : start + batch_size]) for shard, start in starts]
        loader: DataLoader = DataLoader(
            _Attempts(self.dataset), batch_sampler=parts, num_workers=workers, collate_fn=_BySize(collate)
        )
        rows: dict[int, bytes] = {}
        for groups, errors in loader:
            for index, error in errors:
                rows[index] = save({}, {SAMPLE: json.dumps({"error": error})})
            for indices, samples, batch in groups:
                rows.update(zip(indices, self._rows(samples, batch), strict=True))
            unread += len(errors)
            bar.update(len(errors) + sum(len(indices) for indices, *_ in groups))
            shard = min(rows) // ROWS
            of_shard = range(shard * ROWS, min((shard + 1) * ROWS, length))
            if len(rows) == len(of_shard):
                _write_shard(shard_file(self.folder, shard), [rows.pop(index) for index in of_shard])
        return unread

    def _rows(self, samples: Sequence[Sample], batch: Batch) -> Iterator[bytes]:
        """One message for each sample of a batch."""
        batch = batch.to(self.model.device)
        own = self.model.reasoner.precompute(batch)
        tensors = {**self.model.precompute(batch), **own}
        for number, sample in enumerate(samples):
            if sample.steps:
                raise UserError("samples with images of earlier steps cannot be cached")
            stored = {name: values[number].to("cpu", self.dtype).contiguous() for name, values in tensors.items()}
            shared = {name: key for name, tensor in stored.items() if (key := self._key(name, tensor)) in self.shared}
            words = {
                "prompt": sample.prompt,
                "chain": sample.chain,
                "size": sample.size,
                "edit": sample.source is not None,
                "reads_source": not own,
                "earlier": sample.earlier,
                "meta": {name: value for name, value in sample.meta.items() if isinstance(value, str | int | float)},
                "shared": shared,
            }
            yield save(
                {name: tensor for name, tensor in stored.items() if name not in shared}, {SAMPLE: json.dumps(words)}
            )

    def _key(self, name: str, tensor: Tensor) -> str:
        """The digest of a tensor, which is written to be shared if the sample before had the same."""
        content = tensor.view(torch.uint8).numpy().tobytes()
        key = blake2b(content + f"{list(tensor.shape)} {tensor.dtype}".encode(), digest_size=16).hexdigest()
        if key == self.last.get(name) and key not in self.shared:
            with new_file(self.folder / SHARED / f"{key}.safetensors") as file:
                file.write(save({key: tensor}))
            self.shared.add(key)
        self.last[name] = key
        return key


class _Attempts(Dataset[tuple[int, "Sample | str"]]):
    """The samples of a dataset by index, or why one cannot be read."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Sample | str]:
        try:
            return index, self.dataset[index]
        except (ValueError, OSError) as error:
            return index, one_line(error)


class _BySize:
    """Makes a batch of the samples of each size, beside the samples' words, and lists what could not be read."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, attempts: Sequence[tuple[int, Sample | str]]) -> tuple[list[_Group], list[tuple[int, str]]]:
        read = [(index, sample) for index, sample in attempts if isinstance(sample, Sample)]
        groups: list[_Group] = []
        for size in dict.fromkeys(sample.size for _, sample in read):
            indices, samples = zip(*((index, sample) for index, sample in read if sample.size == size), strict=True)
            words = [replace(s, target=None, source=None if s.source is None else s.source[:, :1, :1]) for s in samples]
            groups.append((list(indices), words, self.collate(samples)))
        return groups, [(index, sample) for index, sample in attempts if isinstance(sample, str)]


def shard_file(folder: Path, shard: int) -> Path:
    """Return the file of a shard of a source."""
    return folder / f"{shard:06d}.rows"


def _write_shard(path: Path, messages: Sequence[bytes]) -> None:
    sizes = np.array([8 * (len(messages) + 1), *map(len, messages)], "<u8")
    with new_file(path) as file:
        file.write(np.cumsum(sizes).astype("<u8").tobytes())
        file.writelines(messages)


def _parsed(message: ndarray) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The words and tensors of a message of safetensors, which the tensors are views of.

    The library's own reader copies each tensor, which takes as long as reading the file.
    """
    start = 8 + int.from_bytes(message[:8].tobytes(), "little")
    header = parse_json(message[8:start].tobytes())
    words: dict[str, Any] = parse_json(header.pop("__metadata__")[SAMPLE])
    content = torch.from_numpy(message[start:])
    tensors = {
        name: content[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).view(entry["shape"])
        for name, entry in header.items()
    }
    return words, tensors


def _missing(folder: Path, length: int) -> list[int]:
    return [shard for shard in range(-(-length // ROWS)) if not shard_file(folder, shard).is_file()]


def _description(datasets: Sequence[Dataset[Sample]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `cache.json` holds, as JSON reads it."""
    lengths = [len(dataset) for dataset in datasets]  # type: ignore[arg-type]
    description: dict[str, Any] = json.loads(json.dumps({"samples of each source": lengths, **settings}))
    return description


def _check(folder: Path, description: Mapping[str, Any]) -> None:
    """Compare the description of a cache (UserError: it differs; names what does)."""
    made = parse_json((folder / DESCRIPTION).read_text())
    names = [*description, *(name for name in made if name not in description)]
    for name in names:
        if made.get(name) != description.get(name):
            raise UserError(
                f"{folder}: the cache was made with {name} {made.get(name)}, not {description.get(name)}: make one in "
                "another folder"
            )
