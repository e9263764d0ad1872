"""`got studio`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from threading import Event

from got_core.cli.generate import open_pipeline
from got_core.errors import UserError


def studio(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Serve the page until Ctrl-C."""
    if find_spec("gradio") is None:
        raise UserError('got studio needs Gradio: pip install "got-framework[studio]"')
    from got_core.studio.server import Door, serve
    from got_core.studio.settings import Limits

    asked = {
        "seconds": options.max_seconds,
        "queue": options.max_queue,
        "steps": options.max_steps,
        "image_bytes": options.max_megabytes and options.max_megabytes * 10**6,
        "image_pixels": options.max_megapixels and options.max_megapixels * 10**6,
        "boxes": options.max_boxes,
        "prompt": options.max_characters,
    }
    limits = replace(Limits(), **{name: value for name, value in asked.items() if value is not None})
    door = Door(options.host, options.port, _password(options.password_from))
    served = serve(open_pipeline(options), limits, door)
    print(f"GoT Studio: {door.address}", flush=True)
    try:
        Event().wait()
    finally:
        served.close()


def _password(variable: str | None) -> str | None:
    if variable is None:
        return None
    password = os.environ.get(variable)
    if not password:
        raise UserError(f"--password-from {variable}: there is no such environment variable, or it is empty")
    return password
