"""CPU seconds of reading image records from Parquet: shuffled over in order, and a random row among many row groups."""

import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from rich.table import Table

from got_core.benchmarks.measuring import Stopwatch, Timings, in_turns
from got_core.data.mixture import Mixture, Source
from got_core.data.records import RecordsDataset
from got_core.data.tables import Parquet

SHUFFLED, IN_ORDER, RANDOM = "shuffled", "in order", "random rows"

GROUP = 100
"""Rows of images in a row group."""

SMALL_GROUP = 10
"""Rows of text in a row group, of which there are many."""

DIFFERENT = 50
"""Different images, which are used in turn."""

CPU = torch.device("cpu")


def read_records(rows: int, repeats: int, side: int = 192, groups: int = 2000) -> Timings:
    """Time records of `rows` JPEGs, read to a third of their side, and as many random rows among `groups` row groups.

    Args:
        rows: Records that are read in a turn.
        repeats: Turns that are counted.
        side: Of the images in pixels.
        groups: Row groups of the table that random rows are read from.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = jpegs(side)
        columns = {"prompt": ["a"] * rows, "chain": ["a (1,1),(2,2)"] * rows}
        columns["image"] = [images[row % DIFFERENT] for row in range(rows)]
        file = Path(folder) / "images.parquet"
        parquet.write_table(pyarrow.table(columns), file, row_group_size=GROUP)
        dataset = RecordsDataset(str(file), side // 3)
        mixture, turns = Mixture([Source(dataset)], length=rows), iter(range(10**9))
        texts = Path(folder) / "texts.parquet"
        parquet.write_table(pyarrow.table({"prompt": ["a"] * SMALL_GROUP * groups}), texts, row_group_size=SMALL_GROUP)
        table = Parquet(texts, ["prompt"])
        chosen = np.random.default_rng(0).integers(0, len(table), rows).tolist()

        def shuffled(watch: Stopwatch) -> None:
            start = next(turns) * rows
            _timed(watch, mixture, range(start, start + rows))

        def random_rows(watch: Stopwatch) -> None:
            with watch.stage("read"):
                for index in chosen:
                    table.row(index)

        tasks = {IN_ORDER: lambda watch: _timed(watch, dataset, range(rows)), SHUFFLED: shuffled, RANDOM: random_rows}
        return in_turns(tasks, repeats, CPU)


def _timed(watch: Stopwatch, dataset: Any, indices: Sequence[int]) -> None:
    with watch.stage("read"):
        for index in indices:
            dataset[index]


def jpegs(side: int) -> list[bytes]:
    """Encode `DIFFERENT` images of noise in squares of two pixels."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 2, side // 2, 3), dtype=np.uint8))
        buffer = BytesIO()
        coarse.resize((side, side)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def reading_table(timings: Timings, rows: int) -> Table:
    """Return a table of seconds a record."""
    table = Table(title=f"{rows:,} records from Parquet, {GROUP} images a row group", title_justify="left")
    for heading in ("", "ms a record", f"over {IN_ORDER}"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in (IN_ORDER, SHUFFLED, RANDOM):
        cost = "" if name != SHUFFLED else f"costs {timings.ratio(SHUFFLED, IN_ORDER)}"
        table.add_row(name, f"{timings.median(name) / rows * 1e3:.3f}", cost)
    return table
