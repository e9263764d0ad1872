"""Handlers of the page's events: each changes the visitor's session and returns the page's new values."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from secrets import randbelow
from typing import Any

import gradio

from got_core.chain.dialects import readable
from got_core.errors import one_line
from got_core.paths import LARGEST_SEED
from got_core.studio.files import Saved, data_url, read_saved, uploaded_bytes, write_saved
from got_core.studio.page import Page, canvas_value, notice_html, session_view, settings_view, working_view
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Refused, Settings, checked_integer
from got_core.studio.worker import Reporter, Worker

FAILED = "Something went wrong on the server. Nothing of yours was lost: try again."
"""Shown for errors that are not the visitor's; details are only in the server's log."""

View = dict[Any, Any]
"""New values by component."""

Values = Mapping[Any, object]
"""Values by component, as the page sent them; anyone may have sent them."""

_log = logging.getLogger(__name__)


class Handlers:
    """The page's handlers.

    Args:
        page: Its components.
        sessions: Those of all visitors.
        worker: Does the model's work.
        limits: Of requests.
    """

    def __init__(self, page: Page, sessions: Sessions, worker: Worker, limits: Limits) -> None:
        self._page = page
        self._sessions = sessions
        self._worker = worker
        self._limits = limits

    def generate(self, values: Values, request: gradio.Request) -> Iterator[View]:
        """Plan the prompt and generate the image."""

        def work(session: Session) -> Iterator[View]:
            settings, number = self._settings(values), self._number(values)

            def task(reporter: Reporter) -> None:
                session.plan_request(values[self._page.prompt], settings, reporter.on_token)
                reporter.on_plan()
                session.generate(settings, reporter.on_step, number)

            yield from self._served(session, request, task, settings)
            yield self._done(session)

        yield from self._streamed(request, work)

    def plan(self, values: Values, request: gradio.Request) -> Iterator[View]:
        """Plan the prompt, without an image."""

        def work(session: Session) -> Iterator[View]:
            settings = self._settings(values)

            def task(reporter: Reporter) -> None:
                session.plan_request(values[self._page.prompt], settings, reporter.on_token)

            yield from self._served(session, request, task, settings)

        yield from self._streamed(request, work)

    def generate_plan(self, values: Values, request: gradio.Request) -> Iterator[View]:
        """Generate an image from the plan on the canvas."""

        def work(session: Session) -> Iterator[View]:
            settings, number = self._settings(values), self._number(values)
            session.catch_up(values[self._page.chain])

            def task(reporter: Reporter) -> None:
                reporter.on_plan()
                session.generate(settings, reporter.on_step, number)

            yield from self._served(session, request, task, settings)
            yield self._done(session)

        yield from self._streamed(request, work)

    def stop(self, request: gradio.Request) -> None:
        """End the work in progress."""
        self._session(request).stop.set()

    def type_chain(self, chain: object, request: gradio.Request) -> View:
        """Change the plan to its edited text, which the text box keeps as it is."""
        return self._changed(request, lambda session: session.type_chain(chain)) | {self._page.chain: gradio.skip()}

    def edit_plan(self, request: gradio.Request, event: gradio.EventData) -> View:
        """Change the plan as on the canvas."""
        return self._changed(request, lambda session: session.act(event._data))

    def repair(self, request: gradio.Request) -> View:
        """Repair the plan by moving boxes."""
        return self._changed(request, Session.repair)

    def undo(self, request: gradio.Request) -> View:
        """Undo the last step."""
        return self._changed(request, Session.undo)

    def choose(self, request: gradio.Request, event: gradio.EventData) -> View:
        """Go to a turn of the history."""
        return self._changed(request, lambda session: session.go_to(_sent(event, "number")))

    def start_over(self, request: gradio.Request) -> View:
        """Begin again without an image."""
        return self._changed(request, Session.start_over)

    def open_file(self, request: gradio.Request, event: gradio.EventData) -> View:
        """Begin again with an uploaded image, or one that was saved here."""

        def change(session: Session) -> View:
            content = read_saved(uploaded_bytes(_sent(event, "file")), self._limits)
            if not isinstance(content, Saved):
                session.open_image(content)
                return {}
            session.load(content)
            return settings_view(self._page, content.settings)

        return self._changed(request, change)

    def save(self, request: gradio.Request) -> View:
        """Send the current image as a file."""

        def change(session: Session) -> View:
            name = f"got-{randbelow(10**6):06}"
            content = data_url(write_saved(session.saved()))
            return {self._page.download: {"name": f"{name}.png", "content": content, "serial": name}}

        return self._changed(request, change)

    def random_seed(self) -> int:
        """Choose a seed at random."""
        return randbelow(LARGEST_SEED + 1)

    def leave(self, request: gradio.Request) -> None:
        """Remove the session of a closed page."""
        self._sessions.remove(request.session_hash)

    def _session(self, request: gradio.Request) -> Session:
        return self._sessions.of(request.session_hash, _address(request))

    def _settings(self, values: Values) -> Settings:
        return Settings.checked({name: values[part] for name, part in self._page.settings.items()}, self._limits)

    def _number(self, values: Values) -> int:
        return checked_integer(values[self._page.images], 1, self._limits.images, "the number of images")

    def _done(self, session: Session) -> View:
        """Let the page empty the prompt's box if it still has the request that is done."""
        prompt = "" if session.plan is None else session.plan.prompt
        return {self._page.done: {"prompt": prompt, "serial": len(session.conversation.turns)}}

    def _served(
        self, session: Session, request: gradio.Request, task: Callable[[Reporter], None], settings: Settings
    ) -> Iterator[View]:
        """Let the model do a task in the visitor's turn, and show its progress."""
        page = self._page
        for progress in self._worker.run(task, session.stop, _address(request)):
            if progress.before:
                yield {page.canvas: canvas_value(session, busy=True, note=f"Waiting: {progress.before} before you")}
            elif progress.chain is not None:
                plan = session.pipeline.given_plan(progress.chain)
                canvas = canvas_value(session, plan=plan, busy=True, note="Planning …")
                yield {page.canvas: canvas, page.chain: readable(plan.chain)}
            elif not progress.step:
                yield {page.canvas: canvas_value(session, busy=True, note="Generating …"), page.chain: session.chain}
            else:
                note = f"Generating: step {progress.step} of {settings.steps}"
                yield {page.canvas: canvas_value(session, preview=progress.image, busy=True, note=note)}

    def _streamed(self, request: gradio.Request, work: Callable[[Session], Iterator[View]]) -> Iterator[View]:
        """Do work that takes a while; afterwards, even after an error, the page shows the session as it is then."""
        notices: list[str] = []
        with _errors_as_notices(notices):
            session = self._session(request)
            with session.working():
                yield {self._page.notice: ""} | working_view(self._page)
                with _errors_as_notices(notices):
                    yield from work(session)
                yield session_view(self._page, session) | {self._page.notice: notice_html(" ".join(notices))}
                return
        yield {self._page.notice: notice_html(" ".join(notices))}

    def _changed(self, request: gradio.Request, change: Callable[[Session], View | None]) -> View:
        """Make a change that takes no time; all new values come at once."""

        def work(session: Session) -> Iterator[View]:
            yield change(session) or {}

        return {part: value for view in self._streamed(request, work) for part, value in view.items()}


@contextmanager
def _errors_as_notices(notices: list[str]) -> Iterator[None]:
    """Turn errors into notices: those for the visitor in full, of others only that there was one."""
    try:
        yield
    except Refused as refusal:
        notices.append(one_line(refusal))
    except Exception:
        _log.exception("a request to the studio failed")
        notices.append(FAILED)


def _address(request: gradio.Request) -> str:
    return request.client.host if request.client else ""


def _sent(event: gradio.EventData, name: str) -> object:
    """Read a value of an event's message, or None."""
    return event._data.get(name) if isinstance(event._data, Mapping) else None
