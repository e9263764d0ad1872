"""The model's work: one job at a time on a thread of its own, visitors in turn, with progress and a time limit."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import Any

from PIL import Image
from torch import Tensor

from got_core.pipelines.pipeline import GoTPipeline
from got_core.studio.settings import Limits, Refused

INTERVAL = 0.05
"""Seconds between two reports; what comes sooner is left out."""

STOP_INTERVAL = 0.25
"""Seconds after which a job that waits looks whether it was stopped."""

PREVIEW_PAUSE = 4
"""After a preview, this many times its duration passes before the next, so that previews cost a fifth of the time."""


@dataclass(frozen=True)
class Progress:
    """The present state of the work.

    Attributes:
        chain: The plan so far, while it is written.
        image: The image so far, while it is generated.
        step: Number of steps done.
        before: Number of jobs that are done before this one; 0 from when it begins.
    """

    chain: str | None = None
    image: Image.Image | None = None
    step: int = 0
    before: int = 0


class Reporter:
    """Reports progress, and ends the work by an exception; its methods are callbacks of `GoTPipeline`.

    Args:
        send: Receives each report.
        stop: Ends the work when it is set.
        seconds: Time limit of the work.
    """

    def __init__(self, send: Callable[[Progress], None], stop: Event, seconds: float) -> None:
        self._send = send
        self._stop = stop
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._next = 0.0

    def on_token(self, chains: tuple[str, ...]) -> None:
        """Report the chain after a token."""
        self._check()
        if time.monotonic() >= self._next:
            self._send(Progress(chain=chains[0]))
            self._next = time.monotonic() + INTERVAL

    def on_plan(self) -> None:
        """Report that the plan is complete and that the image comes next."""
        self._check()
        self._send(Progress())

    def on_step(self, pipeline: GoTPipeline, step: int, time_of_step: Tensor, tensors: dict[str, Any]) -> None:
        """Report a preview of the first image after a denoising step; no image where it would unload the backbone."""
        self._check()
        begun = time.monotonic()
        if begun >= self._next:
            image = None
            if pipeline.model.execution_device is None:
                (image,) = pipeline.preview(tensors["latents"][:1].clamp(-1e4, 1e4))
            self._send(Progress(image=image, step=step + 1))
            self._next = time.monotonic() + max(INTERVAL, PREVIEW_PAUSE * (time.monotonic() - begun))

    def _check(self) -> None:
        if self._stop.is_set():
            raise Refused("stopped")
        if time.monotonic() > self._end:
            raise Refused(f"this took more than {self._seconds:g} seconds and was ended")


Task = Callable[[Reporter], None]


@dataclass(eq=False)
class _Job:
    """A task with what it reports; `work` is set when it begins."""

    task: Task
    stop: Event
    visitor: str
    reports: SimpleQueue[Progress | None] = field(default_factory=SimpleQueue)
    work: Future[None] | None = None


class Worker:
    """Runs one job after the other on one thread.

    Each visitor's jobs are done in their order, and visitors take turns: whoever sends many delays only their own.

    Args:
        limits: How many jobs may wait, and how long one may work.

    Example:
        >>> worker = Worker(Limits(seconds=5))
        >>> [progress.chain for progress in worker.run(lambda reporter: reporter.on_token(("a dog",)), Event())]
        ['a dog']
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="studio")
        self._lock = Lock()
        self._running: _Job | None = None
        # By visitor, in the order of their next turns: the one whose job is running is the last.
        self._waiting: dict[str, deque[_Job]] = {}

    def run(self, task: Task, stop: Event, visitor: str = "") -> Iterator[Progress]:
        """Wait for the visitor's turn, run a task and yield its progress, from the time that it waits.

        If the progress is no longer read, the task is stopped. One that is stopped while it waits is never run.

        Args:
            task: The work; its time limit counts from when it begins.
            stop: Ends it when it is set.
            visitor: Whose it is.

        Raises:
            Refused: Too many jobs wait, or it was stopped or took too long.
            Exception: What the task raised.
        """
        job = _Job(task, stop, visitor)
        self._join(job)
        try:
            while (progress := self._next_report(job)) is not None:
                yield progress
            if job.work is not None:
                job.work.result()
        finally:
            if job.work is None or not job.work.done():
                stop.set()
            self._leave(job)

    def _join(self, job: _Job) -> None:
        with self._lock:
            own = len(self._waiting.get(job.visitor, ()))
            if own >= self._limits.address_queue:
                raise Refused(f"{own} requests from your address are waiting already: wait until one is done")
            if sum(map(len, self._waiting.values())) >= self._limits.queue:
                raise Refused("too many requests are waiting: try again in a minute")
            self._waiting.setdefault(job.visitor, deque()).append(job)
            if self._running is None:
                self._begin_next()
            else:
                self._let_wait(self._running.visitor)
                self._report_waiting()

    def _leave(self, job: _Job) -> bool:
        """Remove a job that has not begun; returns whether it was waiting."""
        with self._lock:
            jobs = self._waiting.get(job.visitor, deque())
            if job not in jobs:
                return False
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.visitor]
            self._report_waiting()
            return True

    def _next_report(self, job: _Job) -> Progress | None:
        """Wait for a job's next report; None when it has ended."""
        while True:
            try:
                return job.reports.get(timeout=STOP_INTERVAL if job.work is None else None)
            except Empty:
                if job.stop.is_set() and self._leave(job):
                    raise Refused("stopped") from None

    def _begin_next(self) -> None:
        """Begin the first job of the visitor whose turn it is, if any waits; the lock is held."""
        self._running = next(iter(self._waiting.values()))[0] if self._waiting else None
        if self._running is None:
            return
        visitor = self._running.visitor
        self._waiting[visitor].popleft()
        if not self._waiting[visitor]:
            del self._waiting[visitor]
        self._let_wait(visitor)
        self._running.work = self._thread.submit(self._work, self._running)
        self._report_waiting()

    def _let_wait(self, visitor: str) -> None:
        """Make a visitor's next turn, if there is one, the last; the lock is held."""
        if visitor in self._waiting:
            self._waiting[visitor] = self._waiting.pop(visitor)

    def _report_waiting(self) -> None:
        """Report to each job that waits how many come before it; the lock is held."""
        turns = chain.from_iterable(zip_longest(*self._waiting.values()))
        for before, job in enumerate((job for job in turns if job is not None), 1):
            job.reports.put(Progress(before=before))

    def _work(self, job: _Job) -> None:
        try:
            if job.stop.is_set():
                raise Refused("stopped")
            job.task(Reporter(job.reports.put, job.stop, self._limits.seconds))
        finally:
            with self._lock:
                self._begin_next()
            job.reports.put(None)
