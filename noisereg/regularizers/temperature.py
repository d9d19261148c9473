"""What isotropy's term does to a network that can fit anything: it scales ε̂ (docs/theory.md, §6).

The minimum of E[w·‖y − ŷ‖²/n] + λ(P̂ − m)² over all functions ŷ of x_t, with P̂ = E‖ε̂‖²/n and ε̂
read from ŷ with gain g, is ε̂ = s·ε* with ε* the minimum without the term and

    s = 1/(1 + κ·g²/w),    κ = 2λ(P̂ − m),

where P̂ is the power *after* scaling, E[s²‖ε*‖²/n]: κ is the root of an increasing function. What
the mean of the term is over decides what κ depends on: nothing, the bin of t, t, or the sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from noisereg.api import EpsScale, NoiseregError, TrainedPower
from noisereg.diffusion.adjust import pull
from noisereg.diffusion.law import MAX_GAIN

HALVINGS = 100
"""Of the interval that holds κ: to the last bit."""


def temperature(
    weight: float, trained: TrainedPower, mean: str, bins: int, level: str
) -> EpsScale:
    """s(ε̂, t), for the ``mean``, ``bins`` and ``level`` of isotropy's parameters.

    Raises:
        NoiseregError: for a mean of which it is not known.
    """
    process, t = trained.process, trained.t
    wanted = torch.ones_like(trained.level) if level == "one" else trained.level
    force = pull(process, t)
    kept = process.noise_gain(t) <= MAX_GAIN
    if not bool(kept.any()) or weight == 0:
        return lambda eps_hat, t: torch.ones_like(t, dtype=torch.float64)
    # Of a minibatch of many times the share that is kept divides the term; of one time it is kept
    # whole, or left out.
    strength = 2 * weight / (1.0 if trained.together else float(kept.double().mean()))

    if mean == "sample-plain":
        levels = _over(t, wanted)

        def of_sample(eps_hat: Tensor, at: Tensor) -> Tensor:
            g = pull(process, at)
            power = eps_hat.double().flatten(1).square().mean(1)
            lowest = torch.maximum(-1 / g.clamp(min=1e-300), -strength * levels(at))
            kappa = _root(
                lambda k: k - strength * (power / (1 + k * g).square() - levels(at)), lowest
            )
            return 1 / (1 + kappa * g)

        return of_sample
    if mean == "timestep-bin-plain":
        raise NoiseregError(
            f"isotropy:mean={mean} has no `eps_scale`: the variance of its means acts too; "
            "expected mean=timestep-bin, batch, sample or sample-plain"
        )
    each_time = trained.together or mean == "sample"
    if each_time:
        groups = torch.arange(len(t))
    elif mean == "timestep-bin":
        groups = bin_of(t, bins)
    else:
        groups = torch.zeros(len(t), dtype=torch.long)

    kappas = torch.zeros(int(groups.max()) + 1, dtype=torch.float64)
    for group in groups[kept].unique():
        own = kept & (groups == group)
        power, held, g = trained.power[own], wanted[own], force[own]

        def excess(k: Tensor, power: Tensor = power, held: Tensor = held, g: Tensor = g) -> Tensor:
            return k - strength * (power / (1 + k * g).square() - held).mean()

        # κ is no less than without any power
        kappas[group] = _root(excess, torch.maximum(-1 / g.max(), -strength * held.mean()))
    if each_time:
        over_time = _over(t[kept], kappas[kept])
    elif mean == "timestep-bin":
        over_time = lambda at: kappas.to(at.device)[bin_of(at, bins).clamp(max=len(kappas) - 1)]  # noqa: E731
    else:
        over_time = lambda at: kappas.to(at.device).expand(len(at))  # noqa: E731

    def of_time(eps_hat: Tensor, at: Tensor) -> Tensor:
        return 1 / (1 + over_time(at) * pull(process, at))

    return of_time


def bin_of(t: Tensor, bins: int) -> Tensor:
    """The equal bin of [0, 1] that each time is in, (B,) int64."""
    return (t * bins).long().clamp(max=bins - 1)


def _over(t: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    """``values`` at the ascending times ``t``, linear between them and constant beyond."""

    def at(times: Tensor) -> Tensor:
        knots, own = t.to(times.device), values.to(times.device)
        place = torch.searchsorted(knots, times.double().contiguous()).clamp(1, len(knots) - 1)
        left, right = knots[place - 1], knots[place]
        share = ((times - left) / (right - left).clamp(min=1e-12)).clamp(0, 1)
        return torch.lerp(own[place - 1], own[place], share)

    return at if len(t) > 1 else lambda times: values.to(times.device).expand(len(times))


def _root(excess: Callable[[Tensor], Tensor], lowest: Tensor) -> Tensor:
    """Where an increasing function of κ > ``lowest`` is 0, number by number."""
    low, high = lowest, torch.ones_like(lowest)
    for _ in range(HALVINGS):
        if not bool((excess(high) < 0).any()):
            break
        high = 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = excess(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
