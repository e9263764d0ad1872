"""Inpainting: a changed plan is generated while the rest of a previous image stays as it is.

After each step, latents outside the changed boxes become those of the previous image, at the noise level of that step
(Avrahami et al., "Blended Diffusion", CVPR 2022); after the last step its clean latents. A decoder sees beyond the
cell it decodes, and a codec is lossy, so at the end the previous pixels are put back outside the changed cells.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from got_core.chain.parser import Box, to_pixels
from got_core.data.images import ImageLike, image_tensor
from got_core.interfaces import LatentCodec, NoiseObjective, Scheduler
from got_core.pipelines.calls import GoTPipelineOutput, one_image_each
from got_core.planning.plan import Plan

MARGIN = 1
"""Latent cells around a changed box that may change with it."""

PreviousImages = GoTPipelineOutput | ImageLike | Sequence[ImageLike]
"""What `keep` takes: a previous output, or images, one for all plans or one for each."""


@dataclass(frozen=True)
class InpaintingInput:
    """A previous image and the boxes in which it is generated again.

    All outside the boxes is kept.

    Attributes:
        image: In [-1, 1].
        changed: The boxes.
        unchanged: Boxes of other objects. The margin of a changed box leaves them out; the box itself does not.
    """

    image: Float[Tensor, "3 H W"]
    changed: tuple[Box, ...]
    unchanged: tuple[Box, ...] = ()


def changed_boxes(before: Plan, after: Plan) -> tuple[Box, ...]:
    """List the boxes of regions that only one of two plans has: where an object was, and where one will be."""
    old, new = Counter(before.regions), Counter(after.regions)
    return tuple(region.box for region in [*(old - new).elements(), *(new - old).elements()])


def unchanged_boxes(before: Plan, after: Plan) -> tuple[Box, ...]:
    """List the boxes of regions that both plans have."""
    return tuple(region.box for region in (Counter(before.regions) & Counter(after.regions)).elements())


def inpainting_inputs(plans: Sequence[Plan], previous: PreviousImages) -> list[InpaintingInput]:
    """List previous images with the boxes that are generated again, one entry a plan.

    In a previous output these are the boxes that have changed since then; in an image alone, such as the source of an
    edit, all boxes of the plan.

    Raises:
        ValueError: Not as many previous images as plans, or something that is not an image.
    """
    count = len(plans)
    if isinstance(previous, GoTPipelineOutput):
        images = one_image_each(previous.images, count)
        pairs = list(zip(previous.plans, plans, strict=True))
        boxes = [(changed_boxes(*pair), unchanged_boxes(*pair)) for pair in pairs]
    else:
        images = one_image_each(previous, count)
        boxes = [(tuple(region.box for region in plan.regions), ()) for plan in plans]
    tensors = [image_tensor(image, plan.size) for image, plan in zip(images, plans, strict=True)]
    return [InpaintingInput(tensor, *own) for tensor, own in zip(tensors, boxes, strict=True)]


class LatentBlending:
    """Puts previous images back outside of the changed boxes while a batch is generated.

    Args:
        inputs: One for each image of the batch.
        codec, objective: Of the model that generates.
        scheduler: The very object that the batch is sampled with.
        noise: Standard normal noise that sampling starts from.
    """

    def __init__(
        self,
        inputs: Sequence[InpaintingInput],
        codec: LatentCodec,
        objective: NoiseObjective,
        scheduler: Scheduler,
        noise: Float[Tensor, "b c h w"],
    ) -> None:
        self.objective, self.scheduler, self.noise = objective, scheduler, noise
        self.images = torch.stack([each.image for each in inputs]).to(noise.device)
        self.latents = codec.encode(self.images).to(noise)
        height, width = noise.shape[-2:]
        masks = torch.stack([inpainting_mask(each, height, width) for each in inputs])
        self.mask = rearrange(masks, "b h w -> b 1 h w").to(noise.device)
        self.downsample = codec.downsample

    def blend(self, step: int, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Replace latents outside the mask by the previous ones, at the noise level after that step."""
        return torch.where(self.mask, latents, self._previous(step).to(latents))

    def restore_pixels(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Replace pixels outside the mask of generated images, in [-1, 1], by the previous ones."""
        mask = repeat(self.mask, "b 1 h w -> b 1 (h p) (w q)", p=self.downsample, q=self.downsample)
        return torch.where(mask, images, self.images.to(images))

    def _previous(self, step: int) -> Float[Tensor, "b c h w"]:
        times = self.scheduler.timesteps
        if step + 1 == len(times):
            return self.latents
        time = times[step + 1]
        noisy, _ = self.objective.corrupt(self.latents, self.noise, repeat(time.float(), "-> b", b=len(self.latents)))
        scale_input = getattr(self.scheduler, "scale_model_input", None)
        # A scheduler may hold latents at another scale than the backbone sees: its scaling of 1 says at which.
        return noisy if scale_input is None else noisy / scale_input(torch.ones_like(noisy), time)


def inpainting_mask(given: InpaintingInput, height: int, width: int) -> Bool[Tensor, "{height} {width}"]:
    """Mark the latent cells that changed boxes touch, and `MARGIN` more on every side outside unchanged boxes."""
    changed, unchanged = (_cells(boxes, height, width, 0) for boxes in (given.changed, given.unchanged))
    return changed | (_cells(given.changed, height, width, MARGIN) & ~unchanged)


def _cells(boxes: Sequence[Box], height: int, width: int, margin: int) -> Bool[Tensor, "{height} {width}"]:
    cells = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        left, top, right, bottom = to_pixels(box, height, width)
        rows = slice(max(floor(top) - margin, 0), ceil(bottom) + margin)
        cells[rows, max(floor(left) - margin, 0) : ceil(right) + margin] = True
    return cells
