"""How much of an image an edit has changed: in all, and outside the region that its chain plans to change."""

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from got_core.chain import parse
from got_core.evaluation.detection import pixels_of
from got_core.evaluation.perceptual import PerceptualDistance


def outside_plan(chain: str | None, size: tuple[int, int]) -> Bool[Tensor, "H W"] | None:
    """The pixels outside every box of a chain; None without a chain or a box in it, or where the boxes leave none."""
    regions = parse(chain or "").regions
    outside = torch.ones(size, dtype=torch.bool)
    for region in regions:
        outside[pixels_of(region.box, size)] = False
    return outside if regions and outside.any() else None


def pixel_figures(
    source: Float[Tensor, "3 H W"],
    output: Float[Tensor, "3 H W"],
    chain: str | None,
    perceptual: PerceptualDistance | None,
) -> dict[str, float]:
    """`l1` and `l2` (mean absolute and mean squared difference of channels in 0 to 1), `lpips` where it is at hand.

    With `_outside` behind the name, over the pixels outside the boxes of the chain, where there are both. LPIPS looks
    at surroundings, so for `lpips_outside` the boxes of the output are first filled with the source: what was changed
    within them does not count.

    Args:
        source: The image that was edited, in [-1, 1].
        output: What was made of it.
        chain: The chain it was drawn from.
        perceptual: LPIPS.
    """
    difference = (output - source).abs() / 2
    maps = {"l1": reduce(difference, "c h w -> h w", "mean"), "l2": reduce(difference**2, "c h w -> h w", "mean")}
    if perceptual is not None:
        maps["lpips"] = perceptual(source, output)
    figures = {name: float(values.mean()) for name, values in maps.items()}
    outside = outside_plan(chain, (output.shape[-2], output.shape[-1]))
    if outside is None:
        return figures
    outside = outside.to(output.device)
    if perceptual is not None:
        maps["lpips"] = perceptual(source, torch.where(rearrange(outside, "h w -> 1 h w"), output, source))
    return figures | {f"{name}_outside": float(values[outside].mean()) for name, values in maps.items()}
