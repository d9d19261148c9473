"""A residual MLP for images as small as 8×8, where a convolution has little to share.

Each block is modulated by time as in DiT (Peebles & Xie 2023, arXiv 2212.09748, "adaLN-Zero"):
shift and scale after the normalisation, and a gate that starts at zero, so that the network starts
as the identity on its residual stream.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from noisereg.api import Context, Denoiser
from noisereg.denoisers import MLPParams
from noisereg.denoisers.sizes import Sizes
from noisereg.denoisers.time import Sinusoidal, one_if_shared
from noisereg.diffusion.law import network_time
from noisereg.errors import NoiseregError


class Block(nn.Module):
    """x + gate(t) · Linear(dropout(SiLU(Linear(norm(x) · (1 + scale(t)) + shift(t)))))."""

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding, 3 * width)
        self.first = nn.Linear(width, width)
        self.act = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(embedded).chunk(3, -1)
        hidden = self.act(self.first(self.norm(x) * (1 + scale) + shift))
        return x + gate * self.second(self.dropout(hidden))


class MLP(nn.Module, Denoiser):
    """The pixels as one vector through residual blocks; the output layer starts at zero."""

    def __init__(self, params: MLPParams, ctx: Context) -> None:
        super().__init__()
        self.sizes = Sizes.of(ctx)
        self.params = params
        self.pixels = tuple(ctx.shape[1:])
        if self.sizes.condition and not self.pixels:
            raise NoiseregError(
                "mlp cannot condition points on an image; type `task=unconditional` or class, or "
                "take images"
            )
        area = math.prod(self.pixels)
        width, length = params.width, params.embedding
        self.embed = nn.Sequential(
            Sinusoidal(length), nn.Linear(length, length), nn.SiLU(), nn.Linear(length, length)
        )
        self.labels = nn.Embedding(self.sizes.classes + 1, length) if self.sizes.classes else None
        self.act = nn.SiLU()
        self.enter = nn.Linear((self.sizes.sample + self.sizes.condition) * area, width)
        self.blocks = nn.ModuleList(
            Block(width, length, params.dropout) for _ in range(params.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, self.sizes.outputs * area)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, C·(1 + heads), …) from x_t (B, C, …), t (B,) and the task's image or labels."""
        embedded = self.embed(network_time(one_if_shared(t), self.params.time_input))
        if self.labels is not None:
            embedded = embedded + self.labels(self.sizes.required(cond))
        embedded = self.act(embedded)
        if self.sizes.condition:
            x_t = torch.cat((x_t, self.sizes.required(cond)), 1)
        x = self.enter(x_t.flatten(1))
        for block in self.blocks:
            x = block(x, embedded)
        out = self.leave(self.norm(x))
        return out.reshape(len(out), self.sizes.outputs, *self.pixels)
