"""The directions of a noise in which ‖Π L_t⁻¹ε‖² is a sum of squares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import Noise, NoiseregError

LARGEST = 1024
"""Numbers whose directions are found: an eigenvalue problem of so many rows at each time."""
REMEMBERED = 1 << 27
"""Numbers of eigenvectors that are kept for the next batch at the same times: 128 times of 1,024,
1 GiB.
"""
PROBED = (0.123, 0.5, 0.871)
"""Times at which channels are compared."""


def check_size(count: int, what: str) -> None:
    """
    Raises:
        NoiseregError: for more numbers than :data:`LARGEST`.
    """
    if count > LARGEST:
        raise NoiseregError(
            f"isotropy:space=whitened scales ε̂ by direction, and those of {count:,} {what} take "
            f"too long to find; expected at most {LARGEST:,}, or space=plain"
        )


@dataclass(frozen=True)
class Found:
    """The directions at one time, in float64."""

    form: Tensor
    """A_t, (size, size)."""
    vectors: Tensor
    """Its eigenvectors, (size, size), one a column."""
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
        NoiseregError: for too many numbers.
    """

    def __init__(self, noise: Noise, shape: tuple[int, ...], device: torch.device) -> None:
        self.noise, self.shape, self.device = noise, shape, device
        several = shape[0] if len(shape) > 1 else 1
        self.channels = several if all(map(self._alike, PROBED)) else 1
        self.size = math.prod(shape) // self.channels
        apart = self.channels == several
        check_size(self.size, "numbers a channel" if apart else "numbers of unlike channels")
        self._known: dict[float, Found] = {}

    def parts(self, eps: Tensor) -> Tensor:
        """ε, (B, *shape), as (B, channels, size)."""
        return eps.reshape(len(eps), self.channels, self.size)

    def at(self, t: float) -> Found:
        """Those of one time, remembered."""
        if t not in self._known:
            while len(self._known) >= max(REMEMBERED // self.size**2, 1):
                del self._known[next(iter(self._known))]
            # What is kept must serve where gradients are asked for, too.
            with torch.inference_mode(False), torch.no_grad():
                self._known[t] = self._find(t)
        return self._known[t]

    def _find(self, t: float) -> Found:
        units = torch.zeros(
            self.size, self.channels, self.size, dtype=torch.float64, device=self.device
        )
        units[:, 0] = torch.eye(self.size, dtype=torch.float64, device=self.device)
        units = units.reshape(self.size, *self.shape)
        form = self.parts(self._applied(units, t))[:, 0]
        _, count = self.noise.whitened_power(units[:1], self._times(t, 1))
        last = next(reversed(self._known.values()), None)
        if last is not None and torch.equal(form, last.form):  # a noise that does not move
            return last
        values, vectors = torch.linalg.eigh((form + form.mT) / 2)
        left_out = self.size - round(float(count) / self.channels)
        values[:left_out] = 0
        return Found(form, vectors, values, float(count))

    def _applied(self, eps: Tensor, t: float) -> Tensor:
        """A_t ε, half the gradient of the quadratic form; (B, *shape)."""
        with torch.inference_mode(False), torch.enable_grad():
            at = eps.clone().requires_grad_()
            total, _ = self.noise.whitened_power(at, self._times(t, len(eps)))
            (gradient,) = torch.autograd.grad(total.sum(), at)
        return gradient.detach() / 2

    def _times(self, t: float, count: int) -> Tensor:
        return torch.full((count,), t, dtype=torch.float64, device=self.device)

    def _alike(self, t: float) -> bool:
        """Whether A_t is one matrix for each channel on its own."""
        source = torch.Generator().manual_seed(0)
        probe = torch.randn(2, *self.shape, generator=source, dtype=torch.float64).to(self.device)
        alone = probe.clone()
        alone[:, 1:] = 0
        here, apart = self._applied(probe, t), self._applied(alone, t)
        turned = self._applied(probe.roll(1, 1), t)
        size = here.abs().max()
        alone[:, :1] = here[:, :1]  # what A makes of it if channels are apart
        differences = torch.stack([turned - here.roll(1, 1), apart - alone])
        return bool(differences.abs().max() <= 1e-9 * size)
