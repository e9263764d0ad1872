"""What a pipeline returns: images in the form that is asked for, with their plans."""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from got_core.chain.parser import Region
from got_core.data.visualization import to_pil
from got_core.planning.plan import Plan

OutputImages = list[Image.Image] | Float[Tensor, "b 3 H W"] | Float[np.ndarray, "b H W 3"]
"""PIL images ("pil"), a tensor in [0, 1] ("pt"), or an array in [0, 1] with channels last ("np"); as in diffusers."""


@dataclass(frozen=True)
class GoTPipelineOutput:
    """Images and what they were drawn from.

    Attributes:
        images: Of the type that was asked for.
        plans: The plan of each image.
        seeds: The seed of each image's noise: `seed=[n]` draws that image again alone. None under generators.
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


def check_output_type(output_type: str) -> None:
    """See that images can be had in a form (ValueError otherwise)."""
    if output_type not in ("pil", "pt", "np"):
        raise ValueError(f"output_type must be 'pil', 'pt' or 'np', not {output_type!r}")


def to_output_type(images: Float[Tensor, "b 3 H W"], output_type: str) -> OutputImages:
    """Images in [-1, 1] in the form that is asked for.

    Raises:
        ValueError: There is no such form.
    """
    check_output_type(output_type)
    if output_type == "pil":
        return [to_pil(image) for image in images]
    shares = (images.float() + 1) / 2
    if output_type == "pt":
        return shares
    return rearrange(shares.cpu().numpy(), "b c h w -> b h w c")
