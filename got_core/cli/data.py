"""`got data peek` and `got data cache`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from got_core.cli.parsing import Whole
from got_core.errors import UserError, as_user_error, hide_expected
from got_core.paths import importing


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
