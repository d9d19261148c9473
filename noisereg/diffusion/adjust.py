"""What is done to a prediction before a solver sees it: ε̂ scaled, x̂0 clipped (theory, §6 and
§12).

Both keep x_t = a·x̂0 + b·ε̂: of (x̂0, ε̂) one is changed, and the other is read anew from x_t. The
heads stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from noisereg.api import EpsScale, NoiseregError, Prediction, Process, per_sample
from noisereg.diffusion import arguments
from noisereg.diffusion.law import MAX_GAIN, NO_SIGNAL, scales


def pull(process: Process, t: Tensor) -> Tensor:
    """g²/w, (B,) float64: by how much a force on ε̂ moves ε̂, g being the gain of the network's
    output and w its error's weight in the loss.

    0 where regularizers leave times out (a gain above :data:`~noisereg.diffusion.law.MAX_GAIN`)
    and where the loss has no weight: there is no fit to move.
    """
    gain, weight = process.noise_gain(t).double(), process.weight(t).double()
    moved = torch.where(weight > 0, gain.square() / weight, torch.zeros_like(gain))
    return torch.where(gain <= MAX_GAIN, moved, torch.zeros_like(moved))


LEAST_FACTOR = 1e-3
"""Of ε̂; the greatest is its inverse. Beyond, 1/factor − 1 has no digit left of the factor."""


def constant(process: Process, factor: float) -> EpsScale:
    """ε̂ × ``factor`` where the network predicts ε; for another target 1/(1 + (1/factor − 1)g²), g
    being its gain: what the same force on ε̂ does through the network's own output. So nothing is
    scaled at a time without a signal, where ε̂ = x_t/b is no prediction.

    Raises:
        NoiseregError: for a factor with which ε̂ would have no bound.
    """
    arguments.check_number("eps_scale", factor)
    if not LEAST_FACTOR <= factor <= 1 / LEAST_FACTOR:
        raise NoiseregError(
            f"`eps_scale={factor:g}`: expected a factor above 0, such as 1.02, from "
            f"{LEAST_FACTOR:g} to {1 / LEAST_FACTOR:g}"
        )
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    gain = process.noise_gain(times)
    # A gain that goes beyond the bound reaches it, between these times.
    largest = min(float(gain.max()), MAX_GAIN) ** 2
    if (force := 1 / factor - 1) * largest <= -1:
        raise NoiseregError(
            f"`eps_scale={factor:g}`: this process's ε̂ repeats an error of the network "
            f"{largest**0.5:.3g}-fold at some times, and would have no bound there; expected a "
            f"factor below {largest / (largest - 1):.4g}"
        )

    def scale(eps_hat: Tensor, t: Tensor) -> Tensor:
        g = process.noise_gain(t).double()
        moved = force * torch.where(g <= MAX_GAIN, g, torch.zeros_like(g)).square()
        return per_sample(1 / (1 + moved), eps_hat) * eps_hat

    return scale


def scaled(here: Prediction, t: Tensor, process: Process, scale: EpsScale) -> Prediction:
    """``scale``(ε̂, t) in place of ε̂, and x̂0 + (b/a)(ε̂ − scaled ε̂) beside it.

    Raises:
        NoiseregError: for a scaled ε̂ of another shape.
    """
    eps = here.eps_hat.double()
    made = scale(eps, t).double()
    if made.shape != eps.shape:
        raise NoiseregError(
            f"`eps_scale` gave {tuple(made.shape)}; expected the scaled ε̂, {tuple(eps.shape)}, "
            "and not its factor"
        )
    a, b = process.signal_scale(t).double(), process.noise_scale(t).double()
    # Where no signal is left x̂0 cannot be read from ε̂, and a(1) may be 0 but for rounding.
    ratio = torch.where(a > NO_SIGNAL, b / a, torch.zeros_like(a))
    moved = per_sample(ratio, eps) * (eps - made)
    return dataclasses.replace(
        here,
        x0_hat=(here.x0_hat.double() + moved).to(here.x0_hat.dtype),
        eps_hat=made.to(here.eps_hat.dtype),
    )


@dataclass(frozen=True)
class Clip:
    """x̂0 held to the range of images, [−1, 1] (Imagen, Saharia et al. 2022, arXiv 2205.11487,
    §2.3).

    ``static`` clips. ``dynamic`` takes the ``percentile`` of |x̂0| over a sample's numbers, c,
    clips to [−c, c] and divides by c where c > 1.

    Raises:
        NoiseregError: for a percentile out of range.
    """

    kind: Literal["static", "dynamic"]
    percentile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 1:
            raise NoiseregError(
                f"`clip=dynamic:percentile={self.percentile:g}`: expected a share above 0 and at "
                "most 1, such as 0.995"
            )

    def __call__(self, x0_hat: Tensor) -> Tensor:
        """x̂0, (B, *shape), in the range."""
        if self.kind == "static":
            return x0_hat.clamp(-1, 1)
        sizes = x0_hat.flatten(1).abs()
        sizes = sizes if sizes.dtype == torch.float64 else sizes.float()
        bound = torch.quantile(sizes, self.percentile, dim=1)
        c = per_sample(bound.clamp(min=1), x0_hat)
        return x0_hat.clamp(-c, c) / c


def clipped(here: Prediction, x_t: Tensor, t: Tensor, process: Process, clip: Clip) -> Prediction:
    """x̂0 clipped, and the ε̂ that x_t then leaves: (x_t − a·x̂0)/b."""
    a, b = scales(process, t, x_t)
    x0_hat = clip(here.x0_hat)
    return dataclasses.replace(
        here, x0_hat=x0_hat, eps_hat=here.eps_hat + (a / b) * (here.x0_hat - x0_hat)
    )


def adjusted(
    predict: Callable[[Tensor, Tensor], Prediction],
    process: Process,
    scale: EpsScale | None,
    clip: Clip | None,
) -> Callable[[Tensor, Tensor], Prediction]:
    """``predict`` with ε̂ scaled, then x̂0 clipped."""
    if scale is None and clip is None:
        return predict

    def both(x: Tensor, t: Tensor) -> Prediction:
        here = predict(x, t)
        here = here if scale is None else scaled(here, t, process, scale)
        return here if clip is None else clipped(here, x, t, process, clip)

    return both
