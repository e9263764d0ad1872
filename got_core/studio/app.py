"""The studio as one web application: page, handlers and what connects them."""

import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio

from got_core.pipeline import GoTPipeline
from got_core.studio.handlers import Handlers
from got_core.studio.limits import Limits
from got_core.studio.page import Page, build_page
from got_core.studio.session import Session
from got_core.studio.sessions import Sessions
from got_core.studio.work import Workshop

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
