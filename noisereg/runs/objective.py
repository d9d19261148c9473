"""Everything of a run that can learn, as one module: what is trained, saved and synchronised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.loss import Loss


class Objective(nn.Module):
    """The denoiser and the diffusion around it. DDP wraps it whole, so that a noise or a
    regularizer that is an ``nn.Module`` is synchronised like the denoiser.
    """

    def __init__(self, denoiser: nn.Module, diffusion: Diffusion, bf16: bool = False) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.diffusion = diffusion
        self.bf16 = bf16
        self.sharded = False
        """Whether the denoiser's weights are split over ranks: all take part in each call."""

    def net(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """The denoiser, in the run's number format."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.denoiser(x, t, cond)

    def forward(
        self,
        x0: Tensor,
        latents: Mapping[str, Tensor],
        t: Tensor,
        cond: Tensor | None,
        step: int,
    ) -> Loss:
        """The loss of one micro-batch, x0 (B, *shape); see
        :func:`noisereg.diffusion.loss.loss`.
        """
        return self.diffusion.loss(self.net, x0, latents=latents, t=t, cond=cond, step=step)
