"""The page: its components, their layout, and how a session is shown in them."""

from collections.abc import Sequence
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
from got_core.studio.files import image_url
from got_core.studio.session import Session
from got_core.studio.settings import HIGHEST_SCALE, HIGHEST_TEMPERATURE, About, Limits, Settings

TITLE = (
    "<h1>GoT Studio</h1><p>Describe an image. It is planned first, in words and boxes; change either, and the image "
    "follows.</p>"
)
HISTORY = "<h2>History</h2><p>Every image stays here; choose one to go back to it.</p><ol></ol>"
OPENER = (
    '<label><input type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp">'
    "<b>Open an image</b>, also one saved here with its plan</label><p role='alert'></p>"
)

FIRST: dict[str, Any] = {
    "label": "Describe an image",
    "placeholder": "For example: a red circle to the left of a blue square",
}
"""The prompt's text box while there is no image."""

NEXT: dict[str, Any] = {"label": "What should change?", "placeholder": "For example: change the circle to green"}
"""The prompt's text box when there is one."""


def web(name: str) -> str:
    """Read a file in `web/`."""
    return (Path(__file__).parent / "web" / name).read_text(encoding="utf-8")


def _html(name: str, template: str, value: Any, **props: Any) -> gradio.HTML:
    """Make a component with CSS and JavaScript of its own."""
    css, js = web(f"{name}.css"), web(f"{name}.js")
    return gradio.HTML(
        value, html_template=template, css_template=css, js_on_load=js, apply_default_css=False, elem_id=name, **props
    )


def _small_button(text: str, name: str, **settings: Any) -> gradio.Button:
    return gradio.Button(text, size="sm", min_width=60, elem_id=name, **settings)


class Page:
    """The components that are read or written, laid out as a new session shows them.

    To be made within Gradio's Blocks.

    Args:
        session: A new one.
        limits: Of requests.
        about: The model.
    """

    def __init__(self, session: Session, limits: Limits, about: About) -> None:
        self.about = about
        gradio.HTML(TITLE, elem_id="title")
        with gradio.Row(elem_id="work"):
            with gradio.Column(elem_id="ask"):
                self._add_request(limits)
            with gradio.Column(elem_id="stage"):
                self.canvas = _html("canvas", web("canvas.html"), canvas_value(session))
                with gradio.Row(elem_id="after"):
                    self.undo = _small_button("Undo", "undo")
                    self.save = _small_button("Download", "save")
                    self.start_over = _small_button("Start over", "start-over")
            with gradio.Column(elem_id="plan"):
                self._add_plan(limits)
                with gradio.Accordion("Settings", open=False):
                    self._add_settings(Settings.default(session.pipeline), limits)
            with gradio.Column(elem_id="past"):
                self.history = _html("history", HISTORY, history_value(session))
                self.download = gradio.HTML(None, html_template="", js_on_load=web("download.js"), elem_id="download")
                self.done = gradio.HTML(None, html_template="", js_on_load=web("done.js"), elem_id="done")

    def _add_request(self, limits: Limits) -> None:
        self.prompt = gradio.Textbox(
            **FIRST, lines=2, max_lines=4, max_length=limits.prompt, autofocus=True, elem_id="prompt"
        )
        with gradio.Row(elem_id="actions"):
            self.generate = gradio.Button("Generate", variant="primary", min_width=90, elem_id="generate")
            self.plan = gradio.Button("Plan only", min_width=90, elem_id="plan-only")
            self.stop = gradio.Button("Stop", variant="stop", visible=False, min_width=90, elem_id="stop")
        self.notice = gradio.HTML("", elem_id="notice")
        gradio.HTML(f"<p>{escape(self.about.words)}</p>", elem_id="about")
        with gradio.Row(elem_id="examples", visible=bool(self.about.prompts)):
            self.examples = [_small_button(text, f"example-{i}") for i, text in enumerate(self.about.prompts)]
        self.opener = _html("opener", OPENER, None, longest=limits.image_bytes)

    def _add_plan(self, limits: Limits) -> None:
        info = "Edit the text or move the boxes: each follows the other."
        self.chain = gradio.Textbox(
            label="Plan", info=info, lines=5, max_lines=12, max_length=limits.chain, elem_id="chain"
        )
        self.problems = gradio.HTML("", elem_id="problems")
        self.repair = _small_button("Repair: move the boxes", "repair", visible=False)
        self.generate_plan = gradio.Button("Generate this plan", interactive=False, elem_id="generate-plan")

    def _add_settings(self, own: Settings, limits: Limits) -> None:
        def slider(low: float, high: float, value: float, label: str, info: str | None = None) -> gradio.Slider:
            return gradio.Slider(low, high, value, step=1 if low else 0.1, label=label, info=info)

        with gradio.Row(elem_id="seed-row"):
            info = "The same seed gives the same image."
            seed = gradio.Number(own.seed, label="Seed", info=info, precision=0, minimum=0, maximum=LARGEST_SEED)
            self.random = _small_button("Random", "random")
        info = "Of this seed and those after it, side by side."
        self.images = gradio.Slider(
            1, max(limits.images, 2), 1, step=1, label="Images", info=info, visible=limits.images > 1, elem_id="images"
        )
        info = "What a changed plan or an edit does not touch stays as it is."
        self.settings: dict[str, gradio.components.Component] = {
            "seed": seed,
            "semantic": slider(0, HIGHEST_SCALE, own.semantic, "Guidance by the text"),
            "spatial": slider(0, HIGHEST_SCALE, own.spatial, "Guidance by the boxes"),
            "reference": slider(0, HIGHEST_SCALE, own.reference, "Guidance by the edited image"),
            "steps": slider(1, limits.steps, min(own.steps, limits.steps), "Steps"),
            "temperature": slider(
                0, HIGHEST_TEMPERATURE, own.temperature, "Temperature of the plan", "0: always the same."
            ),
            "still": gradio.Checkbox(own.still, label="Keep the rest", info=info),
        }

    @property
    def outputs(self) -> list[gradio.components.Component]:
        """The components that handlers write to."""
        buttons = [self.generate, self.plan, self.stop, self.repair, self.generate_plan]
        texts = [self.prompt, *self.examples, self.notice, self.chain, self.problems]
        return [*buttons, *texts, self.canvas, self.history, self.download, self.done, *self.settings.values()]


def canvas_value(
    session: Session,
    *,
    plan: Plan | None = None,
    preview: Image.Image | None = None,
    busy: bool = False,
    note: str = "",
) -> dict[str, Any]:
    """Describe the image and its boxes for the canvas.

    Args:
        session: The visitor's.
        plan: In place of the session's, while it is written.
        preview: In place of the session's image, while it is generated.
        busy: Whether boxes cannot be changed now.
        note: A line below; by default what can be done now.
    """
    plan, turn, compared = plan or session.plan, session.conversation.current, session.compared
    height, width = session.pipeline.size
    if not note and session.plan is not None:
        note = "The plan has changed: generate it." if session.pending else "Drag boxes, or draw one where none is."
    image = "" if turn is None else image_url(turn.image)
    return {
        "image": image if preview is None else image_url(preview, 512),
        "words": "" if turn is None else _caption(turn),
        "before": None if compared is None else {"image": image_url(compared.image), "words": _caption(compared)},
        "choices": [_choice(session, each) for each in session.choices],
        "boxes": [] if plan is None else _boxes(plan, () if busy else session.problems),
        "aspect": width / height,
        "busy": busy,
        "note": note,
    }


def history_value(session: Session) -> list[dict[str, Any]]:
    """List all turns in the order they were made."""
    return [_choice(session, turn) | {"from": _origin(session, turn)} for turn in session.conversation]


def _choice(session: Session, turn: Turn) -> dict[str, Any]:
    """Describe a turn that can be chosen."""
    return {
        "number": turn.number,
        "words": _request(turn),
        "seed": turn.seed,
        "image": image_url(turn.image, 96),
        "current": turn is session.conversation.current,
    }


def _caption(turn: Turn) -> str:
    return f"{turn.number + 1}. {_request(turn)}"


def _request(turn: Turn) -> str:
    return "your image" if turn.plan is None else turn.plan.request or "your own plan"


def _origin(session: Session, turn: Turn) -> str:
    """Name the turn that this one comes from, if it is not the one made before it, and its seed if it has siblings."""
    seed = [f"seed {turn.seed}"] if turn.number in session.batches else []
    if turn.number in session.replaced:
        return ", ".join([f"new version of {session.replaced[turn.number] + 1}", *seed])
    if turn.previous is not None and turn.previous.number != turn.number - 1:
        return ", ".join([f"continues {turn.previous.number + 1}", *seed])
    return "".join(seed)


def _boxes(plan: Plan, problems: Sequence[PlanProblem]) -> list[dict[str, Any]]:
    """List the planned boxes, each with whether it has a problem."""
    wrong = {index for problem in problems for index in problem.regions}
    boxes = []
    for index, region in enumerate(plan.regions):
        red, green, blue = region_colour(region, index)[:3]
        colour = f"rgb({red} {green} {blue})"
        boxes.append({"phrase": region.phrase, "box": list(region.box), "colour": colour, "problem": index in wrong})
    return boxes


def notice_html(text: str) -> str:
    """Write a message to the visitor."""
    return f'<div class="notice" role="alert">{escape(text)}</div>' if text else ""


def problems_html(problems: Sequence[PlanProblem]) -> str:
    """List what is wrong with a plan."""
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem.message)}</li>" for problem in problems)
    heading = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f'<div class="notice" role="status"><b>{heading} in this plan</b><ul>{items}</ul></div>'


def session_view(page: Page, session: Session) -> dict[Any, Any]:
    """Show all of a session while no work is in progress."""
    has_image = session.image is not None
    examples = page.about.instructions if has_image else page.about.prompts
    highlighted, plain = ("secondary", "primary") if session.pending else ("primary", "secondary")
    return {
        page.canvas: canvas_value(session),
        page.history: history_value(session),
        page.chain: gradio.update(value=session.chain, interactive=True),
        page.problems: problems_html(session.problems),
        page.repair: gradio.update(visible=session.repairable),
        page.prompt: gradio.update(**(NEXT if has_image else FIRST)),
        **{button: gradio.update(value=text) for button, text in zip(page.examples, examples, strict=True)},
        page.generate: gradio.update(value="Edit" if has_image else "Generate", interactive=True, variant=highlighted),
        page.plan: gradio.update(interactive=True),
        page.stop: gradio.update(visible=False),
        page.generate_plan: gradio.update(interactive=session.plan is not None, variant=plain),
    }


def working_view(page: Page) -> dict[Any, Any]:
    """Disable what cannot be done while work is in progress."""
    parts = (page.generate, page.plan, page.generate_plan, page.chain)
    disabled = {part: gradio.update(interactive=False) for part in parts}
    return {**disabled, page.stop: gradio.update(visible=True)}


def settings_view(page: Page, settings: Settings) -> dict[Any, Any]:
    """Show settings."""
    return {page.settings[name]: value for name, value in settings.values().items()}
