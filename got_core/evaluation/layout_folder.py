"""Folders of images with the chains they were drawn from: `00000/samples/*.png` beside `00000/chains/*.txt`."""

import json
from dataclasses import dataclass
from pathlib import Path

from got_core.errors import UserError
from got_core.evaluation.geneval_folder import CHAINS, METADATA, SAMPLES, Missing

UNTAGGED = "untagged"
"""The category of a prompt whose metadata names none, or that has no metadata."""


@dataclass(frozen=True)
class DrawnPlan:
    """An image and the chain that it was drawn from.

    Attributes:
        image: File.
        chain: The chain's text.
        folder: Name of the prompt's folder.
        prompt: What was asked for; empty where the folder has no metadata.
        category: `tag` of the metadata, or `UNTAGGED`.
    """

    image: Path
    chain: str
    folder: str
    prompt: str
    category: str


@dataclass(frozen=True)
class LayoutFolder:
    """What a folder has that can be looked at, and what it lacks.

    Attributes:
        root: The folder.
        drawn: Images that have a chain, in order.
        per_prompt: Images that a prompt should have.
        missing: Images without a chain, chains without an image, and images that are not there at all.
    """

    root: Path
    drawn: tuple[DrawnPlan, ...]
    per_prompt: int
    missing: tuple[Missing, ...]


def read_layouts(root: Path, per_prompt: int | None = None) -> LayoutFolder:
    """List a folder of images with chains, whoever made it; an image and its chain have the same name.

    Args:
        root: The folder. A prompt's folder may have `metadata.jsonl`, with `prompt` and `tag`, its category.
        per_prompt: Images that each prompt should have; those beyond are left out, with their chains. By default as
            many as the prompt with the most has.

    Raises:
        UserError: There is no such folder, no prompt in it, or not a single image with a chain.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name.isdigit())
    if not folders:
        raise UserError(f"{root}: there is no folder such as 00000/ with {SAMPLES}/ and {CHAINS}/ in it")
    every = {folder: sorted((folder / SAMPLES).glob("*.png")) for folder in folders}
    images = {folder: files[:per_prompt] for folder, files in every.items()}
    expected = per_prompt or max(1, *(len(files) for files in images.values()))
    drawn: list[DrawnPlan] = []
    missing: list[Missing] = []
    for folder, files in images.items():
        prompt, category = _asked(folder / METADATA)
        beyond = {image.stem for image in every[folder][len(files) :]}
        chains = {file.stem: file for file in sorted((folder / CHAINS).glob("*.txt")) if file.stem not in beyond}
        for image in files:
            file = chains.pop(image.stem, None)
            try:
                chain = None if file is None else file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                chain = None
            if chain is None:
                reason = f"no chain {CHAINS}/{image.stem}.txt" if file is None else "its chain cannot be read"
                missing.append(Missing(f"{folder.name}/{SAMPLES}/{image.name}", reason, category, 1))
            else:
                drawn.append(DrawnPlan(image, chain, folder.name, prompt, category))
        missing += [
            Missing(f"{folder.name}/{CHAINS}/{file.name}", "no image of this chain", category, 1)
            for file in chains.values()
        ]
        absent = expected - len(files) - len(chains)
        if absent > 0:
            reason = f"{len(files)} of {expected} images"
            missing.append(Missing(f"{folder.name}/{SAMPLES}", reason, category, absent))
    if not drawn:
        raise UserError(
            f"{root}: no image with a chain in {len(folders)} folders ({missing[0].place}: {missing[0].reason})"
        )
    return LayoutFolder(root, tuple(drawn), expected, tuple(missing))


def _asked(file: Path) -> tuple[str, str]:
    """Prompt and category, as far as metadata names them."""
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        metadata = {}
    found = metadata if isinstance(metadata, dict) else {}
    prompt, tag = found.get("prompt"), found.get("tag")
    return prompt if isinstance(prompt, str) else "", tag if isinstance(tag, str) else UNTAGGED
