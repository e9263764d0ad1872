"""The runs of a study and their scorings, with their recipes built in shape before anything is trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from got_core.errors import UserError
from got_core.evaluation.callbacks import FinalScores
from got_core.studies.identity import DIGITS, PRINTED_STEPS, Identity, State, digest, essentials
from got_core.studies.spec import Overrides, Study
from got_core.training.recipe import LAST, ResolvedRecipe, build_data, build_model
from got_core.weights.loading import without_weights

TRAINED = "trained"
"""The folder of the runs of all studies; a run that several studies have is there once."""

EVALUATIONS = "evaluations"
"""The folder of a run's scorings."""

_QUIETLY = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@dataclass(frozen=True)
class Task:
    """The work of one process: the training of a run, or a scoring of a trained run.

    Attributes:
        name: In the study; that of a scoring begins with the run's.
        folder: Gets `metrics.json`.
        run: The folder of the run it belongs to.
        identity: What distinguishes it from others.
        arguments: Of the `got` command.
        steps: Optimizer steps it counts to; 0 where it trains nothing.
    """

    name: str
    folder: Path
    run: Path
    identity: Identity
    arguments: tuple[str, ...]
    steps: int = 0

    @property
    def state(self) -> State:
        """Its state.

        Raises:
            UserError: Its folder holds something else.
        """
        return self.identity.state(self.folder)


@dataclass(frozen=True)
class TrainedRun:
    """One combination of a study under one seed.

    Attributes:
        study: The study.
        backbone, variant: Names in it.
        seed: One of its seeds.
        root: The folder that all studies lie in.
        settings: The resolved recipe's, without the seed; its folder is named by them.
        seeded: Options that are set to the seed.
        machine: Options that change no score.
    """

    study: Study
    backbone: str
    variant: str
    seed: int
    root: Path
    settings: Mapping[str, Any]
    seeded: tuple[str, ...] = ("--seed_everything",)
    machine: Overrides = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.backbone}-{self.variant}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it is trained: the same for all studies that have the same run."""
        stem = "+".join(Path(file).stem for file in self.files)
        return self.root / TRAINED / f"{stem}-{digest(self.settings)[:DIGITS]}-seed{self.seed}"

    @property
    def files(self) -> tuple[str, ...]:
        """The recipe's files."""
        return self.study.backbones[self.backbone]

    @property
    def overrides(self) -> Overrides:
        """The variant's, then what the study sets."""
        seeds = (f"{option}={self.seed}" for option in self.seeded)
        return (*combination_overrides(self.study, self.backbone, self.variant), *seeds)

    @property
    def training(self) -> Task:
        """The task that trains the run, or resumes it."""
        identity = Identity({**self.settings, "seed": self.seed}, self.study.steps)
        arguments = (
            "fit",
            *(f"--config={file}" for file in self.files),
            *self.overrides,
            *self.machine,
            f"--trainer.default_root_dir={self.folder}",
            *_QUIETLY,
            f"--trainer.callbacks+={PRINTED_STEPS}",
            f"--ckpt_path={LAST}" if identity.state(self.folder) is State.BEGUN else "--overwrite",
        )
        return Task(self.name, self.folder, self.folder, identity, arguments, self.study.steps)

    def scoring(self, name: str) -> Task:
        """Make the task that scores the trained run again, under an evaluation or at a point of the grid."""
        overrides = self.study.scorings[name]
        identity = Identity({"arguments": list(overrides)}, self.study.steps)
        folder = self.folder / EVALUATIONS / f"{name}-{identity.digest[:DIGITS]}"
        output = f"--trainer.default_root_dir={folder}"
        arguments = ("validate", f"--checkpoint={self.folder}", *overrides, *self.machine, output, *_QUIETLY)
        return Task(f"{self.name} {name}", folder, self.folder, identity, arguments)

    @property
    def scorings(self) -> dict[str, Task]:
        """The tasks that score the trained run again, by name."""
        return {name: self.scoring(name) for name in self.study.scorings}

    @property
    def tasks(self) -> dict[str | None, Task]:
        """All tasks: the training under None, then the scorings by name."""
        return {None: self.training} | self.scorings


def combination_overrides(study: Study, backbone: str, variant: str) -> Overrides:
    """List a variant's options, then those by which all runs of the study have the same number of steps."""
    steps = (f"--trainer.max_steps={study.steps}", "--trainer.max_epochs=-1", "--trainer.max_time=null")
    return (*study.variants[variant][backbone], *steps)


SEEDED = ("data.seed", "model.validation_seed")
"""What follows the seed besides `seed_everything`, where a recipe's classes have it."""

WORKERS = "data.num_workers"


def plan_runs(study: Study, root: Path, workers: int | None = None) -> list[TrainedRun]:
    """Plan all runs of a study, seed by seed, so that all combinations have their first seed early.

    Every recipe is read, and its model (in shape) and data are built, under every evaluation as well and with every
    value of the grid's axes, the others at their first.

    Args:
        study: The study.
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
    """Resolve the recipe of one combination, which can be built and scored."""
    files, overrides = study.backbones[backbone], combination_overrides(study, backbone, variant)
    recipe = ResolvedRecipe(files, overrides)
    _check_scored(recipe)
    shapes = _shapes(recipe)
    for name, settings in _scored_again(study):
        try:
            other = _shapes(ResolvedRecipe(files, (*overrides, *settings)))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if changed := [tensor for tensor in {**shapes, **other} if shapes.get(tensor) != other.get(tensor)]:
            raise UserError(
                f"{name}: a model of other weights than the trained one ({changed[0]} is "
                f"{shapes.get(changed[0], 'missing')} there and {other.get(changed[0], 'missing')} here)"
            )
    return recipe


def _scored_again(study: Study) -> Iterator[tuple[str, Overrides]]:
    """List evaluations, and the values of the grid's axes one by one, with their names."""
    for name, overrides in study.evaluations.items():
        yield f"evaluation {name!r}", overrides
    first = tuple(setting for axis in study.grid.axes.values() for setting in axis.settings(axis.values[0]))
    for name, axis in study.grid.axes.items():
        for value in axis.values:
            yield f"grid.axes.{name}, {value:g}", (*study.grid.overrides, *first, *axis.settings(value))


def _shapes(recipe: ResolvedRecipe) -> dict[str, list[int]]:
    """Build the data, to check that it can be built, and the model in shape alone; list the shapes of its weights."""
    build_data(recipe.config.data.as_dict())
    with without_weights():
        model = build_model(recipe.config.model.as_dict())
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_scored(recipe: ResolvedRecipe) -> None:
    """Check that there is `FinalScores`, without which a run would end without scores."""
    callbacks = recipe.config.trainer.callbacks or []
    if not any(issubclass(resolve_name(callback.class_path), FinalScores) for callback in callbacks):
        name = f"{FinalScores.__module__}.{FinalScores.__qualname__}"
        raise UserError(f"trainer.callbacks lacks {name}, which makes the scores that a study tables")


def _check_differ(settings: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for key, own in settings.items():
        first = seen.setdefault(digest(own), key)
        if first != key:
            raise UserError(
                f"variant {first[1]!r} of backbone {first[0]!r} and variant {key[1]!r} of backbone {key[0]!r} are the "
                "same recipe: leave one of them out"
            )


def _has(recipe: ResolvedRecipe, option: str) -> bool:
    part, name = option.split(".")
    arguments: Any = recipe.config[part].get("init_args", {})
    return name in arguments
