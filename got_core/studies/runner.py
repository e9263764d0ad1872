"""Runs a study: trainings and scorings as parallel processes, each in a slot, and the results written at the end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from got_core.errors import UserError, one_line
from got_core.evaluation.callbacks import STEP, read_scores
from got_core.evaluation.results import check_writable, cores, print_table
from got_core.paths import Run
from got_core.studies.analysis import Results, as_json, collect, mixed_versions
from got_core.studies.report import draw_grid, draw_means, markdown, terminal_tables
from got_core.studies.runs import State, Task, TrainedRun, made_with, plan_runs, printed_step
from got_core.studies.spec import read_study
from got_core.training.recipe import RUNS
from got_core.weights.files import write_whole

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


def run_study(file: str, jobs: int | None = None, output: Path = RUNS) -> None:
    """Train and score variants x backbones x seeds; what has finished is not run again.

    Args:
        file: A study, such as recipes/studies/components.yaml.
        jobs: Runs at a time; by default one a GPU, else one a core.
        output: Folder that gets a folder for each study.

    Raises:
        UserError: The study or one of its recipes is wrong, or another study works on one of its runs; nothing is
            trained then. Or some runs failed; the results of the others have been written.
        KeyboardInterrupt: Ctrl-C; every run has ended.
    """
    plan, root, console = read_study(file), output, Console()
    available = slots(jobs)
    try:
        planned = plan_runs(plan, root, workers=0 if crowded(available) else None)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    check_writable(root / plan.name)
    console.print(f"{plan.title}: {len(planned)} runs of {plan.steps:,} steps, {len(available)} at a time")
    versions = {run.folder: made_with(run.settings) for run in planned}
    tasks = [task for run in planned for task in run.tasks.values()]
    left = dict.fromkeys(task.run for task in tasks if task.state is not State.FINISHED)
    try:
        with locked(left):
            errors = _do([run.training for run in planned], versions, available, console)
            trained = [run for run in planned if run.name not in errors]
            errors |= _do([task for run in trained for task in run.scorings.values()], versions, available, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues; finished runs are kept") from None
    results = collect(plan, planned, errors)
    mixed = mixed_versions(planned)
    _write(results, planned, mixed, root / plan.name, file, _command(file, output))
    for table in terminal_tables(results):
        print_table(table)
    for line in mixed:
        console.print(f"made with other versions: {line}", soft_wrap=True, highlight=False)
    console.print(f"written to {root / plan.name}", soft_wrap=True)
    if errors:
        number = len(planned) * (1 + len(plan.scorings))
        raise UserError(f"{len(errors)} of {number} failed and are left out: {', '.join(errors)}")


def _do(
    tasks: Sequence[Task],
    versions: Mapping[Path, Mapping[str, str]],
    available: Sequence[Slot],
    console: Console,
) -> dict[str, str]:
    """Run the tasks that have not finished; returns the error of each that failed, by name.

    Args:
        tasks: Trainings or scorings.
        versions: Of libraries and code, by the run's folder.
        available: The slots they run in.
        console: Shows their progress.
    """
    left = [task for task in tasks if task.state is not State.FINISHED]
    with Display(console, {task.name: task.steps for task in tasks}) as display:
        for task in tasks:
            if task not in left:
                display.cached(task.name)
        for task in left:
            task.identity.begin(task.folder, versions[task.run])
        jobs = [
            Job(task.name, (sys.executable, "-m", "got_core.cli.main", *task.arguments), task.folder) for task in left
        ]
        errors = run_jobs(jobs, available, display)
    for task in left:
        if task.name not in errors and task.state is not State.FINISHED:
            reached = (read_scores(Run(task.folder).metrics) or {}).get(STEP, "none")
            errors[task.name] = f"it ended with scores of step {reached}, not {task.identity.steps} ({task.folder})"
    return errors


def _write(
    results: Results, planned: Sequence[TrainedRun], mixed: Sequence[str], folder: Path, file: str, command: str
) -> None:
    """Write diagrams, `results.md` and `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    images = ["results.png"] if draw_means(results, folder / "results.png") else []
    for backbone, variant in results.study.combinations if results.study.grid.axes else ():
        images.append(f"grid-{backbone}-{variant}.png")
        draw_grid(results, backbone, variant, folder / images[-1])
    write_whole(folder / "results.md", markdown(results, command=command, images=images, mixed=mixed))
    content = as_json(results, planned, command=command, file=file, mixed=mixed)
    write_whole(folder / "results.json", json.dumps(content, indent=2) + "\n")


def _command(file: str, output: Path) -> str:
    """Write the command that makes the results again, without options of the machine."""
    elsewhere = [] if output == RUNS else ["--output", str(output)]
    return shlex.join(["got", "study", file, *elsewhere])
