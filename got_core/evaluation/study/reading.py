"""Study files: YAML to `Study`, checked key by key."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from got_core.errors import UserError
from got_core.evaluation.final_scores import FIGURES
from got_core.evaluation.geneval import CATEGORIES
from got_core.evaluation.scene_metrics import GENEVAL
from got_core.evaluation.study.options import read_options, read_variant
from got_core.evaluation.study.plan import Axis, Grid, Overrides, Split, Study
from got_core.evaluation.study.study_yaml import read_yaml
from got_core.paths import locate
from got_core.seeds import LARGEST_SEED

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
