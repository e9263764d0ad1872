"""A diffusion transformer under semantic, spatial and reference guidance."""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from backbones.dit_layers import Block, Head, TimeEmbedding
from got_core.interfaces import DenoisingBackbone
from got_core.loading import fresh_weights
from got_core.types import Guidance


class FlowDiT(DenoisingBackbone):
    """DiT (Peebles and Xie, 2023) in which guidance takes the place of the class label.

    The semantic guidance is added to the time embedding and so modulates every block (adaLN), or is read by
    cross-attention, or both. Spatial and reference latents join the noisy latent channel-wise before it is cut into
    patches. Works for any height and width that the patch divides.

    Args:
        latent_channels: Channels of what is denoised.
        token_dim: Width of the guidance tokens; for adaLN their mean is taken, unless there is `pooled_dim`.
        pooled_dim: Width of the pooled guidance that adaLN takes instead of the tokens' mean, or None. Take the mean
            where the encoder's null leaves the pooled vector as it is, for else nothing is ever unguided.
        spatial_channels, reference_channels: Channels of that guidance, or None to do without.
        width, depth, heads: Of the transformer; `width` is a multiple of `heads` and of 4.
        patch: Side of a patch, in latent pixels.
        mlp_ratio: Width of the MLPs over `width`.
        qk_norm: RMS-normalise queries and keys.
        semantic: The way semantic guidance comes in.

    Raises:
        ValueError: Widths that do not fit each other, or `pooled_dim` without adaLN to take it.
    """

    def __init__(
        self,
        latent_channels: int,
        token_dim: int,
        pooled_dim: int | None = None,
        spatial_channels: int | None = None,
        reference_channels: int | None = None,
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        patch: int = 1,
        mlp_ratio: float = 4.0,
        qk_norm: bool = True,
        semantic: Literal["adaln", "cross_attention", "both"] = "both",
    ):
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"width {width} must be a multiple of heads {heads} and, for the positions, of 4")
        if pooled_dim is not None and semantic == "cross_attention":
            raise ValueError(f"pooled_dim {pooled_dim} is for adaLN, but semantic is 'cross_attention'")
        reads_tokens = semantic != "adaln"
        self.latent_channels = latent_channels
        self.token_dim = token_dim if reads_tokens or pooled_dim is None else None
        self.pooled_dim = pooled_dim
        self.spatial_channels = spatial_channels
        self.reference_channels = reference_channels
        self.width = width
        self.patch = patch
        channels = latent_channels + (spatial_channels or 0) + (reference_channels or 0)
        read_dim = token_dim if reads_tokens else None
        with fresh_weights():
            self.embed = nn.Linear(channels * patch**2, width)
            self.time = TimeEmbedding(width)
            self.summary = None if semantic == "cross_attention" else nn.Linear(pooled_dim or token_dim, width)
            self.layers = nn.ModuleList(Block(width, heads, mlp_ratio, qk_norm, read_dim) for _ in range(depth))
            self.head = Head(width, latent_channels * patch**2)
            self._initialise()
        self._positions: dict[tuple[int, int, torch.device], Tensor] = {}

    def _initialise(self) -> None:
        """All initialisation: Xavier for every linear map, zero for what opens a branch of the residual stream."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        closed = [self.head.proj, self.head.modulation]
        for layer in self.layers:
            closed += [layer.modulation] if layer.cross is None else [layer.modulation, layer.cross.proj]
        for module in closed:
            nn.init.zeros_(module.weight)

    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        return self.layers

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], guidance: Guidance
    ) -> Float[Tensor, "b c h w"]:
        """The prediction for noisy latents at times t in 0 to 1000.

        Raises:
            ValueError: Guidance without a field this backbone takes or of another width, or a size the patch does not
                divide.
        """
        rows, columns = self._grid(x_t, guidance)
        x = torch.cat([x_t, *self._maps(guidance)], dim=1)  # b (c + cs + cr) h w
        x = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)  # b n (c + cs + cr)pp
        x = self.embed(x) + self._position(rows, columns, x).to(x.dtype)  # b n width
        condition = F.silu(self._condition(t, guidance))  # b width
        for layer in self.layers:
            x = layer(x, condition, guidance.tokens)  # b n width
        x = self.head(x, condition)  # b n cpp
        return rearrange(x, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=self.patch, q=self.patch)  # b c h w

    def _condition(self, t: Float[Tensor, " b"], guidance: Guidance) -> Float[Tensor, "b d"]:
        """What modulates the blocks: the time, and with adaLN the semantic guidance."""
        condition = self.time(t)
        if self.summary is None:
            return condition
        if self.pooled_dim is None:
            return condition + self.summary(reduce(guidance.tokens, "b l d -> b d", "mean"))
        return condition + self.summary(guidance.pooled)

    def _maps(self, guidance: Guidance) -> list[Tensor]:
        """The latent maps this backbone takes, in the order of its channels: spatial, reference."""
        offered = ((guidance.spatial, self.spatial_channels), (guidance.reference, self.reference_channels))
        return [value for value, channels in offered if value is not None and channels is not None]

    def _position(self, rows: int, columns: int, like: Tensor) -> Float[Tensor, "n d"]:
        """Sine-cosine positions, half of the width for the row and half for the column; made once a size."""
        key = (rows, columns, like.device)
        if key not in self._positions:
            self._positions[key] = build_sincos2d_pos_embed([rows, columns], dim=self.width, device=like.device)
        return self._positions[key]

    def _grid(self, x_t: Tensor, guidance: Guidance) -> tuple[int, int]:
        """(rows, columns) of patches, once size and guidance are known to fit."""
        height, width = x_t.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"a latent of {height}x{width} does not divide into patches of {self.patch}")
        self.check_guidance(guidance)
        return height // self.patch, width // self.patch
