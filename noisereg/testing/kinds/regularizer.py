"""What a regularizer must do."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import (
    Context,
    EpsScale,
    Noise,
    NoiseregError,
    Prediction,
    Regularizer,
    TrainedPower,
    TrainStep,
    per_sample,
)
from noisereg.diffusion.adjust import scaled
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.law import add_noise
from noisereg.diffusion.loss import Weighted
from noisereg.testing.doubles import (
    PROCESSES,
    LearningNoise,
    Ranks,
    SmallNetwork,
    descend,
    draw_latents,
    permuted,
    seeded,
    smooth_data,
    times,
    train_step,
)
from noisereg.testing.kinds.common import EXACT, relative_error, try_bounds, unchanged
from noisereg.testing.kit import IMAGES, POINTS, NotApplicable, Subject, check, expect

WEIGHT = 0.3
"""λ at which eps_scale is asked."""
ROUNDING = "exact up to a relative 1e-4, for sums in another order"


def built(
    subject: Subject,
    noise: Noise | None = None,
    shape: tuple[int, ...] | None = None,
    **changed: Any,
) -> Any:
    """The regularizer for white noise, or ``noise``, under the same state of the global generator
    each time.
    """
    shape = shape or subject_shape(subject)
    noise = noise or subject.registry.build("noise", "white", {}, Context(shape=shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return subject.build(
            changed, shape=shape, noise=noise, process=_process(subject, shape, noise)
        )


def _process(subject: Subject, shape: tuple[int, ...], noise: Noise) -> Any:
    return subject.registry.build("process", "iadb", {}, Context(shape=shape, noise=noise))


def subject_shape(subject: Subject) -> tuple[int, ...]:
    return subject.shapes((IMAGES, POINTS), noise=LearningNoise())[0]


def value_of(regularizer: Regularizer, s: TrainStep) -> Tensor:
    """Its value, any chance in it from the same state of the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return regularizer(s)


def without_chance(subject: Subject, s: TrainStep) -> None:
    """
    Raises:
        NotApplicable: for one whose value is drawn: what a sample draws goes by its place in the
            batch.
    """
    values = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            values.append(built(subject)(s).detach())
    if not torch.equal(*values):
        raise NotApplicable("its value is drawn")


@check("regularizer", EXACT)
def finite_scalar(subject: Subject) -> None:
    """Its value is one finite float32 number with finite gradients, under both processes at times
    up to 1; also where ε̂ is 0 everywhere, as that of a network whose last layer starts at zero
    is."""
    shape = subject_shape(subject)
    for name in PROCESSES:
        s, network = train_step(subject.registry, name, shape=shape)
        _check_finite(subject, s, list(network.parameters()), f"under {name}")
        flat = torch.zeros_like(s.eps_hat, requires_grad=True)
        _check_finite(
            subject, dataclasses.replace(s, eps_hat=flat), [flat], "where ε̂ is 0 everywhere"
        )


def _check_finite(subject: Subject, s: TrainStep, inputs: list[Tensor], where: str) -> None:
    value = value_of(built(subject), s)
    expect(
        isinstance(value, Tensor) and value.ndim == 0,
        f"its value is no scalar but {getattr(value, 'shape', value)}",
    )
    expect(value.dtype == torch.float32, f"its value is {value.dtype}; expected float32")
    expect(bool(torch.isfinite(value)), f"its value is {value.item()} {where}")
    if value.requires_grad:
        gradients = torch.autograd.grad(value, inputs, allow_unused=True)
        expect(
            all(bool(torch.isfinite(g).all()) for g in gradients if g is not None),
            f"its gradient is not finite {where}",
        )


@check("regularizer", EXACT)
def gradient_reaches_the_network(subject: Subject) -> None:
    """Some parameter of the network has a gradient that is not 0: otherwise the term changes
    nothing.
    """
    s, network = train_step(subject.registry, shape=subject_shape(subject))
    value = value_of(built(subject), s)
    expect(value.requires_grad, "its value depends on nothing that learns: was x̂0 or ε̂ detached?")
    gradients = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    expect(
        any(g is not None and bool(g.any()) for g in gradients),
        "its gradient is 0 for every parameter of the network",
    )


@check("regularizer", EXACT)
def batch_of_one(subject: Subject) -> None:
    """A micro-batch of one sample gives a finite value and finite gradients: no division by B −
    1.
    """
    s, network = train_step(subject.registry, shape=subject_shape(subject), rows=slice(4, 5))
    _check_finite(subject, s, list(network.parameters()), "for a batch of one")


@check("regularizer", EXACT)
def no_gradient_to_data_or_noise(subject: Subject) -> None:
    """No gradient reaches x0, the latents, the true ε, or the parameters of a noise that learns:
    it is the network that is to be changed. What it is compared with has to be detached."""
    shape = subject_shape(subject)
    noise = LearningNoise()
    noise.requires_grad_(False)
    s, _ = train_step(subject.registry, shape=shape, noise=noise)
    noise.requires_grad_(True)
    x0, eps = (v.detach().clone().requires_grad_() for v in (s.x0, s.eps))
    latents = {name: v.detach().clone().requires_grad_() for name, v in s.latents.items()}
    value = value_of(
        built(subject, noise), dataclasses.replace(s, x0=x0, eps=eps, latents=latents)
    )
    if not value.requires_grad:
        raise NotApplicable("its value has no gradient")
    inputs = {
        "x0": x0,
        "eps": eps,
        **{f"latents[{n!r}]": v for n, v in latents.items()},
        "the noise": noise.log_scale,
    }
    gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    reached = [
        name for name, g in zip(inputs, gradients, strict=True) if g is not None and bool(g.any())
    ]
    expect(not reached, f"a gradient reaches {', '.join(reached)}; detach what ε̂ is compared with")


@check("regularizer", EXACT)
def inputs_unchanged(subject: Subject) -> None:
    """It changes nothing that it is handed in place."""
    s, _ = train_step(subject.registry, shape=subject_shape(subject))
    tensors = {
        f.name: getattr(s, f.name)
        for f in dataclasses.fields(s)
        if isinstance(getattr(s, f.name), Tensor)
    }
    detached = dataclasses.replace(s, **{name: v.detach().clone() for name, v in tensors.items()})
    watched = {name: getattr(detached, name) for name in tensors}
    with unchanged("it", **watched, **detached.latents):
        value_of(built(subject), detached)


@check("regularizer", ROUNDING)
def order_of_the_batch_does_not_matter(subject: Subject) -> None:
    """The value of a permuted micro-batch is the same."""
    s, _ = train_step(subject.registry, shape=subject_shape(subject))
    without_chance(subject, s)
    order = torch.randperm(len(s.t), generator=torch.Generator().manual_seed(4))
    one, two = value_of(built(subject), s), value_of(built(subject), permuted(s, order))
    error = relative_error(two.detach(), one.detach())
    expect(
        error <= 1e-4,
        f"its value is {one.item():.6g}, and {two.item():.6g} for the same batch in another order",
    )


@check("regularizer", ROUNDING)
def same_under_several_ranks(subject: Subject) -> None:
    """With the micro-batch split over two unlike ranks, the mean of their values and the mean of
    their gradients, which is what DistributedDataParallel applies, are those of one rank with the
    whole. Take means over the batch by s.mean.

    The ranks are threads and s.mean their all-reduce, so this is the arithmetic of a real group.
    """
    shape, batch = subject_shape(subject), 12
    whole, network = train_step(subject.registry, shape=shape, batch=batch)
    without_chance(subject, whole)
    parameters = list(network.parameters())
    terms = [built(subject) for _ in range(3)]
    expected = value_of(terms[2], whole)
    wanted = (
        torch.autograd.grad(expected, parameters, allow_unused=True)
        if expected.requires_grad
        else []
    )
    ranks = Ranks(2)
    halves = (slice(0, batch // 2), slice(batch // 2, batch))

    def work(rank: int) -> tuple[Tensor, Any]:
        half, _ = train_step(
            subject.registry,
            shape=shape,
            batch=batch,
            network=network,
            rows=halves[rank],
            mean=ranks.mean(rank),
        )
        value = terms[rank](dataclasses.replace(half, ranks=2))
        return value.detach(), torch.autograd.grad(
            value, parameters, allow_unused=True
        ) if value.requires_grad else []

    results = ranks.run(work)
    for result in results:
        if isinstance(result, threading.BrokenBarrierError):
            continue
        if isinstance(result, BaseException):
            raise result
    expect(
        not any(isinstance(r, BaseException) for r in results),
        "s.mean is called more often on one rank than on the other, and training would hang: call "
        "it always, with zeros "
        "where there is nothing",
    )
    value = torch.stack([v for v, _ in results]).mean()
    error = relative_error(value, expected.detach())
    expect(
        error <= 1e-4,
        f"two ranks get {value.item():.6g} and one rank with the whole batch "
        f"{expected.item():.6g}: a mean over the batch "
        "was taken without s.mean",
    )
    for k, gradient in enumerate(wanted):
        parts = [torch.zeros_like(parameters[k]) if g[k] is None else g[k] for _, g in results]
        combined = torch.stack(parts).mean(0)
        gap = relative_error(
            combined, torch.zeros_like(combined) if gradient is None else gradient
        )
        small = float(combined.norm()) < 1e-7 and (
            gradient is None or float(gradient.norm()) < 1e-7
        )
        expect(
            small or gap <= 1e-3,
            "the gradient of two ranks is off that of one rank with the whole batch by "
            f"{gap:.1e}: s.mean has the right "
            "derivative, other ways of sharing a mean have not",
        )


@check("regularizer", EXACT + "; a value under 1e-6 of that before counts as 0")
def zero_where_declared(subject: Subject) -> None:
    """At the ε̂ that zero_case declares, the value is 0."""
    s, _ = train_step(subject.registry, shape=subject_shape(subject))
    regularizer = built(subject)
    with torch.no_grad():
        zero = regularizer.zero_case(s)
        if zero is None:
            raise NotApplicable("it declares no zero case (Regularizer.zero_case)")
        expect(
            zero.shape == s.eps_hat.shape,
            f"zero_case gives {tuple(zero.shape)}; expected ε̂'s {tuple(s.eps_hat.shape)}",
        )
        before = value_of(regularizer, s)
        process = s.process
        a, b = (
            per_sample(process.signal_scale(s.t), s.x_t),
            per_sample(process.noise_scale(s.t), s.x_t),
        )
        x0_hat = torch.where(a > 1e-6, (s.x_t - b * zero) / a.clamp(min=1e-6), s.x0_hat)
        after = value_of(regularizer, dataclasses.replace(s, eps_hat=zero, x0_hat=x0_hat))
    limit = 1e-6 * max(1.0, abs(before.item()))
    expect(
        abs(after.item()) <= limit,
        f"its value at its zero case is {after.item():.3g}, and {before.item():.3g} elsewhere",
    )


@check("regularizer", EXACT)
def value_is_unweighted(subject: Subject) -> None:
    """The value does not change with the parameter weight: the engine multiplies by it."""
    s, _ = train_step(subject.registry, shape=subject_shape(subject))
    one, ten = (value_of(built(subject, weight=w), s).item() for w in (0.1, 1.0))
    expect(
        one == ten,
        f"its value is {one:.6g} with weight=0.1 and {ten:.6g} with weight=1: the engine weights "
        "it",
    )


@check("regularizer", "exact up to a relative 1e-5, for sums in another order")
def eps_scale_is_of_each_sample(subject: Subject) -> None:
    """What eps_scale gives keeps ε̂'s shape, is finite, depends on nothing else of the batch,
    changes nothing in place, and is ε̂ itself for a weight of 0."""
    for name in PROCESSES:
        population = Population(subject, name)
        scale, eps_hat, t = population.scale(WEIGHT), population.fit.eps_hat, population.seen.t
        with unchanged("eps_scale", eps_hat=eps_hat, t=t):
            made = scale(eps_hat, t)
        expect(
            made.shape == eps_hat.shape,
            f"it gives {tuple(made.shape)}; expected the scaled ε̂, {tuple(eps_hat.shape)}",
        )
        expect(bool(torch.isfinite(made).all()), f"what it gives is not finite under {name}")
        few = slice(7, 9)
        error = relative_error(scale(eps_hat[few], t[few]), made[few])
        expect(
            error <= 1e-5,
            f"a sample's scaled ε̂ is off by {error:.1e} with others in the batch: it depends on "
            "them",
        )
        error = relative_error(population.scale(0.0)(eps_hat, t), eps_hat)
        expect(error <= 1e-5, f"for a weight of 0 it changes ε̂ by {error:.1e}; expected ε̂ itself")


@check("regularizer", "isotropy, plain and in bins, fails in none of 400 other draws of the data")
def eps_scale_lowers_the_loss(subject: Subject) -> None:
    """With the best ε̂ for Gaussian data, the mean squared error plus λ times the term is less
    where eps_scale puts ε̂ than where it was, than halfway, and than half as far beyond."""
    for name in PROCESSES:
        population = Population(subject, name)
        scale = population.scale(WEIGHT)
        eps_hat = population.fit.eps_hat
        way = scale(eps_hat, population.seen.t) - eps_hat
        if float(way.norm()) <= 1e-6 * float(eps_hat.norm()):
            raise NotApplicable(f"it leaves ε̂ as it is under {name}")
        losses = {far: population.loss(eps_hat + far * way) for far in (0.0, 0.5, 1.0, 1.5)}
        expect(
            min(losses, key=losses.__getitem__) == 1,
            f"the loss under {name} is {losses[0]:.5g} with ε̂ as it is and {losses[1]:.5g} with "
            f"what eps_scale makes of it, {losses[0.5]:.5g} halfway and {losses[1.5]:.5g} half as "
            "far beyond: it is not what the term would do",
        )


class Population:
    """White Gaussian data and noise, the best network for them, and the whole loss.

    Raises:
        NotApplicable: for a regularizer that does not say how it scales ε̂.
    """

    VARIANCE = 0.3
    """Of the data."""
    TIMES = 64
    NUMBERS = 1 << 18
    """In the batch: 2,048 images of 2×8×8."""

    def __init__(self, subject: Subject, process: str) -> None:
        seen, _ = train_step(subject.registry, process, shape=subject_shape(subject))
        self.term = built(subject, seen.noise, weight=WEIGHT)
        self.process = seen.process
        self.shape = tuple(seen.x0.shape[1:])
        count = self.NUMBERS // math.prod(self.shape)
        t = self.process.time((torch.arange(count, dtype=torch.float64) + 0.5) / count)
        x0, eps = torch.randn(2, count, *self.shape, generator=seeded(5), dtype=torch.float64)
        x0 = self.VARIANCE**0.5 * x0
        x_t = add_noise(self.process, x0, eps, t)
        to_x0, to_eps = (per_sample(part, x_t) for part in self._best(t))
        self.fit = Prediction(to_x0 * x_t, to_eps * x_t, None)
        """The best one, in float64."""
        self.seen = dataclasses.replace(
            seen,
            x0=x0.float(),
            latents={"z": eps.float()},
            t=t,
            eps=eps.float(),
            x_t=x_t.float(),
            heads=None,
            denoise=self._denoise,
        )

    def _best(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """What x̂0 and ε̂ of x_t = 1 are."""
        a, b = self.process.signal_scale(t).double(), self.process.noise_scale(t).double()
        total = a**2 * self.VARIANCE + b**2
        return a * self.VARIANCE / total, b / total

    def _denoise(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x0_hat, eps_hat = (per_sample(part, x).to(x) * x for part in self._best(t))
        return x0_hat, eps_hat

    def scale(self, weight: float) -> EpsScale:
        """What the term says of this network."""
        t = self.process.time((torch.arange(self.TIMES, dtype=torch.float64) + 0.5) / self.TIMES)
        _, to_eps = self._best(t)
        power = to_eps * self.process.noise_scale(t).double()
        drawn = torch.randn(256, *self.shape, generator=seeded(6), dtype=torch.float64)

        def means(of: Any, known: Tensor) -> Tensor:
            return torch.stack([of(power[k].sqrt() * drawn, k).mean(0) for k in range(len(t))])

        trained = TrainedPower(
            self.process,
            t,
            power,
            torch.ones_like(t),
            noise=self.seen.noise,
            shape=self.shape,
            means=means,
        )
        try:
            return self.term.eps_scale(weight, trained)
        except NoiseregError as reason:
            raise NotApplicable(str(reason)) from None

    def loss(self, eps_hat: Tensor) -> float:
        """What another ε̂ than the best adds to the mean squared error, and the term."""
        changed = scaled(self.fit, self.seen.t, self.process, lambda *_: eps_hat)
        best, made = (
            self.process.target(one.x0_hat, one.eps_hat, self.seen.t)
            for one in (self.fit, changed)
        )
        error = (best - made).flatten(1).square().mean(1)
        s = dataclasses.replace(
            self.seen, x0_hat=changed.x0_hat.float(), eps_hat=changed.eps_hat.float()
        )
        term = float(value_of(self.term, s))
        return float((self.process.weight(self.seen.t) * error).mean()) + WEIGHT * term


@check("regularizer", "no number is compared: only finiteness")
def trains(subject: Subject) -> None:
    """Three steps of training with it, through both processes and with a noise that learns, keep
    everything finite.
    """
    shape = subject_shape(subject)
    for name in PROCESSES:
        noise = LearningNoise()
        process = subject.registry.build(
            "process", name, {}, subject.context(shape=shape, noise=noise)
        )
        term = subject.build(shape=shape, noise=noise, process=process)
        network = SmallNetwork(shape, 1 + process.extra_heads)
        diffusion = Diffusion(shape, process, noise, [Weighted("it", 0.1, term)])
        for step in range(3):
            latents = draw_latents(noise, shape, 8, seed=step)
            t = times(8, 1 / process.T)
            loss, parts = diffusion.loss(
                network, smooth_data(shape, 8), latents=latents, t=t, step=step
            )
            expect(
                bool(torch.isfinite(loss)),
                f"the loss under {name} is {loss.item()} at step {step + 1}",
            )
            bad = [k for k, v in parts.items() if v.ndim]
            expect(not bad, f"logs() gives what is no scalar: {', '.join(bad)}")
            descend(nn.ModuleList([network, diffusion]), loss)


@check("regularizer", "no number is compared: only finiteness")
def works_at_its_declared_bounds(subject: Subject) -> None:
    """With each numeric parameter at each of its inclusive bounds its value is finite, or it
    refuses with a reason.
    """
    s, _ = train_step(subject.registry, shape=subject_shape(subject))

    def attempt(changed: dict[str, Any]) -> None:
        value = value_of(built(subject, **changed), s)
        if not torch.isfinite(value):
            raise ValueError(f"the value {value.item()}")

    try_bounds(subject, attempt)
