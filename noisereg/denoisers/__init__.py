"""Networks: parameters and hook. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator

from noisereg.api import Component, Field, Params, TimeInput, hookimpl
from noisereg.errors import NoiseregError

TIME_INPUT = "what the network is told about time: index (1000t − 1), step (1000t) or unit (t)"


Width = Annotated[int, Field(gt=0, le=65_536)]
Widths = tuple[Width, ...]
UNetWidth = Annotated[int, Field(gt=0, le=4096)]  # 4096: 0.6 GB a convolution
Levels = Annotated[
    tuple[int, ...] | None,
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
]


class DenseParams(Params):
    """Iso-Diffusion's network for points (arXiv 2403.16790)."""

    widths: Widths = Field(
        (128, 128, 128), min_length=1, description="widths of the hidden layers"
    )
    embedding: int = Field(
        128, ge=2, le=65_536, multiple_of=2, description="length of the sinusoidal embedding of t"
    )
    time_input: TimeInput = Field("step", description=TIME_INPUT)


class MLPParams(Params):
    """A residual network for images too small for convolutions."""

    width: int = Field(256, gt=0, le=65_536, description="width of the residual stream")
    blocks: int = Field(4, ge=1, le=1000, description="how many residual blocks")
    embedding: int = Field(
        64, ge=2, le=65_536, multiple_of=2, description="length of the sinusoidal embedding of t"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a block's hidden units dropped in training"
    )
    time_input: TimeInput = Field("step", description=TIME_INPUT)


class Preset(NamedTuple):
    """A U-Net as a paper or we configure it."""

    channels: tuple[int, ...]
    layers: int
    attention: tuple[int, ...]
    head_dim: int
    dropout: float
    time_input: TimeInput


PRESETS: Mapping[str, Preset] = {
    # Ho et al. 2020, appendix B: attention at 16×16, which for 32×32 images is level 1; 35.7 M
    # parameters.
    "ddpm-cifar10": Preset((128, 256, 256, 256), 2, (1,), 0, 0.1, "index"),
    # BNDM (2402.04930), supplement: diffusers' defaults but for the widths and the attention.
    "bndm-64": Preset((128, 128, 256, 256, 512, 512), 2, (4,), 8, 0.0, "unit"),
    "bndm-128": Preset((128, 128, 128, 256, 256, 512, 512), 2, (5,), 8, 0.0, "unit"),
    # Ours, for a CPU: most of the work is at full resolution, so that is where it is narrow.
    "small": Preset((16, 32, 64, 64), 1, (2,), 0, 0.0, "index"),
}


AUTO_AREA = 64 * 64
"""Pixels up to which ``preset=auto`` is the small network."""


def auto_network(height: int, width: int) -> Preset:
    """The U-Net that ``preset=auto`` is: the small one up to 64×64 pixels, then widths in
    proportion to the area, up to DDPM's 128, and levels down to 8×8.

    It goes by the shape alone: a run trained on a GPU is the same network when it is sampled on a
    CPU. Between one area and the next nothing jumps: the same area has the same network whatever
    its sides are, and a little more area a little larger one.
    """
    small = PRESETS["small"]
    area = height * width
    if area <= AUTO_AREA:
        return small
    first = min(128, 4 * round(4 * area / AUTO_AREA))
    doublings = math.log2(area / AUTO_AREA) / 2  # of the side
    depth = min(7, 4 + round(doublings))
    widths = (first, 2 * first, *[4 * first] * (depth - 2))
    return small._replace(channels=widths, attention=(min(depth - 1, 2 + round(doublings)),))


class UNetParams(Params):
    """diffusers' ``UNet2DModel``. What is left out is the preset's."""

    preset: Literal["auto", "small", "ddpm-cifar10", "bndm-64", "bndm-128"] = Field(
        "auto",
        description="the network to start from; auto: small up to 64×64 pixels, and growing with "
        "the area above",
    )
    channels: tuple[UNetWidth, ...] | None = Field(
        None, min_length=1, description="width of each level, from full resolution down"
    )
    layers: int | None = Field(None, ge=1, le=100, description="residual blocks a level")
    attention: Levels = Field(
        None,
        description="levels with self-attention, 0 the full resolution; []: only the middle block "
        "has it",
    )
    head_dim: int | None = Field(
        None, ge=0, description="channels of an attention head; 0: one head of all channels"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout in the residual blocks")
    time_input: TimeInput | None = Field(None, description=TIME_INPUT)

    def resolve(self, shape: tuple[int, ...]) -> tuple[str, Preset]:
        """The preset that ``auto`` is for images of ``shape`` (C, H, W), and the network with what
        was given put in.

        Raises:
            NoiseregError: for attention on a level that is not there, or heads that do not divide
            a level's channels.
        """
        name = self.preset
        if name == "auto":
            name, base = "small", auto_network(*shape[1:])
        else:
            base = PRESETS[name]
        given = {
            field: value for field in Preset._fields if (value := getattr(self, field)) is not None
        }
        network = base._replace(**given)
        depth = len(network.channels)
        for level in network.attention:
            if not 0 <= level < depth:
                raise NoiseregError(
                    f"unet: attention on level {level}, but "
                    f"channels={','.join(map(str, network.channels))} makes levels "
                    f"0 to {depth - 1}; type attention={depth - 1} or attention=[]"
                )
        for level in {
            *network.attention,
            depth - 1,
        }:  # the middle block attends with the deepest level's width
            if network.head_dim and network.channels[level] % network.head_dim:
                raise NoiseregError(
                    f"unet: head_dim={network.head_dim} does not divide the "
                    f"{network.channels[level]} channels of level "
                    f"{level}; type head_dim=0 for one head, or widths that are multiples of "
                    f"{network.head_dim}"
                )
        return name, network


def _plain(value: Any) -> Any:
    """``architecture.dropout=0.1`` is a number though the command line gives text."""
    if not isinstance(value, dict):
        return value
    plain = {}
    for key, item in value.items():
        plain[key] = item
        if isinstance(item, str):
            with contextlib.suppress(ValueError):
                plain[key] = json.loads(item)
    return plain


class DiffusersUNetParams(Params):
    """A ``UNet2DModel`` of any architecture, as ``--init DIR`` finds it."""

    architecture: Annotated[dict[str, Any], BeforeValidator(_plain)] = Field(
        description="UNet2DModel's arguments, as its config.json has them; what the data and the "
        "noise decide is left out"
    )
    time_input: TimeInput = Field("index", description=TIME_INPUT)


def auto_denoiser(shape: tuple[int, ...]) -> str:
    """The denoiser that ``--denoiser auto`` takes for samples of ``shape``.

    Points get Iso-Diffusion's network; up to 16×16 pixels a convolution has little to share, and
    the residual MLP is a hundred times faster on a CPU; larger images get a U-Net.
    """
    if len(shape) == 1:
        return "dense"
    return "mlp" if max(shape[1:]) <= 16 else "unet"


@hookimpl
def noisereg_denoisers() -> Iterator[Component]:
    yield Component(
        name="dense",
        impl="noisereg.denoisers.dense:Dense",
        params=DenseParams,
        summary="fully connected, for points",
        cite="Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="mlp",
        impl="noisereg.denoisers.mlp:MLP",
        params=MLPParams,
        summary="residual and fully connected, for images as small as 8×8",
    )
    yield Component(
        name="unet",
        impl="noisereg.denoisers.unet:UNet",
        params=UNetParams,
        summary="diffusers' UNet2DModel, with the presets of DDPM and BNDM",
        cite="Ho et al. 2020, arXiv 2006.11239; BNDM, arXiv 2402.04930",
    )
    yield Component(
        name="diffusers-unet",
        impl="noisereg.denoisers.diffusers_unet:DiffusersUNet",
        params=DiffusersUNetParams,
        summary="diffusers' UNet2DModel of any architecture: what init=DIR takes",
    )
