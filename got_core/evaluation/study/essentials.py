"""What of a resolved recipe makes a run what it is, and which code it names."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonpath
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from got_core.evaluation.provenance import PACKAGES, checksum_of, versions
from got_core.evaluation.study.loaded_code import files_of
from got_core.recipe import ResolvedRecipe

ELSEWHERE = {
    "trainer": (
        "accelerator",
        "devices",
        "num_nodes",
        "default_root_dir",
        "enable_progress_bar",
        "enable_model_summary",
    ),
    "data": ("num_workers", "seed"),
    "model": ("validation_seed",),
    "": ("seed_everything", "config"),
}
"""Settings of the machine, which change nothing, and of the seed, which a run is named by."""

SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
"""Of the Trainer, a number or a share: `1` is read as either, by which module was imported first; told as a share."""

TRAINING = "got_core.commands.training"
"""The module of `got fit` and `got validate`."""

PRINTED_STEPS = "got_core.evaluation.study.steps.PrintedSteps"
"""The callback that a study adds to each run."""

CODE = "code of "
"""Begins the keys among the versions under which checksums of code stand, and is followed by a package's name."""


def essentials(recipe: ResolvedRecipe) -> dict[str, Any]:
    """A resolved recipe as plain values, without `ELSEWHERE` and without what is a class's default anyway.

    So it is the same whether a default is spelt out or not, and when a class gets another argument with a default.
    """
    settings = yaml.safe_load(recipe.parser.dump(recipe.config, skip_default=True))
    for part, names in ELSEWHERE.items():
        held = settings.get(part, {}) if part else settings
        for name in names:
            held.get("init_args", held).pop(name, None)
    trainer = settings.get("trainer", {})
    trainer.update({name: float(trainer[name]) for name in SHARES if trainer.get(name) is not None})
    plain: dict[str, Any] = without_defaults(settings)
    return plain


def without_defaults(settings: Any) -> Any:
    """Nested settings, classes without the arguments that have their default value."""
    if isinstance(settings, list):
        return [without_defaults(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    kept = {name: without_defaults(value) for name, value in settings.items()}
    if isinstance(kept.get("init_args"), dict) and "class_path" in kept:
        defaults = {
            name: argument.default
            for name, argument in inspect.signature(resolve_name(kept["class_path"])).parameters.items()
        }
        kept["init_args"] = {
            name: value
            for name, value in kept["init_args"].items()
            if name not in defaults or _plain(defaults[name]) != value
        }
    return kept


def class_paths(settings: Any) -> Iterator[str]:
    """All classes that settings name, in their order."""
    if isinstance(settings, list):
        for value in settings:
            yield from class_paths(value)
    elif isinstance(settings, Mapping):
        if "class_path" in settings:
            yield settings["class_path"]
        for value in settings.values():
            yield from class_paths(value)


def made_with(settings: Mapping[str, Any]) -> dict[str, str]:
    """The versions of the libraries, and by package a checksum of the other code that a recipe's run comes with.

    That is all that the recipe's classes and `got fit` import: commands and suites that no run imports are left out.
    """
    known = versions()
    loaded = {name: _code_sum(files) for name, files in code_of(settings).items()}
    return {**known, **{f"{CODE}{name}": loaded[name] for name in sorted(loaded)}}


def code_of(settings: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The Python files that a recipe's run comes with, by package, without the libraries whose versions are known."""
    classes = (path for path in class_paths(settings) if path.partition(".")[0] not in PACKAGES)
    return files_of([TRAINING, PRINTED_STEPS, *classes])


def _code_sum(files: Sequence[Path]) -> str:
    """The first digits of a checksum of Python files of one package."""
    if not files:
        return "missing"
    return checksum_of(Path(commonpath([file.parent for file in files])), files)[:DIGITS]


def _plain(default: Any) -> Any:
    """A default as a dumped recipe would have it."""
    try:
        return json.loads(json.dumps(default))
    except TypeError:
        return default


DIGITS = 10
"""Of a checksum that is shown or part of a name."""
