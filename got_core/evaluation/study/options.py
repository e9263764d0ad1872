"""The options of a study's variants and evaluations: as a shell would read them, none that the study sets itself."""

import shlex
from typing import Any

from got_core.evaluation.study.plan import Overrides

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
