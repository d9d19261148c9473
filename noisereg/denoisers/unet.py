"""diffusers' ``UNet2DModel`` with the presets of DDPM (arXiv 2006.11239) and BNDM (arXiv
2402.04930).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional

from noisereg.api import Context, Denoiser
from noisereg.denoisers import Preset, TimeInput, UNetParams
from noisereg.denoisers.sizes import Sizes
from noisereg.diffusion.law import network_time
from noisereg.errors import NoiseregError


def require_images(ctx: Context, name: str) -> None:
    """
    Raises:
        NoiseregError: for points.
    """
    if len(ctx.shape) != 3:
        raise NoiseregError(
            f"{name} takes images, not points of {ctx.shape[0]} numbers; type `denoiser=dense`, "
            "or mlp"
        )


class PaddedUNet(nn.Module, Denoiser):
    """diffusers' ``UNet2DModel``, as ``unet``, for images of any height and width: what the levels
    do not divide is padded with zeros and cut off again."""

    def __init__(
        self, ctx: Context, architecture: Mapping[str, Any], time_input: TimeInput
    ) -> None:
        """``architecture``: ``UNet2DModel``'s arguments, but for what follows from the data, the
        task and the heads.
        """
        super().__init__()
        self.time_input = time_input
        self.sizes = Sizes.of(ctx)
        self.padding = padding(
            ctx.shape[1], ctx.shape[2], 2 ** (len(architecture["block_out_channels"]) - 1)
        )
        left, right, top, bottom = self.padding
        self.unet = UNet2DModel(
            sample_size=(ctx.shape[1] + top + bottom, ctx.shape[2] + left + right),
            in_channels=self.sizes.sample + self.sizes.condition,
            out_channels=self.sizes.outputs,
            num_class_embeds=self.sizes.classes + 1 if self.sizes.classes else None,
            **architecture,
        )

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, C·(1 + heads), H, W) from x_t (B, C, H, W), t (B,) and the task's image or
        labels.
        """
        if self.sizes.condition:
            x_t = torch.cat((x_t, self.sizes.required(cond)), 1)
        labels = self.sizes.required(cond) if self.sizes.classes else None
        height, width = x_t.shape[-2:]
        left, _, top, _ = self.padding
        if any(self.padding):
            x_t = functional.pad(x_t, self.padding)
        out = self.unet(x_t, network_time(t, self.time_input), labels, return_dict=False)[0]
        return out[..., top : top + height, left : left + width]


class UNet(PaddedUNet):
    """A U-Net of our parameters; ``params`` is what the preset resolved to.

    Raises:
        NoiseregError: for points.
    """

    def __init__(self, params: UNetParams, ctx: Context) -> None:
        require_images(ctx, "unet")
        name, network = params.resolve(ctx.shape)
        bndm = name.startswith("bndm")
        super().__init__(
            ctx, {**blocks(network), **({} if bndm else DDPM_DETAILS)}, network.time_input
        )
        self.params = UNetParams.model_validate({"preset": name, **network._asdict()})
        self.summary = f"preset {name}, channels {'-'.join(map(str, network.channels))}"
        self.default_lr = 1e-4 if bndm else 1e-3 if name == "small" else 2e-4
        if params.preset == "auto":  # the rate that suits the small one, down to BNDM's
            self.default_lr = max(1e-4, 1e-3 * min(1, 16 / network.channels[0]))
        if not bndm:  # BNDM trains from diffusers' own initial weights
            initialise_as_ddpm(self.unet)


DDPM_DETAILS: dict[str, Any] = {
    # Where diffusers' defaults differ from DDPM's code: the order and spacing of the sinusoids,
    # padding of the strided convolutions on the right and below only, and the normalisation's ε.
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
}


def blocks(network: Preset) -> dict[str, Any]:
    """``UNet2DModel``'s arguments for a preset's levels."""
    depth = len(network.channels)
    attends = [level in network.attention for level in range(depth)]
    return {
        "block_out_channels": network.channels,
        "layers_per_block": network.layers,
        "down_block_types": tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "attention_head_dim": network.head_dim or None,  # None: one head of all channels
        "dropout": network.dropout,
        "norm_num_groups": math.gcd(32, *network.channels),
    }


def padding(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that brings both sides up to a multiple."""
    more_height, more_width = -height % multiple, -width % multiple
    return (
        more_width // 2,
        more_width - more_width // 2,
        more_height // 2,
        more_height - more_height // 2,
    )


def initialise_as_ddpm(unet: UNet2DModel) -> None:
    """DDPM's initial weights: uniform with the mean of fan-in and fan-out, biases zero; and zero
    weights where a residual branch and the network end, so that every block starts as the identity
    and the output as zero."""
    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            ends = name == "conv_out" or name.endswith((".conv2", ".to_out.0"))
            (nn.init.zeros_ if ends else nn.init.xavier_uniform_)(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
