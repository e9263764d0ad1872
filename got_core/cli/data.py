"""`got data`: records are looked at and checked, become streams, and images what a model makes of them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from got_core.cli.parsing import Count, Fraction, Seed, Whole
from got_core.errors import UserError, as_user_error, hide_expected, one_line
from got_core.paths import importing

if TYPE_CHECKING:
    from torch import Tensor

    from got_core.data.records import RecordsDataset
    from got_core.data.streams import StreamDataset
    from got_core.data.visualization import Tile

SHEET, PAGE = "sheet.png", "page.html"
"""What `got data show` writes."""

SHOWN = 384
"""Longest side of an image on a page, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of records, as `RecordsDataset` reads them.

    Attributes:
        prompt_column: The caption or instruction.
        chain_column: The reasoning chain.
        image_column: The target image: a path, or the bytes of a file.
        source_column: The image to be edited, where records have one.
        coordinates_column: Boxes of the chain's placeholders, where chains have them.
        earlier_column: The requests of earlier turns, where records are of conversations.
        id_column: Names a record in its source; by default its file and line do.
        image_root: Folder of relative paths of images; by default the folder of the records.
        allow_outside: Read images outside of that folder too.
        join: A second table, such as one of images, that has the columns which the records lack.
        join_column: Ids in it, which the id column names in the records; by default of the same name.
        split: Of a Hugging Face dataset that has several.
        subset: Of a hub id that has several.
        dialect: Form of the chains' boxes, if it is not this project's; see `got chain convert --help`.
        unit: Of the chains' coordinates, where the form does not fix it: thousandths, pixels or fractions.
    """

    prompt_column: str = "prompt"
    chain_column: str = "chain"
    image_column: str = "image"
    source_column: str | None = None
    coordinates_column: str | None = None
    earlier_column: str | None = None
    id_column: str | None = None
    image_root: str | None = None
    allow_outside: bool = False
    join: str | None = None
    join_column: str | None = None
    split: str = "train"
    subset: str | None = None
    dialect: str | None = None
    unit: Literal["thousandths", "pixels", "fractions"] | None = None


def build(
    source: str,
    columns: Columns,
    *,
    output: str,
    workers: Whole | None = None,
    shard: Count | None = None,
    max_side: Count | None = None,
    max_bad: Fraction = 0.05,
) -> None:
    """Build a stream of records: indexed shards with their images.

    Each image is decoded once. Records that cannot be used are listed in bad.jsonl, and the others are written. The
    same command goes on where an earlier one was ended; shards that are done are not built again.

    Args:
        source: File of records, or a folder of them.
        columns: Their columns.
        output: Folder of the stream, or a URL that fsspec opens, such as s3://bucket/stream.
        workers: Processes, by default as many as there are CPUs. What is written does not depend on them.
        shard: Records of the source from which a shard is made; 1024 by default.
        max_side: Longest side of an image in pixels; larger ones are made smaller. By default none are.
        max_bad: Fraction of bad records above which the command ends with 1; the good ones are written all the same.

    Raises:
        UserError: The records cannot be opened, or the folder holds something else or cannot be written.

    Example:
        got data build records.jsonl --source-column source --output streams/photographs
    """
    with importing():
        from got_core.data.building import SHARD, Build, build_stream
        from got_core.data.folders import Folder
        from got_core.data.records import RecordsDataset
        from got_core.data.streams import BAD
    try:
        with as_user_error(ValueError, OSError):
            options = asdict(columns)
            records = RecordsDataset(source, 1, check_first=False, **options)
            built = build_stream(
                records,
                Folder(output),
                Build(shard or SHARD, max_side),
                options,
                (os.cpu_count() or 1) if workers is None else workers,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    print(f"{output}: {built.rows:,} records in {built.shards:,} shards of {built.size / 1e6:,.1f} MB together")
    if built.bad:
        print(f"{built.bad:,} of {len(records):,} records are bad: see {output.rstrip('/')}/{BAD}")
    if built.bad > max_bad * len(records):
        print(f"got: {built.bad / len(records):.1%} of the records are bad, more than {max_bad:.1%}", file=sys.stderr)
        sys.exit(1)


def show(
    records: str,
    columns: Columns,
    *,
    output: str,
    num: Count = 16,
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Write a contact sheet and a web page of some records.

    The sheet is sheet.png, and page.html has images, boxes and chains and needs no other file.

    Args:
        records: A stream, or a file of records or a folder of them.
        columns: The columns of what is no stream.
        output: Folder of the two.
        num: Records, chosen at random.
        seed: Chooses them.
        overwrite: Replace files that are already there.

    Raises:
        UserError: There is nothing to be shown, or the files exist already.

    Example:
        got data show streams/photographs --num 32 --output shown
    """
    folder = Path(output)
    for name in (SHEET, PAGE):
        if not overwrite and (folder / name).exists():
            raise UserError(f"{folder / name} already exists: choose another --output, or add --overwrite")
    with importing():
        from got_core.data.mixture import permuted
        from got_core.data.visualization import contact_sheet, html_page
        from got_core.weights.files import new_file, write_whole
    with as_user_error(ValueError, OSError):
        dataset = _opened(records, columns)
        tiles, faults = [], []
        for number in range(min(num, len(dataset))):
            try:
                tiles.append(_tile(dataset, permuted(number, len(dataset), seed)))
            except (ValueError, OSError) as error:
                faults.append(one_line(error))
        if not tiles:
            raise UserError(f"none of {len(faults)} records can be read: {faults[0]}")
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / SHEET) as file:
            contact_sheet(tiles).save(file, "PNG")
        write_whole(folder / PAGE, html_page(records, tiles, faults))
    if faults:
        print(f"{len(faults)} records cannot be read; the page says why")
    print(f"written: {folder / SHEET}, {folder / PAGE}")


def peek(path: str, *, split: str = "train", subset: str | None = None) -> None:
    """Print a source's columns, three of its records, and how a recipe could name them.

    Args:
        path: A file or folder of records, a folder of `save_to_disk`, or a hub id, of which only the beginning is read.
        split: Of a Hugging Face dataset.
        subset: Of a hub id that has several.

    Raises:
        UserError: It cannot be read.

    Example:
        got data peek records/train.jsonl
    """
    with importing():
        from got_core.data.peek import peek as lines_about

    with as_user_error(ValueError, OSError):
        for line in lines_about(path, split, subset):
            print(line)


def check(
    *overrides: str,
    config: Sequence[str] = (),
    workers: Whole = 2,
    max_bad: Fraction | None = None,
    json: str | None = None,
    sheet: str | None = None,
) -> None:
    """Read all records of a recipe once and report what training would meet.

    A record is bad if it cannot be read, its boxes are lost, or its chain has none. Boxes without a phrase and records
    that occur twice are only counted. The exit status is 1 if more of a source is bad than may be.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        workers: Processes that read; 0 reads in this one.
        max_bad: Fraction of each source's records that may be bad, by default the recipe's data.max_bad_records.
        json: File that gets the report.
        sheet: PNG that gets some samples with their boxes.

    Raises:
        UserError: What is wrong with the recipe or its data, or a file cannot be written.
        SystemExit: More is bad than may be.

    Example:
        got data check --config recipes/records_dit.yaml --sheet check.png
    """
    if not config:
        raise UserError("got data check needs a recipe: --config FILE")
    with importing():
        from json import dumps

        from rich.console import Console

        from got_core.data.check import check_source, report_table, sample_tiles
        from got_core.data.datamodule import GoTDataModule
        from got_core.data.peek import printable
        from got_core.data.visualization import contact_sheet
        from got_core.training.recipe import ResolvedRecipe, build_data
        from got_core.weights.files import new_file, write_whole

    hide_expected()
    data = build_data(ResolvedRecipe(config, overrides).config.data.as_dict())
    if not isinstance(data, GoTDataModule):
        raise UserError("records are checked of recipes with a GoTDataModule")
    sources = {f"train {number}": source.dataset for number, source in enumerate(data.mixture.sources)}
    sources |= {f"validation {number}": dataset for number, dataset in enumerate(data.validation)}
    for name, each in sources.items():
        print(printable(f"{name}: {getattr(each, 'path', type(each).__name__)}"))
    with as_user_error(ValueError, OSError):
        reports = [check_source(name, each, workers, data.chains == "whole") for name, each in sources.items()]
        most = data.quarantine.most if max_bad is None else max_bad
        failed = [report for report in reports if report.bad > most]
        if json is not None:
            content = {"max_bad": most, "passed": not failed, "sources": [report.as_dict() for report in reports]}
            write_whole(Path(json), dumps(content, indent=2))
        if sheet is not None and (tiles := sample_tiles(list(sources.values()), 24)):
            with new_file(Path(sheet)) as file:
                contact_sheet(tiles).save(file, "PNG")
    Console().print(report_table(reports), highlight=False)
    for report in reports:
        for kind, named in report.named.items():
            print(printable(f"{report.name}: {kind}: {'; '.join(named)}"))
    for report in failed:
        print(f"{report.name}: {report.bad:.2%} of {report.records:,} records are bad, and {most:.2%} may be")
    if failed:
        raise SystemExit(1)


def cache(
    *overrides: str,
    config: Sequence[str] = (),
    output: str,
    workers: Whole = 2,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Compute once what training would compute of each image at every step.

    A cache holds the latents of targets, sources and boxes, and the features of a frozen vision tower. Training with
    `--data.cache FOLDER` encodes no image. The same command goes on where an earlier one was ended.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        output: Folder of the cache.
        workers: Processes that read images.
        device: That computes, such as cuda or cpu; a GPU if there is one by default.
        dtype: Of the tensors on disk; in half precision they take half the room.

    Raises:
        UserError: What is wrong with the recipe or its data, or the folder holds something else.

    Example:
        got data cache --config recipes/got_sdxl_finetune.yaml --output data/cache --dtype bfloat16
    """
    if not config:
        raise UserError("got data cache needs a recipe: --config FILE")
    with importing():
        import torch

        from got_core.data.caches import build_cache
        from got_core.data.datamodule import GoTDataModule, batch_in_form
        from got_core.pipelines.calls import default_device
        from got_core.training.recipe import ResolvedRecipe, build_data, build_model
        from got_core.training.system import GoTSystem

    hide_expected()
    recipe = ResolvedRecipe(config, overrides).config
    data = build_data(recipe.data.as_dict())
    system = build_model(recipe.model.as_dict())
    if not isinstance(system, GoTSystem) or not isinstance(data, GoTDataModule):
        raise UserError("a cache is made for recipes of a GoTSystem with a GoTDataModule")
    model = system.model.eval().to(device or default_device())
    with as_user_error(ValueError):
        unread = build_cache(
            Path(output),
            data.bucketed,
            model,
            partial(batch_in_form, model.processor, data.chains),
            data.cached_by(model),
            data.batch_size,
            workers,
            getattr(torch, dtype),
        )
    print(f"cache: {output}" + (f"; {unread:,} samples could not be read" if unread else ""))


def _opened(records: str, columns: Columns) -> "RecordsDataset | StreamDataset":
    from got_core.data.records import RecordsDataset
    from got_core.data.streams import StreamDataset, is_stream

    if is_stream(records):
        return StreamDataset(records, 1)
    return RecordsDataset(records, 1, check_first=False, **asdict(columns))


def _tile(dataset: "RecordsDataset | StreamDataset", index: int) -> "Tile":
    from got_core.data.images import open_image
    from got_core.data.records import StoredImage
    from got_core.data.visualization import Tile
    from got_core.types import from_pil

    def read(stored: StoredImage) -> "Tensor":
        image = open_image(*stored)
        image.thumbnail((SHOWN, SHOWN))
        return from_pil(image)

    entry = dataset.entry(index)
    source = None if entry.source is None else read(entry.source)
    return Tile(read(entry.image), entry.chain, entry.prompt, source, entry.name, entry.earlier)
