"""What isotropy's term does to a network that can fit anything: it scales ε̂ (docs/theory.md, §6).

The minimum of E[w·‖y − ŷ‖²/n] + λ(P̂ − m)² over all functions ŷ of x_t, with P̂ = E‖ε̂‖²/n and ε̂
read from ŷ with gain g, is ε̂ = s·ε* with ε* the minimum without the term and

    s = 1/(1 + κ·g²/w),    κ = 2λ(P̂ − m),

where P̂ is the power *after* scaling, E[s²‖ε*‖²/n]: κ is the root of an increasing function. What
the mean of the term is over decides what κ depends on: nothing, the bin of t, t, or the sample.

With P̂ = E[ε̂ᵀA_tε̂]/n′, the whitened form, each eigenvector of A_t with eigenvalue α has an s of its
own, 1/(1 + κ·(n/n′)α·g²/w).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import EpsScale, NoiseregError, TrainedPower, per_sample
from noisereg.diffusion.adjust import pull
from noisereg.diffusion.law import MAX_GAIN
from noisereg.regularizers.directions import Directions

HALVINGS = 100
"""Of the interval that holds κ: to the last bit."""
MOST = 20.0
"""By which ε̂ is multiplied. Next to its pole, κ = −w/g², the factor has no bound, and the times
that were measured decide it.
"""


@dataclass(frozen=True)
class Spectrum:
    """The power that the term sees, by direction, and what scales a direction. D of them, one for
    the plain form; tensors are float64.
    """

    power: Tensor
    """(K, D): their sum over directions is P̂ before scaling."""
    wanted: Tensor
    """(K,)"""
    stiffness: Tensor
    """(K, D), ≥ 0: what a direction's κ·g²/w is multiplied by."""
    stiffest: Callable[[Tensor], Tensor]
    """t (B,) → the largest of them at each, (B,)."""
    scale: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(ε̂ (B, *shape), t, κ(t) (B,)) → ε̂ scaled."""


def factor(force: Tensor) -> Tensor:
    """1/(1 + force), at most :data:`MOST`."""
    return 1 / (1 + force).clamp(min=1 / MOST)


def plain(trained: TrainedPower, level: str) -> Spectrum:
    """Of ‖ε̂‖²/n."""
    process = trained.process

    def scale(eps_hat: Tensor, t: Tensor, kappa: Tensor) -> Tensor:
        return per_sample(factor(kappa * pull(process, t)), eps_hat) * eps_hat

    wanted = torch.ones_like(trained.level) if level == "one" else trained.level
    ones = torch.ones_like(wanted)[:, None]
    return Spectrum(trained.power[:, None], wanted, ones, torch.ones_like, scale)


def whitened(trained: TrainedPower) -> Spectrum:
    """Of ‖Π L_t⁻¹ε̂‖²/n′. Scaling waits for the device, to look up the directions of a time.

    Raises:
        NoiseregError: for too many directions.
    """
    assert trained.noise is not None
    assert trained.means is not None
    directions = Directions(trained.noise, trained.shape, trained.device or torch.device("cpu"))
    process, n = trained.process, math.prod(trained.shape)
    found = [directions.at(float(t)) for t in trained.t]
    values = torch.stack([at.values.cpu() for at in found])
    count = torch.tensor([at.count for at in found], dtype=torch.float64)[:, None]

    def energies(eps: Tensor, k: int) -> Tensor:
        along = directions.parts(eps) @ found[k].vectors
        return found[k].values * along.square().sum(1) / found[k].count

    # L_t z has as much of each direction that is kept
    known = directions.channels * (values > 0) / count

    def stiffest(t: Tensor) -> Tensor:
        times, places = t.unique(return_inverse=True)
        each = [directions.at(float(at)) for at in times]
        return torch.stack([n / at.count * at.values.max() for at in each])[places]

    def scale(eps_hat: Tensor, t: Tensor, kappa: Tensor) -> Tensor:
        force, whole = kappa * pull(process, t), directions.parts(eps_hat)
        out = whole.clone()
        for time in t[force != 0].unique():
            at, rows = directions.at(float(time)), t == time
            vectors, stiffness = at.vectors.to(whole), (n / at.count * at.values).to(whole)
            more = factor(force[rows, None].to(whole) * stiffness) - 1
            out[rows] += (more[:, None] * (whole[rows] @ vectors)) @ vectors.mT
        return out.reshape(eps_hat.shape)

    return Spectrum(
        power=trained.means(energies, known),
        wanted=torch.ones_like(trained.level),
        stiffness=n / count * values,
        stiffest=stiffest,
        scale=scale,
    )


def temperature(
    weight: float, trained: TrainedPower, mean: str, bins: int, seen: Spectrum
) -> EpsScale:
    """What becomes of ε̂ at t, for the ``mean`` and ``bins`` of isotropy's parameters.

    Raises:
        NoiseregError: where ε̂ would be multiplied by more than :data:`MOST` at a measured time.
    """
    process, t = trained.process, trained.t
    force = pull(process, t)
    kept = process.noise_gain(t) <= MAX_GAIN
    if not bool(kept.any()) or weight == 0:
        return lambda eps_hat, t: eps_hat
    # Of a minibatch of many times the share that is kept divides the term; of one time it is kept
    # whole, or left out.
    strength = 2 * weight / (1.0 if trained.together else float(kept.double().mean()))

    if mean == "sample-plain":
        levels = _over(t, seen.wanted)

        def of_sample(eps_hat: Tensor, at: Tensor) -> Tensor:
            g = pull(process, at)
            power = eps_hat.double().flatten(1).square().mean(1)
            lowest = torch.maximum(-1 / g.clamp(min=1e-300), -strength * levels(at))
            kappa = _root(
                lambda k: k - strength * (power / (1 + k * g).square() - levels(at)), lowest
            )
            return seen.scale(eps_hat, at, kappa)

        return of_sample
    each_time = trained.together or mean == "sample"
    if each_time:
        groups = torch.arange(len(t))
    elif mean == "timestep-bin":
        groups = bin_of(t, bins)
    else:
        groups = torch.zeros(len(t), dtype=torch.long)

    kappas = torch.zeros(int(groups.max()) + 1, dtype=torch.float64)
    stiff = force[:, None] * seen.stiffness
    for group in groups[kept].unique():
        own = kept & (groups == group)
        power, held, g = seen.power[own], seen.wanted[own], stiff[own]

        def excess(k: Tensor, power: Tensor = power, held: Tensor = held, g: Tensor = g) -> Tensor:
            return k - strength * ((power / (1 + k * g).square()).sum(1) - held).mean()

        # κ is no less than without any power
        kappas[group] = _root(excess, torch.maximum(-1 / g.max(), -strength * held.mean()))
        if float((1 + kappas[group] * g).min()) < 1 / MOST:
            at = float(t[own][g.amax(1).argmax()])
            raise NoiseregError(
                f"isotropy:weight={weight:g} would multiply ε̂ by more than {MOST:g} in a "
                f"direction at t = {at:.3g}, where the closed form is next to its pole (theory, "
                "§6); expected a smaller weight"
            )
    if each_time:
        # times the largest stiffness, which moves with t, κ is next to the same
        between = _over(t[kept], (kappas * seen.stiffness.amax(1))[kept])
        over_time = lambda at: between(at) / seen.stiffest(at)  # noqa: E731
    elif mean == "timestep-bin":
        over_time = lambda at: kappas.to(at.device)[bin_of(at, bins).clamp(max=len(kappas) - 1)]  # noqa: E731
    else:
        over_time = lambda at: kappas.to(at.device).expand(len(at))  # noqa: E731
    return lambda eps_hat, at: seen.scale(eps_hat, at, over_time(at))


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
