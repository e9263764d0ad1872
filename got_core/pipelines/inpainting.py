"""Only what was changed changes: the rest of a former picture is held still while a changed plan is drawn.

After each step, latents outside the changed boxes are those of the former picture under as much noise as that step
leaves (Avrahami et al., "Blended Diffusion", CVPR 2022); after the last one they are its own. A decoder sees beyond the
cell it decodes, and a codec loses something, so outside the changed cells the former pixels are put back at the end.
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
from got_core.pipelines.output import GoTPipelineOutput
from got_core.planning.plan import Plan

MARGIN = 1
"""Latent cells around a changed box that may change with it."""

Previous = GoTPipelineOutput | ImageLike | Sequence[ImageLike]
"""What is held still: a former output, or pictures, one for all plans or one for each."""


@dataclass(frozen=True)
class Kept:
    """A picture that stays but for some boxes.

    Attributes:
        image: In [-1, 1].
        changed: Boxes in which it is drawn anew.
        still: Boxes of what stays, which a changed box nearby leaves alone unless it reaches into them.
    """

    image: Float[Tensor, "3 H W"]
    changed: tuple[Box, ...]
    still: tuple[Box, ...] = ()


def changed_boxes(before: Plan, after: Plan) -> tuple[Box, ...]:
    """Boxes of the regions that only one of two plans has: where something was, and where something will be."""
    old, new = Counter(before.regions), Counter(after.regions)
    return tuple(region.box for region in [*(old - new).elements(), *(new - old).elements()])


def unchanged_boxes(before: Plan, after: Plan) -> tuple[Box, ...]:
    """Boxes of the regions that both plans have."""
    return tuple(region.box for region in (Counter(before.regions) & Counter(after.regions)).elements())


def kept_of(plans: Sequence[Plan], former: Previous) -> list[Kept]:
    """What is kept while plans are drawn.

    Of a former output all but what has changed since; of a picture alone all but the boxes of the plan, as an edit has
    its source.

    Raises:
        ValueError: Not as many former pictures as plans, or pictures of no such kind.
    """
    if isinstance(former, GoTPipelineOutput):
        pictures = list(former.images)
        changed = [changed_boxes(old, new) for old, new in zip(former.plans, plans, strict=False)]
        still = [unchanged_boxes(old, new) for old, new in zip(former.plans, plans, strict=False)]
    else:
        alone = (isinstance(former, Tensor) and former.ndim == 3) or not isinstance(former, Sequence | Tensor)
        pictures = [former] * len(plans) if alone else list(former)  # type: ignore[arg-type]
        changed = [tuple(region.box for region in plan.regions) for plan in plans]
        still = [()] * len(plans)
    if len(pictures) != len(plans):
        raise ValueError(f"{len(pictures)} pictures to keep for {len(plans)} plans")
    images = [image_tensor(picture, plan.size) for picture, plan in zip(pictures, plans, strict=True)]
    return [Kept(*each) for each in zip(images, changed, still, strict=True)]


class StillRest:
    """Holds the rest of pictures still; one for each drawing of a batch.

    Args:
        kept: One for each picture that is drawn.
        codec, objective: Of the system that draws.
        scheduler: That the drawing is made with, the very one.
        noise: That the drawing begins with.
    """

    def __init__(
        self,
        kept: Sequence[Kept],
        codec: LatentCodec,
        objective: NoiseObjective,
        scheduler: Scheduler,
        noise: Float[Tensor, "b c h w"],
    ) -> None:
        self.objective, self.scheduler, self.noise = objective, scheduler, noise
        self.images = torch.stack([entry.image for entry in kept]).to(noise.device)
        self.latents = codec.encode(self.images).to(noise)
        height, width = noise.shape[-2:]
        self.free = torch.stack([free_cells(entry, height, width) for entry in kept]).to(noise.device)
        self.downsample = codec.downsample

    def after_step(self, step: int, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The latents with the rest put back, under the noise that is left after that step."""
        return torch.where(rearrange(self.free, "b h w -> b 1 h w"), latents, self._rest(step).to(latents))

    def restored(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Drawn images in [-1, 1] with the former pixels outside of what may change."""
        cells = repeat(self.free, "b h w -> b 1 (h p) (w q)", p=self.downsample, q=self.downsample)
        return torch.where(cells, images, self.images.to(images))

    def _rest(self, step: int) -> Float[Tensor, "b c h w"]:
        times = self.scheduler.timesteps
        if step + 1 == len(times):
            return self.latents
        time = times[step + 1]
        noisy, _ = self.objective.corrupt(self.latents, self.noise, repeat(time.float(), "-> b", b=len(self.latents)))
        scale_input = getattr(self.scheduler, "scale_model_input", None)
        # A scheduler may carry latents at another scale than the backbone sees: what it makes of 1 says at which.
        return noisy if scale_input is None else noisy / scale_input(torch.ones_like(noisy), time)


def free_cells(kept: Kept, height: int, width: int) -> Bool[Tensor, "{height} {width}"]:
    """The cells of a latent that changed boxes touch, and `MARGIN` more on every side where nothing else stands."""
    near, still = (_touched(boxes, height, width, by) for boxes, by in ((kept.changed, MARGIN), (kept.still, 0)))
    return _touched(kept.changed, height, width, 0) | (near & ~still)


def _touched(boxes: Sequence[Box], height: int, width: int, margin: int) -> Bool[Tensor, "{height} {width}"]:
    cells = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        left, top, right, bottom = to_pixels(box, height, width)
        rows = slice(max(floor(top) - margin, 0), ceil(bottom) + margin)
        cells[rows, max(floor(left) - margin, 0) : ceil(right) + margin] = True
    return cells
