"""What calls of a pipeline take and return: options and arguments checked before any work, images with their plans."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, TypedDict
from warnings import warn

import numpy as np
import torch
from diffusers.utils import BaseOutput
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from got_core.chain.parser import Region
from got_core.data.images import ImageLike
from got_core.diffusion.sampling import Times, check_interval, sample_seeds
from got_core.errors import check_text, did_you_mean
from got_core.planning.plan import Plan
from got_core.types import to_pil

if TYPE_CHECKING:
    from got_core.pipelines.inpainting import PreviousImages
    from got_core.pipelines.pipeline import GoTPipeline

Seed = SupportsIndex | Sequence[SupportsIndex] | None
"""One seed for all images, from which each image gets its own, or a sequence with one for each image; None is 0."""


def default_device() -> torch.device:
    """Choose the accelerator if this machine has one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def positive_integer(value: Any, name: str) -> int:
    """Read an integer of at least 1; `name` is the argument's in the error (ValueError: it is not one)."""
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return number


def one_seed_each(seed: Any, count: int) -> list[int]:
    """List a seed for each of `count` images; None is 0 (ValueError: no integer, or not as many seeds as images)."""
    seed = 0 if seed is None else seed
    is_sequence = isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0
    try:
        seeds = [index(each) for each in seed] if is_sequence else index(seed)
    except TypeError:
        raise ValueError(f"a seed is a whole number, not {seed!r}") from None
    return sample_seeds(seeds, count)


def prompt_list(prompt: str | Sequence[str]) -> list[str]:
    """List one prompt or several (ValueError: an empty sequence, or something that is not a text)."""
    prompts = [prompt] if isinstance(prompt, str) or not isinstance(prompt, Sequence) else list(prompt)
    if not prompts:
        raise ValueError("at least one prompt is needed")
    for each in prompts:
        if not isinstance(each, str):
            raise ValueError(f"a prompt must be a string, not {each!r}")
        check_text(each)
    return prompts


def one_each(values: Any, count: int, kind: type | tuple[type, ...], name: str) -> list[Any]:
    """List a value for each of `count` plans.

    Args:
        values: One of type `kind`, which then serves for all plans, or a sequence of them.
        count: Number of plans.
        kind: Type of a single value.
        name: The argument's, for errors.

    Raises:
        ValueError: Not as many values as plans.
    """
    each = [values] * count if isinstance(values, kind) else list(values)
    if len(each) != count:
        raise ValueError(f"{len(each)} {name} for {count} plans: give one, or one for each")
    return each


def one_image_each(images: Any, count: int) -> list[ImageLike]:
    """List an image for each of `count` plans, from one image, several, or a batch as `GoTPipeline.generate` returns.

    Raises:
        ValueError: Not as many images as plans.
    """
    is_batch = isinstance(images, Tensor | np.ndarray) and images.ndim == 4
    several = is_batch or isinstance(images, list | tuple)
    return one_each(list(images), count, (), "images") if several else [images] * count


OutputImages = list[Image.Image] | Float[Tensor, "b 3 H W"] | Float[np.ndarray, "b H W 3"] | Float[Tensor, "b c h w"]
"""PIL images ("pil"), a tensor in [0, 1] ("pt"), an array in [0, 1] with channels last ("np"), or latents ("latent").

As in diffusers. `GoTPipeline.preview` decodes latents.
"""

LATENT = "latent"
OUTPUT_TYPES = ("pil", "pt", "np", LATENT)


@dataclass(frozen=True)
class GoTPipelineOutput(BaseOutput):
    """Images and the plans they were generated from.

    As outputs of diffusers it is also indexed: `output[0]` and `output["images"]` are the images.

    Attributes:
        images: Of the requested type.
        plans: The plan of each image.
        seeds: The seed of each image's noise: `seed=[n]` generates that image again alone. None where the noise was
            given, or generators of it.
    """

    images: OutputImages
    plans: tuple[Plan, ...]
    seeds: tuple[int, ...] | None

    @property
    def chains(self) -> tuple[str, ...]:
        """The reasoning chain of each image."""
        return tuple(plan.chain for plan in self.plans)

    @property
    def regions(self) -> tuple[tuple[Region, ...], ...]:
        """The planned regions of each image."""
        return tuple(plan.regions for plan in self.plans)


if TYPE_CHECKING:
    Returned = GoTPipelineOutput
else:
    Returned = GoTPipelineOutput | tuple[Any, ...]
"""What calls return: a tuple under `return_dict=False` alone, which a type checker is not bothered with."""


def to_output_type(images: Float[Tensor, "b 3 H W"], output_type: str) -> OutputImages:
    """Convert images in [-1, 1] to "pil", "pt" or "np"."""
    if output_type == "pil":
        return [to_pil(image) for image in images]
    unit = (images.float() + 1) / 2
    return unit if output_type == "pt" else rearrange(unit.cpu().numpy(), "b c h w -> b h w c")


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
    keep: "PreviousImages | None"
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


def check_latents(options: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Check the shape of latents, if the options have any (ValueError: it is another one)."""
    latents = options.get("latents")
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents of shape {tuple(latents.shape)} were given; {shape} is needed here")


FAR = 2.0
"""A side more than this many times longer or shorter than in training is far from it."""


ROOM = 1.25
"""Most pixels of an edit, over those of the pipeline's images; a source longer than that allows is squashed."""


def proportionate(source: tuple[int, int], size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the (height, width) of an edit: the source's proportions, with about as many pixels as `size`.

    A source that is so large already keeps its size, so edits of an edit do too.

    Args:
        source: (height, width) of the image to edit.
        size: Of images of the pipeline.
        multiple: Of both sides.
    """
    pixels, own = size[0] * size[1], source[0] * source[1]
    if source[0] * size[1] == source[1] * size[0]:
        return size
    if all(side % multiple == 0 for side in source) and 1 / ROOM < own / pixels < ROOM:
        return source
    scale = sqrt(pixels / own)
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in source)
    longest = max(multiple, int(ROOM * pixels / min(height, width)) // multiple * multiple)
    return min(height, longest), min(width, longest)


def warn_if_far(size: tuple[int, int], trained: tuple[int, int]) -> None:
    """Warn of a size (height, width) of which hardly any image was trained."""
    if not all(1 / FAR <= side / own <= FAR for side, own in zip(size, trained, strict=True)):
        warn(
            f"this model was trained for images of {trained[0]}x{trained[1]} pixels; "
            f"at {size[0]}x{size[1]} expect objects that are missing, repeated or out of place",
            stacklevel=4,
        )
