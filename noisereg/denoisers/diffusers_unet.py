"""diffusers' ``UNet2DModel`` of any architecture: the network of a run that starts from a
pretrained one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers.models.unets.unet_2d import UNet2DModel

from noisereg.api import Context
from noisereg.denoisers import DiffusersUNetParams
from noisereg.denoisers.unet import PaddedUNet, require_images
from noisereg.errors import NoiseregError, nearest

OURS = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
"""The arguments that follow from the data, the task and the heads."""


class DiffusersUNet(PaddedUNet):
    """
    Raises:
        NoiseregError: for points, and for an architecture that is not told t, or that diffusers
        does not know.
    """

    default_lr = 1e-4

    def __init__(self, params: DiffusersUNetParams, ctx: Context) -> None:
        require_images(ctx, "diffusers-unet")
        check(params.architecture)
        try:
            super().__init__(ctx, params.architecture, params.time_input)
        except (ValueError, TypeError) as error:
            raise NoiseregError(f"diffusers-unet: {' '.join(str(error).split())}") from None
        self.params = params


def check(architecture: Mapping[str, Any]) -> None:
    """
    Raises:
        NoiseregError: names the argument that cannot be had.
    """
    known = [name for name in inspect.signature(UNet2DModel).parameters if name not in OURS]
    for name in architecture:
        if name not in known:
            raise NoiseregError(
                f"diffusers-unet: UNet2DModel takes no {name!r} here{nearest(name, known)}"
            )
    if "block_out_channels" not in architecture:
        raise NoiseregError("diffusers-unet: the architecture has no block_out_channels")
    if architecture.get("time_embedding_type", "positional") == "fourier":
        raise NoiseregError(
            "diffusers-unet: this network is told σ (time_embedding_type fourier), and not t"
        )
    if architecture.get("class_embed_type") is not None:
        raise NoiseregError(
            f"diffusers-unet: class_embed_type {architecture['class_embed_type']!r} takes no "
            "labels; expected null"
        )
