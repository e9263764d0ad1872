"""The studio's server: where it listens, who may enter, and what never leaves it."""

from dataclasses import dataclass
from typing import Any

import gradio
from starlette.middleware import Middleware

from got_core.errors import UserError
from got_core.pipeline import GoTPipeline
from got_core.studio.app import Studio, build_studio
from got_core.studio.components import web
from got_core.studio.guard import Guard
from got_core.studio.limits import Limits

USER = "got"
"""The name to be given with the password."""


@dataclass(frozen=True)
class Door:
    """Where the server listens and who may enter.

    Attributes:
        host, port: Address; only this machine by default.
        password: Asked for where there is one.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    password: str | None = None

    @property
    def address(self) -> str:
        """As a browser takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def serve(pipeline: GoTPipeline, limits: Limits, door: Door) -> Studio:
    """Serve the studio, in the background.

    Raises:
        UserError: The address cannot be listened at.
    """
    studio = build_studio(pipeline, limits)
    try:
        studio.app.launch(
            server_name=door.host,
            server_port=door.port,
            auth=None if door.password is None else (USER, door.password),
            state_session_capacity=limits.sessions,
            theme=theme(),
            css=web("page.css"),
            app_kwargs={"middleware": [Middleware(Guard, longest=limits.body)], **_NO_DOCUMENTATION},
            **_PLAIN,
        )
    except OSError as error:
        raise UserError(f"cannot listen at {door.address}: the port is in use, or not yours to open") from error
    return studio


_NO_DOCUMENTATION = {"docs_url": None, "redoc_url": None, "openapi_url": None}

_PLAIN: dict[str, Any] = {
    "prevent_thread_lock": True,
    "share": False,
    "quiet": True,
    "show_error": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "pwa": False,
    "mcp_server": False,
    "ssr_mode": False,
    "max_file_size": 1,
}
"""What of Gradio's is not wanted: errors that tell of the server, files, and whatever reaches out of this machine."""


def theme() -> gradio.themes.Base:
    """Calm, with the system's own fonts: nothing is fetched from elsewhere."""
    return gradio.themes.Base(
        primary_hue=gradio.themes.colors.indigo,
        neutral_hue=gradio.themes.colors.slate,
        radius_size=gradio.themes.sizes.radius_lg,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
