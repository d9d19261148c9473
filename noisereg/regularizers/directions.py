"""The directions of a noise in which ‖Π L_t⁻¹ε‖² is a sum of squares."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import Noise, NoiseregError

LARGEST = 1024
"""Numbers whose directions are found: an eigenvalue problem of so many rows at each time."""
REMEMBERED = 1 << 25
"""Numbers of eigenvectors that are kept for the next batch at the same times."""


@dataclass(frozen=True)
class Found:
    """The directions at one time, in float64."""

    vectors: Tensor
    """(size, size), orthonormal, one a column."""
    values: Tensor
    """(size,): ‖Π L_t⁻¹ε‖² is Σ_i values_i⟨vectors_i, ε⟩², summed over channels; 0 of what Π
    leaves out.
    """
    count: float
    """n′, how many Π keeps, of all channels."""


class Directions:
    """``noise.whitened_power`` of an ε of ``shape`` is a quadratic form; its matrix is A_t, on a
    channel alone where the channels are treated alike and apart.

    Raises:
        NoiseregError: for more than :data:`LARGEST` numbers.
    """

    def __init__(self, noise: Noise, shape: tuple[int, ...], device: torch.device) -> None:
        self.noise, self.shape, self.device = noise, shape, device
        self.channels = shape[0] if len(shape) > 1 else 1
        probe = torch.randn(
            2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        ).to(device)
        if self.channels > 1 and not self._alike(probe):
            self.channels = 1
        self.size = math.prod(shape) // self.channels
        if self.size > LARGEST:
            raise NoiseregError(
                f"isotropy:space=whitened scales ε̂ by direction, and those of {self.size:,} "
                f"numbers take too long to find; expected at most {LARGEST:,} (32×32 a channel), "
                "or space=plain"
            )
        remembered = max(REMEMBERED // self.size**2, 1)
        self.at = functools.lru_cache(remembered)(self._at)

    def parts(self, eps: Tensor) -> Tensor:
        """ε, (B, *shape), as (B, channels, size)."""
        return eps.reshape(len(eps), self.channels, self.size)

    def _at(self, t: float) -> Found:
        units = torch.zeros(
            self.size, self.channels, self.size, dtype=torch.float64, device=self.device
        )
        units[:, 0] = torch.eye(self.size, dtype=torch.float64, device=self.device)
        units = units.reshape(self.size, *self.shape)
        form = self.parts(self._applied(units, t))[:, 0]
        values, vectors = torch.linalg.eigh((form + form.mT) / 2)
        values = torch.where(values > 1e-9 * values[-1], values, torch.zeros_like(values))
        _, count = self.noise.whitened_power(units[:1], self._times(t, 1))
        return Found(vectors, values, float(count))

    def _applied(self, eps: Tensor, t: float) -> Tensor:
        """A_t ε, half the gradient of the quadratic form; (B, *shape)."""
        with torch.inference_mode(False), torch.enable_grad():
            at = eps.clone().requires_grad_()
            total, _ = self.noise.whitened_power(at, self._times(t, len(eps)))
            (gradient,) = torch.autograd.grad(total.sum(), at)
        return gradient.detach() / 2

    def _times(self, t: float, count: int) -> Tensor:
        return torch.full((count,), t, dtype=torch.float64, device=self.device)

    def _alike(self, probe: Tensor) -> bool:
        """Whether A_½ is one matrix for each channel on its own."""
        here = self._applied(probe, 0.5)
        alone = probe.clone()
        alone[:, 1:] = 0
        turned = self._applied(probe.roll(1, 1), 0.5)
        size = here.abs().max()
        apart = self._applied(alone, 0.5)
        return bool(
            (turned - here.roll(1, 1)).abs().max() <= 1e-9 * size
            and (apart[:, :1] - here[:, :1]).abs().max() <= 1e-9 * size
            and apart[:, 1:].abs().max() <= 1e-9 * size
        )
