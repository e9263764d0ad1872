"""Signals that ask a run to save itself: SIGTERM before it is ended, SIGUSR1 to be on the safe side."""

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interruption:
    """Notes signals instead of acting on them, so that a step is always done before a checkpoint is written.

    Lightning's own handlers talk to other ranks, or save, in the middle of a step.
    """

    def __init__(self) -> None:
        self._received: set[int] = set()
        self._former: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over from the handlers there are."""
        if not self._former:
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}

    def leave(self) -> None:
        """Give the signals back."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def asked_to_save(self) -> bool:
        """Whether any signal has come since the last call of `forget`."""
        return bool(self._received)

    def asked_to_end(self) -> bool:
        """Whether it was SIGTERM."""
        return signal.SIGTERM in self._received

    def forget(self) -> None:
        """The save that was asked for has been done; an end that is asked for stays asked."""
        self._received.discard(signal.SIGUSR1)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)
