"""How probable held-out data are under a model: the variational bound, and the density of its
deterministic flow.

Both are in nats a sample here and in bits a dimension in the metric; derived in docs/theory.md, §7
and §8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import Context, Dataset, Metric, Model, Noise, Prediction, Process, per_sample
from noisereg.data import spaced
from noisereg.diffusion.bound import decoder_term, gaussian_nll, step_term
from noisereg.diffusion.law import add_noise
from noisereg.diffusion.sample import Predict, Source
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.metrics import NllParams

# The variational bound


@dataclass(frozen=True)
class Bound:
    """−log p(x0) ≤ prior + Σ steps + decoder in expectation, in nats."""

    prior: Tensor
    """(B,): KL of x_1's law given x0 from the sampler's start."""
    steps: Tensor
    """(K − 1, B): KL of each step but the last, from t = 1 down."""
    decoder: Tensor
    """(B,): −log p(x0 | x_t) of the last step."""

    @property
    def total(self) -> Tensor:
        """(B,)."""
        return self.prior + self.steps.sum(0) + self.decoder


@torch.no_grad()
def variational_bound(
    predict: Predict,
    process: Process,
    noise: Noise,
    x0: Tensor,
    source: Source,
    times: Tensor,
    eta: float = 1.0,
    levels: int = 0,
) -> Bound:
    """One draw of each term for x0 (B, *shape), the sampler's steps being those between ``times``,
    from 1 to 0.

    ``source(k)`` gives the latents with which the k-th term's x_t is made; terms are independent.
    With ``levels`` the last step is integrated over the width of a grey level (for a diagonal
    noise), and x0 lies on those; else it is a density.

    Raises:
        NoiseregError: if L_t cannot be inverted.
    """

    def at(time: Tensor) -> Tensor:
        return time.to(x0.device).expand(len(x0))

    start = at(times[0])
    offset = noise.whiten(
        per_sample(process.signal_scale(start) / process.noise_scale(start), x0) * x0, start
    )
    steps: list[Tensor] = []
    for k, (t, s) in enumerate(pairwise(map(at, times))):
        latents = source(k)
        eps = noise.color(latents, t)
        x_t = add_noise(process, x0, eps, t)
        here = predict(x_t, t)
        fraction = process.variance_fraction(here.own)
        if k < len(times) - 2:
            steps.append(step_term(process, noise, x0, latents, here, t, s, fraction, eta))
            continue
        before = at(times[k - 1]) if k else t
        decoder = decoder_term(process, noise, x0, here, before, t, fraction, levels)
    zeros = x0.new_zeros(0, len(x0))
    return Bound(
        offset.square().flatten(1).sum(1) / 2, torch.stack(steps) if steps else zeros, decoder
    )


# The flow


def velocity(
    predict: Predict,
    process: Process,
    noise: Noise,
    x: Tensor,
    t: Tensor,
    signal_rate: Tensor,
    noise_rate: Tensor,
) -> Tensor:
    """dx/dt = a'x̂0 + b'ε̂ + b·∂ε̂_s/∂s of the deterministic path, (B, *shape), for a' and b'
    (B,).
    """
    here = predict(x, t)
    moving = noise.transport_rate(here.eps_hat, here.heads, t)
    return (
        per_sample(signal_rate, x) * here.x0_hat
        + per_sample(noise_rate, x) * here.eps_hat
        + per_sample(process.noise_scale(t), x) * moving
    )


def divergence(
    flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(v, tr ∂v/∂x) at x: (B, *shape) and (B,).

    By Hutchinson's estimate, the mean of eᵀ(∂v/∂x)e over ``probes`` e (P, B, *shape); exact, by
    one product for each number of a sample, where they are None.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        v = flow(x)
        if probes is None:
            units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(
                -1, 1, *x.shape[1:]
            )
            directions, scale = units.expand(-1, *x.shape), 1.0
        else:
            directions, scale = probes, 1 / len(probes)
        total = x.new_zeros(len(x))
        for k, e in enumerate(directions):
            (product,) = torch.autograd.grad(v, x, e, retain_graph=k < len(directions) - 1)
            total = total + scale * (product * e).flatten(1).sum(1)
    return v.detach(), total


def flow_nll(
    predict: Predict,
    process: Process,
    noise: Noise,
    x: Tensor,
    times: Tensor,
    probes: Tensor | None = None,
) -> Tensor:
    """−log p(x), (B,) in nats, of the density at t = 0 that the deterministic path makes of the
    sampler's start.

    By Heun's method from ``times[0]`` up to 1, and by the midpoint's in the last interval, since
    at t = 1 itself x̂0 may be read through an a(1) of nearly 0 (Chen et al. 2018, arXiv
    1806.07366; Song et al. 2021, arXiv 2011.13456, eq. 39). a' and b' are the mean rates over a
    step, so that tables between which they jump cost no order.

    Raises:
        NoiseregError: if ε_1 has no density.
    """
    gained = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    nodes = [time.to(x.device).expand(len(x)) for time in times]

    def slope(x: Tensor, t: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The flow at t and its divergence, with the rates between ``begin`` and ``end``."""
        a, b = (
            (scale(end) - scale(begin)) / (end - begin)
            for scale in (process.signal_scale, process.noise_scale)
        )
        return divergence(lambda y: velocity(predict, process, noise, y, t, a, b), x, probes)

    for t, s in pairwise(nodes):
        span = float(s[0] - t[0])
        if float(s[0]) == 1.0:
            middle = (t + s) / 2
            v, _ = slope(x, t, t, middle)
            v, spread = slope(x + span / 2 * v, middle, t, s)
        else:
            here, spread_here = slope(x, t, t, s)
            there, spread_there = slope(x + span * here, s, t, s)
            v, spread = (here + there) / 2, (spread_here + spread_there) / 2
        x, gained = x + span * v, gained + span * spread
    end = nodes[-1]
    log_std = per_sample(process.noise_scale(end).log(), x)
    start = gaussian_nll(
        noise.whiten(x, end), log_std, noise.log_det(end, tuple(x.shape[1:])).to(x)
    )
    return (start - gained).detach()  # a γ that learns has a gradient


# The metric


def in_float64(model: Model, cond: Tensor | None) -> Predict:
    """The network as it is (float32, never bf16), its states and predictions in float64.

    Below t = 1/T, where it was not trained, it is asked as at 1/T.
    """

    def predict(x: Tensor, t: Tensor) -> Prediction:
        p = model.predict(x.float(), t.clamp(min=1 / model.process.T), cond)
        heads, own = (None if h is None else h.double() for h in (p.heads, p.own))
        return Prediction(p.x0_hat.double(), p.eps_hat.double(), heads, own)

    return predict


def _refusal(check: Callable[[], object]) -> str:
    try:
        check()
    except NoiseregError as error:
        return str(error)
    return ""


def bound_refusal(model: Model) -> str:
    """Why there is no variational bound for this model; empty if there is one."""
    if model.paired:
        return "the bound rests on noise independent of the data, which this run's pairing gave up"
    if not model.noise.gaussian:
        return "the bound's terms are KL divergences of Gaussians, and this noise is not Gaussian"
    device = model.device

    def invertible() -> None:
        for time in (0.0, 1 / model.process.T, 1.0):
            t = torch.full((1,), time, dtype=torch.float64, device=device)
            model.noise.whiten(torch.zeros(1, *model.shape, dtype=torch.float64, device=device), t)
            if not model.noise.diagonal:
                model.noise.log_det(t, model.shape)

    return _refusal(invertible)


def flow_refusal(model: Model) -> str:
    """Why the flow gives no density for this model; empty if it does."""
    if not model.noise.gaussian:
        return "the flow starts from this noise, whose density is not known"
    device = model.device

    def has_density() -> None:
        one = torch.ones(1, dtype=torch.float64, device=device)
        zeros = torch.zeros(1, *model.shape, dtype=torch.float64, device=device)
        model.noise.whiten(zeros, one)
        model.noise.log_det(one, model.shape)
        if not model.noise.extra_heads:
            model.noise.transport_rate(zeros, None, 0 * one)

    return _refusal(has_density)


TERMS = ("prior", "steps", "decoder")


class NegativeLogLikelihood(Metric):
    """Bits a dimension of held-out data: ``nll-bound`` and ``nll-ode``, those that this model has.

    For images of 256 grey levels they are −log₂ P of the levels, over the number of pixels: the
    bound with a discretised decoder where the noise is diagonal (white), else, and by the flow,
    with one uniform dequantisation u of each image, for which −log₂ P(x) ≤ E[−log₂ p(x + u)] −
    n·log₂(width). For other data they are densities'.
    """

    better = dict.fromkeys(
        ("nll-bound", "nll-ode", *(f"nll-bound-{part}" for part in TERMS)), "lower"
    )
    needs_model = True

    def __init__(self, params: NllParams, ctx: Context) -> None:
        self.params = params
        self._notes: list[str] = []

    def notes(self) -> list[str]:
        return self._notes

    def of_model(self, model: Model, data: Dataset) -> dict[str, float]:
        """
        Raises:
            NoiseregError: for data without the split, and for what was asked for and does not
            exist, with the reason.
        """
        self._notes = []
        p = self.params
        split = data.split(p.split)
        if not len(split):
            raise NoiseregError(f"nll: the data have no {p.split} split; give nll:split=train")
        refused = {"bound": bound_refusal(model), "ode": flow_refusal(model)}
        wanted = ["bound", "ode"] if p.by == "auto" else [p.by]
        kinds = [kind for kind in wanted if not refused[kind]]
        if not kinds:
            raise NoiseregError(f"nll: {'; '.join(refused[kind] for kind in wanted)}")
        self._notes += [f"nll: no {kind}: {refused[kind]}" for kind in wanted if refused[kind]]
        indices = spaced(len(split), p.num)
        rows: dict[str, list[Tensor]] = {}
        for places in torch.arange(len(indices)).split(p.batch_size):
            batch = split.batch(indices[places])
            cond = model.task.cond(batch)
            x0 = batch.x.to(model.device).double()
            cond = None if cond is None else cond.to(model.device)
            predict, noise = in_float64(model, cond), model.noise.given(cond)
            for kind in kinds:
                measure = self._bound if kind == "bound" else self._flow
                for name, bits in measure(
                    model, noise, predict, x0, places.tolist(), data.levels
                ).items():
                    rows.setdefault(name, []).append(bits)
        values = {name: torch.cat(bits) for name, bits in rows.items()}
        self._note_errors(values, len(indices), p.split)
        shown = ("nll-bound", "nll-ode") if not p.terms else tuple(self.better)
        return {name: float(v.mean()) for name, v in values.items() if name in shown}

    def _bound(
        self,
        model: Model,
        noise: Noise,
        predict: Predict,
        x0: Tensor,
        places: list[int],
        levels: int,
    ) -> dict[str, Tensor]:
        steps = self.params.steps or model.process.T
        times = model.times(steps, self._grid())
        self._bound_steps = len(times) - 1
        discretised = levels if model.noise.diagonal else 0
        width = 0 if discretised else levels
        x = self._dequantised(x0, places, width)

        def source(k: int) -> dict[str, Tensor]:
            seed = self.params.seed
            return draws.double(
                draws.latents(model.noise, model.shape, seed, Stream.BOUND, places, k, x0.device)
            )

        bound = variational_bound(
            predict, model.process, noise, x, source, times, self.params.eta, discretised
        )
        named = {
            "": bound.total,
            "-prior": bound.prior,
            "-steps": bound.steps.sum(0),
            "-decoder": bound.decoder,
        }
        extra = {"": width, "-decoder": width}
        return {f"nll-bound{k}": bits_per_dim(v, x0, extra.get(k, 0)) for k, v in named.items()}

    def _flow(
        self,
        model: Model,
        noise: Noise,
        predict: Predict,
        x0: Tensor,
        places: list[int],
        levels: int,
    ) -> dict[str, Tensor]:
        p = self.params
        times = model.times(p.ode_steps, self._grid()).flip(0)
        half = times[::2] if len(times) % 2 else torch.cat([times[::2], times[-1:]])
        self._ode_steps = len(times) - 1  # of a grid of given times, its own number
        x = self._dequantised(x0, places, levels)
        probes = None
        if p.probes:
            drawn = [
                draws.generator(p.seed, Stream.PROBES, i, k).integers(0, 2, model.shape)
                for k in range(p.probes)
                for i in places
            ]
            probes = torch.tensor(np.stack(drawn), dtype=x0.dtype, device=x0.device) * 2 - 1
            probes = probes.reshape(p.probes, *x0.shape)
        fine, coarse = (
            flow_nll(predict, model.process, noise, x, some, probes) for some in (times, half)
        )
        return {
            "nll-ode": bits_per_dim(fine, x0, levels),
            "difference": bits_per_dim(fine - coarse, x0, 0),
        }

    def _grid(self) -> str | None:
        return None if self.params.grid == "auto" else self.params.grid

    def _dequantised(self, x0: Tensor, places: list[int], levels: int) -> Tensor:
        """x0 + u, u uniform on the width of a grey level."""
        if not levels:
            return x0
        u = [
            draws.generator(self.params.seed, Stream.DEQUANTISATION, i).random(x0.shape[1:])
            for i in places
        ]
        return x0 + (torch.tensor(np.stack(u), dtype=x0.dtype, device=x0.device) - 0.5) * 2 / (
            levels - 1
        )

    def _note_errors(self, values: dict[str, Tensor], n: int, split: str) -> None:
        p = self.params

        def spread(name: str) -> str:
            return (
                f"standard error {float(values[name].std() / n**0.5):.3f}"
                if n > 1
                else "one sample"
            )

        if "nll-bound" in values:
            terms = ", ".join(
                f"{k} {float(values[f'nll-bound-{k}'].mean()):.3f}"
                for k in ("prior", "steps", "decoder")
            )
            self._notes.append(
                f"nll-bound: bits/dim of {n:,} of {split}, {self._bound_steps} steps, η "
                f"{p.eta:g}, one draw a term ({terms}); {spread('nll-bound')}"
            )
        if "nll-ode" in values:
            trace = (
                f"{p.probes} Rademacher probe{'s' * (p.probes > 1)}" if p.probes else "exact trace"
            )
            self._notes.append(
                f"nll-ode: bits/dim of {n:,} of {split}, Heun, {self._ode_steps} steps, {trace}; "
                f"half the steps differ by {abs(float(values['difference'].mean())):.4f}; "
                f"{spread('nll-ode')}"
            )


def bits_per_dim(nats: Tensor, x: Tensor, levels: int) -> Tensor:
    """(B,): of a density, or with ``levels`` of the probability of a bin of width 2/(levels −
    1).
    """
    bits = nats / (x[0].numel() * math.log(2))
    return bits + math.log2((levels - 1) / 2) if levels else bits
