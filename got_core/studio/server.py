"""The studio's server: the application, its address, password and connections."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gradio
from starlette.middleware import Middleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from got_core.errors import UserError
from got_core.pipelines.pipeline import GoTPipeline
from got_core.studio.guard import Guard
from got_core.studio.handlers import Handlers
from got_core.studio.page import Page, web
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import About, Limits
from got_core.studio.worker import Worker

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

USER = "got"
"""The user name that belongs to the password."""


THREADS = 40
"""Of requests that need no model."""


@contextmanager
def served(
    pipeline: GoTPipeline,
    limits: Limits,
    *,
    about: About | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    allowed_hosts: Sequence[str] = (),
    trusted_proxies: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the studio in the background.

    Args:
        pipeline: Plans and generates, for all visitors.
        limits: Of requests.
        about: What the page says about the model; by default the size of its images.
        host, port: Where to listen; by default only to this machine.
        password: Visitors need it, if given, with the name `USER`.
        allowed_hosts: Names that the studio is reached by, besides `host`, numeric addresses and localhost.
        trusted_proxies: Addresses of proxies whose X-Forwarded-For header says which visitor it is.

    Yields:
        The address for a browser.

    Raises:
        UserError: The address cannot be listened at.
    """
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    pipeline.set_progress_bar_config(disable=True)
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(trusted_proxies)  # Read by uvicorn, which trusts 127.0.0.1 otherwise.
    guard = Middleware(Guard, limits=limits, password=password is not None, hosts=(host, *allowed_hosts))
    sessions = Sessions(lambda: Session(pipeline, limits), limits)
    # Files that Gradio may have written are removed every hour.
    with gradio.Blocks(title="GoT Studio", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        page = Page(Session(pipeline, limits), limits, about or about_size(pipeline))
        connect(app, page, Handlers(page, sessions, Worker(limits), limits))
    # Gradio hands all requests on at once, so that they wait in the worker's queue; one address cannot fill its own.
    # Gradio's state is sent every second, apart from the loop that hands requests on.
    app.queue(max_size=2 * limits.address_requests, api_open=False, status_update_rate=1.0)
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
            max_threads=limits.queue + THREADS,  # A request that waits for the model holds a thread.
            theme=theme,
            css=web("page.css"),
            app_kwargs={"middleware": [guard]},
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            quiet=True,
            footer_links=[],
            run_history=False,
        )
    except OSError as error:
        raise UserError(f"cannot listen at {address}: the port is in use, or not yours to open") from error
    # uvicorn makes each connection by this; Gradio has no option for it.
    app.server.config.http_protocol_class = partial(TimedConnection, limits.header_seconds)
    try:
        yield address
    finally:
        sessions.remove_all()
        app.close(verbose=False)


def about_size(pipeline: GoTPipeline) -> About:
    """Say what is known about every model."""
    (height, width), count = pipeline.size, sum(weight.numel() for weight in pipeline.model.parameters())
    number = f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    return About(
        f"This model generates images of {width} x {height} pixels and has {number} parameters; what it can draw "
        "depends on what it was trained with."
    )


def connect(app: gradio.Blocks, page: Page, handlers: Handlers) -> None:
    """Bind the page's events to handlers; those that need the model wait for their turn in the worker's queue."""
    settings: set[gradio.blocks.Block] = set(page.settings.values())
    request, written = settings | {page.prompt, page.images}, page.outputs
    private: dict[str, Any] = {"api_visibility": "private"}
    model = private | {"concurrency_limit": None}
    model |= {"show_progress": "minimal", "show_progress_on": page.canvas}
    for trigger in (page.generate.click, page.prompt.submit):
        trigger(handlers.generate, request, written, **model)
    page.plan.click(handlers.plan, request, written, **model)
    page.generate_plan.click(handlers.generate_plan, settings | {page.chain, page.images}, written, **model)

    quick = private | {"queue": False, "show_progress": "hidden"}
    page.stop.click(handlers.stop, None, None, **quick)
    for trigger in (page.chain.input, page.chain.blur):  # Pasted text is sent when the box loses focus.
        trigger(handlers.type_chain, page.chain, written, trigger_mode="always_last", **quick)
    page.canvas.edit_plan(handlers.edit_plan, None, written, trigger_mode="multiple", **quick)
    page.repair.click(handlers.repair, None, written, **quick)
    page.undo.click(handlers.undo, None, written, trigger_mode="multiple", **quick)
    page.start_over.click(handlers.start_over, None, written, **quick)
    for images in (page.history, page.canvas):
        images.choose(handlers.choose, None, written, **quick)
    for example in page.examples:
        example.click(None, example, page.prompt, js="(text) => text", **quick)
    page.opener.open_file(handlers.open_file, None, written, **quick)
    page.save.click(handlers.save, None, written, **quick)
    page.random.click(handlers.random_seed, None, page.settings["seed"], **quick)
    app.unload(handlers.leave)


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
