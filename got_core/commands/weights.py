"""`got import-official`: the released checkpoint as a folder of ours."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from got_core.errors import UserError, one_line
from got_core.loading import without_weights
from got_core.official import Import, account, check
from got_core.official_names import MLLM, PREFIXES, VAE, Source, Target
from got_core.paths import Run, locate
from got_core.recipe import Recipe, build_model
from got_core.weight_files import new_folder, read_tensors, write_system_weights

UNET = "unet."

RELEASED = ("--model.guidance.palette=words",)
"""What holds for the released weights whatever the recipe says: boxes have the colours that their chain names."""

COMPONENTS = {MLLM: "reasoner", UNET: "backbone", VAE: "codec"}
"""The components of a recipe that have weights from base folders, by the released prefixes."""


class ResolvedRecipe(Recipe):
    """A recipe that is read but not built: neither its data nor its weights need be there."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def import_official(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Write a folder that `got generate`, `edit` and `reason` open, from the released checkpoint.

    Raises:
        UserError: The checkpoint does not fit the recipe (names are listed), or the folder cannot be written; nothing
            is written then.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    recipe = ResolvedRecipe(options.config or [options.default_config], [*RELEASED, *_bases(options), *overrides])
    with new_folder(options.output) as folder:
        result = converted(recipe.config.model.as_dict(), options.weights)
        recipe.parser.save(recipe.config, str(Run(folder).recipe), skip_unset=False)
        write_system_weights(Run(folder).weights, result.weights, result.in_base)
    print(f"{options.output}: {len(result.weights)} tensors written, {len(result.in_base)} left to the base folders")
    print(
        f"of the checkpoint's, {len(result.taken)} were taken, {len(result.equal)} are equal to the base folders' "
        f"and {len(result.replaced)} had been replaced in training"
    )


def converted(model: dict[str, Any], checkpoint: str | Path) -> Import:
    """The released checkpoint in the names of a recipe's system; the fit is seen to before base weights load.

    Args:
        model: What stands under `model` in a resolved recipe.
        checkpoint: File or folder.

    Raises:
        UserError: The recipe is no system with the released parts, or the checkpoint does not fit.
    """
    loaded = [prefix for prefix, part in COMPONENTS.items() if _arguments(model, part).get("pretrained")]
    with without_weights():
        system = build_model(model)
    names = system.state_dict()
    if strange := [theirs for theirs, ours in PREFIXES.items() if not any(name.startswith(ours) for name in names)]:
        raise UserError(f"the recipe's model has no place for the checkpoint's {', '.join(strange)}")
    source = Source.of(read_tensors(checkpoint))
    check(source, Target.of(system, loaded))
    system = build_model(model)
    return account(source, Target.of(system, loaded), system.state_dict())


def _arguments(model: dict[str, Any], part: str) -> dict[str, Any]:
    component = model.get("init_args", {}).get(part) or {}
    return dict(component.get("init_args") or {})


def _bases(options: argparse.Namespace) -> list[str]:
    """The base folders named on the command line, as overrides of the recipe."""
    folders = {"reasoner": options.qwen, "backbone": options.sdxl, "codec": options.sdxl}
    try:
        return [
            f"--model.{part}.pretrained={_absolute(folder)}" for part, folder in folders.items() if folder is not None
        ]
    except FileNotFoundError as error:
        raise UserError(one_line(error)) from error


def _absolute(folder: str) -> str:
    """A local folder from the root, so that what is written works from anywhere; a hub id as it is."""
    found = locate(folder)
    return str(Path(found).resolve()) if Path(found).exists() else found
