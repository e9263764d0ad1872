"""`got generate`, `got edit` and `got reason`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from got_core.cli.parsing import Count, Seed, Size
from got_core.errors import UserError, as_user_error, one_line
from got_core.paths import BUNDLED_MODEL, importing

if TYPE_CHECKING:
    from PIL import Image

    from got_core.pipelines.inpainting import PreviousImages
    from got_core.pipelines.pipeline import GoTPipeline
    from got_core.planning.plan import Plan

NAMED = 3
"""Problems of a chain or a plan that are named; the others are counted."""

IMAGE, LAYOUT, CHAIN = "image.png", "layout.png", "chain.txt"
"""What is written of each image; all in one folder."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model it is.

    Attributes:
        checkpoint: Run folder or checkpoint, or a hub id; by default the small bundled model of coloured shapes.
        size: Of images as HEIGHTxWIDTH in pixels; by default as trained, of edits in the source's proportions.
        device: Such as cuda or cpu; by default the best available.
        dtype: Precision of the weights; by default the recipe's.
        bits: 8 or 4, of the weights of linear layers, which then take less memory; images differ a little.
        offload: Keep weights in host memory, and on the device those of the component that computes (model), or of the
            layer (layer), which is slow.
        tiling: Decode large images in tiles, which takes less memory.
        trust_code: A folder of Python files that the model's classes may be in, beside installed packages; it runs.
    """

    checkpoint: str = BUNDLED_MODEL
    size: Size | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    bits: Literal[8, 4] | None = None
    offload: Literal["model", "layer"] | None = None
    tiling: bool = False
    trust_code: str | None = None


@dataclass(frozen=True, kw_only=True)
class Planning(Model):
    """Which model plans, and how.

    Attributes:
        seed: Of the chain and of the image.
        temperature: Of the chain; 0 is greedy.
        best_of: Plans to choose the one with the fewest problems from.
        repair: Swap and move boxes where that mends the plan.
    """

    seed: Seed = 0
    temperature: float = 0.0
    best_of: Count = 1
    repair: bool = False


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is generated, and how.

    Attributes:
        output: Folder that gets image.png, layout.png and chain.txt; of several images, folders 0, 1, 2 ... in it.
        overwrite: Replace files that are already there.
        num: Images of each prompt. The first is that of --seed, the next that of the seed after it.
        prompts: File with one prompt or instruction a line, in place of the one on the command line.
        chain: File with the chain to generate from; none is written then.
        change: Change the plan first, several times if need be: 'move N DX DY', 'move N to X Y',
            'resize N X1 Y1 X2 Y2', 'replace N WORDS', 'recolour N COLOUR', 'add WORDS at X1 Y1 X2 Y2', 'remove N'.
            Regions are counted from 0; positions are thousandths of the image.
        keep: An image generated before: only what differs from the chain.txt beside it is generated again, or all
            boxes where there is none.
        steps: Denoising steps; by default the model's own.
        exact: The full procedure of sampling, where the model has a fast one.
        scheduler: Of diffusers, such as UniPCMultistepScheduler; by default the model's own.
        semantic_scale: Guidance by the reasoning's summary.
        spatial_scale: Guidance by the planned boxes.
        reference_scale: Guidance by the source image.
    """

    output: str = "out"
    overwrite: bool = False
    num: Count = 1
    prompts: str | None = None
    chain: str | None = None
    change: Sequence[str] = ()
    keep: str | None = None
    steps: Count | None = None
    exact: bool = False
    scheduler: str | None = None
    semantic_scale: float | None = None
    spatial_scale: float | None = None
    reference_scale: float | None = None


def generate(prompt: str, planning: Planning, generation: Generation) -> None:
    """Generate images from prompts.

    Args:
        prompt: What to generate; "" with --prompts, and if there is nothing to add to --chain.
        planning: Which model plans, and how.
        generation: What is generated, and how.

    Raises:
        UserError: What is wrong with the model, the chain or a change.

    Example:
        got generate "a red circle and a blue square" --seed 1 --num 4 --output out
    """
    _generate(prompt, planning, generation)


def edit(source: str, instruction: str, planning: Planning, generation: Generation, *, keep_rest: bool = False) -> None:
    """Edit an image by an instruction.

    Args:
        source: Image file.
        instruction: What to change; "" with --prompts, and if there is nothing to add to --chain.
        planning: Which model plans, and how.
        generation: What is generated, and how.
        keep_rest: Keep the source as it is outside the planned boxes.

    Raises:
        UserError: What is wrong with the source, the model, the chain or a change.

    Example:
        got edit image.png "make the circle green" --output edited
    """
    _generate(instruction, planning, generation, source, keep_rest)


def reason(prompt: str, planning: Planning, *, source: str | None = None) -> None:
    """Print only the reasoning chain.

    Args:
        prompt: A prompt, or an instruction with --source.
        planning: Which model plans, and how.
        source: Image to edit.

    Raises:
        UserError: What is wrong with the source or the model.

    Example:
        got reason "a red circle and a blue square"
    """
    from got_core.planning.check import repaired

    image = _read_source(source)
    pipeline = open_pipeline(planning)
    with as_user_error(ValueError):
        plan = _write_plan(prompt, planning, pipeline, image)
    _show(planning, repaired(plan) if planning.repair else plan)


def _generate(
    prompt: str, planning: Planning, generation: Generation, source: str | None = None, keep_rest: bool = False
) -> None:
    """Generate each image that is wanted and write it at once; nothing is planned if one could not be written."""
    prompts = _prompts(prompt, generation)
    chain = None if generation.chain is None else _read_chain(Path(generation.chain))
    image = _read_source(source)
    wanted = list(_wanted(prompts, planning.seed, generation))
    if not generation.overwrite:
        for folder, _, _ in wanted:
            for name in (IMAGE, LAYOUT, CHAIN):
                if (folder / name).exists():
                    raise UserError(f"{folder / name} already exists: choose another --output, or add --overwrite")
    pipeline = open_pipeline(planning)
    pipeline.set_progress_bar_config(disable=None)  # Shown only in a terminal.
    if generation.scheduler is not None:
        _set_scheduler(pipeline, generation.scheduler)
    plans: dict[str, Plan] = {}
    for folder, each, seed in wanted:
        own = replace(planning, seed=seed)
        # Such as a size that codec or backbone cannot divide, or a change that cannot be made.
        with as_user_error(ValueError):
            if chain is not None:
                plan = pipeline.given_plan(chain, each, image, planning.size)
            elif planning.temperature or planning.best_of > 1 or each not in plans:
                plan = plans[each] = _write_plan(each, own, pipeline, image)
            else:
                plan = plans[each]
            _generate_one(pipeline, plan, image, own, generation, folder, keep_rest)


def _prompts(prompt: str, generation: Generation) -> list[str]:
    """List the prompts, that of the command line or those of a file."""
    if generation.prompts is None:
        if generation.chain is None and not prompt.strip():
            raise UserError("an empty prompt needs --chain FILE to generate from, or --prompts FILE")
        return [prompt]
    if prompt.strip() or generation.chain is not None:
        other = "a prompt" if prompt.strip() else "--chain"
        raise UserError(f'--prompts and {other} both say what to generate: give one of the two (with --prompts, "")')
    file = Path(generation.prompts)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable file of prompts ({type(error).__name__})") from error
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"{file}: there is no prompt in it; write one a line")
    return prompts


def _wanted(prompts: Sequence[str], seed: int, generation: Generation) -> Iterator[tuple[Path, str, int]]:
    """Yield folder, prompt and seed of each image."""
    folder = Path(generation.output)
    several = len(prompts) * generation.num > 1
    for index, prompt in enumerate(prompts):
        for turn in range(generation.num):
            yield folder / str(index * generation.num + turn) if several else folder, prompt, seed + turn


def _set_scheduler(pipeline: "GoTPipeline", name: str) -> None:
    from got_core.diffusion.schedulers import scheduler_named

    try:
        pipeline.scheduler = scheduler_named(pipeline.model.objective, name)
    except ValueError as error:
        # What follows in the message is about Python.
        raise UserError(f"--scheduler {name}: {one_line(error).partition(';')[0]}") from error


def _generate_one(
    pipeline: "GoTPipeline",
    plan: "Plan",
    image: "Image.Image | None",
    planning: Planning,
    generation: Generation,
    folder: Path,
    keep_rest: bool,
) -> None:
    """Change a plan, generate its image, and write image, layout and chain."""
    from got_core.data.visualization import draw_layout
    from got_core.planning.check import repaired
    from got_core.planning.plan import changed

    for change in generation.change:
        plan = changed(plan, change)
    plan = repaired(plan) if planning.repair else plan
    output = pipeline.generate(
        plan,
        keep=(image if keep_rest else None) if generation.keep is None else _previous(generation.keep, plan),
        seed=planning.seed,
        num_inference_steps=generation.steps,
        exact=generation.exact,
        semantic_scale=generation.semantic_scale,
        spatial_scale=generation.spatial_scale,
        reference_scale=generation.reference_scale,
    )
    (result,) = output.images
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / IMAGE)
        draw_layout(result, plan.chain).save(folder / LAYOUT)
        (folder / CHAIN).write_text(plan.chain + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error})") from error
    _show(planning, plan)
    print(folder / IMAGE)


def _write_plan(prompt: str, planning: Planning, pipeline: "GoTPipeline", source: "Image.Image | None") -> "Plan":
    height, width = planning.size or (None, None)
    (plan,) = pipeline.plan(
        prompt,
        source,
        height=height,
        width=width,
        seed=planning.seed,
        temperature=planning.temperature,
        best_of=planning.best_of,
    )
    return plan


def _show(model: Model, plan: "Plan") -> None:
    """Print the chain; on stderr its problems, and what the small model knows if it planned nothing of the prompt."""
    from got_core.planning.check import MALFORMED, OUTSIDE, plan_problems

    print(plan.chain)
    problems = plan_problems(plan)
    of_chain = [problem.message for problem in problems if problem.kind in (MALFORMED, OUTSIDE)]
    of_plan = [problem.message for problem in problems if problem.kind not in (MALFORMED, OUTSIDE)]
    for about, messages in (("chain", of_chain), ("plan", of_plan)):
        if messages:
            more = f"; and {len(messages) - NAMED:,} more" if len(messages) > NAMED else ""
            print(f"got: {about}: {'; '.join(messages[:NAMED])}{more}", file=sys.stderr)
    prompt, names = plan.prompt.lower(), [r.phrase.split()[-1] for r in plan.regions if r.phrase.strip()]
    bundled = model.checkpoint == BUNDLED_MODEL and plan.source is None
    if bundled and prompt and not any(name in prompt for name in names):
        print("got: the bundled model knows coloured circles, squares and triangles alone", file=sys.stderr)


def _previous(file: str, plan: "Plan") -> "PreviousImages | None":
    """Read an image that was generated before, with the plan beside it if there is one."""
    from got_core.pipelines.calls import GoTPipelineOutput

    image, chain = _read_source(file), Path(file).with_name(CHAIN)
    if image is None or not chain.is_file():
        return image
    return GoTPipelineOutput([image], (plan.with_chain(_read_chain(chain)),), None)


def open_pipeline(model: Model) -> "GoTPipeline":
    """Open the model that is named on the command line.

    Raises:
        UserError: There is no such model, or its device or size cannot be used.
    """
    if model.bits and model.offload:
        raise UserError("--bits and --offload: weights in 8 or 4 bits are not offloaded; give one of the two")
    with importing():
        import torch

        from got_core.pipelines.pipeline import GoTPipeline
    try:
        with as_user_error(FileNotFoundError, ValueError):
            pipe = GoTPipeline.from_pretrained(
                model.checkpoint,
                "cpu" if model.offload else model.device,
                model.size,
                dtype=model.dtype and getattr(torch, model.dtype),
                bits=model.bits,
                trust_code=model.trust_code,
            )
            if model.offload == "model":
                pipe.enable_model_cpu_offload(model.device)
            elif model.offload == "layer":
                pipe.enable_sequential_cpu_offload(model.device)
            if model.tiling:
                pipe.enable_vae_tiling()
            return pipe
    except RuntimeError as error:
        if model.device is None:
            raise
        raise UserError(f"--device {model.device}: {one_line(error)}") from error


def _read_chain(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable chain ({type(error).__name__})") from error


def _read_source(file: str | None) -> "Image.Image | None":
    from got_core.data.images import open_image

    with as_user_error(FileNotFoundError, ValueError):
        return None if file is None else open_image(Path(file))
