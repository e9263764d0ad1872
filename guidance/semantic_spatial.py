"""The semantic-spatial guidance module of GoT (section 4.2)."""

from collections.abc import Sequence

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from got_core.chain import parse
from got_core.interfaces import GuidanceEncoder, LatentCodec
from got_core.types import BLACK, Batch, Guidance, Reasoning
from guidance.canvases import Palette, colours, draw, painted


class SemanticSpatialGuidance(GuidanceEncoder):
    """Projects the reasoner's states, draws its boxes as colour-coded masks, and encodes masks and source image.

    Nulls, as in the reference: tokens become the projection of zero states, spatial and reference guidance zero
    latents; the pooled vector is kept.

    Args:
        state_dim: Width of the reasoner's states.
        token_dim: Width of the tokens, that of the backbone's cross-attention.
        pooled_dim: Width of the pooled vector, the mean of a second projection; None to make none.
        spatial_channels: The codec's latent channels, or None to go without spatial guidance.
        reference_channels: The codec's latent channels, or None to go without reference guidance.
        palette: Boxes are coloured by their "order", by the colours that the chain's "words" name, or, as the released
            weights expect, by a colour "named" behind the box, without which they are not drawn.
        scaled: Whether masks and source image are latents with the codec's scale and shift; not so in the reference.
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
    ):
        super().__init__()
        self.state_dim = state_dim
        self.token_dim = token_dim
        self.pooled_dim = pooled_dim
        self.spatial_channels = spatial_channels
        self.reference_channels = reference_channels
        self.palette: Palette = palette
        self.scaled = scaled
        self.projector = nn.Linear(state_dim, token_dim)
        self.pooled_projector = None if pooled_dim is None else nn.Linear(state_dim, pooled_dim)

    def forward(self, reasoning: Reasoning, batch: Batch, codec: LatentCodec) -> Guidance:
        """Guidance from states f[b n d], the boxes of the chains, and the source images.

        Raises:
            ValueError: A codec whose latents have other channels than the spatial or reference guidance.
        """
        states = reasoning.states.to(self.projector.weight.dtype)
        pooled = None
        if self.pooled_projector is not None:
            pooled = reduce(self.pooled_projector(states), "b n d -> b d", "mean")
        spatial, reference = self._maps(reasoning.chains, batch, codec)
        return Guidance(self.projector(states), pooled, spatial, reference)

    def drop(
        self,
        guidance: Guidance,
        semantic: Bool[Tensor, " b"],
        spatial: Bool[Tensor, " b"],
        reference: Bool[Tensor, " b"],
    ) -> Guidance:
        """Nulls where the masks are True; see the class."""
        null = self.projector(guidance.tokens.new_zeros(1, 1, self.state_dim)).to(guidance.tokens.dtype)
        return Guidance(
            tokens=torch.where(rearrange(semantic, "b -> b 1 1"), null, guidance.tokens),
            pooled=guidance.pooled,
            spatial=_zero_where(spatial, guidance.spatial),
            reference=_zero_where(reference, guidance.reference),
        )

    def _maps(self, chains: Sequence[str], batch: Batch, codec: LatentCodec) -> tuple[Tensor | None, Tensor | None]:
        """(spatial, reference) from one call of the codec: a black image, all canvases, the source images of edits.

        The black image is encoded once for all samples without boxes and all without a source image.
        """
        for kind, channels in (("spatial", self.spatial_channels), ("reference", self.reference_channels)):
            if channels not in (None, codec.latent_channels):
                raise ValueError(f"{kind}_channels is {channels}, but the codec makes {codec.latent_channels} channels")
        if self.spatial_channels is None and self.reference_channels is None:
            return None, None
        images = [torch.full_like(batch.source[:1], BLACK)]
        owners: list[int] = []
        if self.spatial_channels is not None:
            owners, canvases = self._canvases(chains, batch)
            images.append(canvases)
        if self.reference_channels is not None:
            images.append(batch.source[batch.has_source])
        latents = codec.encode(torch.cat(images), scaled=self.scaled)
        black, canvases, sources = latents.tensor_split((1, 1 + len(owners)))
        spatial = _mean_by_owner(canvases, owners, black, len(batch)) if self.spatial_channels is not None else None
        if self.reference_channels is None:
            return spatial, None
        reference = repeat(black, "1 c h w -> b c h w", b=len(batch)).clone()
        reference[batch.has_source] = sources
        return spatial, reference

    def _canvases(self, chains: Sequence[str], batch: Batch) -> tuple[list[int], Float[Tensor, "k 3 H W"]]:
        """The canvases of all painted regions of all chains, and the place in the batch that each belongs to."""
        regions = [painted(parse(chain).regions, self.palette) for chain in chains]
        owners = [place for place, found in enumerate(regions) for _ in found]
        if not owners:
            return owners, batch.source[:0]
        names = [name for found in regions for name in colours(found, self.palette)]
        boxes = [region.box for found in regions for region in found]
        return owners, draw(boxes, names, batch.size, batch.source.device).to(batch.source.dtype)


def _mean_by_owner(
    canvases: Float[Tensor, "k c h w"], owners: Sequence[int], black: Float[Tensor, "1 c h w"], size: int
) -> Float[Tensor, "b c h w"]:
    """The mean of each sample's canvases, or black for a sample without any."""
    owner = torch.tensor(owners, dtype=torch.long, device=canvases.device)
    total = canvases.new_zeros(size, *canvases.shape[1:]).index_add(0, owner, canvases)
    counts = canvases.new_zeros(size).index_add(0, owner, canvases.new_ones(len(owners)))
    counts = rearrange(counts, "b -> b 1 1 1")
    return torch.where(counts > 0, total / counts.clamp(min=1), black)


def _zero_where(mask: Bool[Tensor, " b"], maps: Float[Tensor, "b c h w"] | None) -> Float[Tensor, "b c h w"] | None:
    return None if maps is None else maps.masked_fill(rearrange(mask, "b -> b 1 1 1"), 0)
