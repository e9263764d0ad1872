"""A training step on one rank and on two of one machine: what exchanging gradients adds to each rank's step."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from rich.table import Table

from got_core.benchmarks.measuring import Ratio, median_and_interval
from got_core.errors import UserError

RANKS = (1, 2)

WARM_UP = 3
"""Steps that are not counted."""


class StepClock(Callback):
    """Write what a rank's steps take, of the first rank: seconds by the clock and of the CPU, and resident memory.

    Args:
        file: Gets them as JSON.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self._started = (0.0, 0.0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start after `WARM_UP` steps, and write after the last."""
        now = time.perf_counter(), time.process_time()
        if trainer.global_step == WARM_UP:
            self._started = now
        elif trainer.global_step == trainer.max_steps and trainer.is_global_zero:
            wall, cpu = (
                (end - start) / (trainer.max_steps - WARM_UP) for end, start in zip(now, self._started, strict=True)
            )
            import resource  # Windows has none.

            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self.file.write_text(json.dumps({"wall": wall, "cpu": cpu, "memory": memory}))


def step_costs(recipe: Sequence[str], steps: int, repeats: int) -> dict[int, list[dict[str, float]]]:
    """Train a recipe on each number of `RANKS` in turns, on CPUs, and return what each run's steps took.

    Each rank has the recipe's batch: the more ranks, the more samples a step.

    Raises:
        UserError: A run failed.
    """
    measured: dict[int, list[dict[str, float]]] = {ranks: [] for ranks in RANKS}
    for _ in range(repeats):
        for ranks, runs in measured.items():
            with TemporaryDirectory() as folder:
                runs.append(_run(recipe, steps, ranks, Path(folder)))
    return measured


def _run(recipe: Sequence[str], steps: int, ranks: int, folder: Path) -> dict[str, float]:
    clock = f"{{class_path: {StepClock.__module__}.StepClock, init_args: {{file: {folder / 'steps.json'}}}}}"
    command = [
        sys.executable, "-m", "got_core.cli.main", "fit",
        *(part for file in recipe for part in ("--config", file)),
        f"--trainer.max_steps={steps + WARM_UP}", "--trainer.max_epochs=-1", "--trainer.limit_val_batches=0",
        "--trainer.accelerator=cpu", f"--trainer.devices={ranks}", "--trainer.strategy=auto",
        "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder / 'run'}",
        "--data.num_workers=0", f"--trainer.callbacks=[{clock}]",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"on {ranks} ranks: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    found: dict[str, float] = json.loads((folder / "steps.json").read_text())
    return found


def ranks_table(measured: dict[int, list[dict[str, float]]], recipe: Sequence[str]) -> Table:
    """Return a table of milliseconds and memory of a rank's step, with the ratio of two ranks to one."""
    table = Table(title=f"A step of {' '.join(recipe)} on each rank", title_justify="left")
    for heading in ("", *(f"{ranks} ranks" if ranks > 1 else "1 rank" for ranks in measured), "costs"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, unit in {"wall": 1e-3, "cpu": 1e-3, "memory": 1e6}.items():
        values = {ranks: np.array([run[name] for run in runs]) for ranks, runs in measured.items()}
        first, last = (values[ranks] for ranks in RANKS)
        cells = (f"{float(np.median(each)) / unit:,.0f}" for each in values.values())
        label = {"wall": "ms by the clock", "cpu": "ms of the CPU", "memory": "MB resident"}[name]
        table.add_row(label, *cells, str(Ratio(*median_and_interval(last / first))))
    return table
