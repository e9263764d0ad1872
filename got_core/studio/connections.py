"""Connections that wait for a visitor: closed where no request comes in time."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """A connection that is closed if the headers of its next request are not complete in time.

    uvicorn itself ends only connections that send nothing after an answer: one that has never sent a request, or sends
    a header byte by byte, would stay open.
    """

    def __init__(self, seconds: float, **values: Any) -> None:
        super().__init__(**values)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Read what came; from complete headers to the end of the answer there is no limit of time."""
        super().data_received(data)
        self._set_timer()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._end_timer()
        super().connection_lost(exc)

    def _set_timer(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._seconds, self.transport.close)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
