"""PSNR and SSIM, of outputs that have one right answer each (super-resolution), by
scikit-image.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.errors import NoiseregError
from noisereg.metrics import PsnrParams, SsimParams


def _check_shape(shape: tuple[int, ...], name: str, side: int = 1) -> None:
    if shape and len(shape) != 3:
        raise NoiseregError(f"{name} compares images, and these are points of {shape[0]} numbers")
    if shape and min(shape[1:]) < side:
        raise NoiseregError(
            f"{name} needs images of at least {side}×{side} pixels, not {shape[1]}×{shape[2]}"
        )


def _pairs(samples: Tensor, reference: Tensor, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    if samples.ndim != 4 or samples.shape != reference.shape:
        raise NoiseregError(
            f"{name} compares each image with its own reference: expected as many, of the same "
            "size, and got "
            f"{tuple(samples.shape)} against {tuple(reference.shape)}"
        )
    return list(zip(samples.cpu().numpy(), reference.cpu().numpy(), strict=True))


class PSNR(Metric):
    """10·log₁₀(255²/MSE) in dB, the mean over images; an image without an error counts as 100
    dB.
    """

    paired = True
    better = {"psnr": "higher"}

    def __init__(self, params: PsnrParams, ctx: Context) -> None:
        _check_shape(ctx.shape, "psnr")

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        from skimage.metrics import peak_signal_noise_ratio

        with np.errstate(divide="ignore"):
            values = [
                peak_signal_noise_ratio(y, x, data_range=255)
                for x, y in _pairs(samples, reference, "psnr")
            ]
        return {"psnr": float(np.minimum(values, 100).mean())}


class SSIM(Metric):
    """Structural similarity (Wang et al. 2004): a Gaussian window of 11 pixels, σ = 1.5; the mean
    over images.

    Images of 7 to 10 pixels take scikit-image's uniform window of 7, which a note says.
    """

    paired = True
    better = {"ssim": "higher"}

    def __init__(self, params: SsimParams, ctx: Context) -> None:
        _check_shape(ctx.shape, "ssim", 7)
        self._notes: list[str] = []

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        from skimage.metrics import structural_similarity

        pairs = _pairs(samples, reference, "ssim")
        _check_shape(tuple(samples.shape[1:]), "ssim", 7)
        side = min(samples.shape[2:])
        window: dict[str, object] = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
        }
        self._notes = []
        if side < 11:
            window = {"win_size": 7}
            self._notes = [
                f"ssim: images of {side} pixels are under its window of 11; a uniform one of 7 "
                "was used"
            ]
        values = [
            structural_similarity(x, y, data_range=255, channel_axis=0, **window) for x, y in pairs
        ]
        return {"ssim": float(np.mean(values))}

    def notes(self) -> list[str]:
        return self._notes
