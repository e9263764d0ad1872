"""Arguments of a pipeline: read, and checked before any work is done."""

from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from torch import Tensor

from got_core.data.images import ImageLike
from got_core.diffusion.sampling import sample_seeds
from got_core.errors import check_text

Seed = SupportsIndex | Sequence[SupportsIndex] | None
"""One seed for all images, from which each image gets its own, or a sequence with one for each image; None is 0."""


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
