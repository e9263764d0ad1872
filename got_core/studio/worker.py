"""The model's work: one request at a time on a thread of its own, told step by step, bounded in time."""

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

APART = 0.05
"""Seconds between two reports; what comes sooner is left out."""

PREVIEW_SHARE = 4
"""A preview waits for this many times as long as the last one took, so that previews cost a fifth of the time."""


@dataclass(frozen=True)
class Progress:
    """How far the work has come.

    Attributes:
        chain: The plan so far, while it is written.
        image: The picture so far, while it is drawn.
        step: Steps done.
    """

    chain: str | None = None
    image: Image.Image | None = None
    step: int = 0


class Reporter:
    """What the work tells while it goes on, and where it is ended; a listener and a callback of `GoTPipeline`.

    Args:
        send: Takes each report.
        stop: Ends the work when it is set.
        seconds: Ends the work when they are over.
    """

    def __init__(self, send: Callable[[Progress], None], stop: Event, seconds: float) -> None:
        self._send = send
        self._stop = stop
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._next = 0.0

    def written(self, chains: tuple[str, ...]) -> None:
        """Hear a chain after each token."""
        self._check()
        if time.monotonic() >= self._next:
            self._send(Progress(chain=chains[0]))
            self._next = time.monotonic() + APART

    def drawn(self, pipeline: GoTPipeline, step: int, time_left: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        """See the latents after each step."""
        self._check()
        begun = time.monotonic()
        if begun >= self._next:
            (image,) = pipeline.preview(tensors["latents"].clamp(-1e4, 1e4))
            self._send(Progress(image=image, step=step + 1))
            self._next = time.monotonic() + max(APART, PREVIEW_SHARE * (time.monotonic() - begun))
        return {}

    def _check(self) -> None:
        if self._stop.is_set():
            raise Refused("stopped")
        if time.monotonic() > self._end:
            raise Refused(f"this took more than {self._seconds:g} seconds and was ended")


Task = Callable[[Reporter], None]
"""A piece of work; it hands what it reports to the reporter."""


class Workshop:
    """Does one task after the other on one thread, whoever asks.

    Args:
        seconds: A task may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="studio")

    def do(self, task: Task, stop: Event) -> Iterator[Progress]:
        """Do a task and tell how it goes; one whose reports are no longer read is stopped.

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
