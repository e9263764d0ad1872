"""Processes side by side: each in a slot, watched to its end, ended with this one."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

from got_core.errors import one_line
from got_core.evaluation.study.machine import Slot

POLL = 0.2
"""Seconds between two looks at the processes."""

GRACE = 120.0
"""Seconds that a process has to save itself once it is asked to end."""

TAIL = 8192
"""Bytes at the end of a log that are looked at."""

LOG = "log.txt"
"""The file in a job's folder that its output goes to."""

_ERROR = "got: error: "


@dataclass(frozen=True)
class Job:
    """A command and the folder that its output goes to.

    Attributes:
        name: For people; no two jobs share it.
        command: Program and arguments, to which those of its slot are added.
        folder: Made if it is not there.
        held: File descriptors that the process inherits, such as those of locks.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    held: tuple[int, ...] = ()


@runtime_checkable
class Watch(Protocol):
    """Is told how jobs fare."""

    def began(self, name: str) -> None:
        """It has been started."""

    def says(self, name: str, tail: str) -> None:
        """It is running, and this is the end of its output."""

    def ended(self, name: str, error: str | None) -> None:
        """It has ended, with its last error line if it failed."""


@dataclass
class _Child:
    job: Job
    process: "subprocess.Popen[bytes]"

    @property
    def tail(self) -> str:
        with (self.job.folder / LOG).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL))
            return log.read().decode("utf-8", errors="replace")


def run_jobs(jobs: Iterable[Job], slots: Sequence[Slot], watch: Watch) -> dict[str, str]:
    """Run jobs, as many at a time as there are slots.

    A job that fails does not end the others. On Ctrl-C or SIGTERM, all are sent SIGTERM, on which a training run saves
    itself; those that have not ended after `GRACE` seconds, or at a second Ctrl-C, are killed.

    Args:
        jobs: Begun in this order.
        slots: What each place adds to arguments and environment.
        watch: Is told of what happens.

    Returns:
        The last error line of each job that failed and where its output is, by name.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all processes have ended.
    """
    waiting = deque(jobs)
    running: dict[int, _Child] = {}
    errors: dict[str, str] = {}
    with _noted_signals() as asked:
        try:
            while (waiting or running) and not asked:
                for place, slot in enumerate(slots):
                    if waiting and place not in running:
                        running[place] = _start(waiting.popleft(), slot)
                        watch.began(running[place].job.name)
                time.sleep(POLL)
                for place, child in list(running.items()):
                    code, name = child.process.poll(), child.job.name
                    if code is None:
                        watch.says(name, child.tail)
                        continue
                    del running[place]
                    if code:
                        errors[name] = f"{last_error(child.tail, code)} (see {child.job.folder / LOG})"
                    watch.ended(name, errors.get(name))
        finally:
            _end(list(running.values()), asked)
        if asked:
            raise KeyboardInterrupt
    return errors


def last_error(text: str, code: int) -> str:
    """The line that says why a process failed: its last error, else its last line, else its exit status."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    if said or (lines and code > 0):
        return one_line(ValueError((said or lines)[-1]))
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
            pass_fds=job.held,
        )
    return _Child(job, process)


def _end(children: Sequence[_Child], asked: Sequence[int]) -> None:
    """Ask the processes to end, and kill those that do not."""
    for child in children:
        child.process.terminate()
    deadline, before = time.monotonic() + GRACE, len(asked)
    while any(child.process.poll() is None for child in children):
        if time.monotonic() > deadline or len(asked) > before:
            for child in children:
                if child.process.poll() is None:
                    os.killpg(child.process.pid, signal.SIGKILL)
            break
        time.sleep(POLL)
    for child in children:
        child.process.wait()


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end instead of being interrupted by them."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def got_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """The `got` command with this very interpreter."""
    return (sys.executable, "-m", "got_core.cli", *arguments)
