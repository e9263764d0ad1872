"""What a pipeline returns: images of the requested type, with their plans."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers.utils import BaseOutput
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from got_core.chain.parser import Region
from got_core.data.visualization import to_pil
from got_core.planning.plan import Plan

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
