"""A diffusion transformer (Peebles and Xie, 2023) under semantic, spatial and reference guidance."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from timm.layers import Attention, Mlp, RmsNorm, build_sincos2d_pos_embed
from torch import Tensor, nn

from got_core.interfaces import DenoisingBackbone
from got_core.types import Guidance
from got_core.weights.loading import fresh_weights

NORM_EPS = 1e-6
FREQUENCIES = 256
"""Width of the sinusoidal embedding of a time."""


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b n d"]:
    """Scale and shift all positions of a sample in the same way."""
    return torch.addcmul(rearrange(shift, "b d -> b 1 d"), x, rearrange(1 + scale, "b d -> b 1 d"))


class TimeEmbedding(nn.Module):
    """Times in 0 to 1000 as sinusoids, through a small MLP."""

    frequencies: Float[Tensor, " f"]

    def __init__(self, width: int):
        super().__init__()
        exponents = torch.arange(FREQUENCIES // 2) / (FREQUENCIES // 2)
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * exponents), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return one vector for each time."""
        angles = rearrange(t.float(), "b -> b 1") * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.mlp[0].bias.dtype))


class CrossAttention(nn.Module):
    """Attention from image positions to guidance tokens."""

    def __init__(self, width: int, token_dim: int, heads: int, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(token_dim, 2 * width)
        self.q_norm = RmsNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RmsNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], tokens: Float[Tensor, "b l e"]) -> Float[Tensor, "b n d"]:
        """Return what each position reads from the tokens."""
        q = rearrange(self.q(x), "b n (h c) -> b h n c", h=self.heads)
        k, v = rearrange(self.kv(tokens), "b l (two h c) -> two b h l c", two=2, h=self.heads)
        read = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(rearrange(read, "b h n c -> b n (h c)"))


class Block(nn.Module):
    """Self-attention and MLP under adaLN-Zero, with cross-attention to tokens between them if `token_dim` is given."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, qk_norm: bool, token_dim: int | None):
        super().__init__()
        self.norm_attn = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = Attention(width, heads, qkv_bias=True, qk_norm=qk_norm, norm_layer=RmsNorm)
        self.norm_cross = None if token_dim is None else nn.LayerNorm(width, eps=NORM_EPS)
        self.cross = None if token_dim is None else CrossAttention(width, token_dim, heads, qk_norm)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"], tokens: Float[Tensor, "b l e"] | None
    ) -> Float[Tensor, "b n d"]:
        """Update image positions; `condition` is already activated, once for all blocks."""
        chunks = self.modulation(condition).chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = chunks
        attended = self.attn(modulate(self.norm_attn(x), shift_attn, scale_attn))
        x = torch.addcmul(x, rearrange(gate_attn, "b d -> b 1 d"), attended)
        if self.norm_cross is not None and self.cross is not None:
            x = x + self.cross(self.norm_cross(x), tokens)
        changed = self.mlp(modulate(self.norm_mlp(x), shift_mlp, scale_mlp))
        return torch.addcmul(x, rearrange(gate_mlp, "b d -> b 1 d"), changed)


class Head(nn.Module):
    """Last norm and projection to the values of a patch."""

    def __init__(self, width: int, values: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, values)

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n v"]:
        """Return the values of each patch."""
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.proj(modulate(self.norm(x), shift, scale))


class FlowDiT(DenoisingBackbone):
    """DiT (Peebles and Xie, 2023) with guidance in place of the class label.

    The semantic guidance is added to the time embedding and so modulates every block (adaLN), or is read by
    cross-attention, or both. Spatial and reference latents are concatenated to the noisy latent before it is cut into
    patches. Any height and width that the patch divides can be used.

    Args:
        latent_channels: Channels of what is denoised.
        token_dim: Width of the guidance tokens; for adaLN their mean is taken, unless there is `pooled_dim`.
        pooled_dim: Width of the pooled guidance that adaLN takes instead of the tokens' mean, or None. Use the mean if
            the encoder's null does not change the pooled vector: otherwise no sample is ever unguided.
        spatial_channels, reference_channels: Channels of that guidance, or None for no such guidance.
        width, depth, heads: Of the transformer; `width` is a multiple of `heads` and of 4.
        patch: Side of a patch, in latent pixels.
        mlp_ratio: Width of the MLPs over `width`.
        qk_norm: RMS-normalise queries and keys.
        semantic: How semantic guidance is used.

    Raises:
        ValueError: Widths do not fit, or `pooled_dim` is given without adaLN.
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
        self.patch = self.latent_multiple = patch
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
        """Initialise all weights: Xavier for every linear map, zero for what gates a residual branch."""
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
        """Return the transformer's blocks."""
        return self.layers

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], guidance: Guidance
    ) -> Float[Tensor, "b c h w"]:
        """Predict noise or velocity from noisy latents at times t in 0 to 1000.

        Raises:
            ValueError: Guidance lacks a field that this backbone takes or has another width, or the patch does not
                divide the size.
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
        """Return what modulates the blocks: the time and, with adaLN, the semantic guidance."""
        condition = self.time(t)
        if self.summary is None:
            return condition
        if self.pooled_dim is None:
            return condition + self.summary(reduce(guidance.tokens, "b l d -> b d", "mean"))
        return condition + self.summary(guidance.pooled)

    def _maps(self, guidance: Guidance) -> list[Tensor]:
        """Return the latent maps that this backbone takes, in the order of its channels: spatial, reference."""
        offered = ((guidance.spatial, self.spatial_channels), (guidance.reference, self.reference_channels))
        return [value for value, channels in offered if value is not None and channels is not None]

    def _position(self, rows: int, columns: int, like: Tensor) -> Float[Tensor, "n d"]:
        """Return cached sine-cosine positions, half of the width for the row and half for the column."""
        key = (rows, columns, like.device)
        if key not in self._positions:
            self._positions[key] = build_sincos2d_pos_embed([rows, columns], dim=self.width, device=like.device)
        return self._positions[key]

    def _grid(self, x_t: Tensor, guidance: Guidance) -> tuple[int, int]:
        """Check size and guidance, and return (rows, columns) of patches."""
        height, width = x_t.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"a latent of {height}x{width} does not divide into patches of {self.patch}")
        self.check_guidance(guidance)
        return height // self.patch, width // self.patch
