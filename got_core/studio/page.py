"""The page: its components, how they are laid out, and how a session is shown in them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from got_core.data.visualization import region_colour
from got_core.paths import LARGEST_SEED
from got_core.pipelines.conversation import Turn
from got_core.planning.check import PlanProblem
from got_core.planning.plan import Plan
from got_core.studio import page as components
from got_core.studio.files import PREVIEW_SIDE, THUMBNAIL_SIDE, shown, small
from got_core.studio.session import Session
from got_core.studio.settings import HIGHEST_SCALE, HIGHEST_TEMPERATURE, Limits, Settings

WEB = Path(__file__).parent / "web"

_HISTORY = "<h2>History</h2><p>Every picture stays here; choose one to go back to it.</p><ol></ol>"
_OPENER = (
    '<label><input type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp">'
    "<b>Open a picture</b> or a saved drawing</label><p role='alert'></p>"
)


def web(name: str) -> str:
    """The text of a file in `web/`."""
    return (WEB / name).read_text(encoding="utf-8")


def canvas(value: dict[str, Any]) -> gradio.HTML:
    """A picture under the boxes of its plan; sends `act` with what is done to them."""
    return _component("canvas", web("canvas.html"), value)


def history(value: list[dict[str, Any]]) -> gradio.HTML:
    """All turns; sends `choose` with the number of one."""
    return _component("history", _HISTORY, value)


def opener(longest: int) -> gradio.HTML:
    """Opens a file of at most so many bytes; sends `bring` with its data URL."""
    return _component("opener", _OPENER, None, longest=longest)


def download() -> gradio.HTML:
    """Unseen; saves `{"name", "content", "serial"}` as a file on the visitor's machine."""
    return gradio.HTML(None, html_template="", js_on_load=web("download.js"), elem_id="download")


def _component(name: str, template: str, value: Any, **props: Any) -> gradio.HTML:
    return gradio.HTML(
        value,
        html_template=template,
        css_template=web(f"{name}.css"),
        js_on_load=web(f"{name}.js"),
        apply_default_css=False,
        elem_id=name,
        **props,
    )


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
    """The image and its boxes.

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
    if turn.previous is not None and turn.previous.number != turn.number - 1:
        return f"goes on from {turn.previous.number + 1}"
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


SUBTITLE = "Say what you want to see. The plan comes first, in words and boxes; change either, and the picture follows."


@dataclass(frozen=True)
class SettingsPanel:
    """The sliders, named as the settings are."""

    seed: gradio.Number
    steps: gradio.Slider
    semantic: gradio.Slider
    spatial: gradio.Slider
    reference: gradio.Slider
    temperature: gradio.Slider
    still: gradio.Checkbox

    def by_name(self) -> dict[str, gradio.components.Component]:
        """The sliders by the settings' names."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


@dataclass(frozen=True)
class Page:
    """Everything on the page that is read or written."""

    prompt: gradio.Textbox
    draw: gradio.Button
    plan: gradio.Button
    stop: gradio.Button
    opener: gradio.HTML
    notice: gradio.HTML
    canvas: gradio.HTML
    undo: gradio.Button
    save: gradio.Button
    over: gradio.Button
    history: gradio.HTML
    download: gradio.HTML
    chain: gradio.Textbox
    problems: gradio.HTML
    repair: gradio.Button
    redraw: gradio.Button
    random: gradio.Button
    settings: SettingsPanel


def build_page(session: Session, limits: Limits) -> Page:
    """Lay the page out, as a new session shows it; to be called within Gradio's Blocks."""
    parts: dict[str, Any] = {}
    gradio.HTML(f"<h1>GoT Studio</h1><p>{SUBTITLE}</p>", elem_id="title")
    with gradio.Row(elem_id="work"):
        with gradio.Column(elem_id="ask"):
            parts |= _ask(limits)
        with gradio.Column(elem_id="stage"):
            parts |= _stage(session)
        with gradio.Column(elem_id="plan"):
            parts |= _plan(limits)
            with gradio.Accordion("Settings", open=False):
                parts |= _settings(Settings.own(session.pipeline), limits)
        with gradio.Column(elem_id="past"):
            parts |= {"history": components.history(history_value(session)), "download": components.download()}
    return Page(**parts)


def _ask(limits: Limits) -> dict[str, Any]:
    prompt = gradio.Textbox(
        label="Describe a picture",
        placeholder="a red circle to the left of a blue square",
        lines=2,
        max_lines=4,
        max_length=limits.prompt,
        autofocus=True,
        elem_id="prompt",
    )
    with gradio.Row(elem_id="actions"):
        draw = gradio.Button("Draw", variant="primary", min_width=90, elem_id="draw")
        plan = gradio.Button("Plan only", min_width=90, elem_id="plan-only")
        stop = gradio.Button("Stop", variant="stop", visible=False, min_width=90, elem_id="stop")
    notice = gradio.HTML("", elem_id="notice")
    return {"prompt": prompt, "draw": draw, "plan": plan, "stop": stop, "notice": notice} | {
        "opener": components.opener(limits.image_bytes)
    }


def _stage(session: Session) -> dict[str, Any]:
    canvas = components.canvas(canvas_value(session))
    with gradio.Row(elem_id="after"):
        undo = gradio.Button("Undo", size="sm", min_width=60, elem_id="undo")
        save = gradio.Button("Download", size="sm", min_width=60, elem_id="save")
        over = gradio.Button("Start over", size="sm", min_width=60, elem_id="over")
    return {"canvas": canvas, "undo": undo, "save": save, "over": over}


def _plan(limits: Limits) -> dict[str, Any]:
    chain = gradio.Textbox(
        label="Plan",
        info="Edit the words or move the boxes: both stay in step.",
        lines=5,
        max_lines=12,
        max_length=limits.chain,
        elem_id="chain",
    )
    problems = gradio.HTML("", elem_id="problems")
    repair = gradio.Button("Repair: move the boxes", size="sm", visible=False, elem_id="repair")
    redraw = gradio.Button("Draw this plan", interactive=False, elem_id="redraw")
    return {"chain": chain, "problems": problems, "repair": repair, "redraw": redraw}


def _settings(own: Settings, limits: Limits) -> dict[str, Any]:
    with gradio.Row(elem_id="seed-row"):
        seed = gradio.Number(
            own.seed,
            label="Seed",
            info="The same seed, the same picture.",
            precision=0,
            minimum=0,
            maximum=LARGEST_SEED,
        )
        random = gradio.Button("Another", size="sm", elem_id="random")
    scales = {
        "semantic": gradio.Slider(0, HIGHEST_SCALE, own.semantic, step=0.1, label="Guidance by the words"),
        "spatial": gradio.Slider(0, HIGHEST_SCALE, own.spatial, step=0.1, label="Guidance by the boxes"),
        "reference": gradio.Slider(0, HIGHEST_SCALE, own.reference, step=0.1, label="Guidance by the edited picture"),
    }
    steps = gradio.Slider(1, limits.steps, min(own.steps, limits.steps), step=1, label="Steps")
    temperature = gradio.Slider(
        0,
        HIGHEST_TEMPERATURE,
        own.temperature,
        step=0.1,
        label="Freedom of the plan",
        info="0 plans the same each time.",
    )
    still = gradio.Checkbox(
        own.still, label="Hold the rest still", info="What a changed plan or an edit does not touch stays as it is."
    )
    panel = SettingsPanel(seed=seed, steps=steps, temperature=temperature, still=still, **scales)
    return {"settings": panel, "random": random}


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
