"""What differs between a run's recipe and that of the checkpoint it is resumed from, and whether that can be exact."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler, ProgressBar
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim.lr_scheduler import LambdaLR

from got_core.config import OWN_PACKAGES
from got_core.errors import UserError
from got_core.paths import Run
from got_core.training.checkpointing import RandomState
from got_core.weights.checkpoints import read_rest

RECIPE = "recipe"
"""Key of the resolved recipe, as YAML, in a training checkpoint."""

HARMLESS = (
    "config", "trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.enable_checkpointing", "trainer.log_every_n_steps", "trainer.max_time",
    "trainer.min_steps", "trainer.min_epochs", "trainer.val_check_interval", "trainer.check_val_every_n_epoch",
    "trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.limit_predict_batches",
    "trainer.num_sanity_val_steps", "trainer.profiler", "trainer.inference_mode", "trainer.detect_anomaly",
    # Of devices their number counts, which `check_ranks` compares.
    "trainer.devices", "trainer.num_nodes",
    "model.validation_seed", "model.validation_chains", "model.generation_scales", "model.editing_scales",
    "model.sampling_steps", "model.fast", "model.max_chain_tokens", "model.max_nonfinite_steps",
    "data.validation", "data.validation_batch_size", "data.num_workers", "data.max_bad_chains",
    "data.on_bad_record", "data.max_bad_records",
)  # fmt: skip
"""Settings that change no step of training; those below them too."""

LIMITS = ("trainer.max_steps", "trainer.max_epochs")
"""Settings that may grow."""

STATE = ("state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint")
"""Methods of callbacks that are part of a checkpoint."""

_CLASS, _ARGUMENTS = "class_path", "init_args"
_SHOWN, _LONGEST = 5, 40
_MISSING = object()


@dataclass(frozen=True)
class Change:
    """A setting of another value than in the checkpoint's recipe; one that is missing is None."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} (was {_shown(self.before)}, is {_shown(self.now)})"


def changes(checkpoint: Path, recipe: str) -> list[Change]:
    """List what makes another run of a recipe than the one that saved a checkpoint; nothing if that is not known.

    Args:
        checkpoint: A file, or the folder of a distributed one. Its recipe is in it or, as earlier versions left it, in
            the folder of its run.
        recipe: The resolved recipe as YAML.

    Raises:
        UserError: The recipe in it, or beside it, is not readable.
    """
    try:
        text = read_rest(checkpoint).get(RECIPE)
    except UserError:
        return []  # Why it cannot be read is said with the strategy that should read it.
    beside = Run(checkpoint.absolute().parent.parent).recipe
    try:
        if text is None and beside.is_file():
            text = beside.read_text(encoding="utf-8")
        before = yaml.safe_load(text) if text else None
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{checkpoint}: the recipe it was made by is not readable ({type(error).__name__})") from error
    if not isinstance(before, dict):
        return []
    now = yaml.safe_load(recipe)
    for settings in (before, now):
        trainer = settings.setdefault("trainer", {})
        trainer["callbacks"] = _stateful(trainer.get("callbacks") or [], [*_class_paths(now)])
    return [change for change in _compare("", before, now, None) if not _is_harmless(change)]


def refuse(checkpoint: Path, found: Sequence[Change]) -> None:
    """Refuse to resume with changes.

    Raises:
        UserError: There are some; they are named.
    """
    if found:
        raise UserError(
            f"{checkpoint} was saved by another recipe, so it cannot be resumed exactly: undo the changes, or allow "
            f"them by --allow-changes: {listed(found)}"
        )


def listed(found: Sequence[Change]) -> str:
    """Return changes in one line, the first ones of many."""
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(map(str, found[:_SHOWN])) + more


def check_ranks(checkpoint: Path, trainer: Trainer) -> None:
    """Check that there are as many processes as saved a checkpoint: each has its samples and random numbers.

    Raises:
        UserError: There are not.
    """
    states = read_rest(checkpoint).get("random_states")
    if isinstance(states, list) and len(states) != trainer.world_size:
        raise UserError(
            f"{checkpoint} cannot be resumed exactly on another number of devices: it was saved by {len(states)}, now "
            f"there are {trainer.world_size}; allow that by --allow-changes"
        )


class Changed(Callback):
    """Resumes with changes: what still fits is loaded, and what does not is left out and named.

    Random states are left out if the seed is another one, and the state of an optimizer that has other settings or
    weights; else its settings, such as learning rates, are those of the recipe.
    """

    def __init__(self, found: Sequence[Change]) -> None:
        self._names = [change.name for change in found]
        self._checkpoint: dict[str, Any] = {}
        self._groups: list[list[dict[str, Any]]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out random states of another seed."""
        self._checkpoint = checkpoint
        if "seed_everything" in self._names and checkpoint.pop("random_states", None):
            self._say(trainer, "random states: the seed is another one")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the state of an optimizer that it does not fit; this is before it is loaded."""
        self._groups = [_settings(optimizer.param_groups) for optimizer in trainer.optimizers]
        strategy = trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            if "model.optimizer" in self._names:
                self._say(trainer, "the optimizer's state: it is of another class")
                load, optimizers = strategy.load_checkpoint, strategy.optimizers

                def without_optimizers(*arguments: Any, **options: Any) -> dict[str, Any]:
                    strategy.optimizers = []
                    try:
                        return load(*arguments, **options)
                    finally:
                        strategy.optimizers = optimizers

                strategy.load_checkpoint = without_optimizers  # type: ignore[method-assign]
            return
        states = self._checkpoint.get("optimizer_states", [])
        own = [_layout(optimizer.param_groups) for optimizer in trainer.optimizers]
        if states and [_layout(state["param_groups"]) for state in states] != own:
            self._checkpoint["optimizer_states"] = []
            self._say(trainer, "the optimizer's state: it is of another class, or of other weights")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue with the recipe's settings of the optimizer, at the step of the schedule that was reached."""
        self._checkpoint = {}
        if not any(name.startswith(("model.optimizer", "model.learning_rates")) for name in self._names):
            return
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings)
        for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
            if isinstance(scheduler, LambdaLR):
                groups = scheduler.optimizer.param_groups
                scheduler.base_lrs = [group["initial_lr"] for group in groups]
                for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                    group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)

    def _say(self, trainer: Trainer, what: str) -> None:
        if trainer.is_global_zero:
            print(f"not loaded from the checkpoint: {what}")


def _settings(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def _layout(groups: Sequence[Mapping[str, Any]]) -> list[tuple[set[str], int]]:
    return [(set(group), len(group["params"])) for group in groups]


def _shown(value: Any) -> str:
    if isinstance(value, dict) and _CLASS in value:
        value = value[_CLASS]
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_harmless(change: Change) -> bool:
    if change.name in LIMITS:
        before, now = (math.inf if value in (None, -1) else value for value in (change.before, change.now))
        return bool(now >= before)
    return any(change.name == name or change.name.startswith(f"{name}.") for name in HARMLESS)


def _stateful(callbacks: Any, known: Sequence[str]) -> dict[str, Any]:
    """Return those of a recipe's callbacks that are part of training, by class.

    Args:
        callbacks: As in a recipe.
        known: Classes of the user's own recipe; of a checkpoint's no others are imported than those and this project's.
    """
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    stateful = {}
    for settings in callbacks:
        path = settings.get(_CLASS, "")
        if path not in known and path.partition(".")[0] not in (*OWN_PACKAGES, "lightning"):
            continue
        try:
            kind = resolve_name(path)
        except (ImportError, AttributeError, ValueError):
            continue
        if issubclass(kind, (Checkpoint, ProgressBar, RandomState)):
            continue
        if kind is GradientAccumulationScheduler or any(getattr(kind, m) is not getattr(Callback, m) for m in STATE):
            stateful[path] = settings
    return stateful


def _class_paths(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        if isinstance(settings.get(_CLASS), str):
            yield settings[_CLASS]
        settings = list(settings.values())
    for value in settings if isinstance(settings, list) else ():
        yield from _class_paths(value)


def _compare(name: str, before: Any, now: Any, default: Any) -> Iterator[Change]:
    """Compare two settings; one that an earlier version did not have is as if it had its default."""
    if before is _MISSING:
        if now != default:
            yield Change(name, None, now)
        return
    if isinstance(before, dict) and isinstance(now, dict) and before.get(_CLASS) == now.get(_CLASS):
        defaults = _defaults(name, now)
        before, now = before.get(_ARGUMENTS, before), now.get(_ARGUMENTS, now)
        for key in dict.fromkeys([*now, *before]):
            below = f"{name}.{key}" if name else str(key)
            yield from _compare(below, before.get(key, _MISSING), now.get(key), defaults.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _compare(f"{name}.{number}", one, other, None)
    elif before != now:
        yield Change(name, before, now)


def _defaults(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    kind = Trainer if name == "trainer" else resolve_name(settings[_CLASS]) if _CLASS in settings else None
    parameters = inspect.signature(kind).parameters if kind is not None else {}
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
