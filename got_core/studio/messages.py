"""What the page sends to Gradio, looked at before Gradio sees it: whatever the page would not send is refused.

Gradio trusts its own page. An empty session name ends the loop that serves its queue, for everyone; a dictionary that
looks like an uploaded file has it look for that file.
"""

import json
import re
from typing import Any

from got_core.studio.limits import Refused

NAME = re.compile(r"[a-z0-9]{4,40}")
"""Names of pages and of events."""

_KEYS = {"data", "event_data", "fn_index", "trigger_id", "session_hash", "event_id"}
_DEEPEST = 8


def check_message(content: bytes) -> None:
    """Look at the body of a request.

    Raises:
        Refused: It is none of the page's.
    """
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused("the request is no JSON") from None
    if not isinstance(message, dict) or not set(message) <= _KEYS:
        raise Refused("the request is none of the page's")
    for key in ("session_hash", "event_id"):
        if key in message and not (isinstance(message[key], str) and NAME.fullmatch(message[key])):
            raise Refused(f"the request's {key} is no name")
    for key in ("fn_index", "trigger_id"):
        number = message.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 10**6):
            raise Refused(f"the request's {key} is no number")
    if not isinstance(message.get("data", []), list):
        raise Refused("the request's data is no list")
    _check_values([message.get("data"), message.get("event_data")], 0)


def _check_values(value: Any, depth: int) -> None:
    """Neither files nor depths that nothing on the page has, nor text that cannot be written."""
    if depth > _DEEPEST:
        raise Refused("the request is nested too deeply")
    if isinstance(value, dict):
        if "path" in value or "meta" in value:
            raise Refused("the studio takes no files")
        for key, each in value.items():
            _check_values(key, depth + 1)
            _check_values(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check_values(each, depth + 1)
    elif isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused("the request holds characters that cannot be written")
