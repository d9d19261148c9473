"""Precomputed latents of an autoencoder, as in BNDM's latent variant (Huang et al. 2024, arXiv
2402.04930).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisereg.api import Batch, Context, Params
from noisereg.arrays import explained, open_arrays
from noisereg.datasets import LatentsParams
from noisereg.datasets.array_file import checked_labels
from noisereg.datasets.splits import TwoSplits, holdout
from noisereg.errors import NoiseregError
from noisereg.memory import held_on
from noisereg.reading import read_json
from noisereg.remote import fetched
from noisereg.transfer import to_device

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
"""diffusers' classes that decode one latent image into one image."""
AT_ONCE = 16
"""Latents decoded together: an autoencoder takes much more memory than the diffusion of its
latents.
"""


class LatentSplit:
    """Latents held as the file has them; batches are multiplied by the scale."""

    def __init__(self, latents: Tensor, labels: Tensor | None, scale: float) -> None:
        self.latents = latents
        self.labels = labels
        self.scale = scale

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor) -> Batch:
        indices = to_device(indices, self.latents.device)
        return Batch(
            self.latents[indices].float() * self.scale,
            None if self.labels is None else self.labels[indices],
        )


class Latents(TwoSplits):
    """An .npz with ``latents`` (N, C, H, W), and, if there are any, ``scale`` and ``labels`` (N,).
    A tenth is held out.

    ``scale`` multiplies the latents, so that their standard deviation is about 1, as the noise's
    is (diffusers' name for it is ``scaling_factor``); what a user sees is divided by it again and
    decoded.

    Raises:
        NoiseregError: for a file that is not there or not of this form, and a decoder that does
        not fit it.
    """

    def __init__(self, params: LatentsParams, ctx: Context) -> None:
        latents, labels, scale = _read(fetched(params.path))
        if params.scale != "auto":
            scale = float(params.scale)
        elif scale is None:
            deviation = float(latents.astype(np.float64).std())
            if deviation == 0:
                raise NoiseregError(
                    f"{params.path}: all latents are equal, so that no scale can be found for them"
                )
            scale = 1 / deviation
        largest = float(np.abs(latents).max().astype(np.float64)) * scale
        limits = np.finfo(np.float32)
        if not float(limits.tiny) <= largest <= float(limits.max):
            raise NoiseregError(
                f"{params.path}: latents times the scale, {scale:g}, reach {largest:g}; expected "
                "about 1, as the noise has"
            )
        self.params = params.model_copy(update={"scale": scale})
        self.shape = latents.shape[1:]
        self.classes = 0 if labels is None else int(labels.max()) + 1
        where = held_on(latents.nbytes, ctx.device)
        splits = []
        for indices in holdout(len(latents)):
            own = None if labels is None else torch.from_numpy(labels[indices]).to(where)
            splits.append(LatentSplit(torch.from_numpy(latents[indices]).to(where), own, scale))
        self.train, self.heldout = splits
        self.decode = self.decoder(self.params, Context(shape=self.shape, device=ctx.device))
        size = "×".join(map(str, self.shape))
        seen = f"decoded by {params.decoder}" if params.decoder else "without a decoder"
        self.summary = (
            f"{len(self.train):,} latents of {size} ({len(self.heldout):,} held out), "
            f"scale {scale:.4g}, {seen}"
        )

    @classmethod
    def decoder(cls, params: Params, ctx: Context) -> Callable[[Tensor], Tensor]:
        """Scaled latents to uint8 images by the autoencoder, or, without one, to the latents as
        the file has them.
        """
        assert isinstance(params, LatentsParams)
        scale = params.scale
        if scale == "auto":
            raise NoiseregError("latents:scale=auto needs the file; give the scale")
        if params.decoder is None:
            return lambda x: x.float() / scale
        autoencoder = load_autoencoder(params.decoder, ctx)
        where = torch.device(ctx.device)

        def decode(x: Tensor) -> Tensor:
            from noisereg.data import to_uint8

            with torch.inference_mode():
                parts = [
                    to_uint8(autoencoder.decode(some.to(where).float() / scale).sample).to(
                        x.device
                    )
                    for some in x.split(AT_ONCE)
                ]
            return torch.cat(parts)

        return decode


def load_autoencoder(folder: Path, ctx: Context) -> Any:
    """A diffusers autoencoder from its folder; no pickled weights, nothing is downloaded.

    Raises:
        NoiseregError: for a folder that holds none, or one whose latents have another number of
        channels.
    """
    try:
        config = read_json(folder / "config.json")
        name = config["_class_name"]
    except (NoiseregError, KeyError, TypeError):
        raise NoiseregError(
            f"latents:decoder={folder} is no folder of a diffusers autoencoder (it has no "
            "config.json); expected what "
            "AutoencoderKL.save_pretrained writes"
        ) from None
    if name not in AUTOENCODERS:
        raise NoiseregError(
            f"latents:decoder={folder} is a {name}; expected one of {', '.join(AUTOENCODERS)}"
        )
    channels = config.get("latent_channels")
    if channels != ctx.shape[0]:
        raise NoiseregError(
            f"latents:decoder={folder} decodes latents of {channels} channels, and these have "
            f"{ctx.shape[0]}; expected the "
            "autoencoder that made them"
        )
    import diffusers

    try:
        loaded, read_in = getattr(diffusers, name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise NoiseregError(
            f"latents:decoder={folder} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from None
    if missing := sorted(read_in["missing_keys"]):  # diffusers fills them with whatever is there
        raise NoiseregError(
            f"latents:decoder={folder} has no weights {missing[0]}"
            f"{f' and {len(missing) - 1} more' * (len(missing) > 1)}; expected those of its "
            "config.json"
        )
    return loaded.to(ctx.device).eval().requires_grad_(False)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None, float | None]:
    expected = "expected an .npz with the array 'latents' of shape (N, C, H, W)"
    file = open_arrays(path, expected)
    if "latents" not in file.headers:
        raise NoiseregError(
            f"{path} holds no latents; {expected}, and scale and labels if there are any"
        )
    with explained(path, expected):
        latents = file.read("latents")
        labels = file.read("labels") if "labels" in file.headers else None
        scale = float(file.read("scale")) if "scale" in file.headers else None
    if latents.ndim != 4 or not latents.size or latents.dtype.kind != "f":
        raise NoiseregError(
            f"{path}: latents are {latents.dtype} of shape {latents.shape}; expected floats (N, "
            "C, H, W)"
        )
    with np.errstate(over="ignore"):
        # Of this machine's byte order, and no wider than what a network is given.
        latents = latents.astype(np.float16 if latents.dtype.itemsize == 2 else np.float32)
    if not np.isfinite(latents).all():
        raise NoiseregError(f"{path}: some latents are not finite, as float32")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise NoiseregError(f"{path}: scale is {scale}; expected a number above 0")
    return latents, checked_labels(path, labels, len(latents)), scale
