"""Layers of the diffusion transformer: adaLN-Zero blocks, cross-attention, time embedding (Peebles and Xie, 2023)."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.layers import Attention, Mlp, RmsNorm
from torch import Tensor, nn

NORM_EPS = 1e-6
FREQUENCIES = 256
"""Width of the sinusoids that a time is written in."""
SLOWEST_PERIOD = 10_000


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b n d"]:
    """Scale and shift all positions of a sample alike."""
    return torch.addcmul(rearrange(shift, "b d -> b 1 d"), x, rearrange(1 + scale, "b d -> b 1 d"))


class TimeEmbedding(nn.Module):
    """Times in 0 to 1000 as sinusoids, through a small MLP."""

    frequencies: Float[Tensor, " f"]

    def __init__(self, width: int):
        super().__init__()
        exponents = torch.arange(FREQUENCIES // 2) / (FREQUENCIES // 2)
        self.register_buffer("frequencies", torch.exp(-math.log(SLOWEST_PERIOD) * exponents), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """One vector a time."""
        angles = rearrange(t.float(), "b -> b 1") * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.mlp[0].weight.dtype))


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
        """What each position reads from the tokens."""
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
        """`condition` is already activated, so that it is done once for all blocks."""
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
        """The values of each patch."""
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.proj(modulate(self.norm(x), shift, scale))
