"""The door of the server: only the addresses that the page needs, nothing too large, and no content from elsewhere."""

import logging
import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from got_core.studio.limits import Refused
from got_core.studio.messages import check_message

OPEN = re.compile(
    r"/|/(login|logout|config|theme\.css|robots\.txt|favicon\.ico|manifest\.json)/?"
    r"|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(user|login_check|token|app_id|startup-events|theme\.css|cancel|reset|queue/join|queue/data)/?"
    r"|/gradio_api/(heartbeat|run)/\w+/?"
)
"""What is answered. There is no upload and no file among it: pictures travel inside of messages."""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""Where the page's parts may come from; `unsafe-eval` because Gradio runs the code of its HTML components so."""

DRAINED = 4
"""A body of so many times what is taken is still read to its end before it is refused."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


_MESSAGE = re.compile(r"/gradio_api/(cancel|reset|queue/join|run/\w+)/?")
_log = logging.getLogger(__name__)


class Guard:
    """Passes on what may be asked and adds the headers of safety.

    Args:
        app: The server.
        longest: Bytes of a request's body.
    """

    def __init__(self, app: ASGIApp, longest: int) -> None:
        self._app = app
        self._longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content = await self._content(receive)
            if not OPEN.fullmatch(scope["path"]) or ".." in scope["path"]:
                await _refuse(404, "there is nothing at this address", scope, receive, send)
                return
            if scope["method"] == "POST" and _MESSAGE.fullmatch(scope["path"]):
                check_message(content)
        except TooLarge:
            await _refuse(413, f"the request is larger than {self._longest / 1e6:.1f} MB", scope, receive, send)
        except Refused as refusal:
            await _refuse(400, str(refusal), scope, receive, send)
        else:
            await self._serve(content, scope, receive, send)

    async def _content(self, receive: Receive) -> bytes:
        """The whole body; what goes beyond the limit is read and thrown away, so that the refusal arrives."""
        parts, taken, more = [], 0, True
        while more:
            message = await receive()
            body, more = message.get("body", b""), message.get("more_body", False)
            taken += len(body)
            if taken > DRAINED * self._longest:
                raise TooLarge
            if taken <= self._longest:
                parts.append(body)
        if taken > self._longest:
            raise TooLarge
        return b"".join(parts)

    async def _serve(self, content: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        bodies, started = [content], False

        async def replayed() -> Message:
            return {"type": "http.request", "body": bodies.pop()} if bodies else await receive()

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        try:
            await self._app(scope, replayed, with_headers)
        except Exception:
            _log.exception("a request could not be served")
            if not started:
                await _refuse(400, "the request cannot be served", scope, receive, send)


class TooLarge(Exception):
    """More arrived than is taken."""


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"detail": reason}, status, headers=HEADERS)(scope, receive, send)
