"""What a noise must do (docs/theory.md, §2 and §3)."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import Noise, Process
from noisereg.diffusion import compatible
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.solvers import DDIM, DPMSolver2M, Heun
from noisereg.errors import NoiseregError
from noisereg.testing.doubles import (
    PROCESSES,
    SmallNetwork,
    default_times,
    descend,
    draw_latents,
    seeded,
    smooth_batches,
    smooth_data,
    times,
)
from noisereg.testing.kinds.common import (
    EXACT,
    learns,
    refused,
    relative_error,
    try_bounds,
    unchanged,
    untouched_generators,
)
from noisereg.testing.kit import NotApplicable, Subject, check, expect
from noisereg.testing.oracle import (
    GaussianOracle,
    noise_matrix,
    output_covariance,
    smooth_covariance,
)
from noisereg.testing.oracle import relative_error as matrix_error
from noisereg.testing.statistics import SAYS, gaussian_p_value, threshold, z_scores

DRAWS = 4096
SMALL = ((2, 4, 4), (1, 6, 6), (3,))
"""For what needs matrices of all numbers of a sample."""
MOMENTS = (0.0, 0.5, 1.0)
DOUBLE = "exact up to rounding: the tolerance is a thousand times what float64 arithmetic leaves"


def fitted(
    subject: Subject,
    shape: tuple[int, ...],
    process: Process | None = None,
    seed: int = 0,
    **changed: Any,
) -> Noise:
    """The noise, built under a given state of the global generator and fitted to data where it
    wants to be.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        noise: Noise = subject.build(changed, shape=shape)
    if type(noise).fit is not Noise.fit:
        noise.fit(smooth_batches(shape))
    return noise


def first_shape(
    subject: Subject, among: tuple[tuple[int, ...], ...] | None = None
) -> tuple[int, ...]:
    return subject.shapes(among)[0] if among else subject.shapes()[0]


def at(time: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), time, dtype=torch.float64)


def first(latents: dict[str, Tensor]) -> Tensor:
    return next(iter(latents.values()))


def linear(noise: Noise) -> Noise:
    if not noise.linear:
        raise NotApplicable("it says that it is not linear")
    return noise


@check("noise", EXACT)
def shape_dtype_device(subject: Subject) -> None:
    """For each shape that it takes: ε has the shape, dtype and device of the latents and is finite
    at every t from 0 to 1; mean_square is (B,), positive, finite and in t's dtype; what it cannot
    take is refused with a reason."""
    for shape in subject.shapes():
        noise = fitted(subject, shape)
        t = times(5)
        for dtype in (torch.float32, torch.float64):
            latents = draw_latents(noise, shape, 5, dtype=dtype)
            _check_output(noise, latents, t, shape, dtype)
        if torch.cuda.is_available():
            cuda: Any = subject.build(shape=shape, device=torch.device("cuda"))
            cuda = cuda.cuda() if learns(cuda) else cuda
            moved = {k: v.float().cuda() for k, v in draw_latents(noise, shape, 5).items()}
            _check_output(cuda, moved, t.cuda(), shape, torch.float32)


def _check_output(
    noise: Noise, latents: dict[str, Tensor], t: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    eps = noise.color(latents, t)
    z = first(latents)
    expect(
        eps.shape == (len(t), *shape),
        f"color gives {tuple(eps.shape)} for a batch of {len(t)} of {shape}",
    )
    expect(
        eps.dtype == dtype,
        f"color gives {eps.dtype} from {dtype} latents; t is float64: cast with api.per_sample",
    )
    expect(
        eps.device == z.device, f"color gives a tensor on {eps.device} from latents on {z.device}"
    )
    bad = t[~torch.isfinite(eps.flatten(1)).all(1)].tolist()
    expect(not bad, f"color is not finite at t = {bad}")
    square = noise.mean_square(t)
    expect(
        square.shape == t.shape,
        f"mean_square gives {tuple(square.shape)}; expected (B,) = {tuple(t.shape)}",
    )
    expect(square.dtype == t.dtype, f"mean_square gives {square.dtype}; expected t's {t.dtype}")
    expect(
        bool((torch.isfinite(square) & (square > 0)).all()),
        f"mean_square is {square.tolist()} at t = {t.tolist()}",
    )


@check("noise", EXACT)
def same_latents_same_noise(subject: Subject) -> None:
    """Called twice with the same latents and times it gives the same numbers, bit for bit, and
    leaves both as they were: all chance is in the latents."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    t, latents = times(6), draw_latents(noise, shape, 6)
    with unchanged("color", t=t, **latents):
        once = noise.color(latents, t).clone()
        again = noise.color(latents, t)
    expect(
        torch.equal(once, again),
        "color gives two results for the same latents; it must not draw or keep a state",
    )


@check("noise", EXACT)
def global_generators_untouched(subject: Subject) -> None:
    """color, mean_square, whiten and transport draw from no global generator: a run's draws depend
    on seed and index alone.
    """
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    t, latents = times(4, 0.1, 0.9), draw_latents(noise, shape, 4)
    with untouched_generators("color"):
        eps = noise.color(latents, t)
    with untouched_generators("mean_square"):
        noise.mean_square(t)
    with untouched_generators("transport"):
        noise.transport(eps, noise.basis(latents) if noise.extra_heads else None, t, t / 2)
    with untouched_generators("whiten"):
        refused(lambda: noise.whiten(eps, t))


@check("noise", EXACT)
def builds_alike(subject: Subject) -> None:
    """Built twice, under different states of the global generator, it is the same noise: nothing
    of it is drawn while it is built, unless from a seed among its parameters."""
    shape = first_shape(subject)
    t = times(4)
    one, two = fitted(subject, shape, seed=1), fitted(subject, shape, seed=2)
    latents = draw_latents(one, shape, 4)
    expect(
        torch.equal(one.color(latents, t), two.color(latents, t)),
        "two builds colour the same latents differently",
    )


@check("noise", SAYS)
def centred(subject: Subject) -> None:
    """The mean of every number of ε is 0 at t = 0, ½ and 1: x0's mean is left alone."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    count = math.prod(shape) * len(MOMENTS)
    for k, time in enumerate(MOMENTS):
        latents = draw_latents(noise, shape, DRAWS, seed=k)
        with torch.no_grad():
            z = z_scores(noise.color(latents, at(time, first(latents))).flatten(1), 0.0)
        worst = float(z.abs().max())
        expect(
            worst <= threshold(count),
            f"at t = {time:g} a mean over {DRAWS} draws is {worst:.1f} standard errors from 0 "
            f"(a right noise stays under {threshold(count):.1f})",
        )


@check("noise", SAYS)
def mean_square_of_draws(subject: Subject) -> None:
    """The mean of ‖ε‖²/n over draws is mean_square(t), at t = 0, ½ and 1: isotropy's level and the
    sampler's rest on it.
    """
    for shape in subject.shapes():
        _check_power(fitted(subject, shape), shape, len(subject.shapes()) * len(MOMENTS))


def _check_power(noise: Noise, shape: tuple[int, ...], asked: int) -> None:
    for k, time in enumerate(MOMENTS):
        latents = draw_latents(noise, shape, DRAWS, seed=10 + k)
        t = at(time, first(latents))
        with torch.no_grad():
            power, claimed = (
                noise.color(latents, t).flatten(1).double().square().mean(1),
                noise.mean_square(t).double(),
            )
        z = float(z_scores(power - claimed, 0.0))
        # a power that does not vary is compared with what rounding leaves
        close = abs(float((power - claimed).mean())) <= 1e-5 * float(claimed.mean())
        expect(
            close or abs(z) <= threshold(asked),
            f"for {shape} at t = {time:g} the mean of ‖ε‖²/n over {DRAWS} draws is "
            f"{float(power.mean()):.4f} and mean_square says "
            f"{float(claimed.mean()):.4f}: {abs(z):.1f} standard errors (a right noise stays "
            "under "
            f"{threshold(asked):.1f})",
        )


@check("noise", "exact up to a relative 1e-4, for factors kept in float32")
def mean_square_of_matrix(subject: Subject) -> None:
    """For a linear noise, mean_square(t) is tr(L_t L_tᵀ)/n, computed from what color does to the
    unit vectors.
    """
    shape = first_shape(subject, SMALL)
    noise = linear(fitted(subject, shape))
    for time in (0.0, 0.25, 0.5, 0.9, 1.0):
        with torch.no_grad():
            exact = float(noise_matrix(noise, shape, time).square().sum() / math.prod(shape))
            claimed = float(noise.mean_square(torch.tensor([time], dtype=torch.float64)))
        expect(
            abs(claimed - exact) <= 1e-4 * exact,
            f"at t = {time:g} tr(L Lᵀ)/n is {exact:.6f} and mean_square says {claimed:.6f}",
        )


@check(
    "noise",
    "a right component fails once in 10⁶ (D'Agostino's and Anscombe & Glynn's tests, Bonferroni)",
)
def gaussian_where_it_says_so(subject: Subject) -> None:
    """Unless gaussian is False, every number of ε, and random projections of it, have the skewness
    and kurtosis of a Gaussian: steps with η > 0 add fresh noise to old, and the sum has the right
    law for Gaussian noise only."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    if not noise.gaussian:
        raise NotApplicable("it says that it is not Gaussian")
    directions = torch.randn(math.prod(shape), 32, generator=seeded(5))
    for k, time in enumerate(MOMENTS):
        latents = draw_latents(noise, shape, DRAWS, seed=20 + k)
        with torch.no_grad():
            flat = noise.color(latents, at(time, first(latents))).flatten(1).float()
        p = gaussian_p_value(torch.cat([flat, flat @ directions], 1))
        expect(
            p >= 1e-6 / len(MOMENTS),
            f"at t = {time:g} skewness or kurtosis are not a Gaussian's (p = {p:.1e} after "
            "correction): set gaussian = "
            "False, which refuses η > 0 and the variational bound",
        )


@check("noise", "exact up to a relative 1e-5, for arithmetic in float32")
def linear_where_it_says_so(subject: Subject) -> None:
    """Unless linear is False, color(2y − 3z) = 2·color(y) − 3·color(z) at every t: what whitens or
    needs a matrix rests on it."""
    shape = first_shape(subject)
    noise = linear(fitted(subject, shape))
    t = times(5)
    y, z = (draw_latents(noise, shape, 5, seed=s, dtype=torch.float64) for s in (1, 2))
    mixed = {name: 2 * y[name] - 3 * z[name] for name in y}
    with torch.no_grad():
        error = relative_error(
            noise.color(mixed, t), 2 * noise.color(y, t) - 3 * noise.color(z, t)
        )
    expect(
        error <= 1e-5,
        f"color of a combination differs from the combination by {error:.1e}: set linear = False",
    )


@check("noise", "exact up to a relative 1e-4 in float64 and 0.05 in float32")
def whiten_inverts_color(subject: Subject) -> None:
    """whiten(color(z, t), t) = z at every t, or it is refused with a reason."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    if noise.latents(shape) != {"z": tuple(shape)}:
        raise NotApplicable(
            "its latents are not one z of the sample's shape, so there is nothing to invert"
        )
    t = times(5)
    done = 0
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.float32, 0.05)):
        z = draw_latents(noise, shape, 5, dtype=dtype)
        with torch.no_grad():
            eps = noise.color(z, t)
        whitened: list[Tensor] = []

        def whiten(eps: Tensor = eps, whitened: list[Tensor] = whitened) -> None:
            with torch.no_grad():
                whitened.append(noise.whiten(eps, t))

        if refused(whiten) is not None:
            continue
        done += 1
        error = relative_error(whitened[0], z["z"])
        expect(
            error <= tolerance,
            f"whiten(color(z)) is z up to {error:.1e} in {dtype}; expected {tolerance:g}",
        )
        expect(whitened[0].dtype == dtype, f"whiten gives {whitened[0].dtype} from {dtype}")
    if not done:
        raise NotApplicable("it refuses to whiten")


@check("noise", SAYS)
def whitened_power_of_draws(subject: Subject) -> None:
    """The first number of whitened_power has the second as its mean over draws, at t = 0, ½ and
    1.
    """
    shape = first_shape(subject)
    noise = linear(fitted(subject, shape))
    if noise.latents(shape) != {"z": tuple(shape)}:
        raise NotApplicable("its latents are not one z of the sample's shape")
    for k, time in enumerate(MOMENTS):
        latents = draw_latents(noise, shape, DRAWS // 8, seed=30 + k)
        t = at(time, first(latents))
        try:
            with torch.no_grad():
                total, count = noise.whitened_power(noise.color(latents, t), t)
        except NoiseregError as error:
            raise NotApplicable(f"it refuses to whiten: {error}") from None
        z = float(z_scores(total.double() / count.double() - 1, 0.0))
        expect(
            abs(z) <= threshold(len(MOMENTS)),
            f"at t = {time:g} the mean of ‖L⁻¹ε‖²/n over {DRAWS // 8} draws is "
            f"{float((total / count).mean()):.4f}: "
            f"{abs(z):.1f} standard errors from 1 (a right noise stays under "
            f"{threshold(len(MOMENTS)):.1f})",
        )


def _heads(noise: Noise, latents: dict[str, Tensor]) -> Tensor | None:
    return noise.basis(latents) if noise.extra_heads else None


@check("noise", DOUBLE)
def heads_fit_the_network(subject: Subject) -> None:
    """With extra_heads, basis gives (B, C·extra_heads, …) and head_weight finite weights ≥ 0,
    (B,), for both processes.
    """
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    if not noise.extra_heads:
        raise NotApplicable("it has no extra heads")
    latents = draw_latents(noise, shape, 5)
    basis = noise.basis(latents)
    wanted = (5, shape[0] * noise.extra_heads, *shape[1:])
    expect(tuple(basis.shape) == wanted, f"basis gives {tuple(basis.shape)}; expected {wanted}")
    for name in PROCESSES:
        try:
            process = subject.registry.build(
                "process", name, {}, subject.context(shape=shape, noise=noise)
            )
        except NoiseregError:
            continue
        t = torch.arange(1, process.T + 1, dtype=torch.float64) / process.T
        weight = noise.head_weight(t, process)
        expect(weight.shape == t.shape, f"head_weight gives {tuple(weight.shape)}; expected (B,)")
        expect(
            bool((torch.isfinite(weight) & (weight >= 0)).all()),
            f"head_weight under {name} is negative or not finite: its least is "
            f"{float(weight.min()):g}",
        )


@check("noise", "exact up to a relative 1e-5, for factors kept in float32")
def color_and_basis_are_color_and_basis(subject: Subject) -> None:
    """color_and_basis gives what color and basis do, None for basis without extra heads: the
    loss asks for both at once, all else for one.
    """
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    latents = draw_latents(noise, shape, 5)
    t = at(0.3, first(latents))
    eps, basis = noise.color_and_basis(latents, t)
    wanted = _heads(noise, latents)
    expect(
        (basis is None) == (wanted is None),
        f"color_and_basis gives {'no' if basis is None else 'a'} basis, and extra_heads is "
        f"{noise.extra_heads}",
    )
    pairs = {"color": (eps, noise.color(latents, t))}
    if basis is not None and wanted is not None:
        pairs["basis"] = basis, wanted
    for name, (found, by_itself) in pairs.items():
        error = relative_error(found, by_itself)
        expect(error <= 1e-5, f"color_and_basis is off {name} by {error:.1e}")


@check("noise", "exact up to a relative 1e-5, for factors kept in float32")
def transport_agrees_with_color(subject: Subject) -> None:
    """transport(ε_t, heads, t, s) is color(z, s), from the true ε_t and heads, between any two
    times: that is what the sampler's step assumes. Static noise does not move; whatever depends on
    t must say how."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    points = times(5)
    for t_time in points[1:]:
        for s_time in points:
            latents = draw_latents(noise, shape, 3, dtype=torch.float64)
            t, s = at(float(t_time), first(latents)), at(float(s_time), first(latents))
            with torch.no_grad():
                moved = noise.transport(noise.color(latents, t), _heads(noise, latents), t, s)
                error = relative_error(moved, noise.color(latents, s))
            expect(
                error <= 1e-5,
                f"transport from t = {float(t_time):g} to {float(s_time):g} is off color(z, s) by "
                f"{error:.1e}; a noise that "
                "depends on t must override transport",
            )


@check("noise", "exact up to 1 % of the largest rate: a central difference with steps of 1e-4")
def transport_rate_is_its_derivative(subject: Subject) -> None:
    """transport_rate is ∂/∂s of transport at s = t: the flow's likelihood rests on it."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    latents = draw_latents(noise, shape, 7, dtype=torch.float64)
    t, h = times(7, 0.05, 0.95), 1e-4
    with torch.no_grad():
        eps, heads = noise.color(latents, t), _heads(noise, latents)
        rate = noise.transport_rate(eps, heads, t)
        difference = (
            noise.transport(eps, heads, t, t + h) - noise.transport(eps, heads, t, t - h)
        ) / (2 * h)
    gap = float((rate - difference).abs().max())
    scale = max(float(difference.abs().max()), float(eps.abs().max()) * 1e-3)
    expect(
        gap <= 0.01 * scale,
        f"transport_rate is off the difference quotient by {gap:.2e}, of at most {scale:.2e}",
    )


@check(
    "noise",
    "a jump of 1 % of ε's size that remains when t's step is halved 24 times is found; a steep "
    "slope is not one",
)
def continuous_in_time(subject: Subject) -> None:
    """ε is continuous in t for fixed latents: between neighbours of 65 times the largest change is
    followed by bisection, and must vanish with the step."""
    shape = first_shape(subject)
    noise = fitted(subject, shape)
    latents = draw_latents(noise, shape, 4, dtype=torch.float64)

    def eps(time: float) -> Tensor:
        with torch.no_grad():
            return noise.color(latents, at(time, first(latents)))

    grid = times(65).tolist()
    values = [eps(time) for time in grid]
    size = max(float(v.norm()) for v in values)
    jumps = [float((b - a).norm()) for a, b in pairwise(values)]
    k = max(range(len(jumps)), key=jumps.__getitem__)
    low, high, at_low, at_high = grid[k], grid[k + 1], values[k], values[k + 1]
    for _ in range(24):
        middle = (low + high) / 2
        value = eps(middle)
        if float((value - at_low).norm()) >= float((at_high - value).norm()):
            high, at_high = middle, value
        else:
            low, at_low = middle, value
    jump = float((at_high - at_low).norm()) / size
    expect(jump <= 0.01, f"ε jumps by {jump:.0%} of its size between t = {low:.9f} and {high:.9f}")


@check("noise", EXACT + "; against a batch of one, up to a relative 1e-5")
def independent_across_the_batch(subject: Subject) -> None:
    """A sample's ε depends on its own latents and t only: the others may change without changing
    one bit of it, and alone in a batch it is the same up to rounding."""
    for shape in subject.shapes():
        _check_independent(fitted(subject, shape), shape)


def _check_independent(noise: Noise, shape: tuple[int, ...]) -> None:
    t = times(6, 0.1, 0.9)
    latents = draw_latents(noise, shape, 6)
    other = draw_latents(noise, shape, 6, seed=9)
    changed = {name: torch.cat([v[:3], 5 * other[name][3:]]) for name, v in latents.items()}
    with torch.no_grad():
        whole, mixed = (
            noise.color(latents, t),
            noise.color(changed, torch.cat([t[:3], t[3:].flip(0)])),
        )
        alone = noise.color({name: v[2:3] for name, v in latents.items()}, t[2:3])
    expect(
        torch.equal(whole[:3], mixed[:3]),
        f"a sample's ε, {shape}, changes with the other samples of the batch",
    )
    error = relative_error(alone, whole[2:3])
    expect(
        error <= 1e-5,
        f"a sample's ε in a batch of one differs from that in a batch of 6 by {error:.1e}",
    )


@check("noise", "exact up to a relative 1e-4")
def given_a_condition_it_keeps_its_promises(subject: Subject) -> None:
    """given(None) is the noise itself. Under a condition, images of the samples' shape, it has the
    same heads, latents and power_floor, each sample's noise follows its own condition alone,
    mean_square is that of the matrix under it, and whiten inverts color."""
    shape = first_shape(subject, SMALL)
    noise = fitted(subject, shape)
    expect(noise.given(None) is noise, "given(None) is not the noise itself")
    if not compatible.sees_condition(noise):
        raise NotApplicable("it depends on no condition")
    cond = smooth_data(shape, 4)
    latents, t = draw_latents(noise, shape, 4, dtype=torch.float64), times(4)
    before = noise.color(latents, t)
    with unchanged("given", cond=cond), untouched_generators("given"):
        told = noise.given(cond)
    expect(
        torch.equal(noise.color(latents, t), before), "given changes the noise itself: give a copy"
    )
    for name in ("extra_heads", "power_floor", "linear", "gaussian"):
        mine, its = getattr(noise, name), getattr(told, name)
        expect(mine == its, f"{name} is {mine} and, under a condition, {its}")
    expect(told.latents(shape) == noise.latents(shape), "it has other latents under a condition")
    eps = told.color(latents, t)
    alone = noise.given(cond[1:2]).color({k: v[1:2] for k, v in latents.items()}, t[1:2])
    gap = relative_error(alone, eps[1:2])
    expect(gap <= 1e-4, f"a sample's noise differs by {gap:.1e} with the others of its batch")
    if not noise.linear:
        return
    n = math.prod(shape)
    for row in range(2):
        one = noise.given(cond[row : row + 1].expand(n, *shape))
        root = noise_matrix(one, shape, 0.5)
        power = float(root.square().sum() / n)
        said = float(one.mean_square(torch.full((n,), 0.5, dtype=torch.float64))[0])
        expect(
            abs(power - said) <= 1e-4 * power,
            f"under a condition tr(L Lᵀ)/n is {power:.6f} and mean_square says {said:.6f}",
        )
    if refused(lambda: told.whiten(eps, t)) is None:
        again = told.whiten(eps, t)
        gap = relative_error(again, first(latents))
        expect(gap <= 1e-4, f"under a condition whiten(color(z)) is off z by {gap:.1e}")


@check("noise", EXACT)
def state_round_trip(subject: Subject) -> None:
    """What it learns from data (fit) or by training is in state_dict(), as tensors only; loaded
    into a new one, that gives the same noise bit for bit: a checkpoint is all that sampling
    has."""
    shape = first_shape(subject)
    noise: Any = fitted(subject, shape, seed=1)
    fits = type(noise).fit is not Noise.fit
    if not learns(noise):
        expect(
            not fits,
            "it overrides fit and is no torch.nn.Module: what it learns reaches no checkpoint",
        )
        expect(
            not any(isinstance(value, nn.Parameter) for value in vars(noise).values()),
            "it holds a torch.nn.Parameter and is no torch.nn.Module: it would not be trained, "
            "nor be in any checkpoint",
        )
        raise NotApplicable("it has no state")
    with torch.no_grad():
        for parameter in noise.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.01)
    state = noise.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    expect(not odd, f"state_dict holds what is no tensor: {', '.join(odd)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        again: Any = subject.build(shape=shape)
    again.load_state_dict({name: value.clone() for name, value in state.items()})
    t, latents = times(4), draw_latents(noise, shape, 4)
    with torch.no_grad():
        expect(
            torch.equal(noise.color(latents, t), again.color(latents, t)),
            "after load_state_dict the noise is another one: something that it learnt is no "
            "buffer or parameter",
        )
        expect(
            torch.equal(noise.mean_square(t), again.mean_square(t)),
            "after load_state_dict mean_square is another one: something that it learnt is no "
            "buffer or parameter",
        )


@check("noise", "no number is compared: only finiteness and shapes")
def trains_and_samples(subject: Subject) -> None:
    """Three steps of training and a short sampling, deterministic, stochastic where it is
    Gaussian, and by Heun's method, through both processes: all finite. A process may refuse it
    with a reason; both must not."""
    shape = first_shape(subject)
    reasons = []
    for name in PROCESSES:
        if reason := refused(partial(_short_run, subject, shape, name)):
            reasons.append(reason)
    expect(len(reasons) < len(PROCESSES), f"both processes refuse it: {'; '.join(reasons)}")


def _short_run(subject: Subject, shape: tuple[int, ...], name: str) -> None:
    noise = fitted(subject, shape)
    process = subject.registry.build(
        "process", name, {}, subject.context(shape=shape, noise=noise)
    )
    network = SmallNetwork(shape, 1 + process.extra_heads + noise.extra_heads)
    diffusion = Diffusion(shape, process, noise)
    x0, t = smooth_data(shape, 8), times(8, 1 / process.T)
    for step in range(3):
        latents = draw_latents(noise, shape, 8, seed=step)
        loss, _ = diffusion.loss(network, x0, latents=latents, t=t, step=step)
        expect(
            bool(torch.isfinite(loss)),
            f"the loss under {name} is {loss.item()} at step {step + 1}",
        )
        descend(nn.ModuleList([network, diffusion]), loss)
    learnt = [*network.named_parameters(), *diffusion.named_parameters()]
    bad = [n for n, p in learnt if not torch.isfinite(p).all()]
    expect(not bad, f"training under {name} makes {', '.join(bad)} not finite")
    grid = default_times(process, noise, 4)

    def draws(k: int) -> dict[str, Tensor]:
        return draw_latents(noise, shape, 2, seed=100 + k)

    for solver in (DDIM(0.0), DDIM(1.0), Heun(), DPMSolver2M()):
        if not solver.deterministic and not noise.gaussian:
            continue
        with torch.inference_mode():
            x = list(diffusion.trajectory(network, draws, grid, solver))[-1]
        expect(x.shape == (2, *shape), f"sampling gives {tuple(x.shape)}")
        expect(
            bool(torch.isfinite(x).all()),
            f"sampling by {type(solver).__name__} ({solver.summary}) under {name} is not finite",
        )


@check("noise", "exact: covariances are propagated, nothing is drawn; see the bounds")
def sampler_meets_its_oracle(subject: Subject) -> None:
    """On Gaussian data with the optimal denoiser the sampler's output covariance comes to the
    data's: its error at 64 steps of the grid that this noise gets is under 0.3 and under 0.6 of
    that at 16 (first order would make it a quarter), for both processes and, where it is Gaussian,
    for η = 1 too. For linear noise."""
    shape = first_shape(subject, SMALL[1:])
    noise = linear(fitted(subject, shape))
    if noise.extra_heads and noise.latents(shape) != {"z": tuple(shape)}:
        raise NotApplicable("it has heads on latents other than one z")
    data = smooth_covariance(shape)
    for name in PROCESSES:
        try:
            process = subject.registry.build(
                "process", name, {}, subject.context(shape=shape, noise=noise)
            )
        except NoiseregError:
            continue
        model = GaussianOracle(process, noise, shape, data)
        for eta in (0.0, 1.0) if noise.gaussian else (0.0,):

            def error(
                steps: int, eta: float = eta, process: Process = process, model: Any = model
            ) -> float:
                grid = default_times(process, noise, steps)
                with torch.no_grad():
                    return matrix_error(
                        output_covariance(model, process, noise, shape, grid, eta), data
                    )

            few, many = error(16), error(64)
            expect(
                many < 0.3 and many < max(0.6 * few, 0.02),
                f"{name}, η = {eta:g}, {compatible.default_grid(process, noise, DDIM())} grid: "
                "the output "
                "covariance is off "
                f"the data's by {few:.3f} at 16 "
                f"steps and {many:.3f} at 64; transport, heads or power_floor do not fit what "
                "color does",
            )


def _append(found: list[Tensor], noise: Noise, t: Tensor, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        found.append(noise.log_det(t, shape))


@check("noise", "exact up to 1e-3 a number of the sample, for factors kept in float32")
def log_det_of_matrix(subject: Subject) -> None:
    """For a linear noise, log_det is log |det L_t|, or it is refused with a reason: likelihoods
    rest on it. Where diagonal is set, L_t is diagonal."""
    shape = first_shape(subject, SMALL)
    noise = linear(fitted(subject, shape))
    refusals = 0
    for time in (0.1, 0.6, 1.0):
        with torch.no_grad():
            root = noise_matrix(noise, shape, time)
        if root.shape[0] != root.shape[1]:
            raise NotApplicable("its latents are not as many numbers as the sample")
        off = float((root - root.diag().diag()).abs().max())
        expect(
            not noise.diagonal or off == 0,
            f"diagonal is set, and at t = {time:g} L has an entry {off:.3g} beside it",
        )
        said: list[Tensor] = []
        t = torch.tensor([time], dtype=torch.float64)
        if refused(partial(_append, said, noise, t, shape)):
            refusals += 1
            continue
        exact = float(torch.linalg.slogdet(root).logabsdet)
        expect(
            tuple(said[0].shape) == (1,), f"log_det gives {tuple(said[0].shape)}; expected (B,)"
        )
        expect(
            abs(float(said[0]) - exact) <= 1e-3 * math.prod(shape),
            f"at t = {time:g} log |det L| is {exact:.4f} and log_det says {float(said[0]):.4f}",
        )
    if refusals == 3 and not noise.diagonal:
        raise NotApplicable("it refuses to give log |det L|")


@check("noise", "exact up to 5 %, from the eigenvalues of L₁L₁ᵀ")
def power_floor_is_not_overstated(subject: Subject) -> None:
    """For a linear noise, power_floor is at most the least eigenvalue of L₁L₁ᵀ over their mean:
    processes and step grids that go wrong where noise has no power are chosen by it."""
    shape = first_shape(subject, SMALL)
    noise = linear(fitted(subject, shape))
    with torch.no_grad():
        root = noise_matrix(noise, shape, 1.0)
    eigenvalues = torch.linalg.eigvalsh(root @ root.T)
    floor = float(eigenvalues.min().clamp(min=0) / eigenvalues.mean())
    expect(
        noise.power_floor <= 1.05 * floor + 1e-9,
        f"power_floor is {noise.power_floor:g}, and the weakest direction of ε₁ has {floor:.3g} "
        "of the mean power",
    )


@check("noise", "no number is compared: only finiteness")
def works_at_its_declared_bounds(subject: Subject) -> None:
    """With each numeric parameter at each of its inclusive bounds it colours to finite numbers, or
    refuses with a reason.
    """
    shape = first_shape(subject)

    def attempt(changed: dict[str, Any]) -> None:
        noise = fitted(subject, shape, **changed)
        t = times(5)
        with torch.no_grad():
            eps = noise.color(draw_latents(noise, shape, 5), t)
        if not torch.isfinite(eps).all() or not torch.isfinite(noise.mean_square(t)).all():
            raise ValueError("numbers that are not finite")

    try_bounds(subject, attempt)
