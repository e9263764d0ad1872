"""Arguments of the pipeline, looked at before any work is done."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from operator import index
from typing import Any, SupportsIndex, TypedDict

import numpy as np
from torch import Generator, Tensor

from got_core.data.images import Picture
from got_core.keeping import Former
from got_core.noise import sample_seeds
from got_core.pipeline_output import check_output_type

Seed = SupportsIndex | Sequence[SupportsIndex]
"""One for all images, of which each then has its own part, or one for each."""


class DrawingOptions(TypedDict, total=False):
    """Arguments of `GoTPipeline.draw` that a whole call takes too."""

    num_inference_steps: int | None
    semantic_scale: float | None
    spatial_scale: float | None
    reference_scale: float | None
    keep: Former | None
    generator: Generator | Sequence[Generator] | None
    output_type: str
    callback_on_step_end: Callable[..., Any] | None


def check_drawing(options: Mapping[str, Any], count: int) -> None:
    """See that images can be drawn as asked.

    Args:
        options: Of `DrawingOptions`.
        count: Images to be drawn.

    Raises:
        TypeError: There is no such option.
        ValueError: It has no such value.
    """
    if strange := options.keys() - DrawingOptions.__annotations__.keys():
        raise TypeError(f"no such argument: {', '.join(sorted(strange))}")
    if options.get("num_inference_steps") is not None:
        whole(options["num_inference_steps"], "num_inference_steps")
    for name in ("semantic_scale", "spatial_scale", "reference_scale"):
        if options.get(name) is not None and not isfinite(options[name]):
            raise ValueError(f"{name} must be a finite number, not {options[name]}")
    if options.get("generator") is not None:
        one_each(options["generator"], count, Generator, "generators")
    check_output_type(options.get("output_type", "pil"))


def check_temperature(temperature: float) -> None:
    """See that chains can be drawn at a temperature (ValueError otherwise)."""
    if not (isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be 0 or more, not {temperature}")


def whole(value: Any, name: str) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: It is none.
    """
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return number


def image_size(height: int | None, width: int | None, usual: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels, as asked or as usual (ValueError: no whole numbers)."""
    high, wide = usual
    return (
        high if height is None else whole(height, "height"),
        wide if width is None else whole(width, "width"),
    )


def seeds_of(seed: Any, count: int) -> list[int]:
    """A seed for each of `count` images.

    Raises:
        ValueError: No whole number, or not as many as images.
    """
    several_seeds = isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0
    try:
        given = [index(each) for each in seed] if several_seeds else index(seed)
    except TypeError:
        raise ValueError(f"a seed is a whole number, not {seed!r}") from None
    return sample_seeds(given, count)


def several(text: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list.

    Raises:
        ValueError: There is none, or something that is no text.
    """
    texts = [text] if isinstance(text, str) or not isinstance(text, Sequence) else list(text)
    if not texts:
        raise ValueError("there is no prompt")
    for each in texts:
        if not isinstance(each, str):
            raise ValueError(f"a prompt is a text, not {each!r}")
    return texts


def one_each(given: Any, count: int, kind: type | tuple[type, ...], name: str) -> list[Any]:
    """What is given for each of `count` plans, or once for all of them.

    Args:
        given: One of `kind`, or a sequence of them.
        count: How many are needed.
        kind: What a single one is.
        name: Of the argument, for errors.

    Raises:
        ValueError: Another number is given.
    """
    each = [given] * count if isinstance(given, kind) else list(given)
    if len(each) != count:
        raise ValueError(f"{len(each)} {name} for {count} plans: give one, or one for each")
    return each


def pictures_of(image: Any, count: int) -> list[Picture]:
    """A picture for each of `count` plans, from one, several, or a batch as `draw` returns it.

    Raises:
        ValueError: No pictures, or another number of them.
    """
    batched = isinstance(image, Tensor | np.ndarray) and image.ndim == 4
    if isinstance(image, list | tuple) or batched:
        return one_each(list(image), count, (), "images")
    return [image] * count
