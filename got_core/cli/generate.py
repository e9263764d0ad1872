"""`got generate`, `got edit` and `got reason`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from got_core.data.images import open_image
from got_core.data.visualization import draw_layout
from got_core.diffusion.schedulers import scheduler_named
from got_core.errors import UserError, one_line
from got_core.paths import BUNDLED_MODEL
from got_core.pipelines.inpainting import Former
from got_core.pipelines.output import GoTPipelineOutput
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.check import MALFORMED, NO_BOX, OUTSIDE, plan_problems, repaired
from got_core.planning.plan import Plan, changed

CHAIN = "chain.txt"
"""The file of the chain, beside the image that was drawn from it."""

OF_THE_CHAIN = (MALFORMED, OUTSIDE, NO_BOX)
"""Problems that are told of the chain, with its text."""


def generate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Draw a picture from a prompt or from a chain."""
    _draw(options, None)


def edit(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Edit a picture by an instruction or by a chain."""
    _draw(options, options.source)


def reason(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Print the chain of a prompt, or of an instruction with its source image."""
    source = _read_source(options.source)
    plan = _plan(options, open_pipeline(options), source)
    print(plan.chain)
    _comment(plan)
    _tell_of_bundled(options, plan)


def _draw(options: argparse.Namespace, file: str | None) -> None:
    """Plan where no chain is given, change, draw, and write image, layout and chain."""
    chain = _read_chain(options)
    source = _read_source(file)
    pipeline = open_pipeline(options)
    with _users_to_mend():
        if options.scheduler is not None:
            pipeline.scheduler = scheduler_named(pipeline.model.objective, options.scheduler)
        plan = _plan(options, pipeline, source, chain)
        drawn = pipeline.draw(
            plan,
            keep=_former(options, plan, source),
            seed=options.seed,
            num_inference_steps=options.steps,
            semantic_scale=options.semantic_scale,
            spatial_scale=options.spatial_scale,
            reference_scale=options.reference_scale,
        )
    (image,) = drawn.images
    folder = Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / "image.png")
        draw_layout(image, plan.chain).save(folder / "layout.png")
        (folder / CHAIN).write_text(plan.chain + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error})") from error
    print(plan.chain)
    _comment(plan)
    _tell_of_bundled(options, plan)


def _plan(
    options: argparse.Namespace, pipeline: GoTPipeline, source: Image.Image | None, chain: str | None = None
) -> Plan:
    """The plan that the pipeline writes, or that of a given chain; changed and repaired as asked."""
    if chain is not None:
        plan = pipeline.given_plan(chain, options.prompt, source)
    else:
        writing = {"seed": options.seed, "temperature": options.temperature, "best_of": options.best_of}
        (plan,) = pipeline.plan(options.prompt, source, **writing)
    for change in getattr(options, "change", ()):
        plan = changed(plan, change)
    return repaired(plan) if options.repair else plan


def _former(options: argparse.Namespace, plan: Plan, source: Image.Image | None) -> Former | None:
    """What stays as it is: an image that was drawn before with the plan beside it, if it is there, or the source."""
    if options.keep is None:
        return source if getattr(options, "keep_rest", False) else None
    image, chain = _read_source(options.keep), Path(options.keep).with_name(CHAIN)
    if image is None or not chain.is_file():
        return image
    return GoTPipelineOutput([image], (plan.with_chain(_read_text(chain)),), None)


@contextmanager
def _users_to_mend() -> Iterator[None]:
    """A size that codec or backbone cannot divide, a change or scheduler that cannot be, are the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise UserError(one_line(error)) from error


def _comment(plan: Plan) -> None:
    """Say on stderr what is wrong with a plan."""
    for problem in plan.problems:
        print(f"got: chain: {problem}", file=sys.stderr)
    if not plan.regions:
        print("got: chain: it names no box, so nothing guides where things are drawn", file=sys.stderr)
    for told in plan_problems(plan):
        if told.kind not in OF_THE_CHAIN:
            print(f"got: plan: {told.message}", file=sys.stderr)


def _tell_of_bundled(options: argparse.Namespace, plan: Plan) -> None:
    """Say what the small model knows where it planned nothing of what was asked for."""
    asked, named = plan.prompt.lower(), [region.phrase.split()[-1] for region in plan.regions if region.phrase.strip()]
    if options.checkpoint == BUNDLED_MODEL and plan.source is None and asked and not any(n in asked for n in named):
        print("got: the model that comes along knows coloured circles, squares and triangles alone", file=sys.stderr)


def open_pipeline(options: argparse.Namespace) -> GoTPipeline:
    """The pipeline that is named on the command line."""
    try:
        return GoTPipeline.from_pretrained(options.checkpoint, options.device, options.size)
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
    return _read_text(Path(options.chain))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable chain ({type(error).__name__})") from error


def _read_source(file: str | None) -> Image.Image | None:
    try:
        return None if file is None else open_image(Path(file))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
