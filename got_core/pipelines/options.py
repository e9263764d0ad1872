"""The options of `GoTPipeline.generate` and of all calls that generate, and checks of them before any work is done."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, TypedDict

from jaxtyping import Float
from torch import Generator, Tensor

from got_core.diffusion.sampling import Times, check_interval
from got_core.errors import did_you_mean
from got_core.pipelines.calls import OUTPUT_TYPES, Seed, one_each, positive_integer
from got_core.pipelines.inpainting import PreviousImages

if TYPE_CHECKING:
    from got_core.pipelines.pipeline import GoTPipeline

StepCallback = Callable[["GoTPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""As in diffusers: called with the pipeline, the step, its time and {"latents": ...}; may return such a dictionary."""

SCALES = ("semantic", "spatial", "reference")
"""Guidance scales; each is given to a call as an option whose name ends in `_scale`."""


class GenerationOptions(TypedDict, total=False):
    """Options of `GoTPipeline.generate`, which describes them; `__call__` and `edit` take them too."""

    num_inference_steps: int | None
    guidance_interval: Times | None
    exact: bool
    semantic_scale: float | None
    spatial_scale: float | None
    reference_scale: float | None
    keep: PreviousImages | None
    generator: Generator | Sequence[Generator] | None
    latents: Float[Tensor, "b c h w"] | None
    output_type: str
    return_dict: bool
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]


STEP_TENSORS = ("latents",)
"""What `callback_on_step_end` may be given."""

INSTEAD = {
    "guidance_scale": "semantic_scale, spatial_scale and reference_scale are the guidance scales of this pipeline",
    "image_guidance_scale": "reference_scale is the guidance by the source image",
    "negative_prompt": "an image is generated from its plan: take out of the plan what is not wanted (plan.remove)",
    "image": "edit(image, instruction) edits an image",
    "mask_image": "keep=image keeps an image except for the plan's boxes",
}
"""Arguments of other pipelines of diffusers, and what this one has in their place."""

PLANNING = ("height", "width", "temperature", "best_of")
"""Arguments of calls that plan, beside these options."""


def check_options(options: Mapping[str, Any], count: int, seed: Seed = None, others: Sequence[str] = ()) -> None:
    """Check the options of a call that generates `count` images.

    Args:
        options: Of `GenerationOptions`.
        count: Number of images.
        seed: Argument of the call.
        others: Further arguments that the call has.

    Raises:
        TypeError: There is no such option; names what there is instead, or one that is written alike.
        ValueError: An option cannot have this value, or does not go together with another.
    """
    known = (*GenerationOptions.__annotations__, "seed", *others)
    for name in options:
        if name not in known:
            raise TypeError(
                f"no such argument: {name}" + (f"; {INSTEAD[name]}" if name in INSTEAD else did_you_mean(name, known))
            )
    if seed is not None and options.get("generator") is not None:
        raise ValueError("seed and generator both say what the noise is: give one of the two")
    tensors = options.get("callback_on_step_end_tensor_inputs", STEP_TENSORS)
    if isinstance(tensors, str) or not set(tensors) <= set(STEP_TENSORS):
        raise ValueError(f"callback_on_step_end_tensor_inputs may list {', '.join(STEP_TENSORS)}, not {tensors!r}")
    if options.get("num_inference_steps") is not None:
        positive_integer(options["num_inference_steps"], "num_inference_steps")
    if options.get("guidance_interval") is not None:
        check_interval(options["guidance_interval"])
    for name in SCALES:
        if (scale := options.get(f"{name}_scale")) is not None and not isfinite(scale):
            raise ValueError(f"{name}_scale must be a finite number, not {scale}")
    if options.get("generator") is not None:
        one_each(options["generator"], count, Generator, "generators")
    if (output_type := options.get("output_type", "pil")) not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be 'pil', 'pt', 'np' or 'latent', not {output_type!r}")
