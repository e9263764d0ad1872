"""The semantic-spatial guidance module of GoT (section 4.2), with its colour-coded box masks."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from PIL import ImageColor
from torch import Tensor, nn

from got_core.chain.parser import SIDE, Region, colour_of, parse
from got_core.interfaces import GuidanceEncoder, LatentCodec, Precomputed
from got_core.types import BLACK, REFERENCE, SPATIAL, Batch, Guidance, Reasoning

PALETTE = (
    "red",
    "lime",
    "blue",
    "yellow",
    "magenta",
    "cyan",
    "white",
    "orange",
    "purple",
    "green",
    "pink",
    "brown",
    "gray",
    "olive",
    "teal",
    "navy",
)
"""The colours of a chain's regions, in turn."""

UNSEEN = "black"
"""The colour of the canvas itself."""

Palette = Literal["order", "words", "named"]
BoxEdges = Literal["inclusive", "nearest"]
Canvas = tuple[tuple[int, int, int, int], str]
"""An image with one box: its corners (x1, y1, x2, y2) in thousandths, and its CSS colour."""

PIXELS_AT_ONCE_ON_CPU, PIXELS_AT_ONCE = 2**16, 2**20
"""Images that the codec encodes at a time have so many pixels together: more need more memory and are no faster."""


def painted(regions: Sequence[Region], palette: Palette) -> list[Region]:
    """Return the regions that get a canvas: all, or under "named" those with a colour behind their box."""
    return [region for region in regions if palette != "named" or region.colour is not None]


def colours(regions: Sequence[Region], palette: Palette) -> list[str]:
    """Return a CSS colour for each region of one chain that is painted.

    Args:
        regions: In the order of the chain.
        palette: "order" takes the colours of `PALETTE` in turn; "words" the colour that the chain names for the region,
            and the one in turn for a region without a colour, or a black one, which would be invisible; "named", as in
            the released code, only the colour behind the box.
    """
    if palette == "named":
        return [region.colour or UNSEEN for region in regions]
    in_turn = [PALETTE[index % len(PALETTE)] for index in range(len(regions))]
    if palette == "order":
        return in_turn
    named = [colour_of(region) for region in regions]
    return [other if name in (None, UNSEEN) else name for name, other in zip(named, in_turn, strict=True)]


def draw(
    boxes: Sequence[tuple[int, int, int, int]],
    names: Sequence[str],
    size: tuple[int, int],
    device: torch.device,
    edges: BoxEdges = "inclusive",
) -> Float[Tensor, "k 3 H W"]:
    """Draw one black image for each box, with the box filled in its colour; the thinnest box covers one pixel.

    Args:
        boxes: (x1, y1, x2, y2) in thousandths of width and height.
        names: CSS colour names, one for each box.
        size: (height, width) in pixels.
        device: Of the images.
        edges: "inclusive" truncates coordinates to pixels and fills both end pixels, as PIL's `ImageDraw.rectangle` in
            the released code; "nearest" rounds them to edges between pixels, so that boxes of whole pixels are exact.

    Returns:
        Images of shape (k, 3, H, W) in [-1, 1].
    """
    height, width = size
    rgb = [ImageColor.getrgb(name)[:3] for name in names]
    colour = torch.tensor(rgb, dtype=torch.float32, device=device) * 2 / 255 - 1
    corners = torch.tensor(boxes, device=device)
    inside_x = _inside(corners[:, 0], corners[:, 2], width, edges)
    inside_y = _inside(corners[:, 1], corners[:, 3], height, edges)
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(inside, colour[:, :, None, None], BLACK)


def _inside(low: Tensor, high: Tensor, side: int, edges: BoxEdges) -> Tensor:
    """Return whether each of `side` pixels (columns) is between the two edges of each box (rows).

    All is computed in integers, so that it is the same on all devices.
    """
    if edges == "inclusive":
        first, beyond = low * side // SIDE, high * side // SIDE + 1
    else:
        first = _nearest(low, side).clamp(max=side - 1)
        beyond = torch.maximum(_nearest(high, side), first + 1)
    pixels = torch.arange(side, device=low.device)
    return (pixels >= first[:, None]) & (pixels < beyond[:, None])


def _nearest(coordinate: Tensor, side: int) -> Tensor:
    """Return the nearest edge between pixels."""
    return (coordinate * side + SIDE // 2) // SIDE


class SemanticSpatialGuidance(GuidanceEncoder):
    """Projects the reasoner's states, draws its boxes as colour-coded masks, and encodes masks and source image.

    Nulls, as in the reference: tokens become the projection of zero states, spatial and reference guidance zero
    latents; the pooled vector stays.

    Args:
        state_dim: Width of the reasoner's states.
        token_dim: Width of the tokens, that of the backbone's cross-attention.
        pooled_dim: Width of the pooled vector, the mean of a second projection; None to make none.
        spatial_channels: The codec's latent channels, or None for no spatial guidance.
        reference_channels: The codec's latent channels, or None for no reference guidance.
        palette: Boxes are coloured by their "order", by the colours that the chain's "words" name, or, as the released
            weights expect, by a colour "named" behind the box; boxes without one are then not drawn.
        box_edges: Which pixels a box covers: see `draw`.
        scaled: Whether masks and source image are latents with the codec's scale and shift; not in the reference.
    """

    def __init__(
        self,
        state_dim: int,
        token_dim: int,
        pooled_dim: int | None = None,
        spatial_channels: int | None = None,
        reference_channels: int | None = None,
        palette: Palette = "order",
        scaled: bool = False,
        box_edges: BoxEdges = "inclusive",
    ):
        super().__init__()
        self.state_dim = state_dim
        self.token_dim = token_dim
        self.pooled_dim = pooled_dim
        self.spatial_channels = spatial_channels
        self.reference_channels = reference_channels
        self.palette: Palette = palette
        self.box_edges: BoxEdges = box_edges
        self.scaled = scaled
        self.projector = nn.Linear(state_dim, token_dim)
        self.pooled_projector = None if pooled_dim is None else nn.Linear(state_dim, pooled_dim)

    def forward(self, reasoning: Reasoning, batch: Batch, codec: LatentCodec) -> Guidance:
        """Encode states (b, n, d), the boxes of the chains, and the source images into guidance.

        Raises:
            ValueError: The codec's latents have other channels than the spatial or reference guidance.
        """
        states = reasoning.states.to(self.projector.weight.dtype)
        pooled = None
        if self.pooled_projector is not None:
            pooled = reduce(self.pooled_projector(states), "b n d -> b d", "mean")
        if batch.precomputed and reasoning.chains == batch.chains:
            spatial, reference = (batch.precomputed.get(name) for name in (SPATIAL, REFERENCE))
        else:
            spatial, reference = self._maps(reasoning.chains, batch, codec)
        return Guidance(self.projector(states), pooled, spatial, reference)

    def precompute(self, batch: Batch, codec: LatentCodec) -> Precomputed:
        """Compute the latents of each sample's boxes and of its source image."""
        maps = zip((SPATIAL, REFERENCE), self._maps(batch.chains, batch, codec), strict=True)
        return {name: latents.unbind() for name, latents in maps if latents is not None}

    def precomputed_by(self) -> dict[str, Any]:
        """Return what the boxes' pixels and the latents' scale depend on, and which latents are made."""
        made = {"spatial latents": self.spatial_channels, "reference latents": self.reference_channels}
        return {"palette": self.palette, "box_edges": self.box_edges, "scaled": self.scaled, **made}

    def drop(
        self,
        guidance: Guidance,
        semantic: Bool[Tensor, " b"],
        spatial: Bool[Tensor, " b"],
        reference: Bool[Tensor, " b"],
    ) -> Guidance:
        """Replace guidance by nulls where the masks are True; see the class."""
        null = self.projector(guidance.tokens.new_zeros(1, 1, self.state_dim)).to(guidance.tokens.dtype)
        return Guidance(
            tokens=torch.where(rearrange(semantic, "b -> b 1 1"), null, guidance.tokens),
            pooled=guidance.pooled,
            spatial=_zero_where(spatial, guidance.spatial),
            reference=_zero_where(reference, guidance.reference),
        )

    def _maps(self, chains: Sequence[str], batch: Batch, codec: LatentCodec) -> tuple[Tensor | None, Tensor | None]:
        """Return (spatial, reference): latents of sources and canvases, of black where a sample has none.

        Each image is encoded once: equal canvases of the batch, and black if it is needed.
        """
        for kind, channels in (("spatial", self.spatial_channels), ("reference", self.reference_channels)):
            if channels not in (None, codec.latent_channels):
                raise ValueError(f"{kind}_channels is {channels}, but the codec makes {codec.latent_channels} channels")
        if self.spatial_channels is None and self.reference_channels is None:
            return None, None
        given = torch.zeros_like(batch.has_source) if self.reference_channels is None else batch.has_source
        canvases = [[] if self.spatial_channels is None else self._canvases(chain) for chain in chains]
        distinct = list(dict.fromkeys(canvas for of_chain in canvases for canvas in of_chain))
        black = torch.full_like(batch.source[:1], BLACK)
        needed = (self.spatial_channels is not None and not all(canvases)) or (
            self.reference_channels is not None and not bool(given.all())
        )
        images = torch.cat([batch.source[given], black]) if needed else batch.source[given]
        latents = self._encode(images, distinct, codec)
        sources, blacks, of_canvases = latents.tensor_split((int(given.sum()), len(images)))
        spatial = reference = None
        if self.spatial_channels is not None:
            spatial = _means(canvases, distinct, of_canvases, blacks)
        if self.reference_channels is not None:
            reference = latents.new_empty(len(batch), *latents.shape[1:])
            reference[given], reference[~given] = sources, blacks
        return spatial, reference

    def _canvases(self, chain: str) -> list[Canvas]:
        regions = painted(parse(chain).regions, self.palette)
        return [(region.box, name) for region, name in zip(regions, colours(regions, self.palette), strict=True)]

    def _encode(
        self, images: Float[Tensor, "i 3 H W"], canvases: Sequence[Canvas], codec: LatentCodec
    ) -> Float[Tensor, "k c h w"]:
        """Encode images, then canvases, which are drawn a few at a time: memory does not grow with their number."""
        size = (images.shape[-2], images.shape[-1])
        pixels = PIXELS_AT_ONCE_ON_CPU if images.device.type == "cpu" else PIXELS_AT_ONCE
        at_once = max(1, pixels // (size[0] * size[1]))
        latents = []
        for start in range(0, len(images) + len(canvases), at_once):
            part = [images[start : start + at_once]]
            first = max(0, start - len(images))
            if few := canvases[first : max(0, start + at_once - len(images))]:
                boxes, names = zip(*few, strict=True)
                part.append(draw(boxes, names, size, images.device, self.box_edges).to(images.dtype))
            latents.append(codec.encode(torch.cat(part), scaled=self.scaled))
        return torch.cat(latents)


def _means(
    canvases: Sequence[Sequence[Canvas]],
    distinct: Sequence[Canvas],
    latents: Float[Tensor, "k c h w"],
    black: Float[Tensor, "_n c h w"],
) -> Float[Tensor, "b c h w"]:
    """Return the mean of the latents of each sample's canvases, or black for a sample without any."""
    places = {canvas: place for place, canvas in enumerate(distinct)}
    rows = [latents[[places[canvas] for canvas in own]].mean(dim=0, keepdim=True) if own else black for own in canvases]
    return torch.cat(rows)


def _zero_where(mask: Bool[Tensor, " b"], maps: Float[Tensor, "b c h w"] | None) -> Float[Tensor, "b c h w"] | None:
    return None if maps is None else maps.masked_fill(rearrange(mask, "b -> b 1 1 1"), 0)
