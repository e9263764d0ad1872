"""Signals to a training process: SIGUSR1 has it save itself, SIGTERM save itself and end."""

import signal
from types import FrameType
from typing import Any

from got_core.errors import Terminated

SAVE = getattr(signal, "SIGUSR1", None)
"""The signal on which a run saves a checkpoint and continues; None if the system has no such signal."""


class Interruption:
    """Records signals, so that a step always ends before a checkpoint is written.

    Lightning's own handlers communicate with other ranks, or save, in the middle of a step. Outside of the training
    loop SIGTERM ends the process at once, by `Terminated`; SIGUSR1 is remembered until the first step has ended.

    Attributes:
        listening: Whether the handlers are in their place.
        in_steps: Whether the training loop looks for signals after each step.
    """

    def __init__(self) -> None:
        self.listening = False
        self.in_steps = False
        self._received: set[int] = set()
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Replace the handlers of the signals."""
        self.listening = True
        self._received = set()
        signals = (signal.SIGTERM, *([] if SAVE is None else [SAVE]))
        self._previous = {number: signal.signal(number, self._record) for number in signals}

    def leave(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self.listening, self.in_steps, self._previous = False, False, {}

    def save_requested(self) -> bool:
        """Say whether any signal was received since the last call of `saved`."""
        return bool(self._received)

    def end_requested(self) -> bool:
        """Say whether SIGTERM was received."""
        return signal.SIGTERM in self._received

    def saved(self) -> None:
        """Forget the request to save; a request to end stays."""
        self._received -= {SAVE}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)
        if number == signal.SIGTERM and not self.in_steps:
            raise Terminated("ended by SIGTERM")


INTERRUPTION = Interruption()
"""The signals of this process; `got fit` listens to them from its first line on, else the training loop does."""
