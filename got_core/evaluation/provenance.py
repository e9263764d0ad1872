"""What a result came from, versions and checksums, and how its file is written."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("got-framework", "torch", "torchvision", "lightning", "transformers", "diffusers", "torchmetrics", "numpy")
"""The distributions whose versions results name, this one first."""

SETTINGS = "drawing.json"
"""In a folder of images that were drawn here: what they were drawn from and how."""

SUMS = ("checkpoint", "prompts")
"""What of these settings are checksums."""


def origin(
    root: Path, judge: Mapping[str, Any], seeds: Mapping[str, int | None], checksums: Mapping[str, str]
) -> dict[str, Any]:
    """What a result came from, as `results.json` of any suite holds it.

    Args:
        root: The folder that was scored; where its images were drawn here, its `SETTINGS` are taken in.
        judge: The description of who scored it.
        seeds: Those that scoring used.
        checksums: Of what was scored.
    """
    file = root / SETTINGS
    drawing = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    sums = {name: drawing.pop(name) for name in SUMS if name in drawing}
    return {
        "judge": dict(judge),
        "seeds": {"drawing": drawing.pop("seed", None), **seeds},
        "recipe": drawing.pop("recipe", None),
        "drawing": drawing or None,
        "checksums": {**sums, **checksums},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of `PACKAGES` that are installed."""
    return {name: version(name) for name in PACKAGES}


def checksum(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of its files' names and checksums, in order."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return checksum_of(path, (entry for entry in path.rglob("*") if entry.is_file()))


def checksum_of(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names, within `root`, and the checksums of some files, in the order of their names."""
    lines = sorted(f"{file.relative_to(root).as_posix()} {checksum(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_whole(file: Path, text: str) -> None:
    """Write a file that is there with all that is in it, or not at all."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
