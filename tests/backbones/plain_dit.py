"""A plain diffusion transformer, written for comparison from the paper's description and nothing of ours."""

import math

import torch
from torch import Tensor, nn


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.ada = nn.Linear(width, 6 * width)

    def attend(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = (part.view(batch, count, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, count, width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        b1, g1, a1, b2, g2, a2 = self.ada(nn.functional.silu(c))[:, None].chunk(6, -1)
        x = x + a1 * self.attend(normed(x) * (1 + g1) + b1)
        return x + a2 * self.down(nn.functional.gelu(self.up(normed(x) * (1 + g2) + b2)))


class PlainDiT(nn.Module):
    """Image in, one conditioning vector (there the class embedding), prediction out."""

    def __init__(self, channels: int, vector: int, width: int, depth: int, heads: int, patch: int):
        super().__init__()
        self.patch, self.width = patch, width
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.time_in, self.time_out = nn.Linear(256, width), nn.Linear(width, width)
        self.label = nn.Linear(vector, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.last_ada, self.last = nn.Linear(width, 2 * width), nn.Linear(width, channels * patch**2)

    def forward(self, image: Tensor, t: Tensor, vector: Tensor) -> Tensor:
        x = self.patches(image)
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2) + positions(rows, columns, self.width)
        angle = t[:, None] * torch.tensor([10_000 ** (-i / 128) for i in range(128)])
        c = self.time_out(nn.functional.silu(self.time_in(torch.cat([angle.cos(), angle.sin()], -1)))) + self.label(
            vector
        )
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.last_ada(nn.functional.silu(c))[:, None].chunk(2, -1)
        values = self.last(normed(x) * (1 + scale) + shift)
        return nn.functional.fold(
            values.transpose(1, 2), (rows * self.patch, columns * self.patch), self.patch, stride=self.patch
        )


def normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def positions(rows: int, columns: int, width: int) -> Tensor:
    """For each place, row by row: sine of row, sine of column, cosine of row, cosine of column."""
    quarter = width // 4
    table = torch.zeros(rows * columns, width)
    for place in range(rows * columns):
        for i in range(quarter):
            frequency = 10_000 ** (-i / quarter)
            row, column = place // columns * frequency, place % columns * frequency
            for part, value in enumerate((math.sin(row), math.sin(column), math.cos(row), math.cos(column))):
                table[place, part * quarter + i] = value
    return table
