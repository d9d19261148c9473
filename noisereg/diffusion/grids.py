"""The times of the sampler's steps: (process, steps) → (steps + 1,) float64, from 1 down to 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from noisereg.api import Grid, NoiseregError, Process
from noisereg.diffusion.law import NO_SIGNAL, log_ratio


class Uniform(Grid):
    """Equal steps in t."""

    def times(self, process: Process, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


class Chebyshev(Grid):
    """t = (1 + cos(πk/N))/2: steps shrink quadratically towards both ends, where λ = log(a/b) goes
    to ±∞, so that a multistep solver keeps its order to the ends (theory, §3).
    """

    def times(self, process: Process, steps: int) -> Tensor:
        places = torch.arange(steps + 1, dtype=torch.float64) / steps
        times = (1 + torch.cos(math.pi * places)) / 2
        times[0], times[-1] = 1.0, 0.0
        return times


class LogSNR(Grid):
    """Equal steps in λ = log(a/b), from t = 1 to 1/T; the ends are joined."""

    def times(self, process: Process, steps: int) -> Tensor:
        return _joined(process, steps, self)

    def places(self, start: float, stop: float, count: int) -> Tensor:
        """``count`` values of λ, (count,), from ``start`` up to ``stop``."""
        return start + torch.linspace(0, 1, count, dtype=torch.float64) * (stop - start)


class EDM(LogSNR):
    """b/a uniform to the power 1/ρ (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""

    def __init__(self, rho: float = 7.0) -> None:
        self.rho = rho

    def places(self, start: float, stop: float, count: int) -> Tensor:
        place = torch.linspace(0, 1, count, dtype=torch.float64)
        low, top = (
            torch.tensor([-stop / self.rho, -start / self.rho], dtype=torch.float64).exp().tolist()
        )
        return -self.rho * (top + place * (low - top)).log()


class Times(Grid):
    """Times that are given and fall from 1 to 0, whatever number of steps is asked for."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = tuple(values)
        self.steps = len(self.values) - 1

    def times(self, process: Process, steps: int) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


def _joined(process: Process, steps: int, grid: LogSNR) -> Tensor:
    """Times at the grid's values of λ, which needs to be finite: they run from t = 1, or where no
    signal is left there from 1 − 0.01/T, to 1/T. A cut at 1 − 1/T would let signal through where
    static blue noise is weak: on Gaussian data IADB then stays off by 1 % at jitter 1e-3 and by 69
    % at 1e-6, where this one converges (theory, §5).
    """
    if steps <= 2:
        return Uniform().times(process, steps)
    one = torch.ones(1, dtype=torch.float64)
    cut = process.signal_scale(one).item() < NO_SIGNAL
    high = 1 - 0.01 / process.T if cut else 1.0
    start, stop = log_ratio(
        process, torch.tensor([high, 1 / process.T], dtype=torch.float64)
    ).tolist()
    times = _invert(
        process, grid.places(start, stop, steps - 1 if cut else steps), 1 / process.T, high
    )
    times[0], times[-1] = high, 1 / process.T
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([one, times, zero] if cut else [times, zero])


def _invert(process: Process, wanted: Tensor, low: float, high: float) -> Tensor:
    """t with log(a/b) = ``wanted``, by bisection: the ratio falls with t."""
    lower, upper = torch.full_like(wanted, low), torch.full_like(wanted, high)
    for _ in range(60):
        middle = (lower + upper) / 2
        above = log_ratio(process, middle) > wanted
        lower, upper = torch.where(above, middle, lower), torch.where(above, upper, middle)
    return (lower + upper) / 2


OWN: dict[str, Grid] = {"uniform": Uniform(), "chebyshev": Chebyshev(), "logsnr": LogSNR()}
"""Those without parameters, by name: what the defaults of noise and solver are among."""


def own(spec: str) -> Grid:
    """The grid that a default names, without any registry: one of :data:`OWN`, ``edm``, or
    ``edm:rho=7``.

    Raises:
        NoiseregError: for any other, which must then be given.
    """
    if spec in OWN:
        return OWN[spec]
    name, _, given = spec.partition(":")
    try:
        if name == "edm":
            return EDM(float(given.removeprefix("rho="))) if given else EDM()
    except ValueError:
        pass
    raise NoiseregError(
        f"the grid asked for by default, {spec}, is none of {', '.join(OWN)}, edm and edm:rho=7; "
        "give a grid"
    )
