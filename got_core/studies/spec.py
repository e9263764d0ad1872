"""A study as its file describes it: YAML checked key by key, options as a shell would read them."""

import difflib
import math
import re
import shlex
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from got_core.detection.base import CATEGORIES
from got_core.errors import UserError, one_line
from got_core.evaluation.metrics.scenes import GENEVAL
from got_core.evaluation.suites.callbacks import FIGURES
from got_core.paths import LARGEST_SEED, locate


class _DistinctKeys(yaml.SafeLoader):
    """Refuses mappings in which a key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands here twice", mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What the text says.

    Raises:
        ValueError: It is no YAML, or a key stands twice in a mapping; names the line where it is known.
    """
    try:
        return yaml.load(text, _DistinctKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from None


Overrides = tuple[str, ...]
"""Values of a recipe as on the command line, such as `--model.backbone.depth=8`."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        name: What it is called in tables.
        options: Options of a recipe that are all given the same value.
        values: The values, in order.
    """

    name: str
    options: tuple[str, ...]
    values: tuple[float, ...]

    def settings(self, value: float) -> Overrides:
        """The options with one of the values."""
        return tuple(f"{option}={number(value)}" for option in self.options)


@dataclass(frozen=True)
class Grid:
    """Sampling settings that are tried in all combinations.

    Attributes:
        axes: One to three.
        overrides: What all points have in common.
    """

    axes: tuple[Axis, ...] = ()
    overrides: Overrides = ()

    def points(self) -> dict[str, Overrides]:
        """The overrides of each point by its name, the last axis first to change; none without axes."""
        found = {}
        for values in product(*(axis.values for axis in self.axes)) if self.axes else ():
            chosen = list(zip(self.axes, values, strict=True))
            settings = tuple(setting for axis, value in chosen for setting in axis.settings(value))
            found[point_name({axis.name: value for axis, value in chosen})] = (*self.overrides, *settings)
        return found


@dataclass(frozen=True)
class Split:
    """How the error is split into the plan's share and the drawing's.

    Attributes:
        given: The evaluation that draws from the samples' own chains, whose plans are right.
        figures: Shares of right drawings; each with the figure that scores the plan alone, or None where none does.
    """

    given: str
    figures: Mapping[str, str | None]


@dataclass(frozen=True)
class Study:
    """Which recipes are trained under which seeds, and how they are scored.

    Attributes:
        name: That of its file; its results lie in a folder of this name.
        title: A line for people.
        steps: Optimizer steps, the same for every run.
        seeds: Of initialisation, training samples and their order, noise and dropout, and the noise of validation.
        backbones: The recipe files of each backbone, later ones override earlier ones.
        variants: For each variant, its overrides for each backbone it is trained with.
        columns: The figures that are tabled: names in `metrics.json`, dotted inside a group.
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
    grid: Grid = field(default_factory=Grid)
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
    def figures(self) -> tuple[str, ...]:
        """All figures that are read: the columns, then those that only the split looks at."""
        split = () if self.split is None else (*self.split.figures, *filter(None, self.split.figures.values()))
        return tuple(dict.fromkeys((*self.columns, *split)))


def point_name(values: Mapping[str, float]) -> str:
    """The name of a point of a grid, such as `semantic=2,spatial=1.5`."""
    return ",".join(f"{name}={number(value)}" for name, value in values.items())


def number(value: float) -> str:
    """A number in full, a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(value)


_STEPS, _SEEDS = "is set by the study's own key steps", "is set by the study's own key seeds"
_RUN, _SCORES = "is set by the study, for each run", "would change what all runs are scored on alike"
_MACHINE = "is set by the machine: see got study --jobs"

REFUSED = {
    "--trainer.max_steps": _STEPS,
    "--trainer.min_steps": _STEPS,
    "--trainer.max_epochs": _STEPS,
    "--trainer.min_epochs": _STEPS,
    "--trainer.max_time": _STEPS,
    "--trainer.fast_dev_run": _STEPS,
    "--seed_everything": _SEEDS,
    "--data.seed": _SEEDS,
    "--model.validation_seed": _SEEDS,
    "--trainer.default_root_dir": _RUN,
    "--checkpoint": _RUN,
    "--ckpt_path": _RUN,
    "--weights": _RUN,
    "--config": "belongs to backbones, as one of their recipe files",
    "--print_config": "trains nothing",
    "--trainer.limit_val_batches": _SCORES,
    "--trainer": "would replace all that the study sets there: name its arguments one by one",
    "--trainer.accelerator": _MACHINE,
    "--trainer.devices": _MACHINE,
    "--trainer.num_nodes": _MACHINE,
}
"""Options that no variant or evaluation may have, and why."""

VALIDATION = "--data.validation"
"""The samples that are scored; only evaluations may name others."""


def read_options(where: str, value: Any) -> Overrides:
    """A list of options, split as a shell would.

    Raises:
        ValueError: It is no such list, or has an option that is the study's own to set.
    """
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{where} must be a list of options such as --model.backbone.depth=8, not {value!r}")
    for entry in value:
        if not entry.startswith("--"):
            raise ValueError(f"{where}: an option begins with --, but this does not: {entry}")
    try:
        words = tuple(word for entry in value for word in shlex.split(entry))
    except ValueError as error:
        raise ValueError(f"{where}: {error} in {value}") from None
    for option in options_of(words):
        if option in REFUSED:
            raise ValueError(f"{where}: {option} {REFUSED[option]}")
    return words


def read_variant(where: str, value: Any) -> Overrides:
    """The options of a variant, which is scored on the recipe's own validation samples.

    Raises:
        ValueError: See `read_options`; or it names other validation samples.
    """
    words = read_options(where, value)
    for option in options_of(words):
        if option in ("--data", VALIDATION) or option.startswith(f"{VALIDATION}."):
            raise ValueError(f"{where}: {option} {_SCORES}: score on other samples under evaluations")
    return words


def options_of(words: Overrides) -> list[str]:
    """The options among words, without their values and without `init_args`, which may be left out."""
    found = [word.partition("=")[0] for word in words if word.startswith("-") and not _is_number(word)]
    short = {"-c": "--config"}
    return [short.get(option, option).replace(".init_args", "").removesuffix("+") for option in found]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


REQUIRED = ("title", "steps", "seeds", "backbones", "variants", "columns")
OPTIONAL = ("evaluations", "grid", "compare", "split")

KNOWN_COLUMNS = ("seconds", *FIGURES, *(f"{GENEVAL}.{name}" for name in (*CATEGORIES, "overall")))
"""The figures of `metrics.json` by their dotted names."""

MOST_AXES = 3

_NAME = re.compile(r"\w[\w.+-]*")


def read_study(path: str) -> Study:
    """The study of a file.

    Args:
        path: From the working directory, or beside the installed packages.

    Raises:
        UserError: What is wrong with the file and where, in one line.
    """
    try:
        return _study(Path(path).stem, read_yaml(Path(locate(path)).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable study ({type(error).__name__})") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _study(name: str, settings: Any) -> Study:
    _check_keys("a study", settings, REQUIRED, OPTIONAL)
    if not isinstance(settings["title"], str):
        raise ValueError(f"title must be a text, not {settings['title']!r}")
    backbones = {key: _files(key, value) for key, value in _named("backbones", settings["backbones"]).items()}
    variants = {
        key: _by_backbone(f"variants.{key}", value, list(backbones))
        for key, value in _named("variants", settings["variants"]).items()
    }
    evaluations = {
        key: read_options(f"evaluations.{key}", value)
        for key, value in _named("evaluations", settings.get("evaluations", {}), empty=True).items()
    }
    study = Study(
        name=_check_name("the file's name", name),
        title=settings["title"],
        steps=_whole("steps", settings["steps"], least=1),
        seeds=tuple(_whole("seeds", seed, 0, LARGEST_SEED) for seed in _distinct("seeds", settings["seeds"])),
        backbones=backbones,
        variants=variants,
        columns=_columns("columns", _distinct("columns", settings["columns"])),
        evaluations=evaluations,
        grid=_grid(settings["grid"]) if "grid" in settings else Grid(),
        compare=_pairs(settings["compare"], list(variants)) if "compare" in settings else None,
        split=_split(settings["split"], list(evaluations)) if "split" in settings else None,
    )
    _check_names_differ(study)
    return study


def _grid(settings: Any) -> Grid:
    _check_keys("grid", settings, ("axes",), ("overrides",))
    axes = []
    for name, values in _named("grid.axes", settings["axes"]).items():
        where = f"grid.axes.{name}"
        _check_keys(where, values, ("options", "values"), ())
        numbers = _distinct(f"{where}.values", values["values"])
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError(f"{where}.values must be numbers, not {numbers}")
        options = read_options(f"{where}.options", values["options"])
        axes.append(Axis(name, options, tuple(float(number) for number in numbers)))
    if len(axes) > MOST_AXES:
        raise ValueError(f"grid.axes has {len(axes)} axes, but no more than {MOST_AXES} can be drawn")
    return Grid(tuple(axes), read_options("grid.overrides", settings.get("overrides", [])))


def _pairs(value: Any, variants: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = _distinct("compare", value)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"compare must be a list of pairs [first, second] of variants, not {pair!r}")
        for name in pair:
            if name not in variants:
                raise ValueError(f"compare: no variant is called {name!r}{_guess(str(name), variants)}")
    return tuple((first, second) for first, second in pairs)


def _split(value: Any, evaluations: list[str]) -> Split:
    _check_keys("split", value, ("given", "figures"), ())
    if value["given"] not in evaluations:
        names = ", ".join(evaluations) or "none"
        raise ValueError(f"split.given: {value['given']!r} is not one of the evaluations, of which there are {names}")
    figures = value["figures"]
    if not isinstance(figures, Mapping) or not figures:
        raise ValueError(f"split.figures must map figures to those of the plan alone, or to null, not {figures!r}")
    _columns("split.figures", [*figures, *(plan for plan in figures.values() if plan is not None)])
    return Split(value["given"], dict(figures))


def _by_backbone(where: str, value: Any, backbones: list[str]) -> dict[str, Overrides]:
    """A list holds for every backbone; a mapping names those that the variant is trained with."""
    if not isinstance(value, Mapping):
        overrides = read_variant(where, value)
        return dict.fromkeys(backbones, overrides)
    for name in value:
        if name not in backbones:
            raise ValueError(f"{where} names the backbone {name!r}, but backbones has only {', '.join(backbones)}")
    return {name: read_variant(f"{where}.{name}", value[name]) for name in _named(where, value)}


def _files(name: str, value: Any) -> tuple[str, ...]:
    files = [value] if isinstance(value, str) else value
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise ValueError(f"backbones.{name} must be a recipe file or a list of them, not {value!r}")
    return tuple(files)


def _columns(where: str, columns: list[Any]) -> tuple[str, ...]:
    for column in columns:
        if column not in KNOWN_COLUMNS:
            raise ValueError(f"{where}: no figure is called {column!r}{_guess(str(column), KNOWN_COLUMNS)}")
    return tuple(columns)


def _check_names_differ(study: Study) -> None:
    names: dict[str, tuple[str, str]] = {}
    for backbone, variant in study.combinations:
        name = f"{backbone}-{variant}"
        if name in names:
            first, second = names[name]
            raise ValueError(
                f"backbone {first!r} with variant {second!r} and backbone {backbone!r} with variant {variant!r} are "
                f"both called {name}: rename one"
            )
        names[name] = backbone, variant


def _named(where: str, value: Any, empty: bool = False) -> dict[str, Any]:
    """A mapping from names that may be parts of a folder's name."""
    if not isinstance(value, Mapping) or not (value or empty):
        raise ValueError(f"{where} must map names to values, not {value!r}")
    return {_check_name(where, key): entry for key, entry in value.items()}


def _check_name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: {name!r} is no name of letters, digits and . _ + - alone")
    return name


def _distinct(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value or any(value.count(entry) > 1 for entry in value):
        raise ValueError(f"{where} must be a list of different values, not {value!r}")
    return value


def _whole(where: str, value: Any, least: int, most: int | None = None) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{where}: expected a whole number of at least {least}, not {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{where}: expected a whole number of at most {most}, not {value}")
    return value


def _check_keys(where: str, value: Any, required: Iterable[str], optional: Iterable[str]) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping with {', '.join(required)}, not {value!r}")
    known = [*required, *optional]
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"{where} has no key {unknown[0]!r}{_guess(str(unknown[0]), known)}")
    if missing := [key for key in required if key not in value]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")


def _guess(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
