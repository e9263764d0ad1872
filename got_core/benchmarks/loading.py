"""Samples a second through the whole path of a loader's worker, over decoding the images or reading their bytes."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from rich.table import Table

from got_core.benchmarks.measuring import Stopwatch, Task, Timings, in_turns
from got_core.benchmarks.training import recipe_parts
from got_core.data.building import GROUP, Build, build_stream
from got_core.data.caches import CachedDataset, build_cache
from got_core.data.datamodule import batch_in_form
from got_core.data.folders import Folder
from got_core.data.mixture import Mixture, Source
from got_core.data.records import RecordsDataset
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.streams import INDEX, SIZES, VERSION, StreamDataset
from got_core.types import Batch, Sample, from_pil

BARE, RECORDS, STREAM, BYTES, CACHED, SCENES = (
    *("decoding alone", "records", "stream"),
    *("bytes alone", "cached latents", "drawn scenes"),
)

BASELINES = {RECORDS: BARE, STREAM: BARE, CACHED: BYTES}
"""What each path is compared with."""

RECIPE = "recipes/scenes_dit.yaml"
BATCH = 8
CPU = torch.device("cpu")
CHAIN = (
    "A market square with " + ", ".join(f"a bench ({n},{n}),({n + 200},{n + 300})" for n in (50, 250, 450, 650)) + "."
)


def loading_rates(images: int, side: int, repeats: int) -> Timings:
    """Time one worker's work for each of some JPEGs: decoded alone, as records, as a stream, and as cached latents.

    Args:
        images: Of a turn, each of twice the side, 4 to 3.
        side: Of the samples in pixels.
        repeats: Turns.
    """
    system, _ = recipe_parts([RECIPE], 0)
    collate = partial(batch_in_form, system.processor, "whole")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = list(_write_images(folder, images, side))
        lines = ({"prompt": "A market square.", "chain": CHAIN, "image": file.name} for file in files)
        (folder / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
        records = RecordsDataset(str(folder / "records.jsonl"), side)
        build_stream(records, Folder(str(folder / "stream")), Build(), {}, 0)
        build_cache(folder / "cache", [records], system.model.eval(), collate, {}, BATCH, 0, torch.float32)
        cached = CachedDataset(folder / "cache" / "0", records)
        tasks: dict[str, Task] = {
            BARE: partial(_decode, files, side),
            RECORDS: _path(records, images, collate),
            STREAM: _path(StreamDataset(str(folder / "stream"), side), images, collate),
            BYTES: partial(_read, cached),
            CACHED: _path(cached, images, None),
            SCENES: _path(ScenesDataset(), images, collate),
        }
        return in_turns(tasks, repeats, CPU)


def _write_images(folder: Path, images: int, side: int) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 6, 3), dtype=np.uint8))
        file = folder / f"{number}.jpg"
        coarse.resize((side * 8 // 3, side * 2), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        yield file


def _decode(files: list[Path], side: int, watch: Stopwatch) -> None:
    """Decode each file and resize it to cover a square, as a plain dataset does."""
    with watch.stage("samples"):
        for start in range(0, len(files), BATCH):
            torch.stack([_decoded(file, side) for file in files[start : start + BATCH]])


def _decoded(file: Path, side: int) -> torch.Tensor:
    with Image.open(BytesIO(file.read_bytes())) as image:
        image.draft(None, (2 * side, 2 * side))
        edge = (image.width - image.height) / 2
        box = (edge, 0, edge + image.height, image.height)
        return from_pil(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box=box))


def _read(cached: CachedDataset, watch: Stopwatch) -> None:
    """Read the bytes of each row."""
    with watch.stage("samples"):
        for index in range(len(cached)):
            cached.bytes_of(index)


def _path(dataset: object, images: int, collate: Callable[[list[Sample]], Batch] | None) -> Callable[[Stopwatch], None]:
    """The samples of a mixture in its order, and their batches."""
    mixture = Mixture([Source(dataset, 1.0)], length=images, seed=1, tolerant=True)  # type: ignore[arg-type]

    def task(watch: Stopwatch) -> None:
        with watch.stage("samples"):
            for start in range(0, images, BATCH):
                samples = [mixture[index] for index in range(start, min(start + BATCH, images))]
                if collate is not None:
                    collate(samples)

    return task


def opening(records: int) -> tuple[float, int]:
    """Open a stream of so many records, of which only the index exists, and take a sample's place in its mixture.

    Returns:
        CPU seconds, and bytes of memory that they took at most.
    """
    shard = 1024
    shards = -(-records // shard)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = {"rows": shard, "bytes": 10**8, "sha256": "0" * 64}
        names = {f"shard-{number:06d}.parquet": entry for number in range(shards)}
        index = {"version": VERSION, "group": GROUP, "rows": shards * shard, "bad": 0, "shards": names}
        (folder / INDEX).write_text(json.dumps(index))
        np.save(folder / SIZES, np.full((shards * shard, 2), 512, np.uint16))
        before, start = psutil.Process().memory_info().rss, time.process_time()
        stream = StreamDataset(name, 256)
        Mixture([Source(stream, 1.0)], length=len(stream)).locate(len(stream) // 2)
        stream.image_size(len(stream) - 1)
        return time.process_time() - start, max(0, psutil.Process().memory_info().rss - before)


def loading_table(timings: Timings, images: int, side: int) -> Table:
    """Return a table of samples a CPU second, and of each path's fraction of its baseline's rate."""
    table = Table(title=f"{images} images, samples of {side} x {side} pixels, one worker", title_justify="left")
    for heading in ("", "samples a second", "over", "rate"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in timings.runs:
        baseline = BASELINES.get(name, "")
        rate = str(timings.ratio(baseline, name)) if baseline else ""
        table.add_row(name, f"{images / timings.median(name):,.0f}", baseline, rate)
    return table
