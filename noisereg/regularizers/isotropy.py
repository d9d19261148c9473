"""The isotropy of the predicted noise (Iso-Diffusion, Fernando et al. 2024, arXiv 2403.16790)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from noisereg.api import (
    Context,
    EpsScale,
    Noise,
    NoiseregError,
    Regularizer,
    TrainedPower,
    TrainStep,
    check_times,
    per_sample,
)
from noisereg.diffusion import compatible
from noisereg.diffusion.law import MAX_GAIN
from noisereg.diffusion.loss import mean_over_ranks
from noisereg.errors import nearest
from noisereg.regularizers import IsotropyParams, Level, Space
from noisereg.regularizers.directions import check_size
from noisereg.regularizers.temperature import plain, temperature, whitened


@contextmanager
def _still(noise: Noise) -> Iterator[None]:
    """No gradient to the noise's own parameters: it must not come to meet a wrong ε̂ (as m, which
    is detached).
    """
    learning = (
        [p for p in noise.parameters() if p.requires_grad] if isinstance(noise, nn.Module) else []
    )
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def isotropy(
    eps_hat: Tensor,
    t: Tensor | None = None,
    noise: Noise | None = None,
    *,
    level: Level = "noise",
    space: Space = "plain",
    mean: Callable[[Tensor], Tensor] = mean_over_ranks,
) -> Tensor:
    """(E[‖ε̂‖²/n] − m)², a scalar in float32 (float64 if ε̂ is): Iso-Diffusion's eq. 28, to be
    multiplied by λ and added to one's own loss.

    ``eps_hat``: the predicted noise (B, *shape), whatever the network's target is. m is the
    ``noise``'s own mean square at ``t``, (B,) in [0, 1], 1 without a noise (white) or with
    ``level="one"``. E is over the batch of all ranks.

    Raises:
        NoiseregError: for a noise without times, and ``space="whitened"`` without a linear noise.
    """
    for name, value, known in (("level", level, Level), ("space", space, Space)):
        if value not in get_args(known):
            raise NoiseregError(
                f"`{name}={value}`: expected {' or '.join(get_args(known))}"
                f"{nearest(str(value), get_args(known))}"
            )
    if noise is None:
        if space == "whitened":
            raise NoiseregError("space=whitened needs the noise; give noise= and t=")
        return (mean(_square(eps_hat)) - 1).square()
    if t is None:
        raise NoiseregError("isotropy under a noise needs its times; give t=, (B,) in [0, 1]")
    compatible.check_whitening(noise, space, "isotropy:space=whitened", "use space=plain")
    check_times(t, by_value=t.device.type == "cpu")
    with torch.autocast(eps_hat.device.type, enabled=False):
        power, wanted = power_and_level(eps_hat, t, noise, level, space)
        return mean(power - wanted).square()


def power_and_level(
    eps_hat: Tensor, t: Tensor, noise: Noise, level: str, space: str
) -> tuple[Tensor, Tensor]:
    """‖ε̂‖²/n, of ε̂ or of L_t⁻¹ε̂, and what it is held to, each (B,) in float32 (float64 if ε̂
    is).
    """
    if space == "whitened":
        precise = eps_hat if eps_hat.dtype == torch.float64 else eps_hat.float()
        with _still(noise):
            total, count = noise.whitened_power(precise, t)
        return total / count.to(total), torch.ones_like(total)
    power = _square(eps_hat)
    if level == "one":
        return power, torch.ones_like(power)
    return power, noise.mean_square(t).detach().to(power)


def _square(eps_hat: Tensor) -> Tensor:
    """‖ε̂‖²/n, (B,), in float32 (float64 if ε̂ is)."""
    precise = eps_hat if eps_hat.dtype == torch.float64 else eps_hat.float()
    return precise.flatten(1).square().mean(1)


class Isotropy(Regularizer):
    """Iso-Diffusion's eq. 28, for noise of any power: (E[‖ε̂‖²/n] − m)².

    Raises:
        NoiseregError: for ``space=whitened`` with a noise that is not linear.
    """

    def __init__(self, params: IsotropyParams, ctx: Context) -> None:
        self.params = params
        if ctx.noise is not None:
            compatible.check_whitening(
                ctx.noise, params.space, "isotropy:space=whitened", "use space=plain"
            )
        self._logs: dict[str, Tensor] = {}

    def __call__(self, s: TrainStep) -> Tensor:
        power, level = self._power(s)
        keep = (s.process.noise_gain(s.t) <= MAX_GAIN).to(power)
        self._logs = {"isotropy/left_out": 1 - s.mean(keep).detach()}
        # Where a time is left out its ε̂ may not be finite (x0 targets at t = 0).
        excess = torch.where(keep > 0, power - level, torch.zeros_like(power))
        if self.params.mean == "sample-plain":
            return s.mean(keep * excess.square()) / s.mean(keep).clamp(min=_tiny(keep))
        if self.params.mean == "batch":
            share = s.mean(keep)
            return (s.mean(keep * excess) / share.clamp(min=_tiny(keep))).square()
        everywhere = len(power) * s.ranks
        # Each t for itself: bins so fine that they hold two samples on average.
        count = self.params.bins if "bin" in self.params.mean else max(1, everywhere // 2)
        number = (s.t * count).long().clamp(max=count - 1)
        members = keep[:, None] * (number[:, None] == torch.arange(count, device=number.device))
        share = s.mean(members)
        total = s.mean(members * excess[:, None])
        if self.params.mean == "timestep-bin-plain":
            squared = (total / share.clamp(min=_tiny(share))).square()
        else:
            # m̂² less the sample variance of m̂: the mean of the products of two members. A bin with
            # one member has none, and is left out.
            one = 1 / everywhere
            products = total.square() - one * s.mean(members * excess[:, None].square())
            pairs = share * (share - one)
            share = torch.where(share > 1.5 * one, share, 0)
            squared = products / pairs.clamp(min=one * one)
        return (share * squared).sum() / share.sum().clamp(min=_tiny(share))

    def zero_case(self, s: TrainStep) -> Tensor | None:
        """Every sample's ε̂ scaled to its level."""
        power, level = self._power(s)
        return s.eps_hat * per_sample((level / power).sqrt(), s.eps_hat)

    def eps_scale(self, weight: float, trained: TrainedPower) -> EpsScale:
        """The temperature of docs/theory.md, §6, at its fixed point.

        Raises:
            NoiseregError: where it is not known (``mean=timestep-bin-plain``, or ``sample-plain``
            whitened; whitened under a noise that is told of a condition), for the directions of
            more than 1,024 numbers, and next to its pole.
        """
        own, whole = self.params, self.params.space == "whitened"
        if own.mean == "timestep-bin-plain":
            raise NoiseregError(
                f"isotropy:mean={own.mean} has no `eps_scale`: the variance of its means acts "
                "too; expected mean=timestep-bin, batch, sample or sample-plain"
            )
        if own.mean == "sample-plain" and whole:
            raise NoiseregError(
                "isotropy:mean=sample-plain,space=whitened has no `eps_scale`: each sample's "
                "directions would be scaled by its own power; expected another mean, or "
                "space=plain"
            )
        if whole and trained.noise is None:
            raise NoiseregError(
                "isotropy:space=whitened scales each direction of the noise, and this one has "
                "others for each condition; expected another noise, or space=plain"
            )
        if whole and trained.shape:
            check_size(math.prod(trained.shape[1:] or trained.shape), "numbers a channel")
        if whole and trained.means is None:
            return _unmeasured
        seen = whitened(trained) if whole else plain(trained, own.level)
        return temperature(weight, trained, own.mean, own.bins, seen)

    def logs(self) -> dict[str, Tensor]:
        return self._logs

    def _power(self, s: TrainStep) -> tuple[Tensor, Tensor]:
        return power_and_level(s.eps_hat, s.t, s.noise, self.params.level, self.params.space)


def _unmeasured(eps_hat: Tensor, t: Tensor) -> Tensor:
    """What is left of a scale that was asked for to see whether it would be refused."""
    raise NoiseregError(
        "isotropy:space=whitened scales ε̂ by direction, and nothing has been measured; expected a "
        "TrainedPower with means"
    )


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
