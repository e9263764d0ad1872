"""Which requests the studio answers: checked by address, password, size and form before anything of them is parsed."""

import asyncio
import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from got_core.studio.settings import Limits, Refused

NAME = re.compile(r"[a-z0-9]{4,40}")
"""Names of pages and of events."""

DEEPEST = 8
"""Levels of nesting in a request."""

MOST_VALUES = 20_000
"""Commas and brackets in a request; the page sends some dozens, and those of its texts."""


def check_message(content: bytes) -> None:
    """Check that the body of a request is one that the page sends (Refused otherwise)."""
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise Refused("the request has too many values")
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused("the request is not JSON") from None
    keys = {"data", "event_data", "fn_index", "trigger_id", "session_hash", "event_id"}
    if not isinstance(message, dict) or not set(message) <= keys or not isinstance(message.get("data", []), list):
        raise Refused("the page sends no such request")
    for key in ("session_hash", "event_id"):
        if key in message and not (isinstance(message[key], str) and NAME.fullmatch(message[key])):
            raise Refused(f"the request's {key} is not a name")
    for key in ("fn_index", "trigger_id"):
        number = message.get(key, 0)
        if number is not None and not (type(number) is int and 0 <= number < 10**6):
            raise Refused(f"the request's {key} is not a number")
    _check_values([message.get("data"), message.get("event_data")], 0)


def _check_values(value: Any, depth: int) -> None:
    """Refuse files, deeper nesting than anything on the page has, and text that cannot be written."""
    if depth > DEEPEST:
        raise Refused("the request is nested too deeply")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused("the request has characters that cannot be written")
    if isinstance(value, dict) and not value.keys().isdisjoint({"path", "meta"}):
        raise Refused("the studio takes no files")
    children = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _check_values(child, depth + 1)


OPEN = re.compile(
    r"/|/(login|logout|config|theme\.css|robots\.txt|favicon\.ico|manifest\.json)/?"
    r"|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(user|login_check|token|app_id|startup-events|theme\.css|cancel|reset|queue/join|queue/data)/?"
    r"|/gradio_api/(heartbeat|run)/\w+/?"
)
"""Addresses that are answered. None of them takes or reads a file: images travel inside messages."""

PUBLIC = re.compile(
    r"/|/(login|theme\.css|robots\.txt|favicon\.ico|manifest\.json)/?|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(login_check|theme\.css|startup-events)/?"
)
"""Addresses answered without the password: the login page, static files, and what Gradio calls at its start."""

MESSAGES = re.compile(r"/gradio_api/(cancel|reset|queue/join|run/\w+)/?")
"""Addresses whose body is checked."""

WITH_IMAGES = re.compile(r"/gradio_api/(queue/join|run/\w+)/?")
"""Addresses whose body may hold an image."""

SHORT = 10_000
"""Bytes of the body of any other request."""

LOGIN = re.compile(r"/login/?")

HEADERS = {
    "content-security-policy": (  # `unsafe-eval` because Gradio runs the code of its HTML components so.
        "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data:; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_log = logging.getLogger(__name__)


class Rates:
    """Amounts of the last minute, by address.

    Args:
        clock: Returns seconds.
    """

    SECONDS = 60

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._amounts: dict[str, deque[tuple[float, int]]] = {}

    def add(self, address: str, amount: int = 1) -> None:
        """Add an amount now."""
        for other in [each for each, amounts in self._amounts.items() if amounts[-1][0] < self._clock() - self.SECONDS]:
            del self._amounts[other]
        self._amounts.setdefault(address, deque()).append((self._clock(), amount))

    def total(self, address: str) -> int:
        """Sum the amounts of an address."""
        amounts = self._amounts.get(address, deque())
        while amounts and amounts[0][0] < self._clock() - self.SECONDS:
            amounts.popleft()
        if not amounts:
            self._amounts.pop(address, None)
        return sum(amount for _, amount in amounts)


class Guard:
    """Passes on the requests that the page sends, refuses all others, and adds security headers.

    Host, address, password and the visitor's rates are checked before a body is read, its size before it is parsed.

    Args:
        app: The server.
        limits: Of requests.
        password: Whether visitors need a password.
        hosts: Names that the server is reached by, besides numeric addresses and localhost.
        clock: Returns seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        *,
        password: bool = False,
        hosts: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._limits = limits
        self._password = password
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._requests, self._bytes, self._failures = Rates(clock), Rates(clock), Rates(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            request = Request(scope, receive)
            try:
                self._check_request(request)
                content = await self._checked_body(request)
            except ClientDisconnect:
                return
            except HTTPException as error:
                await JSONResponse({"detail": error.detail}, error.status_code, HEADERS)(scope, receive, send)
                return
            await self._pass_on(content, scope, receive, send)

    def _check_request(self, request: Request) -> None:
        """Check all that is known before the body is read."""
        path, address = request.url.path, _address(request.scope)
        if not self._is_own(request.headers.get("host", "")):
            raise HTTPException(421, "the studio is not reached by this name: name it by --allowed-host")
        if not OPEN.fullmatch(path) or ".." in path:
            raise HTTPException(404, "there is nothing at this address")
        if self._password and not PUBLIC.fullmatch(path) and not _logged_in(request):
            raise HTTPException(401, "Not authenticated")
        if request.method == "POST":
            if LOGIN.fullmatch(path) and self._failures.total(address) >= self._limits.failed_passwords:
                raise HTTPException(429, "too many wrong passwords: wait a minute")
            if self._requests.total(address) >= self._limits.address_requests:
                raise HTTPException(429, "too many requests: wait a minute")
            if self._bytes.total(address) >= self._limits.address_bytes:
                raise HTTPException(429, "too much was sent: wait a minute")
            self._requests.add(address)

    def _is_own(self, host: str) -> bool:
        """Whether a `Host` header names this server; other sites could make a visitor's browser send one of theirs."""
        name = re.sub(r":\d+$", "", host.lower())
        if name in self._hosts:
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    async def _checked_body(self, request: Request) -> bytes:
        """Read the whole body; what exceeds the limit is read up to four times it, so that the refusal arrives."""
        path = request.url.path
        longest = self._limits.body if WITH_IMAGES.fullmatch(path) else SHORT
        content, size = bytearray(), 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= longest:
                        content += chunk
                    elif size > 4 * longest:
                        break
        except TimeoutError:
            raise HTTPException(408, "the request arrived too slowly") from None
        finally:
            self._bytes.add(_address(request.scope), size)
        if size > longest:
            raise HTTPException(413, f"the request is larger than {longest / 1e6:.2g} MB")
        if request.method == "POST" and MESSAGES.fullmatch(path):
            try:
                check_message(bytes(content))
            except Refused as refusal:
                raise HTTPException(400, str(refusal)) from None
        return bytes(content)

    async def _pass_on(self, content: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        bodies = [content]
        signs_in = scope["method"] == "POST" and LOGIN.fullmatch(scope["path"])

        async def replayed() -> Message:
            return {"type": "http.request", "body": bodies.pop()} if bodies else await receive()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
                if signs_in and message["status"] >= 400:
                    self._failures.add(_address(scope))
                    _log.warning("a wrong password from %s", _address(scope))
            await send(message)

        await self._app(scope, replayed, with_headers)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _logged_in(request: Request) -> bool:
    """Whether a request has the cookie that Gradio gives for the password."""
    app = request.scope["app"]
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(request.cookies.get(name) in app.tokens for name in names)
