"""The components of the page and how they are laid out."""

from dataclasses import dataclass, fields
from typing import Any

import gradio

from got_core.seeds import LARGEST_SEED
from got_core.studio import components
from got_core.studio.limits import Limits
from got_core.studio.session import Session
from got_core.studio.settings import HIGHEST_SCALE, HIGHEST_TEMPERATURE, Settings
from got_core.studio.views import canvas_value, history_value

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
