"""The studio's server: one application, where it listens, who may enter, and which messages are let in."""

import json
import logging
import os
import re
from dataclasses import dataclass
from typing import Any

import gradio
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from got_core.errors import UserError
from got_core.pipelines.pipeline import GoTPipeline
from got_core.studio.handlers import Handlers
from got_core.studio.page import Page, build_page, web
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Refused
from got_core.studio.worker import Workshop

NAME = re.compile(r"[a-z0-9]{4,40}")
"""Names of pages and of events."""

_KEYS = {"data", "event_data", "fn_index", "trigger_id", "session_hash", "event_id"}
_DEEPEST = 8


def check_message(content: bytes) -> None:
    """Look at the body of a request.

    Raises:
        Refused: It is none of the page's.
    """
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused("the request is no JSON") from None
    if not isinstance(message, dict) or not set(message) <= _KEYS:
        raise Refused("the request is none of the page's")
    for key in ("session_hash", "event_id"):
        if key in message and not (isinstance(message[key], str) and NAME.fullmatch(message[key])):
            raise Refused(f"the request's {key} is no name")
    for key in ("fn_index", "trigger_id"):
        number = message.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 10**6):
            raise Refused(f"the request's {key} is no number")
    if not isinstance(message.get("data", []), list):
        raise Refused("the request's data is no list")
    _check_values([message.get("data"), message.get("event_data")], 0)


def _check_values(value: Any, depth: int) -> None:
    """Neither files nor depths that nothing on the page has, nor text that cannot be written."""
    if depth > _DEEPEST:
        raise Refused("the request is nested too deeply")
    if isinstance(value, dict):
        if "path" in value or "meta" in value:
            raise Refused("the studio takes no files")
        for key, each in value.items():
            _check_values(key, depth + 1)
            _check_values(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check_values(each, depth + 1)
    elif isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused("the request holds characters that cannot be written")


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


SWEEP = (3600, 3600)
"""How often files that Gradio may have written are looked for, and from which age on they go, in seconds."""


PLACES = 1.0
"""Seconds after which those who wait are told their place; in a loop apart from the one that serves them."""


@dataclass(frozen=True)
class Studio:
    """The application and those who use it."""

    app: gradio.Blocks
    sessions: Sessions

    def close(self) -> None:
        """End the work in progress and the server."""
        self.sessions.forget_all()
        self.app.close(verbose=False)


def build_studio(pipeline: GoTPipeline, limits: Limits) -> Studio:
    """The application, ready to be launched."""
    sessions = Sessions(lambda: Session(pipeline, limits), limits)
    with gradio.Blocks(title="GoT Studio", analytics_enabled=False, delete_cache=SWEEP) as app:
        page = build_page(Session(pipeline, limits), limits)
        connect(app, page, Handlers(page, sessions, Workshop(limits.seconds), limits))
    app.queue(max_size=limits.queue, api_open=False, status_update_rate=PLACES)
    return Studio(app, sessions)


def connect(app: gradio.Blocks, page: Page, handlers: Handlers) -> None:
    """Bind the page's events to the handlers. What needs the model waits in one line; the rest is answered at once."""
    settings: set[gradio.blocks.Block] = set(page.settings.by_name().values())
    written = _written(page)
    model: dict[str, Any] = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress": "minimal",
        "show_progress_on": page.canvas,
    }
    asked = settings | {page.prompt}
    for trigger in (page.draw.click, page.prompt.submit):
        trigger(handlers.draw, asked, written, **model, **_PRIVATE)
    page.plan.click(handlers.plan, asked, written, **model, **_PRIVATE)
    page.redraw.click(handlers.redraw, settings | {page.chain}, written, **model, **_PRIVATE)

    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", **_PRIVATE}
    page.stop.click(handlers.stop, None, None, **quick)
    for trigger in (page.chain.input, page.chain.blur):  # What is pasted in one go is told when the box is left.
        trigger(handlers.type_chain, page.chain, written, trigger_mode="always_last", **quick)
    page.canvas.act(handlers.act, None, written, trigger_mode="multiple", **quick)
    page.repair.click(handlers.repair, None, written, **quick)
    page.undo.click(handlers.undo, None, written, trigger_mode="multiple", **quick)
    page.over.click(handlers.start_over, None, written, **quick)
    page.history.choose(handlers.choose, None, written, **quick)
    page.opener.bring(handlers.bring, None, written, **quick)
    page.save.click(handlers.save, None, written, **quick)
    page.random.click(handlers.another_seed, None, page.settings.seed, **quick)
    app.unload(handlers.leave)


_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


def _written(page: Page) -> list[gradio.components.Component]:
    """The components that handlers write to."""
    parts = [page.prompt, page.draw, page.plan, page.stop, page.notice, page.canvas, page.history, page.download]
    return [*parts, page.chain, page.problems, page.repair, page.redraw, *page.settings.by_name().values()]


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


USER = "got"
"""The name to be given with the password."""


@dataclass(frozen=True)
class Door:
    """Where the server listens and who may enter.

    Attributes:
        host, port: Address; only this machine by default.
        password: Requirements for where there is one.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    password: str | None = None

    @property
    def address(self) -> str:
        """As a browser takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def serve(pipeline: GoTPipeline, limits: Limits, door: Door) -> Studio:
    """Serve the studio, in the background.

    Raises:
        UserError: The address cannot be listened at.
    """
    studio = build_studio(pipeline, limits)
    try:
        studio.app.launch(
            server_name=door.host,
            server_port=door.port,
            auth=None if door.password is None else (USER, door.password),
            state_session_capacity=limits.sessions,
            theme=theme(),
            css=web("page.css"),
            app_kwargs={"middleware": [Middleware(Guard, longest=limits.body)], **_NO_DOCUMENTATION},
            **_PLAIN,
        )
    except OSError as error:
        raise UserError(f"cannot listen at {door.address}: the port is in use, or not yours to open") from error
    return studio


_NO_DOCUMENTATION = {"docs_url": None, "redoc_url": None, "openapi_url": None}

_PLAIN: dict[str, Any] = {
    "prevent_thread_lock": True,
    "share": False,
    "quiet": True,
    "show_error": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "pwa": False,
    "mcp_server": False,
    "ssr_mode": False,
    "max_file_size": 1,
}
"""What of Gradio's is not wanted: errors that tell of the server, files, and whatever reaches out of this machine."""


def theme() -> gradio.themes.Base:
    """Calm, with the system's own fonts: nothing is fetched from elsewhere."""
    return gradio.themes.Base(
        primary_hue=gradio.themes.colors.indigo,
        neutral_hue=gradio.themes.colors.slate,
        radius_size=gradio.themes.sizes.radius_lg,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
