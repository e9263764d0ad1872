"""What happens on the page's events: a session is found, does what is asked, and is shown again."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from secrets import randbelow
from typing import Any

import gradio

from got_core.chain.dialects import readable
from got_core.errors import one_line
from got_core.paths import LARGEST_SEED
from got_core.studio.files import Saved, data_url, read_saved, sent_bytes, write_saved
from got_core.studio.page import Page, canvas_value, notice_html, session_view, settings_view, working_view
from got_core.studio.plan_actions import read_action
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Refused, Settings, checked_whole
from got_core.studio.worker import Reporter, Workshop

FAILED = "Something went wrong here, and your request could not be served. What you had is still there: try again."
"""Said of errors that are not the visitor's; what they were is in the server's log alone."""

Shown = dict[Any, Any]
"""New values by component."""

Values = Mapping[Any, object]
"""Values by component, as the page sent them; anyone may have sent them."""

_log = logging.getLogger(__name__)


class Handlers:
    """The page's handlers.

    Args:
        page: What they write to.
        sessions: Whom they serve.
        workshop: Does the model's work.
        limits: What may be asked.
    """

    def __init__(self, page: Page, sessions: Sessions, workshop: Workshop, limits: Limits) -> None:
        self._page = page
        self._sessions = sessions
        self._workshop = workshop
        self._limits = limits

    def draw(self, values: Values, request: gradio.Request) -> Iterator[Shown]:
        """Plan what the prompt asks for, and draw it."""
        yield from self._streamed(request, lambda session: self._asked(session, values, draws=True))

    def plan(self, values: Values, request: gradio.Request) -> Iterator[Shown]:
        """Plan what the prompt asks for, to be looked at first."""
        yield from self._streamed(request, lambda session: self._asked(session, values, draws=False))

    def redraw(self, values: Values, request: gradio.Request) -> Iterator[Shown]:
        """Draw the plan on the canvas."""

        def work(session: Session) -> Iterator[Shown]:
            settings = self._settings(values)
            session.catch_up(values[self._page.chain])
            yield from self._drawn(session, settings)

        yield from self._streamed(request, work)

    def stop(self, request: gradio.Request) -> None:
        """End the work in progress."""
        self._sessions.of(request.session_hash).stop.set()

    def type_chain(self, chain: object, request: gradio.Request) -> Shown:
        """The plan's words were edited; the text box keeps what was typed."""
        shown = self._changed(request, lambda session: session.type_chain(chain))
        return {component: value for component, value in shown.items() if component is not self._page.chain}

    def act(self, request: gradio.Request, event: gradio.EventData) -> Shown:
        """Something was done on the canvas."""
        return self._changed(request, lambda session: session.act(read_action(event._data)))

    def repair(self, request: gradio.Request) -> Shown:
        """Mend the plan as far as moving boxes does."""
        return self._changed(request, Session.repair)

    def undo(self, request: gradio.Request) -> Shown:
        """Take the last step back."""
        return self._changed(request, Session.undo)

    def choose(self, request: gradio.Request, event: gradio.EventData) -> Shown:
        """A turn of the history was chosen."""

        def go(session: Session) -> None:
            session.go_to(checked_whole(_sent(event, "number"), 0, self._limits.turns, "the picture's number"))

        return self._changed(request, go)

    def start_over(self, request: gradio.Request) -> Shown:
        """Forget everything."""
        return self._changed(request, Session.start_over)

    def bring(self, request: gradio.Request, event: gradio.EventData) -> Shown:
        """A picture or a saved drawing was opened."""
        opened: list[Settings] = []

        def begin(session: Session) -> None:
            content = read_saved(sent_bytes(_sent(event, "file"), self._limits), self._limits)
            if isinstance(content, Saved):
                session.load(content)
                opened.append(content.settings)
            else:
                session.bring(content)

        shown = self._changed(request, begin)
        return shown | (settings_view(self._page, opened[0]) if opened else {})

    def save(self, request: gradio.Request) -> Shown:
        """The current drawing as a file."""
        name = f"got-{randbelow(10**6):06}"
        contents: list[str] = []
        shown = self._changed(request, lambda session: contents.append(data_url(write_saved(session.saved()))))
        if not contents:
            return shown
        return {self._page.download: {"name": f"{name}.png", "content": contents[0], "serial": name}}

    def another_seed(self) -> int:
        """A seed by chance."""
        return randbelow(LARGEST_SEED + 1)

    def leave(self, request: gradio.Request) -> None:
        """A page was closed."""
        self._sessions.forget(request.session_hash)

    def _settings(self, values: Values) -> Settings:
        return Settings.checked(
            {name: values[part] for name, part in self._page.settings.by_name().items()}, self._limits
        )

    def _asked(self, session: Session, values: Values, draws: bool) -> Iterator[Shown]:
        settings, page = self._settings(values), self._page

        def task(report: Reporter) -> None:
            session.ask(values[page.prompt], settings, report.written)

        for progress in self._workshop.do(task, session.stop):
            plan = session.pipeline.given_plan(progress.chain or "")
            yield {
                page.canvas: canvas_value(session, plan=plan, busy=True, note="Planning …"),
                page.chain: readable(plan.chain),
            }
        if draws:
            yield from self._drawn(session, settings)

    def _drawn(self, session: Session, settings: Settings) -> Iterator[Shown]:
        page = self._page
        yield {page.canvas: canvas_value(session, busy=True, note="Caption …"), page.chain: session.chain}
        for progress in self._workshop.do(lambda report: session.draw(settings, report.drawn), session.stop):
            note = f"Caption: step {progress.step} of {settings.steps}"
            yield {page.canvas: canvas_value(session, preview=progress.image, busy=True, note=note)}
        yield {page.prompt: ""}

    def _streamed(self, request: gradio.Request, work: Callable[[Session], Iterator[Shown]]) -> Iterator[Shown]:
        """Do work that takes a while; at its end, however it ends, the page shows the session as it is then."""
        notices: list[str] = []
        with _told(notices):
            session = self._sessions.of(request.session_hash)
            with session.working():
                yield {self._page.notice: ""} | working_view(self._page)
                with _told(notices):
                    yield from work(session)
                yield session_view(self._page, session) | {self._page.notice: notice_html(" ".join(notices))}
                return
        yield {self._page.notice: notice_html(" ".join(notices))}

    def _changed(self, request: gradio.Request, change: Callable[[Session], object]) -> Shown:
        """Make a change that takes no time, and show the session after it."""
        notices: list[str] = []
        with _told(notices):
            session = self._sessions.of(request.session_hash)
            with session.working():
                with _told(notices):
                    change(session)
                return session_view(self._page, session) | {self._page.notice: notice_html(" ".join(notices))}
        return {self._page.notice: notice_html(" ".join(notices))}


@contextmanager
def _told(notices: list[str]) -> Iterator[None]:
    """Turn errors into notices: those meant for the visitor in full, of others only that there was one."""
    try:
        yield
    except Refused as refusal:
        notices.append(one_line(refusal))
    except Exception:
        _log.exception("a request to the studio failed")
        notices.append(FAILED)


def _sent(event: gradio.EventData, name: str) -> object:
    """A value of an event's message, or None."""
    return event._data.get(name) if isinstance(event._data, Mapping) else None
