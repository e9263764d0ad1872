"""What the page shows of a session, as the values of its components."""

from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from got_core.conversation import Turn
from got_core.pictures import region_colour
from got_core.plan_check import PlanProblem
from got_core.plans import Plan
from got_core.studio.picture_data import PREVIEW_SIDE, THUMBNAIL_SIDE, shown, small
from got_core.studio.session import Session

BROUGHT = "your picture"
"""How a picture that was brought along is called."""

GIVEN = "a plan of your own"
"""How a turn without a prompt is called."""


def canvas_value(
    session: Session,
    *,
    plan: Plan | None = None,
    preview: Image.Image | None = None,
    busy: bool = False,
    note: str = "",
) -> dict[str, Any]:
    """Picture and boxes.

    Args:
        session: Whose.
        plan: Instead of the session's, while it is written.
        preview: Instead of the session's picture, while it is drawn.
        busy: Whether boxes can not be changed just now.
        note: A line below.
    """
    plan, turn = plan or session.plan, session.talk.current
    height, width = session.pipeline.size
    before = session.before
    picture = small(preview, PREVIEW_SIDE) if preview is not None else "" if turn is None else shown(turn.image)
    return {
        "image": picture,
        "words": "" if turn is None else turn_words(turn),
        "before": None if before is None else {"image": shown(before.image), "words": turn_words(before)},
        "boxes": [] if plan is None else _boxes(plan, () if busy else session.problems),
        "aspect": width / height,
        "busy": busy,
        "note": note or _standing(session),
    }


def history_value(session: Session) -> list[dict[str, Any]]:
    """All turns in the order they were made."""
    return [
        {
            "number": turn.number,
            "words": _request(turn),
            "from": _origin(session, turn),
            "image": small(turn.image, THUMBNAIL_SIDE),
            "current": turn is session.talk.current,
        }
        for turn in session.talk
    ]


def notice_html(text: str) -> str:
    """Something to be told at once."""
    return f'<div class="notice" role="alert">{escape(text)}</div>' if text else ""


def problems_html(problems: Sequence[PlanProblem]) -> str:
    """What is wrong with a plan."""
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem.message)}</li>" for problem in problems)
    heading = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f'<div class="notice" role="status"><b>{heading} in this plan</b><ul>{items}</ul></div>'


def turn_words(turn: Turn) -> str:
    """A turn's number and what was asked."""
    return f"{turn.number + 1}. {_request(turn)}"


def _request(turn: Turn) -> str:
    return BROUGHT if turn.plan is None else turn.plan.request or GIVEN


def _origin(session: Session, turn: Turn) -> str:
    """From which turn one came, where that is not the one before it in time."""
    if turn.number in session.redrawn:
        return f"new version of {session.redrawn[turn.number] + 1}"
    if turn.before is not None and turn.before.number != turn.number - 1:
        return f"goes on from {turn.before.number + 1}"
    return ""


def _boxes(plan: Plan, problems: Sequence[PlanProblem]) -> list[dict[str, Any]]:
    """Where what is planned; boxes that have a problem say so."""
    wrong = {index for problem in problems for index in problem.regions}
    boxes = []
    for index, region in enumerate(plan.regions):
        red, green, blue = region_colour(region, index)[:3]
        colour = f"rgb({red} {green} {blue})"
        boxes.append({"phrase": region.phrase, "box": list(region.box), "colour": colour, "problem": index in wrong})
    return boxes


def _standing(session: Session) -> str:
    """What the canvas shows when nothing is going on."""
    if session.plan is None:
        return ""
    return "The plan has changed: draw it to see it." if session.pending else "Drag boxes, or edit the plan's words."
