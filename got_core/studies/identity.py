"""What makes a run of a study what it is: its resolved recipe and the code it names, recorded in its folder."""

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.util import find_spec
from os.path import commonpath
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from got_core.errors import UserError
from got_core.evaluation.results import PACKAGES, versions
from got_core.evaluation.suites.callbacks import STEP, read_figures
from got_core.paths import Run
from got_core.training.recipe import ResolvedRecipe
from got_core.weights.files import checksum_of, write_whole


def files_of(names: Iterable[str]) -> dict[str, list[Path]]:
    """The Python files that names lead to within their own top-level packages, by package.

    Every import counts, also one inside a function; a module whose name is put together as the code runs does not.

    Args:
        names: Dotted names of modules, or of what stands in them.
    """
    waiting = list(names)
    found: dict[str, set[Path]] = {name.partition(".")[0]: set() for name in waiting}
    while waiting:
        package, *parts = waiting.pop().split(".")
        if package not in found:
            continue
        for file, inside in _files(package, parts):
            if file not in found[package]:
                found[package].add(file)
                waiting += _imports(file, inside, file.stat().st_mtime_ns)
    return {package: sorted(files) for package, files in found.items()}


def _files(package: str, parts: list[str]) -> Iterator[tuple[Path, str]]:
    """The file of a module and those of the packages it lies in, each with the package that it lies in."""
    spec = find_spec(package)
    if spec is not None and spec.submodule_search_locations is None:
        yield Path(str(spec.origin)), ""
    for folder in (spec and spec.submodule_search_locations) or ():
        for depth in range(len(parts) + 1):
            inner = Path(folder, *parts[:depth])
            for file, above in ((inner / "__init__.py", depth), (inner.with_suffix(".py"), depth - 1)):
                if file.is_file():
                    yield file, ".".join([package, *parts[: max(above, 0)]])


@cache
def _imports(file: Path, inside: str, changed: int) -> list[str]:
    """The names that a file imports; read anew when it has changed."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside.split(".")[: inside.count(".") + 2 - node.level] if node.level else []
            base = [*above, *filter(None, [node.module])]
            found += (".".join([*base, name.name]) for name in node.names)
    return found


ASKED = "asked.json"
"""The file in a folder that says what was asked of it."""


class State(Enum):
    """How far a folder has come."""

    NEW = "new"
    BEGUN = "begun"
    FINISHED = "finished"


@dataclass(frozen=True)
class Asked:
    """What makes a run or a scoring what it is; machine and code are no part of it.

    Attributes:
        settings: Plain values.
        steps: Optimizer steps after which its figures are reached.
    """

    settings: Mapping[str, Any]
    steps: int

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return digest(self.settings)

    def state(self, folder: Path) -> State:
        """How far the folder has come with this: it has finished when figures are there that were reached at `steps`.

        Raises:
            UserError: It holds something else.
        """
        record, run = folder / ASKED, Run(folder)
        if not (run.last.exists() or run.metrics.exists()):
            return State.NEW
        if not record.exists():
            raise UserError(f"{folder} holds a run that no study made: move it away, or choose another --output")
        if _read(record)["digest"] != self.digest:
            raise UserError(f"{folder} holds another run (its {ASKED} says of what settings): move it away")
        if (read_figures(run.metrics) or {}).get(STEP) == self.steps:
            return State.FINISHED
        return State.BEGUN if run.last.exists() else State.NEW

    def begin(self, folder: Path, versions: Mapping[str, str]) -> None:
        """Leave a record in the folder, or note that it is gone on with by other versions."""
        folder.mkdir(parents=True, exist_ok=True)
        before = made_by(folder) if self.state(folder) is State.BEGUN else []
        made = before if versions in before else [*before, dict(versions)]
        content = {"digest": self.digest, "steps": self.steps, "settings": self.settings, "made_with": made}
        write_whole(folder / ASKED, json.dumps(content, indent=2) + "\n")


def made_by(folder: Path) -> list[dict[str, str]]:
    """The versions that a folder's content was made with: several if it was gone on with by others."""
    found: list[dict[str, str]] = _read(folder / ASKED)["made_with"]
    return found


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order in mappings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _read(record: Path) -> dict[str, Any]:
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        return {name: values[name] for name in ("digest", "steps", "settings", "made_with")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record}: not a readable record ({type(error).__name__})") from None


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

TRAINING = "got_core.cli.train"
"""The module of `got fit` and `got validate`."""

PRINTED_STEPS = "got_core.studies.runner.PrintedSteps"
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
