"""How a session is shown on the page: new values for its components."""

from typing import Any

import gradio

from got_core.studio.page import Page
from got_core.studio.session import Session
from got_core.studio.settings import Settings
from got_core.studio.views import canvas_value, history_value, problems_html

FIRST: dict[str, Any] = {"label": "Describe a picture", "placeholder": "a red circle to the left of a blue square"}
"""How the prompt is asked for where there is no picture yet."""

NEXT: dict[str, Any] = {"label": "What should change?", "placeholder": "change the circle to green"}
"""How it is asked for where there is one."""


def session_view(page: Page, session: Session) -> dict[Any, Any]:
    """Everything that follows from the session, when nothing is going on."""
    pictured, problems = session.image is not None, session.problems
    return {
        page.canvas: canvas_value(session),
        page.history: history_value(session),
        page.chain: session.chain,
        page.problems: problems_html(problems),
        page.repair: gradio.update(visible=bool(problems)),
        page.prompt: gradio.update(**(NEXT if pictured else FIRST)),
        page.draw: gradio.update(
            value="Edit" if pictured else "Draw",
            interactive=True,
            variant="secondary" if session.pending else "primary",
        ),
        page.plan: gradio.update(interactive=True),
        page.stop: gradio.update(visible=False),
        page.redraw: gradio.update(
            interactive=session.plan is not None, variant="primary" if session.pending else "secondary"
        ),
    }


def working_view(page: Page) -> dict[Any, Any]:
    """What cannot be asked for while something is going on."""
    asleep = {part: gradio.update(interactive=False) for part in (page.draw, page.plan, page.redraw)}
    return {**asleep, page.stop: gradio.update(visible=True)}


def settings_view(page: Page, settings: Settings) -> dict[Any, Any]:
    """The sliders, set."""
    return {page.settings.by_name()[name]: value for name, value in settings.values().items()}
