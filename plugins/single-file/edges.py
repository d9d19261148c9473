"""Noise that depends on what the network is told: stronger where the small image of
super-resolution has edges.

Used with ``noisereg train --task superres --noise edges --plugin edges.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from noisereg.api import Component, Context, Field, Noise, Params, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


class EdgesParams(Params):
    share: float = Field(
        0.5, ge=0, le=0.9, description="of the noise's power that goes where the edges are"
    )


class Edges(Noise):
    """ε = s ⊙ z with s² = (1 − share) + share·g, g being the squared gradient of the condition,
    with mean 1 in each sample: the power is 1 everywhere, whatever the image is.

    Without a condition, or under one that is no image, it is white. Low-resolution images without
    any edge have g = 1.
    """

    scale: Tensor | None = None

    def __init__(self, params: EdgesParams, ctx: Context) -> None:
        self.share = params.share
        self.power_floor = 1 - params.share  # where g is 0
        self.summary = f"{params.share:g} of the power where the condition has edges"

    def given(self, cond: Tensor | None) -> Edges:
        if cond is None or cond.ndim != 4:
            return self
        told = copy.copy(self)
        told.scale = self.strength(cond)
        return told

    def strength(self, cond: Tensor) -> Tensor:
        """s, (B, 1, H, W), of images (B, C, H, W)."""
        across = cond - cond.roll(1, -1)
        down = cond - cond.roll(1, -2)
        squared = (across.square() + down.square()).mean(1, keepdim=True).double()
        mean = squared.mean((1, 2, 3), keepdim=True)
        g = (squared + 1e-6) / (mean + 1e-6)
        return ((1 - self.share) + self.share * g).sqrt()

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        z = latents["z"]
        return z if self.scale is None else self.scale.to(z) * z

    def mean_square(self, t: Tensor) -> Tensor:
        return t.new_ones(t.shape)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        return eps if self.scale is None else eps / self.scale.to(eps)

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.scale is None:
            return t.new_zeros(t.shape)
        return self.scale.log().flatten(1).sum(1).to(t) * shape[0]


@hookimpl
def noisereg_noises() -> Iterator[Component]:
    yield Component(
        name="edges",
        impl=Edges,
        params=EdgesParams,
        summary="white noise that is stronger at the edges of the image that the network is told",
        cite="an example; condition-dependent noise after Huang et al. 2024, arXiv 2402.04930",
        api=1,
    )
