"""The door of the server: only the addresses that the page needs, nothing too large, and no content from elsewhere."""

import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class TooLarge(Exception):
    """More arrived than is taken."""


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
        elif not OPEN.fullmatch(scope["path"]) or ".." in scope["path"]:
            await _refuse(404, "there is nothing at this address", scope, receive, send)
        elif _declared(scope) > self._longest:
            await _refuse(413, self._reason, scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    @property
    def _reason(self) -> str:
        return f"the request is larger than {self._longest / 1e6:.1f} MB"

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, taken = False, 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._longest:
                raise TooLarge
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        try:
            await self._app(scope, counted, with_headers)
        except TooLarge:
            if not started:
                await _refuse(413, self._reason, scope, receive, send)


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"detail": reason}, status, headers=HEADERS)(scope, receive, send)


def _declared(scope: Scope) -> int:
    """Bytes that the request says it has."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    return int(declared) if declared.isdigit() else 0
