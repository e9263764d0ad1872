"""What makes a run of a study what it is: its resolved recipe and the code it names, recorded in its folder."""

import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from got_core.config import OWN_PACKAGES
from got_core.errors import UserError
from got_core.evaluation.results import PACKAGES, versions
from got_core.evaluation.suites.callbacks import STEP, read_figures
from got_core.paths import ROOT, Run
from got_core.training.recipe import ResolvedRecipe
from got_core.weights.files import checksum, write_whole

RECORD = "asked.json"
"""The file in a folder that says what it holds."""


class State(Enum):
    """How far a folder has come."""

    NEW = "new"
    BEGUN = "begun"
    FINISHED = "finished"


@dataclass(frozen=True)
class Identity:
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
        record, run = folder / RECORD, Run(folder)
        if not (run.last.exists() or run.metrics.exists()):
            return State.NEW
        if not record.exists():
            raise UserError(f"{folder} holds a run that no study made: move it away, or choose another --output")
        if _read(record)["digest"] != self.digest:
            raise UserError(f"{folder} holds another run (its {RECORD} says of what settings): move it away")
        if (read_figures(run.metrics) or {}).get(STEP) == self.steps:
            return State.FINISHED
        return State.BEGUN if run.last.exists() else State.NEW

    def begin(self, folder: Path, versions: Mapping[str, str]) -> None:
        """Leave a record in the folder, or note that it is gone on with by other versions."""
        folder.mkdir(parents=True, exist_ok=True)
        before = made_by(folder) if self.state(folder) is State.BEGUN else []
        made = before if versions in before else [*before, dict(versions)]
        content = {"digest": self.digest, "steps": self.steps, "settings": self.settings, "made_with": made}
        write_whole(folder / RECORD, json.dumps(content, indent=2) + "\n")


def made_by(folder: Path) -> list[dict[str, str]]:
    """The versions that a folder's content was made with: several if it was gone on with by others."""
    found: list[dict[str, str]] = _read(folder / RECORD)["made_with"]
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

PRINTED_STEPS = "got_core.studies.runner.PrintedSteps"
"""The callback that a study adds to each run."""

CODE = "code of "
"""Begins the keys among the versions that tell of code, and is followed by the name of a package or module."""

GIT_SECONDS = 60
"""Longest that one call of git may take."""


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
    """Tell the versions of the libraries, and of the other code that a recipe's run comes with.

    This project's packages are told by the git commit of their checkout, or by the installed version; a class from
    elsewhere by that of its module: the commit of the checkout that has its file, or the file's checksum.
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
    """A default as a dumped recipe would have it."""
    try:
        return json.loads(json.dumps(default))
    except TypeError:
        return default


DIGITS = 10
"""Of a checksum or commit that is shown or part of a name."""
