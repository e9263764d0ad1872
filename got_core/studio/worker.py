"""The model's work: one request at a time on a thread of its own, with progress reports and a time limit."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from typing import Any

from PIL import Image
from torch import Tensor

from got_core.pipelines.pipeline import GoTPipeline
from got_core.studio.settings import Refused

INTERVAL = 0.05
"""Seconds between two reports; what comes sooner is left out."""

PREVIEW_PAUSE = 4
"""After a preview, this many times its duration passes before the next, so that previews cost a fifth of the time."""


@dataclass(frozen=True)
class Progress:
    """The present state of the work.

    Attributes:
        chain: The plan so far, while it is written.
        image: The image so far, while it is generated.
        step: Number of steps done.
    """

    chain: str | None = None
    image: Image.Image | None = None
    step: int = 0


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

    def on_step(self, pipeline: GoTPipeline, step: int, time_of_step: Tensor, tensors: dict[str, Any]) -> None:
        """Report a preview of the image after a denoising step."""
        self._check()
        begun = time.monotonic()
        if begun >= self._next:
            (image,) = pipeline.preview(tensors["latents"].clamp(-1e4, 1e4))
            self._send(Progress(image=image, step=step + 1))
            self._next = time.monotonic() + max(INTERVAL, PREVIEW_PAUSE * (time.monotonic() - begun))

    def _check(self) -> None:
        if self._stop.is_set():
            raise Refused("stopped")
        if time.monotonic() > self._end:
            raise Refused(f"this took more than {self._seconds:g} seconds and was ended")


class Worker:
    """Runs one task after the other on one thread, for all visitors.

    Args:
        seconds: Time limit of a task.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="studio")

    def run(self, task: Callable[[Reporter], None], stop: Event) -> Iterator[Progress]:
        """Run a task and yield its progress; if the reports are no longer read, the task is stopped.

        Raises:
            Refused: It was stopped or took too long.
            Exception: What the task raised.
        """
        reports: SimpleQueue[Progress | None] = SimpleQueue()
        working = self._thread.submit(lambda: task(Reporter(reports.put, stop, self._seconds)))
        working.add_done_callback(lambda _: reports.put(None))
        try:
            while (progress := reports.get()) is not None:
                yield progress
            working.result()
        finally:
            if not working.done():
                stop.set()
