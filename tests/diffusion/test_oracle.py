"""The sampler on Gaussian data with the closed-form denoiser: its output covariance, propagated
exactly, becomes the data's.

Every wrong thing that one could do to it (a wrong head, σ, L) must keep it from converging.
"""

import pytest
import torch
from stepping import default_grid, solver_of, time_grid

import noisereg.diffusion.solvers as solvers
from noisereg.python import build
from noisereg.testing.oracle import (
    GaussianOracle,
    output_covariance,
    relative_error,
    smooth_covariance,
)

SHAPE = (1, 8, 8)
DATA = smooth_covariance(SHAPE)
PAIRS = [
    (process, noise, eta)
    for process in ("ddpm", "iadb")
    for noise in ("white", "blue", "blue-tv", "blue-tv:factor=spectral,normalize=true")
    for eta in (0.0, 0.5, 1.0)
]


def parts(process, noise):
    built = build("noise", noise, shape=SHAPE)
    return build("process", process, shape=SHAPE, noise=built), built


def error(process, noise, steps, eta, grid=None, model=None, solver=None):
    oracle = model or GaussianOracle(process, noise, SHAPE, DATA)
    times = time_grid(process, steps, grid or default_grid(noise))
    return relative_error(
        output_covariance(oracle, process, noise, SHAPE, times, eta, solver and solver_of(solver)),
        DATA,
    )


@pytest.mark.parametrize(("process", "noise", "eta"), PAIRS)
def test_the_error_falls_threefold_from_100_to_400_steps_and_is_under_5_percent(
    process, noise, eta
):
    """First order in the step size, on the default grid and schedule of each pair."""
    process, noise = parts(process, noise)
    coarse, fine = error(process, noise, 100, eta), error(process, noise, 400, eta)
    assert fine < 0.05
    assert fine <= coarse / 3


def test_static_blue_on_uniform_steps_is_why_its_grid_is_uniform_in_log_snr():
    process, noise = parts("iadb", "blue")
    assert default_grid(noise) == "logsnr"
    assert error(process, noise, 100, 0.0, grid="uniform") > 3 * error(process, noise, 100, 0.0)


@pytest.mark.parametrize("process", ["ddpm", "iadb"])
@pytest.mark.parametrize("factor", ["cholesky", "spectral"])
def test_the_two_transports_agree(process, factor):
    by_heads = parts(process, f"blue-tv:factor={factor},transport=heads")
    by_whitening = parts(process, f"blue-tv:factor={factor},transport=whiten")
    times = time_grid(by_heads[0], 30)
    covariances = [
        output_covariance(GaussianOracle(p, n, SHAPE, DATA), p, n, SHAPE, times, 0.5)
        for p, n in (by_heads, by_whitening)
    ]
    assert relative_error(*covariances) < 1e-10


def converges(process, noise, eta, model=None):
    coarse, fine = (error(process, noise, steps, eta, model=model) for steps in (100, 400))
    return fine < 0.05 and fine <= coarse / 3


@pytest.mark.parametrize("process", ["iadb", "ddpm"])
def test_a_head_scaled_by_a_tenth_is_found_out(process):
    """With γ = t, which moves all the way; the default γ has done so before α is large, and IADB
    hardly notices.
    """
    process, noise = parts(process, "blue-tv:gamma.form=linear")
    assert converges(process, noise, 0.0)
    assert not converges(
        process, noise, 0.0, GaussianOracle(process, noise, SHAPE, DATA, head_error=1.1)
    )


def test_a_wrong_l_is_found_out():
    process, noise = parts("ddpm", "blue-tv")
    assert not converges(
        process, noise, 0.0, GaussianOracle(process, noise, SHAPE, DATA, color_error=1.1)
    )


@pytest.mark.parametrize("noise", ["white", "blue-tv"])
def test_a_wrong_sigma_is_found_out(noise, monkeypatch):
    right = solvers.step

    def louder(x0_hat, eps_s, fresh, *scales_and_rest):
        return right(x0_hat, eps_s, None if fresh is None else 1.1 * fresh, *scales_and_rest)

    process, noise = parts("ddpm", noise)
    monkeypatch.setattr(solvers, "step", louder)
    assert not converges(process, noise, 1.0)


def test_beta_in_place_of_the_posteriors_variance_converges_too():
    """DDPM's other choice (2006.11239, §3.2) is right in the limit; it is only reached more
    slowly.
    """
    process = build("process", "ddpm:variance=beta", shape=SHAPE)
    noise = build("noise", "white", shape=SHAPE)
    coarse, fine = error(process, noise, 100, 1.0), error(process, noise, 400, 1.0)
    assert fine < coarse / 3


HALVINGS = [
    ("iadb", "white", "uniform", (20, 40, 80, 160, 320)),
    ("iadb", "blue-tv", "uniform", (20, 40, 80, 160, 320)),
    ("iadb", "blue", "logsnr", (20, 40, 80)),
    ("ddpm", "white", "edm", (10, 20, 40, 80)),
    ("ddpm", "blue-tv", "edm", (10, 20, 40, 80)),
    ("ddpm:schedule=cosine", "white", "edm", (40, 80, 160, 320)),
    ("ddpm:schedule=cosine", "blue-tv", "edm", (40, 80, 160, 320)),
]


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("ddim", 1)])
@pytest.mark.parametrize(("process", "noise", "grid", "steps"), HALVINGS)
def test_each_halving_of_the_steps_shows_the_solvers_order(
    process, noise, grid, steps, solver, order
):
    """To 0.2. Elsewhere (DDPM on uniform steps, static blue there) the orders are those in
    docs/theory.md, §3.
    """
    process, noise = parts(process, noise)
    errors = torch.tensor([error(process, noise, n, 0.0, grid=grid, solver=solver) for n in steps])
    assert torch.log2(errors[:-1] / errors[1:]).tolist() == pytest.approx(
        [order] * (len(steps) - 1), abs=0.2
    )


def test_heun_beats_euler_at_an_equal_number_of_evaluations():
    """Twice the evaluations a step: Euler gets twice the steps."""
    for process, noise, grid, steps in HALVINGS:
        process, noise = parts(process, noise)
        heun = error(process, noise, steps[0], 0.0, grid=grid, solver="heun")
        assert heun < error(process, noise, 2 * steps[0], 0.0, grid=grid)


@pytest.mark.parametrize("process", ["iadb", "ddpm"])
@pytest.mark.parametrize("noise", ["white", "blue-tv"])
def test_dpmpp_2m_is_of_second_order_on_its_grid_and_beats_ddim_at_fewer_evaluations(
    process, noise
):
    """To 0.2 from 20 to 80 steps; with 20 evaluations its error is a third of DDIM's with 50, or
    less."""
    process, noise = parts(process, noise)
    errors = [error(process, noise, n, 0.0, "chebyshev", solver="dpmpp-2m") for n in (20, 40, 80)]
    orders = torch.tensor(errors).double().log2().diff().neg().tolist()
    assert orders == pytest.approx([2, 2], abs=0.2)
    assert errors[0] < error(process, noise, 50, 0.0) / 2.5


@pytest.mark.parametrize("process", ["iadb", "ddpm"])
def test_dpmpp_2m_is_right_under_static_blue_noise(process):
    process, noise = parts(process, "blue")
    coarse, fine = (error(process, noise, n, 0.0, "logsnr", solver="dpmpp-2m") for n in (40, 80))
    assert fine < coarse / 3
    assert fine < error(process, noise, 80, 0.0) / 4


def test_dpmpp_2m_without_the_noises_motion_is_found_out(monkeypatch):
    """The term Δ* is what makes it right for time-varying noise."""
    process, noise = parts("iadb", "blue-tv:gamma.form=linear")
    right = [error(process, noise, n, 0.0, "chebyshev", solver="dpmpp-2m") for n in (40, 160)]
    monkeypatch.setattr(type(noise), "transport", lambda self, eps, heads, t, s: eps)
    wrong = [error(process, noise, n, 0.0, "chebyshev", solver="dpmpp-2m") for n in (40, 160)]
    assert right[1] < right[0] / 8
    assert wrong[1] > wrong[0] / 2


@pytest.mark.parametrize("grid", ["uniform", "logsnr", "edm", "chebyshev"])
@pytest.mark.parametrize("process", ["iadb", "ddpm", "ddpm:zero_terminal_snr=true"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_every_grid_runs_from_1_to_0_in_as_many_steps_as_asked(process, grid, steps):
    times = time_grid(build("process", process, shape=SHAPE), steps, grid)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (1, 0)
    assert (times[1:] < times[:-1]).all()
