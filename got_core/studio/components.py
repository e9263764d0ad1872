"""The page's own components: each is HTML, CSS and JavaScript in `web/` over Gradio's HTML component."""

from pathlib import Path
from typing import Any

import gradio

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
