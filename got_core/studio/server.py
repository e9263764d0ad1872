"""The studio's server: the application, its address and password, and which requests it answers."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from got_core.errors import UserError
from got_core.pipelines.pipeline import GoTPipeline
from got_core.studio.handlers import Handlers
from got_core.studio.page import Page, web
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Refused
from got_core.studio.worker import Worker

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

USER = "got"
"""The user name that belongs to the password."""


@contextmanager
def served(
    pipeline: GoTPipeline, limits: Limits, *, host: str = "127.0.0.1", port: int = 7860, password: str | None = None
) -> Iterator[str]:
    """Serve the studio in the background.

    Args:
        pipeline: Plans and generates, for all visitors.
        limits: Of requests.
        host, port: Where to listen; by default only to this machine.
        password: Visitors need it, if given, with the name `USER`.

    Yields:
        The address for a browser.

    Raises:
        UserError: The address cannot be listened at.
    """
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    pipeline.set_progress_bar_config(disable=True)
    sessions = Sessions(lambda: Session(pipeline, limits), limits)
    # Files that Gradio may have written are removed every hour.
    with gradio.Blocks(title="GoT Studio", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        page = Page(Session(pipeline, limits), limits)
        connect(app, page, Handlers(page, sessions, Worker(limits.seconds), limits))
    # Places in the queue are sent every second, apart from the loop that serves the queue.
    app.queue(max_size=limits.queue, api_open=False, status_update_rate=1.0)
    # The system's own fonts: nothing is loaded from elsewhere.
    theme = gradio.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    try:
        app.launch(
            server_name=host,
            server_port=port,
            auth=None if password is None else (USER, password),
            state_session_capacity=limits.sessions,
            theme=theme,
            css=web("page.css"),
            app_kwargs={"middleware": [Middleware(Guard, longest=limits.body)]},
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            quiet=True,
            footer_links=[],
            run_history=False,
        )
    except OSError as error:
        raise UserError(f"cannot listen at {address}: the port is in use, or not yours to open") from error
    try:
        yield address
    finally:
        sessions.remove_all()
        app.close(verbose=False)


def connect(app: gradio.Blocks, page: Page, handlers: Handlers) -> None:
    """Bind the page's events to handlers; those that need the model wait in one queue."""
    settings: set[gradio.blocks.Block] = set(page.settings.values())
    request, written = settings | {page.prompt}, page.outputs
    private: dict[str, Any] = {"api_visibility": "private"}
    model = private | {"concurrency_id": "model", "concurrency_limit": 1}
    model |= {"show_progress": "minimal", "show_progress_on": page.canvas}
    for trigger in (page.generate.click, page.prompt.submit):
        trigger(handlers.generate, request, written, **model)
    page.plan.click(handlers.plan, request, written, **model)
    page.generate_plan.click(handlers.generate_plan, settings | {page.chain}, written, **model)

    quick = private | {"queue": False, "show_progress": "hidden"}
    page.stop.click(handlers.stop, None, None, **quick)
    for trigger in (page.chain.input, page.chain.blur):  # Pasted text is sent when the box loses focus.
        trigger(handlers.type_chain, page.chain, written, trigger_mode="always_last", **quick)
    page.canvas.edit_plan(handlers.edit_plan, None, written, trigger_mode="multiple", **quick)
    page.repair.click(handlers.repair, None, written, **quick)
    page.undo.click(handlers.undo, None, written, trigger_mode="multiple", **quick)
    page.start_over.click(handlers.start_over, None, written, **quick)
    page.history.choose(handlers.choose, None, written, **quick)
    page.opener.open_file(handlers.open_file, None, written, **quick)
    page.save.click(handlers.save, None, written, **quick)
    page.random.click(handlers.random_seed, None, page.settings["seed"], **quick)
    app.unload(handlers.leave)


NAME = re.compile(r"[a-z0-9]{4,40}")
"""Names of pages and of events."""

DEEPEST = 8
"""Levels of nesting in a request."""


def check_message(content: bytes) -> None:
    """Check that the body of a request is one that the page sends (Refused otherwise)."""
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

MESSAGES = re.compile(r"/gradio_api/(cancel|reset|queue/join|run/\w+)/?")
"""Addresses whose body is checked."""

HEADERS = {
    "content-security-policy": (  # `unsafe-eval` because Gradio runs the code of its HTML components so.
        "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data:; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """Passes on the requests that the page sends, refuses all others, and adds security headers.

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
            try:
                content = await self._checked_body(Request(scope, receive))
            except ClientDisconnect:
                return
            except HTTPException as error:
                await JSONResponse({"detail": error.detail}, error.status_code, HEADERS)(scope, receive, send)
                return
            await self._pass_on(content, scope, receive, send)

    async def _checked_body(self, request: Request) -> bytes:
        """Read the whole body; what exceeds the limit is read up to four times it, so that the refusal arrives."""
        content, size = bytearray(), 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self._longest:
                content += chunk
            elif size > 4 * self._longest:
                break
        if size > self._longest:
            raise HTTPException(413, f"the request is larger than {self._longest / 1e6:.1f} MB")
        path = request.url.path
        if not OPEN.fullmatch(path) or ".." in path:
            raise HTTPException(404, "there is nothing at this address")
        if request.method == "POST" and MESSAGES.fullmatch(path):
            try:
                check_message(bytes(content))
            except Refused as refusal:
                raise HTTPException(400, str(refusal)) from None
        return bytes(content)

    async def _pass_on(self, content: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        bodies = [content]

        async def replayed() -> Message:
            return {"type": "http.request", "body": bodies.pop()} if bodies else await receive()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, replayed, with_headers)
