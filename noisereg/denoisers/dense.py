"""Iso-Diffusion's network for points in the plane (arXiv 2403.16790, public code)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from noisereg.api import Context, Denoiser
from noisereg.denoisers import DenseParams
from noisereg.denoisers.sizes import Sizes
from noisereg.denoisers.time import Sinusoidal, one_if_shared
from noisereg.diffusion.law import network_time
from noisereg.errors import NoiseregError


class TimedLayer(nn.Module):
    """Linear(x) + MLP(sinusoidal(t)); every layer has its own MLP: Linear, ReLU, Linear."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.time = nn.Sequential(
            nn.Linear(embedding, outputs), nn.ReLU(), nn.Linear(outputs, outputs)
        )

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        return self.linear(x) + self.time(embedded)


class Dense(nn.Module, Denoiser):
    """ReLU between :class:`TimedLayer`\\ s of widths D-128-128-128-D·(1 + heads); none after the
    last.

    Labels, where the task has them, add an embedding to t's.

    Raises:
        NoiseregError: for images.
    """

    def __init__(self, params: DenseParams, ctx: Context) -> None:
        super().__init__()
        if len(ctx.shape) != 1:
            raise NoiseregError(
                f"dense takes points, not images of {'×'.join(map(str, ctx.shape))}; type "
                "`denoiser=mlp` for small images "
                "or `denoiser=unet`"
            )
        self.sizes = Sizes.of(ctx)
        if self.sizes.condition:
            raise NoiseregError(
                "dense cannot be conditioned on an image: its samples are points; type "
                "`task=unconditional` or class"
            )
        self.params = params
        widths = (self.sizes.sample, *params.widths, self.sizes.outputs)
        self.embed = Sinusoidal(params.embedding)
        self.layers = nn.ModuleList(
            TimedLayer(a, b, params.embedding) for a, b in pairwise(widths)
        )
        self.labels = (
            nn.Embedding(self.sizes.classes + 1, params.embedding) if self.sizes.classes else None
        )

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, D·(1 + heads)) from x_t (B, D), t (B,) and, for a task with classes, labels (B,)."""
        embedded = self.embed(network_time(one_if_shared(t), self.params.time_input))
        if self.labels is not None:
            embedded = embedded + self.labels(self.sizes.required(cond))
        x = x_t
        for layer in self.layers[:-1]:
            x = layer(x, embedded).relu()
        return self.layers[-1](x, embedded)
