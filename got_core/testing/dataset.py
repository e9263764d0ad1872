"""The contract of a dataset of samples."""

import pickle
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from got_core.chain.parser import parse
from got_core.testing.common import require
from got_core.types import Sample


def check_dataset(dataset: Dataset[Sample], indices: Sequence[int] | None = None) -> None:
    """Check a dataset that a mixture may train on.

    Args:
        dataset: Any with a length; sample i depends only on i.
        indices: The samples that are checked; the first 16 by default.

    Raises:
        AssertionError: What does not hold: a length, samples of the right types, the same sample each time and after
            pickling (loaders' workers get a copy), a prompt, a chain without problems, a target and source of three
            channels and the sample's size with values in -1 to 1.
    """
    name = type(dataset).__name__
    require(hasattr(dataset, "__len__"), f"{name} has no length")
    length = len(dataset)  # type: ignore[arg-type]
    require(length > 0, f"{name} is empty")
    try:
        copy = pickle.loads(pickle.dumps(dataset))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise AssertionError(f"{name} cannot go to the loader's workers: {error}") from error
    for index in range(min(length, 16)) if indices is None else indices:
        sample = dataset[index]
        require(isinstance(sample, Sample), f"{name}[{index}] is a {type(sample).__name__}, not a Sample")
        _check_sample(f"{name}[{index}]", sample)
        require(_equal_samples(sample, dataset[index]), f"{name}[{index}] is another sample each time")
        require(_equal_samples(sample, copy[index]), f"{name}[{index}] is another sample in a copy")


def _check_sample(name: str, sample: Sample) -> None:
    require(bool(sample.prompt.strip()), f"{name} has no prompt")
    require(bool(sample.chain.strip()), f"{name} has no chain")
    problems = parse(sample.chain).problems
    require(not problems, f"{name} has a chain with problems: {problems[0] if problems else ''}")
    require(sample.target is not None, f"{name} has no target image")
    for what, image in {"target": sample.target, "source": sample.source}.items():
        if image is not None:
            wanted = (3, *sample.size)
            actual = f"{tuple(image.shape)} of {image.dtype}"
            require(tuple(image.shape) == wanted and image.is_floating_point(), f"{name} has a {what} {actual}")
            low, high = float(image.min()), float(image.max())
            require(-1 <= low <= high <= 1, f"{name} has a {what} with values from {low:.3g} to {high:.3g}")


def _equal_samples(one: Sample, other: Sample) -> bool:
    texts = all(getattr(one, name) == getattr(other, name) for name in ("prompt", "chain", "size", "earlier"))
    return texts and _equal_images(one.target, other.target) and _equal_images(one.source, other.source)


def _equal_images(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
