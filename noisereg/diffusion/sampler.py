"""One step from t to s < t serves DDPM, DDIM, IADB and BNDM, with any noise (DESIGN §2;
docs/theory.md, §3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import Noise, Process, per_sample
from noisereg.errors import NoiseregError

WEAK = 0.1
"""Below this ``power_floor`` a grid uniform in t converges hopelessly slowly (docs/theory.md,
§5).
"""


@dataclass(frozen=True)
class Prediction:
    """What the network says of x_t, each (B, *shape) but for the heads, (B, C·heads, …)."""

    x0_hat: Tensor
    eps_hat: Tensor
    heads: Tensor | None = None
    own: Tensor | None = None
    """The process's own heads; ``heads`` are the noise's."""


Model = Callable[[Tensor, Tensor], Prediction]
"""(x_t (B, *shape), t (B,)) → Prediction."""
Source = Callable[[int], Mapping[str, Tensor]]
"""The latents of step k: 0 for the start, k for the fresh noise of the k-th step."""


def step(
    x0_hat: Tensor,
    eps_s: Tensor,
    fresh: Tensor | None,
    a_t: Tensor,
    b_t: Tensor,
    a_s: Tensor,
    b_s: Tensor,
    eta: float,
    fraction: Tensor | float = 0.0,
) -> Tensor:
    """x_s from (x̂0, ε̂_s): DDIM and IADB at eta 0, DDPM at eta 1; keeps N(a_s x0, b_s² L_s L_sᵀ).
    Theory, §3.

    The scales are (B, 1, …) or scalars; ``fresh`` is color(z', s) for new latents z' and may be
    None where eta is 0 or b_s is. It is added with σ̃ = σ·(b_t/b_s)^fraction: 0 is the posterior's
    β̃, 1 is β_{t|s} (DDPM's two choices, §3.2 there), and log σ̃² lies linearly between (improved
    DDPM, 2102.09672, eq. 15).
    """
    beta = b_t**2 - (a_t / a_s) ** 2 * b_s**2
    sigma = eta * beta.clamp(min=0).sqrt() * b_s / b_t
    x = a_s * x0_hat + (b_s**2 - sigma**2).clamp(min=0).sqrt() * eps_s
    return x if fresh is None else x + sigma * (b_t / b_s) ** fraction * fresh


def heun(
    x_t: Tensor,
    here: Prediction,
    there: Prediction,
    a_t: Tensor,
    b_t: Tensor,
    a_s: Tensor,
    b_s: Tensor,
    moved: Tensor,
    moved_back: Tensor,
) -> Tensor:
    """x_s by the trapezoidal rule on dx = x̂0 da + d(b ε̂), from the predictions at t and at the
    Euler step's end.

    ``moved`` is ε̂_t carried to s, ``moved_back`` the other's ε̂_s carried to t. Second order
    (Karras et al. 2022, arXiv 2206.00364, algorithm 1, in these coordinates).
    """
    signal = (a_s - a_t) * (here.x0_hat + there.x0_hat) / 2
    noise = (b_s * moved - b_t * here.eps_hat + b_s * there.eps_hat - b_t * moved_back) / 2
    return x_t + signal + noise


def time_grid(process: Process, steps: int, grid: str = "uniform") -> Tensor:
    """Times from 1 to 0, (steps + 1,) float64.

    ``uniform`` in t; ``logsnr``, uniform in log(a/b); ``edm``, b/a uniform to the power 1/7
    (Karras et al. 2022, eq. 5). The last two need a finite ratio: they run from t = 1 (or, where
    no signal is left there, 1 − 0.01/T) to 1/T, and the ends are joined. A cut at 1 − 1/T would
    let signal through where static blue noise is weak: on Gaussian data IADB then stays off by 1 %
    at jitter 1e-3 and by 69 % at 1e-6, where this one converges.
    """
    if grid == "uniform" or steps <= 2:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    cut = process.signal_scale(one).item() < 1e-12
    high = 1 - 0.01 / process.T if cut else 1.0
    inner = steps - 1 if cut else steps
    ends = torch.tensor([high, 1 / process.T], dtype=torch.float64)
    start, stop = _log_ratio(process, ends).tolist()
    place = torch.linspace(0, 1, inner, dtype=torch.float64)
    if grid == "logsnr":
        wanted = start + place * (stop - start)
    else:
        rho = 7.0
        low, top = torch.tensor([-stop / rho, -start / rho], dtype=torch.float64).exp().tolist()
        wanted = -rho * (top + place * (low - top)).log()
    times = _invert(process, wanted, 1 / process.T, high)
    times[0], times[-1] = high, 1 / process.T
    return torch.cat(
        [one, times, torch.zeros(1, dtype=torch.float64)]
        if cut
        else [times, torch.zeros(1).double()]
    )


def _log_ratio(process: Process, t: Tensor) -> Tensor:
    return process.signal_scale(t).log() - process.noise_scale(t).log()


def _invert(process: Process, wanted: Tensor, low: float, high: float) -> Tensor:
    """t with log(a/b) = wanted, by bisection: the ratio falls with t."""
    lower, upper = torch.full_like(wanted, low), torch.full_like(wanted, high)
    for _ in range(60):
        middle = (lower + upper) / 2
        above = _log_ratio(process, middle) > wanted
        lower, upper = torch.where(above, middle, lower), torch.where(above, upper, middle)
    return (lower + upper) / 2


def default_grid(noise: Noise) -> str:
    return "logsnr" if noise.power_floor < WEAK else "uniform"


def check(process: Process, noise: Noise, eta: float, solver: str, paired: bool = False) -> None:
    """
    Raises:
        NoiseregError: for a combination under which a step would be wrong, with the reason.
    """
    if eta > 0 and not noise.gaussian:
        raise NoiseregError(
            f"eta {eta:g} adds fresh noise to old, and the sum has the right law for Gaussian "
            "noise only; give eta 0"
        )
    if eta > 0 and paired:
        raise NoiseregError(
            f"eta {eta:g} rests on noise independent of the data, which this run's pairing gave "
            "up; give eta 0"
        )
    if solver == "heun" and eta > 0:
        raise NoiseregError(
            f"heun follows the deterministic path and eta is {eta:g}; give eta 0, or solver euler"
        )


def trajectory(
    model: Model,
    process: Process,
    noise: Noise,
    source: Source,
    times: Tensor,
    eta: float = 0.0,
    solver: str = "euler",
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """x at each of ``times``, first to last: (B, *shape) in the dtype of the latents.

    ``start`` replaces the first x, b(1)·ε_1, which is right where no signal is left at t = 1.
    """
    latents = source(0)
    batch = next(iter(latents.values()))

    def at(time: Tensor) -> Tensor:
        return time.to(batch.device).expand(len(batch))

    x = start
    if x is None:
        eps = noise.color(latents, at(times[0]))
        x = per_sample(process.noise_scale(at(times[0])), eps) * eps
    yield x
    for k in range(len(times) - 1):
        t, s = at(times[k]), at(times[k + 1])
        a_t, b_t = per_sample(process.signal_scale(t), x), per_sample(process.noise_scale(t), x)
        a_s, b_s = per_sample(process.signal_scale(s), x), per_sample(process.noise_scale(s), x)
        here = model(x, t)
        last = float(times[k + 1]) == 0.0
        moved = here.eps_hat if last else noise.transport(here.eps_hat, here.heads, t, s)
        fresh = noise.color(source(k + 1), s) if eta > 0 and not last else None
        x_s = step(
            here.x0_hat, moved, fresh, a_t, b_t, a_s, b_s, eta, process.variance_fraction(here.own)
        )
        if solver == "heun" and not last:
            there = model(x_s, s)
            back = noise.transport(there.eps_hat, there.heads, s, t)
            x_s = heun(x, here, there, a_t, b_t, a_s, b_s, moved, back)
        x = x_s
        yield x
