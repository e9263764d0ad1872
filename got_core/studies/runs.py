"""The runs of a study: their identity, recorded in their folders, and their recipes, built in shape before training."""

import hashlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer

from got_core.config import OWN_PACKAGES
from got_core.errors import UserError, parse_json
from got_core.evaluation.callbacks import STEP, FinalScores, read_scores
from got_core.evaluation.results import PACKAGES, versions
from got_core.paths import ROOT, Run
from got_core.studies.spec import Overrides, Study
from got_core.training.recipe import LAST, ResolvedRecipe, build_data, build_model
from got_core.weights.files import checksum, write_whole
from got_core.weights.loading import without_weights

RECORD = "asked.json"
"""The file in a folder that describes its content."""


class State(Enum):
    """The state of a folder."""

    NEW = "new"
    BEGUN = "begun"
    FINISHED = "finished"


@dataclass(frozen=True)
class Identity:
    """What distinguishes a run or a scoring from others; machine and code are not part of it.

    Attributes:
        settings: Plain values.
        steps: Optimizer steps after which it is scored.
    """

    settings: Mapping[str, Any]
    steps: int

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return digest(self.settings)

    def state(self, folder: Path) -> State:
        """Determine the state of a folder: it has finished when it has scores of step `steps`.

        Raises:
            UserError: It contains something else.
        """
        record, run = folder / RECORD, Run(folder)
        if not (run.last.exists() or run.metrics.exists()):
            return State.NEW
        if not record.exists():
            raise UserError(f"{folder} contains a run that no study made: move it away, or choose another --output")
        if _read(record)["digest"] != self.digest:
            raise UserError(f"{folder} contains another run (see its {RECORD}): move it away")
        if (read_scores(run.metrics) or {}).get(STEP) == self.steps:
            return State.FINISHED
        return State.BEGUN if run.last.exists() else State.NEW

    def begin(self, folder: Path, versions: Mapping[str, str]) -> None:
        """Write a record into the folder, or add that it is resumed by other versions."""
        folder.mkdir(parents=True, exist_ok=True)
        before = made_by(folder) if self.state(folder) is State.BEGUN else []
        made = before if versions in before else [*before, dict(versions)]
        content = {"digest": self.digest, "steps": self.steps, "settings": self.settings, "made_with": made}
        write_whole(folder / RECORD, json.dumps(content, indent=2) + "\n")


def made_by(folder: Path) -> list[dict[str, str]]:
    """Read the versions that a folder's content was made with: several if it was resumed by others."""
    made: list[dict[str, str]] = _read(folder / RECORD)["made_with"]
    return made


def digest(settings: Mapping[str, Any]) -> str:
    """Compute SHA-256 of plain values, whatever their order in mappings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _read(record: Path) -> dict[str, Any]:
    try:
        values = parse_json(record.read_text(encoding="utf-8"))
        return {name: values[name] for name in ("digest", "steps", "settings", "made_with")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record}: not a readable record ({type(error).__name__})") from None


ELSEWHERE = {
    "trainer": ("accelerator", "devices", "num_nodes", "default_root_dir", "enable_progress_bar",
                "enable_model_summary"),
    "data": ("num_workers", "seed"),
    "model": ("validation_seed",),
    "": ("seed_everything", "config"),
}  # fmt: skip
"""Settings of the machine, which change no score, and of the seed, which is part of a run's name."""

FRACTIONS = (
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
)  # fmt: skip
"""Of the Trainer, numbers or fractions: `1` is read as either, depending on imports before; here as a fraction."""

CODE = "code of "
"""Prefix of the keys of code among the versions; the name of a package or module follows."""

GIT_SECONDS = 60
"""Longest that one call of git may take."""


def essentials(recipe: ResolvedRecipe) -> dict[str, Any]:
    """Reduce a resolved recipe to plain values, without `ELSEWHERE` and without values that are a class's defaults.

    So it is the same whether a default is written out or not, and when a class gets another argument with a default.
    """
    settings = yaml.safe_load(recipe.parser.dump(recipe.config, skip_default=True))
    for part, names in ELSEWHERE.items():
        arguments = settings.get(part, {}) if part else settings
        for name in names:
            arguments.get("init_args", arguments).pop(name, None)
    trainer = settings.get("trainer", {})
    trainer.update({name: float(trainer[name]) for name in FRACTIONS if trainer.get(name) is not None})
    plain: dict[str, Any] = without_defaults(settings)
    return plain


def without_defaults(settings: Any) -> Any:
    """Copy nested settings, classes without the arguments that have their default value."""
    if isinstance(settings, list):
        return [without_defaults(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    copy = {name: without_defaults(value) for name, value in settings.items()}
    if isinstance(copy.get("init_args"), dict) and "class_path" in copy:
        known = inspect.signature(resolve_name(copy["class_path"])).parameters
        copy["init_args"] = {
            name: value
            for name, value in copy["init_args"].items()
            if name not in known or _plain(known[name].default) != value
        }
    return copy


def class_paths(settings: Any) -> Iterator[str]:
    """List all classes that settings name, in their order."""
    if isinstance(settings, list):
        for value in settings:
            yield from class_paths(value)
    elif isinstance(settings, Mapping):
        if "class_path" in settings:
            yield settings["class_path"]
        for value in settings.values():
            yield from class_paths(value)


def made_with(settings: Mapping[str, Any]) -> dict[str, str]:
    """List the versions of libraries and of other code that a recipe uses.

    This project's packages are identified by the git commit of their checkout, else by the installed version; another
    class by the commit of the checkout that has its module's file, else by that file's checksum.
    """
    libraries = versions()
    code = {"got_core": git_commit(ROOT, OWN_PACKAGES) or libraries[PACKAGES[0]]}
    for path in class_paths(settings):
        if path.partition(".")[0] in (*OWN_PACKAGES, *PACKAGES):
            continue
        module = resolve_name(path).__module__
        if file := getattr(sys.modules[module], "__file__", None):
            code[module] = git_commit(Path(file).parent, [Path(file).name]) or checksum(Path(file))[:DIGITS]
    return {**libraries, **{f"{CODE}{name}": code[name] for name in sorted(code)}}


def git_commit(folder: Path, paths: Sequence[str]) -> str | None:
    """Name the commit of the checkout that files or folders lie in.

    Args:
        folder: Where git is run.
        paths: Tracked files or folders in it; changes elsewhere in the checkout do not count.

    Returns:
        The commit's first digits, followed by `-dirty-` and a checksum of the changes where there are any; None where
        there is no git, no commit of these paths, or a checkout that git refuses to read for its owner.
    """
    try:
        commit = _git(folder, "rev-parse", f"--short={DIGITS}", "HEAD").decode().strip()
        _git(folder, "ls-files", "--error-unmatch", "--", *paths)
        changes = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "HEAD", "--", *paths)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty-{hashlib.sha256(changes).hexdigest()[:DIGITS]}" if changes else commit


def _git(folder: Path, *arguments: str) -> bytes:
    command = ("git", "--no-optional-locks", "-C", str(folder), *arguments)
    return subprocess.run(
        command, capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=GIT_SECONDS
    ).stdout


def _plain(default: Any) -> Any:
    """Convert a default to what a dumped recipe would have."""
    try:
        return json.loads(json.dumps(default))
    except TypeError:
        return default


DIGITS = 10
"""Of a checksum or commit in a name or in messages."""


_LINE = re.compile(r"^step (\d+)$", re.MULTILINE)


class PrintedSteps(Callback):
    """Print a line with the number of optimizer steps done, at regular intervals.

    Args:
        every: Steps between two lines.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self._printed = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if one is due."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._printed and trainer.is_global_zero:
            self._printed = step
            print(f"step {step}")


def printed_step(text: str) -> int | None:
    """Find the last step that a log has printed."""
    steps = _LINE.findall(text)
    return int(steps[-1]) if steps else None


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
            f"--trainer.callbacks+={PrintedSteps.__module__}.{PrintedSteps.__qualname__}",
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
