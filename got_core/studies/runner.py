"""Runs of a study as parallel processes: each in a slot, with its progress shown, and ended with this process."""

import os
import platform
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from got_core.errors import UserError, one_line
from got_core.evaluation.results import processor

_LINE = re.compile(r"^step (\d+)$", re.MULTILINE)


class PrintedSteps(Callback):
    """Print a line with the number of optimizer steps done, at regular intervals.

    Args:
        every: Steps between two lines.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self._printed = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if one is due."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._printed and trainer.is_global_zero:
            self._printed = step
            print(f"step {step}")


def printed_step(text: str) -> int | None:
    """Find the last step that a log has printed."""
    steps = _LINE.findall(text)
    return int(steps[-1]) if steps else None


LOCK = "lock"
"""The file in a folder that is locked."""


@contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Lock folders, created if they do not exist, so that no other study works on them.

    Raises:
        UserError: Another study has locked one of them.
    """
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(folder / LOCK, blocking=False))
            except Timeout:
                raise UserError(f"{folder} is being worked on by another study: wait until it has ended") from None
        yield


class Display(Progress):
    """A bar for each running task, and a line for each that has ended.

    Args:
        console: Where it is shown.
        steps: The steps of each task, by name; 0 where it counts none.
    """

    def __init__(self, console: Console, steps: Mapping[str, int]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"))
        super().__init__(*columns, TimeElapsedColumn(), console=console, transient=True)
        self.steps = steps
        self.done = 0
        self._bars: dict[str, TaskID] = {}

    def cached(self, name: str) -> None:
        """Print a line for a task that had finished before."""
        self._line(name, "finished before")

    def started(self, name: str) -> None:
        """Show a bar for a task that has been started."""
        self._bars[name] = self.add_task(name, total=self.steps[name] or None, step="")

    def output(self, name: str, tail: str) -> None:
        """Move the bar of a running task, by the end of its output."""
        if (step := printed_step(tail)) is not None:
            self.update(self._bars[name], completed=step, step=f"step {step:,} of {self.steps[name]:,}")

    def ended(self, name: str, error: str | None) -> None:
        """Print a line in place of the bar, with the last error line of a task that failed."""
        bar = self._bars.pop(name)
        seconds = next(task.elapsed or 0.0 for task in self.tasks if task.id == bar)
        self.remove_task(bar)
        self._line(name, f"finished in {seconds / 60:.1f} min" if error is None else f"failed: {error}")

    def _line(self, name: str, words: str) -> None:
        self.done += 1
        line = f"{self.done} of {len(self.steps)}  {name}: {words}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


VISIBLE = "CUDA_VISIBLE_DEVICES"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Slot:
    """Room for one process at a time.

    Attributes:
        arguments: Of Lightning's Trainer.
        environment: What is added to the process's environment.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def slots(jobs: int | None = None, gpus: list[str] | None = None) -> list[Slot]:
    """Make one slot a GPU where there are any, else one a core.

    Args:
        jobs: This many slots instead; GPUs are then shared, or some stay idle.
        gpus: Ids of the GPUs, as CUDA_VISIBLE_DEVICES has them; those of this machine when None.
    """
    gpus = visible_gpus() if gpus is None else gpus
    if not gpus:
        alone = Slot(("--trainer.accelerator=cpu", "--trainer.devices=1"), {**ONE_THREAD, VISIBLE: ""})
        return [alone] * (jobs or cores())
    arguments = ("--trainer.accelerator=gpu", "--trainer.devices=1")
    return [Slot(arguments, {VISIBLE: gpus[index % len(gpus)]}) for index in range(jobs or len(gpus))]


def crowded(slots: Sequence[Slot]) -> bool:
    """Check whether every core has a process already, so that processes to load samples would gain nothing."""
    return len(slots) >= cores() and not any(slot.environment[VISIBLE] for slot in slots)


def visible_gpus() -> list[str]:
    """List the ids of the GPUs that this process may use."""
    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE)
    return given.split(",")[:count] if given else [str(index) for index in range(count)]


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, object]:
    """Describe this machine as results do."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": processor(), "cores": cores(), "gpus": gpus}


POLL = 0.2
"""Seconds between two checks of the processes."""

GRACE = 120.0
"""Seconds that a process has to save its state after SIGTERM."""

TAIL = 8192
"""Bytes that are read at the end of a log."""

LOG = "log.txt"
"""The file in a job's folder that gets its output."""

_ERROR = "got: error: "


@dataclass(frozen=True)
class Job:
    """A command and the folder that gets its output.

    Attributes:
        name: For people; unique.
        command: Program and arguments; those of its slot are added.
        folder: Created if it does not exist.
    """

    name: str
    command: tuple[str, ...]
    folder: Path


@dataclass
class _Child:
    job: Job
    process: "subprocess.Popen[bytes]"

    @property
    def tail(self) -> str:
        with (self.job.folder / LOG).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL))
            return log.read().decode("utf-8", errors="replace")


def run_jobs(jobs: Iterable[Job], slots: Sequence[Slot], display: Display) -> dict[str, str]:
    """Run jobs, as many at a time as there are slots.

    A job that fails does not end the others. On Ctrl-C or SIGTERM, all are sent SIGTERM, and a training run saves its
    state; those that have not ended after `GRACE` seconds, or at a second Ctrl-C, are killed.

    Args:
        jobs: Started in this order.
        slots: Their arguments and environment are added to those of a job.
        display: Shows the progress.

    Returns:
        The last error line of each job that failed and where its output is, by name.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all processes have ended.
    """
    waiting = deque(jobs)
    running: dict[int, _Child] = {}
    errors: dict[str, str] = {}
    with _noted_signals() as signals:
        try:
            while (waiting or running) and not signals:
                for index, slot in enumerate(slots):
                    if waiting and index not in running:
                        running[index] = _start(waiting.popleft(), slot)
                        display.started(running[index].job.name)
                time.sleep(POLL)
                for index, child in list(running.items()):
                    code, name = child.process.poll(), child.job.name
                    if code is None:
                        display.output(name, child.tail)
                        continue
                    del running[index]
                    if code:
                        errors[name] = f"{last_error(child.tail, code)} (see {child.job.folder / LOG})"
                    display.ended(name, errors.get(name))
        finally:
            _end(list(running.values()), signals)
        if signals:
            raise KeyboardInterrupt
    return errors


def last_error(text: str, code: int) -> str:
    """Find why a process failed: its last error line, else its last line, else its exit status."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    if errors or (lines and code > 0):
        return one_line(ValueError((errors or lines)[-1]))
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _start(job: Job, slot: Slot) -> _Child:
    """Start a process in a group of its own, so that Ctrl-C reaches it through this one alone."""
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment}
    with (job.folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            (*job.command, *slot.arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return _Child(job, process)


def _end(children: Sequence[_Child], signals: Sequence[int]) -> None:
    """Send all processes SIGTERM, and kill those that do not end."""
    for child in children:
        child.process.terminate()
    deadline, before = time.monotonic() + GRACE, len(signals)
    while running := [child.process for child in children if child.process.poll() is None]:
        if time.monotonic() > deadline or len(signals) > before:
            for process in running:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        else:
            time.sleep(POLL)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collect signals that would end this process instead of being interrupted by them."""
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
