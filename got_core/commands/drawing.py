"""`got generate`, `got edit` and `got reason`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from got_core.chain import parse
from got_core.data.images import load_image
from got_core.errors import UserError, one_line
from got_core.pictures import draw_layout, to_picture
from got_core.pipeline import GoTPipeline

SCALES = ("semantic", "spatial", "reference")


def generate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Draw a picture from a prompt or from a chain."""
    chain = _read_chain(options)
    _draw(options, _pipeline(options), chain, None)


def edit(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Edit a picture by an instruction or by a chain."""
    chain = _read_chain(options)
    _read_source(options, None)
    pipeline = _pipeline(options)
    _draw(options, pipeline, chain, _read_source(options, pipeline.size))


def reason(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Print the chain of a prompt, or of an instruction with its source image."""
    if options.source is not None:
        _read_source(options, None)
    pipeline = _pipeline(options)
    source = None if options.source is None else _read_source(options, pipeline.size)
    chain = pipeline.plan(options.prompt, source, seed=options.seed, temperature=options.temperature)
    print(chain)
    _comment(chain)


def _draw(
    options: argparse.Namespace, pipeline: GoTPipeline, chain: str | None, source: Float[Tensor, "3 H W"] | None
) -> None:
    """Plan where no chain is given, draw, and write image, layout and chain."""
    scales = {name: getattr(options, f"{name}_scale") for name in SCALES}
    if chain is None:
        chain = pipeline.plan(options.prompt, source, seed=options.seed, temperature=options.temperature)
    with _fitting():
        image = pipeline.draw(
            options.prompt,
            chain,
            source,
            seed=options.seed,
            steps=options.steps,
            scales={name: scale for name, scale in scales.items() if scale is not None},
        )
    folder = Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        to_picture(image).save(folder / "image.png")
        draw_layout(image, chain).save(folder / "layout.png")
        (folder / "chain.txt").write_text(chain + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error})") from error
    print(chain)
    _comment(chain)


@contextmanager
def _fitting() -> Iterator[None]:
    """A size that codec or backbone cannot divide is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise UserError(one_line(error)) from error


def _comment(chain: str) -> None:
    """Say on stderr what is wrong with a chain."""
    parsed = parse(chain)
    for problem in parsed.problems:
        print(f"got: chain: {problem}", file=sys.stderr)
    if not parsed.regions:
        print("got: chain: it names no box, so nothing guides where things are drawn", file=sys.stderr)


def _pipeline(options: argparse.Namespace) -> GoTPipeline:
    try:
        return GoTPipeline.from_run(options.checkpoint, options.device, options.size)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(one_line(error)) from error
    except RuntimeError as error:
        if options.device is None:
            raise
        raise UserError(f"--device {options.device}: {one_line(error)}") from error


def _read_chain(options: argparse.Namespace) -> str | None:
    if options.chain is None:
        if not options.prompt.strip():
            raise UserError("an empty prompt needs a chain to draw from: --chain FILE")
        return None
    try:
        return Path(options.chain).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{options.chain}: no readable chain ({type(error).__name__})") from error


def _read_source(options: argparse.Namespace, size: tuple[int, int] | None) -> Float[Tensor, "3 H W"]:
    try:
        return load_image(Path(options.source), size)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
