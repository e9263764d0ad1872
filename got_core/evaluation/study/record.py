"""What a folder of a study was made by, so that it is kept, gone on with, or refused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from got_core.errors import UserError
from got_core.evaluation.final_scores import STEP, read_figures
from got_core.evaluation.provenance import write_whole
from got_core.paths import Run

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
