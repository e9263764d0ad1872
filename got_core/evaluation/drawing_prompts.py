"""Prompts to draw from a file: JSON objects with `prompt`, as GenEval's, or plain lines."""

import json
from pathlib import Path
from typing import Any

from got_core.errors import UserError


def read_drawing_prompts(file: Path) -> list[dict[str, Any]]:
    """One prompt a line: a JSON object with `prompt` and, if it has a category, `tag`; or the prompt itself.

    Raises:
        UserError: There is no such file, no prompt in it, or a line that is JSON without a prompt.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable prompts ({type(error).__name__})") from error
    prompts = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        try:
            metadata = json.loads(line) if line.startswith("{") else {"prompt": line}
        except ValueError as error:
            raise UserError(f"{file}, line {number}: not JSON") from error
        if not isinstance(metadata.get("prompt"), str) or not metadata["prompt"].strip():
            raise UserError(f"{file}, line {number}: it has no prompt")
        prompts.append(metadata)
    if not prompts:
        raise UserError(f"{file}: there is no prompt in it")
    return prompts
