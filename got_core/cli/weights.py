"""`got import-official`, the released checkpoint as a folder of ours, and `got export`, for use elsewhere."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace

from got_core.errors import UserError, one_line
from got_core.model import PARTS
from got_core.paths import Run, locate
from got_core.pipelines.saving import find_model, open_model, save_pipeline
from got_core.training.recipe import ResolvedRecipe, build_model
from got_core.weights.checkpoints import SystemWeights, read_tensors, write_system_weights
from got_core.weights.files import new_folder
from got_core.weights.loading import all_weights, origins, without_weights
from got_core.weights.official import MLLM, PREFIXES, UNET, VAE, Import, Source, Target, account, check

OFFICIAL_RECIPE = "recipes/got_sdxl_finetune.yaml"
"""The recipe that the released checkpoint is read into; the import sets its palette to the released one."""

RELEASED = ("--model.guidance.palette=named",)
"""What holds for the released weights whatever the recipe says: only boxes with a colour behind them are painted."""

FROM_BASE = {MLLM: "reasoner", UNET: "backbone", VAE: "codec"}
"""The components of a recipe that have weights from base folders, by the released prefixes."""


def import_official(
    weights: str,
    *overrides: str,
    output: str,
    qwen: str | None = None,
    sdxl: str | None = None,
    config: Sequence[str] = (),
) -> None:
    """Turn the released GoT checkpoint into a folder of ours.

    `got generate`, `edit` and `reason` open it.

    Args:
        weights: A .bin, .pt or .safetensors file, an index of shards, or a folder.
        overrides: Options of the recipe.
        output: A new folder.
        qwen: Folder of Qwen2.5-VL-3B-Instruct, or its hub id; by default the recipe's.
        sdxl: Folder of SDXL's pipeline, or its hub id; by default the recipe's.
        config: A recipe, of several the later ones win; by default recipes/got_sdxl_finetune.yaml.

    Raises:
        UserError: The checkpoint does not fit the recipe (names are listed), or the folder cannot be written; nothing
            is written then.

    Example:
        got import-official GoT-6B/pytorch_model.bin --output runs/official
    """
    recipe = ResolvedRecipe(config or [OFFICIAL_RECIPE], [*RELEASED, *overrides])
    _name_bases(recipe.config.model, {"reasoner": qwen, "backbone": sdxl, "codec": sdxl})
    with new_folder(output) as folder:
        result = converted(recipe.config.model.as_dict(), weights)
        recipe.parser.save(recipe.config, str(Run(folder).recipe), skip_unset=False)
        write_system_weights(
            Run(folder).weights, SystemWeights(result.weights, frozenset(result.in_base), result.origins)
        )
    print(f"{output}: {len(result.weights)} tensors written, {len(result.in_base)} left to the base folders")
    print(
        f"of the checkpoint's, {len(result.taken)} were taken, {len(result.equal)} are equal to the base folders' "
        f"and {len(result.replaced)} had been replaced in training"
    )


def export(
    *,
    checkpoint: str,
    output: str,
    pipeline: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Write a run's components in the layouts of transformers and diffusers.

    Args:
        checkpoint: Run folder or checkpoint.
        output: A new folder.
        pipeline: Write one folder that GoTPipeline opens and that needs nothing else instead.
        dtype: Of the pipeline's weights; by default as they are.

    Raises:
        UserError: There is no such run, or the folder cannot be written; nothing is written then.

    Example:
        got export --checkpoint runs/scenes_dit --output exported
    """
    try:
        recipe = find_model(checkpoint).run.recipe
    except FileNotFoundError as error:
        raise UserError(one_line(error)) from error
    if dtype and not pipeline:
        raise UserError("--dtype is of --pipeline: the libraries' layouts keep the weights as they are")
    if pipeline:
        save_pipeline(open_model(checkpoint), output, dtype and getattr(torch, dtype))
        _list_sizes(Path(output))
        return
    with new_folder(output) as folder:
        model = open_model(checkpoint).model
        for part in PARTS:
            getattr(model, part).export(folder / part)
        shutil.copy(recipe, Run(folder).recipe)
    _list_sizes(Path(output))


def _list_sizes(folder: Path) -> None:
    for file in sorted(folder.rglob("*.safetensors")):
        print(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")


def converted(model: dict[str, Any], checkpoint: str | Path) -> Import:
    """The released checkpoint in the names of a recipe's system; the fit is seen to before base weights load.

    Args:
        model: What stands under `model` in a resolved recipe.
        checkpoint: File or folder.

    Raises:
        UserError: The recipe is no system with the released parts, or the checkpoint does not fit.
    """
    loaded = [prefix for prefix, part in FROM_BASE.items() if _arguments(model, part).get("pretrained")]
    with without_weights():
        system = build_model(model)
    names = system.state_dict()
    if strange := [theirs for theirs, ours in PREFIXES.items() if not any(name.startswith(ours) for name in names)]:
        raise UserError(f"the recipe's model has no place for the checkpoint's {', '.join(strange)}")
    source = Source.of(read_tensors(checkpoint))
    check(source, Target.of(system, loaded))
    system = build_model(model)
    with all_weights():
        accounted = account(source, Target.of(system, loaded), system.state_dict())
    return replace(accounted, origins=origins(system, accounted.in_base))


def _arguments(model: dict[str, Any], part: str) -> dict[str, Any]:
    component = model.get("init_args", {}).get(part) or {}
    return dict(component.get("init_args") or {})


def _name_bases(model: Namespace, given: Mapping[str, str | None]) -> None:
    """Put the base folders that are given, or else the recipe's own, into the recipe in a form that lasts."""
    for part, folder in given.items():
        arguments = model.get(f"init_args.{part}.init_args")
        folder = folder or (arguments or {}).get("pretrained")
        if arguments is not None and folder is not None:
            arguments.pretrained = _absolute(folder)


def _absolute(folder: str) -> str:
    """A local folder from the root, so that what is written works from anywhere; a hub id as it is."""
    try:
        found = locate(folder)
    except FileNotFoundError as error:
        raise UserError(one_line(error)) from error
    return str(Path(found).resolve()) if Path(found).exists() else found
