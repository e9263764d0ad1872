"""Who is who: each open page has its own session, and none that is not used is kept for ever."""

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from got_core.studio.limits import Limits, Refused
from got_core.studio.session import Session

LONGEST_NAME = 100
"""Characters of a page's name."""


class Sessions:
    """Sessions by the names of the pages they belong to.

    Args:
        new: Makes a session.
        limits: How many are kept, and for how long.
        clock: Tells the seconds.
    """

    def __init__(self, new: Callable[[], Session], limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._new = new
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[float, Session]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, name: str | None) -> Session:
        """The session of a page, which may be new.

        Raises:
            Refused: The page has no name.
        """
        if not name or len(name) > LONGEST_NAME:
            raise Refused("this page has no name: load it again")
        with self._lock:
            session = self._kept[name][1] if name in self._kept else self._new()
            self._kept[name] = (self._clock(), session)
            self._kept.move_to_end(name)
            self._forget()
        return session

    def forget(self, name: str | None) -> None:
        """A page was closed."""
        with self._lock:
            _, session = self._kept.pop(name or "", (0.0, None))
        if session is not None:
            session.stop.set()

    def forget_all(self) -> None:
        """The server ends."""
        for name in list(self._kept):
            self.forget(name)

    def _forget(self) -> None:
        """The oldest go, down to the one that is being served, while there is too much."""
        while len(self._kept) > 1 and self._too_much():
            _, (_, session) = self._kept.popitem(last=False)
            session.stop.set()

    def _too_much(self) -> bool:
        used, _ = next(iter(self._kept.values()))
        idle = self._clock() - used > self._limits.idle_seconds
        kept = sum(session.kept_bytes for _, session in self._kept.values())
        return idle or len(self._kept) > self._limits.sessions or kept > self._limits.kept_bytes
