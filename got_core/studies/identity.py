"""The identity of a run: its resolved recipe, and the versions of libraries and code, recorded in its folder."""

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
from got_core.errors import UserError, parse_json
from got_core.evaluation.callbacks import STEP, read_scores
from got_core.evaluation.results import PACKAGES, versions
from got_core.paths import ROOT, Run
from got_core.training.recipe import ResolvedRecipe
from got_core.weights.files import checksum, write_whole

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

PRINTED_STEPS = "got_core.studies.runner.PrintedSteps"
"""The callback that a study adds to each run."""

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
