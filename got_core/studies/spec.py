"""A study as its file describes it: YAML checked by jsonargparse, options split as by a shell."""

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt, restricted_number_type

from got_core.config import read_recipe
from got_core.detection.base import CATEGORIES
from got_core.errors import UserError
from got_core.evaluation.callbacks import METRICS
from got_core.evaluation.metrics.scenes import GENEVAL
from got_core.paths import LARGEST_SEED, locate
from got_core.training.recipe_errors import plain_errors

Overrides = tuple[str, ...]
"""Values of a recipe as on the command line, such as `--model.backbone.depth=8`."""

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", LARGEST_SEED)])


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        options: Options of a recipe that are all given the same value.
        values: The values, in order.
    """

    options: Overrides
    values: tuple[float, ...]

    def settings(self, value: float) -> Overrides:
        """List the options with one of the values."""
        return tuple(f"{option}={number(value)}" for option in self.options)


@dataclass(frozen=True)
class Grid:
    """Sampling settings that are tried in all combinations.

    Attributes:
        axes: By their names in tables; at most `MOST_AXES`.
        overrides: Those of all points.
    """

    axes: Mapping[str, Axis]
    overrides: Overrides = ()

    def points(self) -> dict[str, Overrides]:
        """List the overrides of each point by its name, the last axis first to change; none without axes."""
        points = {}
        for values in product(*(axis.values for axis in self.axes.values())) if self.axes else ():
            chosen = dict(zip(self.axes, values, strict=True))
            settings = (setting for name, value in chosen.items() for setting in self.axes[name].settings(value))
            points[point_name(chosen)] = (*self.overrides, *settings)
        return points


NO_GRID = Grid({})


@dataclass(frozen=True)
class Split:
    """How the error is split into the planner's part and the generator's.

    Attributes:
        given: The evaluation that generates from the samples' own chains, whose plans are right.
        metrics: Fractions of right images; each with the metric that scores the plan alone, or None where none does.
    """

    given: str
    metrics: Mapping[str, str | None]


@dataclass(frozen=True)
class Study:
    """Recipes that are trained under several seeds, and how they are scored.

    Attributes:
        name: That of its file, and of the folder of its results.
        title: A line for people.
        steps: Optimizer steps of every run.
        seeds: Of initialisation, training samples and their order, noise and dropout, and the noise of validation.
        backbones: The recipe files of each backbone, later ones override earlier ones.
        variants: For each variant, its overrides for each backbone it is trained with.
        columns: The metrics that are tabled: names in `metrics.json`, dotted inside a group.
        evaluations: Overrides under which trained runs are scored again, without training.
        grid: More of them, in all combinations.
        compare: The pairs of variants whose differences are estimated; all of them when None.
        split: How the error is split, if it is.
    """

    name: str
    title: str
    steps: int
    seeds: tuple[int, ...]
    backbones: Mapping[str, tuple[str, ...]]
    variants: Mapping[str, Mapping[str, Overrides]]
    columns: tuple[str, ...]
    evaluations: Mapping[str, Overrides] = field(default_factory=dict)
    grid: Grid = NO_GRID
    compare: tuple[tuple[str, str], ...] | None = None
    split: Split | None = None

    @property
    def scorings(self) -> dict[str, Overrides]:
        """Evaluations and points of the grid, by name."""
        return {**self.evaluations, **self.grid.points()}

    @property
    def combinations(self) -> list[tuple[str, str]]:
        """(backbone, variant), backbone by backbone."""
        return [(backbone, name) for backbone in self.backbones for name, on in self.variants.items() if backbone in on]

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that are read: the columns, then those that only the split uses."""
        split = () if self.split is None else (*self.split.metrics, *filter(None, self.split.metrics.values()))
        return tuple(dict.fromkeys((*self.columns, *split)))


def point_name(values: Mapping[str, float]) -> str:
    """Name a point of a grid, such as `semantic=2,spatial=1.5`."""
    return ",".join(f"{name}={number(value)}" for name, value in values.items())


def number(value: float) -> str:
    """Write a number in full, a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(value)


SCORED_ALIKE = "would change what all runs are scored on alike"

REFUSED = {
    "is set by the study's own key steps": (
        "--trainer.max_steps", "--trainer.min_steps", "--trainer.max_epochs", "--trainer.min_epochs",
        "--trainer.max_time", "--trainer.fast_dev_run",
    ),
    "is set by the study's own key seeds": ("--seed_everything", "--data.seed", "--model.validation_seed"),
    "is set by the study, for each run": ("--trainer.default_root_dir", "--checkpoint", "--ckpt_path", "--weights"),
    "belongs to backbones, as one of their recipe files": ("--config",),
    "trains nothing": ("--print_config",),
    SCORED_ALIKE: ("--trainer.limit_val_batches",),
    "would replace all that the study sets there: name its arguments one by one": ("--trainer",),
    "is set by the machine: see got study --jobs": (
        "--trainer.accelerator", "--trainer.devices", "--trainer.num_nodes",
    ),
}  # fmt: skip
"""Options that no variant or evaluation may have, by the reason."""

VALIDATION = "--data.validation"
"""The samples that are scored; only evaluations may change them."""


def read_options(where: str, entries: Iterable[str], scored_alike: bool = False) -> Overrides:
    """Split a list of options as a shell would.

    Args:
        where: Their key in the file.
        entries: One or more options each.
        scored_alike: Whether the validation samples must be the recipe's own, as those of variants.

    Raises:
        ValueError: An entry is no option, or one that is the study's own to set.
    """
    entries = list(entries)
    if wrong := [entry for entry in entries if not entry.startswith("--")]:
        raise ValueError(f"{where}: an option begins with --, but this does not: {wrong[0]}")
    try:
        words = tuple(word for entry in entries for word in shlex.split(entry))
    except ValueError as error:
        raise ValueError(f"{where}: {error} in {entries}") from None
    for option in options_of(words):
        for reason, options in REFUSED.items():
            if option in options:
                raise ValueError(f"{where}: {option} {reason}")
        if scored_alike and (option in ("--data", VALIDATION) or option.startswith(f"{VALIDATION}.")):
            raise ValueError(f"{where}: {option} {SCORED_ALIKE}: score on other samples under evaluations")
    return words


def options_of(words: Overrides) -> list[str]:
    """List the options among words, without their values and without `init_args`, which may be left out."""
    options = [word.partition("=")[0] for word in words if re.match(r"-[-a-z]", word)]
    options = [option if option.startswith("--") else re.sub(r"^-c.*", "--config", option) for option in options]
    return [option.replace(".init_args", "").removesuffix("+") for option in options]


KNOWN_COLUMNS = ("seconds", *METRICS, *(f"{GENEVAL}.{name}" for name in (*CATEGORIES, "overall")))
"""The metrics of `metrics.json` by their dotted names."""

MOST_AXES = 3

_NAME = re.compile(r"\w[\w.+-]*")


def read_study(path: str) -> Study:
    """Read the study of a file; its keys are the arguments of `study_of`.

    Args:
        path: From the working directory, or beside the installed packages.

    Raises:
        UserError: What is wrong with the file and where, in one line.
    """
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(study_of, skip={"name"})
    try:
        settings = _nothing_for_empty(read_recipe(Path(locate(path)), kind="study")) or {}
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    try:
        with plain_errors(parser):
            return study_of(Path(path).stem, **vars(parser.instantiate(parser.parse_object(settings))))
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def _nothing_for_empty(value: Any) -> Any:
    """Put None for empty mappings, whose keys jsonargparse would not check."""
    if not isinstance(value, dict):
        return value
    return {key: _nothing_for_empty(entry) for key, entry in value.items()} or None


def study_of(
    name: str,
    title: str,
    steps: PositiveInt,
    seeds: list[Seed],
    backbones: dict[str, str | list[str]],
    variants: dict[str, list[str] | dict[str, list[str]]],
    columns: list[str],
    evaluations: dict[str, list[str]] | None = None,
    grid: Grid = NO_GRID,
    compare: list[tuple[str, str]] | None = None,
    split: Split | None = None,
) -> Study:
    """Make a study from the values of a file.

    Args:
        name: That of the file.
        title: A line for people.
        steps: Optimizer steps.
        seeds: Different ones, from 0 to `LARGEST_SEED`.
        backbones: For each, a recipe file, or several of which later ones override earlier ones.
        variants: For each, its options for every backbone, or those for each backbone that it is trained with.
        columns: Metrics by their dotted names.
        evaluations: For each, its options.
        grid: Axes and options.
        compare: Pairs [first, second] of variants; all where None.
        split: How the error is split.

    Raises:
        ValueError: A name is unknown, has other characters or is used twice; or an option is not theirs to set.
    """
    axes = {
        key: replace(axis, options=read_options(f"grid.axes.{key}.options", axis.options))
        for key, axis in grid.axes.items()
    }
    study = Study(
        name=name,
        title=title,
        steps=int(steps),
        seeds=tuple(int(seed) for seed in seeds),
        backbones={key: (files,) if isinstance(files, str) else tuple(files) for key, files in backbones.items()},
        variants={key: _by_backbone(f"variants.{key}", options, backbones) for key, options in variants.items()},
        columns=tuple(columns),
        evaluations={key: read_options(f"evaluations.{key}", own) for key, own in (evaluations or {}).items()},
        grid=Grid(axes, read_options("grid.overrides", grid.overrides)),
        compare=None if compare is None else tuple(compare),
        split=split,
    )
    _check(study)
    return study


def _by_backbone(
    where: str, options: list[str] | dict[str, list[str]], backbones: Iterable[str]
) -> dict[str, Overrides]:
    """Split a variant's options for each backbone; a list holds for all of them."""
    if isinstance(options, list):
        return dict.fromkeys(backbones, read_options(where, options, scored_alike=True))
    _check_known(where, options, backbones, "backbone")
    return {name: read_options(f"{where}.{name}", own, scored_alike=True) for name, own in options.items()}


def _check(study: Study) -> None:
    axes = study.grid.axes
    names = {"the file's name": [study.name], "backbones": study.backbones, "variants": study.variants}
    for where, own in {**names, "evaluations": study.evaluations, "grid.axes": axes}.items():
        if wrong := [name for name in own if not _NAME.fullmatch(name)]:
            raise ValueError(f"{where}: {wrong[0]!r} may only have letters, digits and . _ + -")
    lists: dict[str, tuple[Any, ...] | None] = {
        "seeds": study.seeds,
        "columns": study.columns,
        "compare": study.compare,
        **{f"backbones.{name}": files for name, files in study.backbones.items()},
        **{f"grid.axes.{name}.values": axis.values for name, axis in axes.items()},
    }
    for where, values in lists.items():
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ValueError(f"{where} must be a list of different values, not {list(values)}")
    _check_known("columns", study.columns, KNOWN_COLUMNS, "metric")
    for pair in study.compare or ():
        _check_known("compare", pair, study.variants, "variant")
        if pair[0] == pair[1]:
            raise ValueError(f"compare: {pair[0]!r} is paired with itself")
    if study.split is not None:
        _check_known("split.given", [study.split.given], study.evaluations, "evaluation")
        metrics = [*study.split.metrics, *filter(None, study.split.metrics.values())]
        _check_known("split.metrics", metrics, KNOWN_COLUMNS, "metric")
    for name, axis in axes.items():
        if not all(map(isfinite, axis.values)):
            raise ValueError(f"grid.axes.{name}.values must be finite, not {list(axis.values)}")
    if len(axes) > MOST_AXES:
        raise ValueError(f"grid.axes has {len(axes)} axes, but a diagram has no more than {MOST_AXES}")
    called = [f"{backbone}-{variant}" for backbone, variant in study.combinations]
    if twice := [name for name in called if called.count(name) > 1]:
        raise ValueError(f"two combinations of backbone and variant are called {twice[0]}: rename one")


def _check_known(where: str, names: Iterable[str], known: Iterable[str], kind: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none'}"
            raise ValueError(f"{where}: no {kind} is called {name!r}; {guess}")
