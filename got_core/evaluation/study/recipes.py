"""The recipes of a study, read and built in shape before anything is trained."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning import LightningModule

from got_core.errors import UserError
from got_core.evaluation.final_scores import FinalScores
from got_core.evaluation.study.essentials import essentials
from got_core.evaluation.study.plan import Overrides, Study
from got_core.evaluation.study.record import digest
from got_core.evaluation.study.runs import TrainedRun, combination_overrides
from got_core.loading import without_weights
from got_core.recipe import ResolvedRecipe, build_data, build_model

SEEDED = ("data.seed", "model.validation_seed")
"""What follows the seed besides `seed_everything`, where a recipe's classes have it."""

WORKERS = "data.num_workers"


def plan_runs(study: Study, root: Path, workers: int | None = None) -> list[TrainedRun]:
    """All runs of a study, seed by seed, so that the first seed of everything is there early.

    Every recipe is read, and its model (in shape) and data are built, under every evaluation as well and with every
    value of the grid's axes, the others at their first.

    Args:
        study: What is asked.
        root: The folder that all studies lie in.
        workers: Loading processes of each run instead of the recipe's own number.

    Raises:
        UserError: The first recipe that is refused, by backbone and variant, in one line.
    """
    recipes: dict[tuple[str, str], ResolvedRecipe] = {}
    for backbone, variant in study.combinations:
        try:
            recipes[backbone, variant] = _check(study, backbone, variant)
        except UserError as error:
            raise UserError(f"variant {variant!r} of backbone {backbone!r}: {error}") from error
    settings = {pair: essentials(recipe) for pair, recipe in recipes.items()}
    _check_differ(settings)
    planned = []
    for seed in study.seeds:
        for (backbone, variant), recipe in recipes.items():
            seeded = ("--seed_everything", *(f"--{option}" for option in SEEDED if _has(recipe, option)))
            machine = () if workers is None or not _has(recipe, WORKERS) else (f"--{WORKERS}={workers}",)
            own = settings[backbone, variant]
            planned.append(TrainedRun(study, backbone, variant, seed, root, own, seeded, machine))
    return planned


def _check(study: Study, backbone: str, variant: str) -> ResolvedRecipe:
    """The recipe of one combination, which can be built and scored."""
    files, overrides = study.backbones[backbone], combination_overrides(study, backbone, variant)
    recipe = ResolvedRecipe(files, overrides)
    _check_scored(recipe)
    shapes = _shapes(_built(recipe))
    for name, settings in _scored_again(study):
        try:
            other = _shapes(_built(ResolvedRecipe(files, (*overrides, *settings))))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if changed := [tensor for tensor in {**shapes, **other} if shapes.get(tensor) != other.get(tensor)]:
            raise UserError(
                f"{name}: a model of other weights than the trained one ({changed[0]} is "
                f"{shapes.get(changed[0], 'missing')} there and {other.get(changed[0], 'missing')} here)"
            )
    return recipe


def _scored_again(study: Study) -> Iterator[tuple[str, Overrides]]:
    """Evaluations, and the values of the grid's axes one by one, with their names."""
    for name, overrides in study.evaluations.items():
        yield f"evaluation {name!r}", overrides
    first = tuple(setting for axis in study.grid.axes for setting in axis.settings(axis.values[0]))
    for axis in study.grid.axes:
        for value in axis.values:
            yield f"grid.axes.{axis.name}, {value:g}", (*study.grid.overrides, *first, *axis.settings(value))


def _built(recipe: ResolvedRecipe) -> LightningModule:
    """The model in shape alone; the data is built too, to see that it can be."""
    build_data(recipe.config.data.as_dict())
    with without_weights():
        return build_model(recipe.config.model.as_dict())


def _shapes(model: LightningModule) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_scored(recipe: ResolvedRecipe) -> None:
    """A run without `FinalScores` would end without figures."""
    callbacks = recipe.config.trainer.callbacks or []
    if not any(issubclass(resolve_name(callback.class_path), FinalScores) for callback in callbacks):
        name = f"{FinalScores.__module__}.{FinalScores.__qualname__}"
        raise UserError(f"trainer.callbacks lacks {name}, which makes the figures that a study tables")


def _check_differ(settings: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for key, own in settings.items():
        found = seen.setdefault(digest(own), key)
        if found != key:
            raise UserError(
                f"variant {found[1]!r} of backbone {found[0]!r} and variant {key[1]!r} of backbone {key[0]!r} are the "
                "same recipe: leave one of them out"
            )


def _has(recipe: ResolvedRecipe, option: str) -> bool:
    part, name = option.split(".")
    arguments: Any = recipe.config[part].get("init_args", {})
    return name in arguments
