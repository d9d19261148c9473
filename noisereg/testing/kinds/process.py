"""What a process must do (docs/theory.md, §1 and §3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import Context, Noise, Process, per_sample
from noisereg.diffusion import compatible
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.solvers import DDIM
from noisereg.errors import NoiseregError
from noisereg.testing.doubles import (
    SmallNetwork,
    default_times,
    descend,
    draw_latents,
    seeded,
    smooth_data,
    times,
)
from noisereg.testing.kinds.common import EXACT, relative_error, try_bounds
from noisereg.testing.kit import POINTS, CheckFailed, NotApplicable, Subject, check, expect
from noisereg.testing.oracle import GaussianOracle, output_covariance, smooth_covariance
from noisereg.testing.oracle import relative_error as matrix_error

ROUNDING = "exact up to a relative 1e-6 in float64"


def built(subject: Subject, **changed: Any) -> tuple[Process, Noise]:
    noise = subject.registry.build("noise", "white", {}, Context(shape=POINTS))
    return subject.build(changed, shape=POINTS, noise=noise), noise


def training_times(process: Process) -> Tensor:
    """Some of t = k/T, the first and the last among them."""
    k = torch.linspace(1, process.T, 23, dtype=torch.float64).round()
    return k / process.T


def double(count: int, seed: int) -> Tensor:
    return torch.randn(count, *POINTS, generator=seeded(seed), dtype=torch.float64)


@check("process", "exact up to 1e-12")
def begins_at_the_data(subject: Subject) -> None:
    """a(0) = 1 and b(0) = 0: at t = 0 there is no noise, and the last step ends at x̂0."""
    process, _ = built(subject)
    zero = torch.zeros(1, dtype=torch.float64)
    a, b = float(process.signal_scale(zero)), float(process.noise_scale(zero))
    expect(
        abs(a - 1) <= 1e-12 and abs(b) <= 1e-12,
        f"at t = 0, a = {a:g} and b = {b:g}; expected 1 and 0",
    )


@check("process", EXACT)
def scales_are_float64_and_monotone(subject: Subject) -> None:
    """a and b are (B,) float64, finite and ≥ 0 on [0, 1], b > 0 after 0, and a/b falls strictly:
    the step grids invert it. Evaluated alone a time has the same scales."""
    process, _ = built(subject)
    t = times(2001)
    a, b = process.signal_scale(t), process.noise_scale(t)
    for name, scale in (("signal_scale", a), ("noise_scale", b)):
        expect(scale.shape == t.shape, f"{name} gives {tuple(scale.shape)}; expected (B,)")
        expect(scale.dtype == torch.float64, f"{name} gives {scale.dtype}; expected float64")
        expect(
            bool((torch.isfinite(scale) & (scale >= 0)).all()),
            f"{name} is negative or not finite somewhere",
        )
    ratio = a[1:] / b[1:]
    expect(bool((b[1:] > 0).all()), f"b is 0 at t = {t[1:][b[1:] <= 0][:1].tolist()}")
    rising = t[2:][ratio[1:] >= ratio[:-1]]
    expect(
        not len(rising),
        f"a/b does not fall at t = {rising[:1].tolist()}; it must fall strictly from t = 0 to 1",
    )
    alone = float(process.signal_scale(t[700:701]))
    expect(alone == float(a[700]), "a(t) of one time differs from a(t) in a batch of times")


@check("process", ROUNDING)
def split_inverts_target(subject: Subject) -> None:
    """From the true target and x_t, split gives the true x0 and ε; near either end, where a or b
    is under 1e-3, what is left of them is enough."""
    process, _ = built(subject)
    t = training_times(process)
    x0, eps = double(len(t), 1), double(len(t), 2)
    a, b = per_sample(process.signal_scale(t), x0), per_sample(process.noise_scale(t), x0)
    target = process.target(x0, eps, t)
    expect(
        target.shape == x0.shape, f"target gives {tuple(target.shape)}; expected {tuple(x0.shape)}"
    )
    x0_hat, eps_hat = process.split(target, a * x0 + b * eps, t)
    for name, found, wanted, scale in (("x̂0", x0_hat, x0, a), ("ε̂", eps_hat, eps, b)):
        usable = (scale > 1e-3).flatten()
        gap = relative_error(found[usable], wanted[usable])
        expect(gap <= 1e-6, f"{name} from the true target is off the truth by {gap:.1e}")


@check("process", ROUNDING)
def split_is_consistent(subject: Subject) -> None:
    """Whatever the network says, a·x̂0 + b·ε̂ = x_t: the two describe one x_t."""
    process, _ = built(subject)
    t = training_times(process)
    x_t, out = double(len(t), 3), double(len(t), 4)
    x0_hat, eps_hat = process.split(out, x_t, t)
    a, b = process.signal_scale(t), process.noise_scale(t)
    usable = (a > 1e-3) & (b > 1e-3)
    gap = relative_error(
        (per_sample(a, x_t) * x0_hat + per_sample(b, x_t) * eps_hat)[usable], x_t[usable]
    )
    expect(gap <= 1e-6, f"a·x̂0 + b·ε̂ is off x_t by {gap:.1e} for an arbitrary output")


@check("process", "exact up to a relative 1e-4")
def noise_gain_is_that_of_split(subject: Subject) -> None:
    """noise_gain(t) is by how much ε̂ moves when the output does: regularizers leave out samples
    by it.
    """
    process, _ = built(subject)
    t = training_times(process)
    x_t, out, change = (double(len(t), s) for s in (5, 6, 7))
    moved = process.split(out + change, x_t, t)[1] - process.split(out, x_t, t)[1]
    measured = moved.flatten(1).norm(dim=1) / change.flatten(1).norm(dim=1)
    claimed = process.noise_gain(t)
    expect(claimed.shape == t.shape, f"noise_gain gives {tuple(claimed.shape)}; expected (B,)")
    gap = ((measured - claimed).abs() / measured.clamp(min=1e-3)).max().item()
    worst = int(((measured - claimed).abs() / measured.clamp(min=1e-3)).argmax())
    expect(
        gap <= 1e-4,
        f"at t = {t[worst]:g} ε̂ moves {measured[worst]:.4g} times as far as the output; "
        f"noise_gain says {claimed[worst]:.4g}",
    )


@check("process", EXACT)
def keeps_the_dtype(subject: Subject) -> None:
    """target and split of float32 samples are float32 and finite, though t and the scales are
    float64.
    """
    process, _ = built(subject)
    t = training_times(process)
    x0, eps = double(len(t), 1).float(), double(len(t), 2).float()
    target = process.target(x0, eps, t)
    given = {"target": target, **dict(zip(("x̂0", "ε̂"), process.split(target, x0, t), strict=True))}
    for name, value in given.items():
        expect(
            value.dtype == torch.float32,
            f"{name} is {value.dtype} for float32 samples: cast scales with api.per_sample",
        )
        expect(bool(torch.isfinite(value).all()), f"{name} is not finite at some t = k/T")


@check("process", EXACT)
def declares_itself_rightly(subject: Subject) -> None:
    """T ≥ 2, 0 ≤ default_eta ≤ 1, variance_fraction is between 0 and 1, weight is (B,), finite and
    ≥ 0; the training times of u in [0, 1) are (B,) float64 in (0, 1] and do not fall with u."""
    process, _ = built(subject)
    expect(
        isinstance(process.T, int) and process.T >= 2,
        f"T is {process.T!r}; expected an integer ≥ 2",
    )
    expect(0 <= process.default_eta <= 1, f"default_eta is {process.default_eta}; expected 0 to 1")
    if not process.extra_heads:
        fraction = float(process.variance_fraction(None))
        expect(0 <= fraction <= 1, f"variance_fraction is {fraction:g}; expected 0 (β̃) to 1 (β)")
    t = training_times(process)
    weight = process.weight(t)
    expect(weight.shape == t.shape, f"weight gives {tuple(weight.shape)}; expected (B,)")
    expect(
        bool((torch.isfinite(weight) & (weight >= 0)).all()),
        "weight is negative or not finite somewhere",
    )
    u = torch.linspace(0, 1 - 1e-9, 257, dtype=torch.float64)
    drawn = process.time(u)
    expect(
        drawn.shape == u.shape and drawn.dtype == torch.float64,
        f"time gives {tuple(drawn.shape)} {drawn.dtype}; expected (B,) float64",
    )
    expect(
        bool(((drawn > 0) & (drawn <= 1)).all()) and bool((drawn[1:] >= drawn[:-1]).all()),
        "time(u) leaves (0, 1], or falls as u rises",
    )


@check("process", "no number is compared: only finiteness and shapes")
def trains_and_samples(subject: Subject) -> None:
    """Three steps of training and a short sampling, deterministic and stochastic, on white noise:
    all finite.
    """
    process, noise = built(subject)
    network = SmallNetwork(POINTS, 1 + process.extra_heads)
    diffusion = Diffusion(POINTS, process, noise)
    t = training_times(process)[::3]
    for step in range(3):
        latents = draw_latents(noise, POINTS, len(t), step)
        x0 = smooth_data(POINTS, len(t))
        loss, _ = diffusion.loss(network, x0, latents=latents, t=t, step=step)
        expect(bool(torch.isfinite(loss)), f"the loss is {loss.item()} at step {step + 1}")
        descend(nn.ModuleList([network, diffusion]), loss)
    grid = default_times(process, noise, 4)
    for eta in (0.0, 1.0):
        with torch.inference_mode():
            path = diffusion.trajectory(
                network, lambda k: draw_latents(noise, POINTS, 2, 50 + k), grid, DDIM(eta)
            )
            x = list(path)[-1]
        expect(bool(torch.isfinite(x).all()), f"sampling with η = {eta:g} is not finite")


@check("process", "exact: covariances are propagated, nothing is drawn; see the bounds")
def sampler_meets_its_oracle(subject: Subject) -> None:
    """On Gaussian data with the optimal denoiser the sampler's output covariance comes to the
    data's, at η = 0 and at η = 1, under white noise and under static blue noise, unless that is
    refused: from 50 to 200 steps the error falls to under 0.6 of itself (first order would make it
    a quarter), or is under 0.02."""
    for name, shape in (("white", POINTS), ("blue", (1, 8, 8))):
        noise = subject.registry.build("noise", name, {}, Context(shape=shape))
        try:
            process: Process = subject.build(shape=shape, noise=noise)
            compatible.check_path(process, noise)
        except NoiseregError as error:
            if name == "white":
                raise CheckFailed(f"it refuses white noise: {error}") from None
            continue
        if process.extra_heads or float(process.variance_fraction(None)) > 0:
            raise NotApplicable(
                "its stochastic step does not add the posterior's variance, so it does not keep "
                "the marginals"
            )
        _expect_convergence(process, noise, name, shape, subject)


def _expect_convergence(
    process: Process, noise: Noise, name: str, shape: tuple[int, ...], subject: Subject
) -> None:
    data = smooth_covariance(shape)
    model = GaussianOracle(process, noise, shape, data)
    for eta in (0.0, 1.0):
        errors = []
        for steps in (50, 200):
            times = default_times(process, noise, steps, subject.registry)
            covariance = output_covariance(model, process, noise, shape, times, eta)
            errors.append(matrix_error(covariance, data))
        expect(
            errors[1] < max(0.6 * errors[0], 0.02),
            f"under {name} noise with η = {eta:g} the output covariance does not come to the "
            f"data's: it is off by {errors[0]:.3f} at 50 steps and {errors[1]:.3f} at 200; the "
            "scales are not those of one process, or too much signal is left at t = 1",
        )


@check("process", EXACT)
def noise_is_taken_or_refused(subject: Subject) -> None:
    """Every built-in noise is either taken or refused with a reason, while it is built."""
    for entry in subject.registry.entries("noise"):
        if entry.distribution != "noisereg":
            continue
        shape = (1, 8, 8)
        noise = subject.registry.build("noise", entry.qualified, {}, Context(shape=shape))
        try:
            subject.build(shape=shape, noise=noise)
        except NoiseregError as error:
            expect("\n" not in str(error), f"a refusal is one line, not: {error}")


@check("process", "no number is compared: only finiteness")
def works_at_its_declared_bounds(subject: Subject) -> None:
    """With each numeric parameter at each of its inclusive bounds its scales are finite, or it
    refuses with a reason.
    """

    def attempt(changed: dict[str, Any]) -> None:
        process, _ = built(subject, **changed)
        t = training_times(process)
        scales = torch.stack([process.signal_scale(t), process.noise_scale(t)])
        if not torch.isfinite(scales).all():
            raise ValueError("scales that are not finite")

    try_bounds(subject, attempt)
