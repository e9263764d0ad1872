"""`got studio`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from threading import Event
from typing import TYPE_CHECKING

from got_core.cli.generate import Model, open_pipeline
from got_core.cli.parsing import Count
from got_core.errors import UserError
from got_core.paths import BUNDLED_MODEL

if TYPE_CHECKING:
    from got_core.studio.settings import About


def studio(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: Count = 7860,
    password_from: str | None = None,
    allowed_host: Sequence[str] = (),
    trusted_proxy: Sequence[str] = (),
    max_seconds: Count | None = None,
    max_queue: Count | None = None,
    max_steps: Count | None = None,
    max_megabytes: Count | None = None,
    max_megapixels: Count | None = None,
    max_boxes: Count | None = None,
    max_images: Count | None = None,
    max_characters: Count | None = None,
) -> None:
    """Serve a web page to plan, generate, change and edit images.

    Args:
        model: Which model it is.
        host: Address to listen at; by default only reachable from this machine.
        port: Port to listen at.
        password_from: Environment variable with the password that visitors need; the user name is got.
        allowed_host: Name that the page is reached by, such as studio.example.org; may be given several times.
        trusted_proxy: Address of a proxy whose X-Forwarded-For header is believed; may be given several times.
        max_seconds: Seconds of the model's work on one request; 120 by default.
        max_queue: Requests that may wait; 32 by default.
        max_steps: Denoising steps of a request; 100 by default.
        max_megabytes: Of an uploaded image; 12 by default.
        max_megapixels: Of an uploaded image; 25 by default.
        max_boxes: Of a plan; 24 by default.
        max_images: Generated at once from one plan; 4 by default.
        max_characters: Of a prompt; 500 by default.

    Raises:
        UserError: Gradio or the password is missing, or the model cannot be opened.

    Example:
        got studio --port 8000
    """
    if find_spec("gradio") is None:
        raise UserError('got studio needs Gradio: pip install "got-framework[studio]"')
    from got_core.studio.server import served
    from got_core.studio.settings import Limits

    given = {
        "seconds": max_seconds,
        "queue": max_queue,
        "steps": max_steps,
        "image_bytes": max_megabytes and max_megabytes * 10**6,
        "image_pixels": max_megapixels and max_megapixels * 10**6,
        "boxes": max_boxes,
        "images": max_images,
        "prompt": max_characters,
    }
    limits = replace(Limits(), **{name: value for name, value in given.items() if value is not None})
    password = None if password_from is None else os.environ.get(password_from)
    if password_from is not None and not password:
        raise UserError(f"--password-from {password_from}: no such environment variable, or it is empty")
    with served(
        open_pipeline(model),
        limits,
        about=about_bundled() if model.checkpoint == BUNDLED_MODEL else None,
        host=host,
        port=port,
        password=password,
        allowed_hosts=allowed_host,
        trusted_proxies=trusted_proxy,
    ) as address:
        print(f"GoT Studio: {address}", flush=True)
        Event().wait()


def about_bundled() -> "About":
    """Say what the bundled model can generate."""
    from got_core.data.scenes.render import DEFAULT_COLOURS, DEFAULT_SHAPES
    from got_core.studio.settings import About

    *colours, last_colour = DEFAULT_COLOURS
    *shapes, last_shape = (f"{shape}s" for shape in DEFAULT_SHAPES)
    return About(
        f"The bundled model draws {', '.join(shapes)} and {last_shape} in {', '.join(colours)} and {last_colour}, "
        "and can add, remove, recolour, replace and move them.",
        prompts=("a yellow triangle", "two green squares", "a red circle above a blue square"),
        instructions=("add a white square", "remove the circle", "make the square purple"),
    )
