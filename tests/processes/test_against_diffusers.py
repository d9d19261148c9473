"""White-noise trajectories equal diffusers' schedulers', and IADB's and BNDM's steps the papers'
formulas.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from stepping import time_grid, trajectory

from noisereg.api import Context, Noise, Prediction
from noisereg.diffusion import compatible, sample
from noisereg.diffusion.adjust import Clip, adjusted
from noisereg.diffusion.solvers import DPMSolver2M
from noisereg.processes import DDPMParams, IADBParams
from noisereg.processes.ddpm import DDPM
from noisereg.processes.iadb import IADB

SHAPE = (1, 4, 4)


class White(Noise):
    def color(self, latents, t):
        return latents["z"]

    def mean_square(self, t):
        return torch.ones_like(t)


def network(x, index):
    """Any smooth function of x and the time index will do."""
    return torch.tanh(x * (0.5 + index / 1500)) + 0.1 * torch.sin(x.flip(-1) + index / 100)


def source(seed):
    generator = torch.Generator().manual_seed(seed)
    cache = {}

    def latents(k):
        if k not in cache:
            cache[k] = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
        return {"z": cache[k]}

    return latents


def ours(process, latents, steps, eta):
    def model(x, t):
        return Prediction(*process.split(network(x, float(t[0]) * process.T - 1), x, t))

    return list(trajectory(model, process, White(), latents, time_grid(process, steps), eta))


def ours_clipped(process, latents, steps, eta, clip):
    def model(x, t):
        return Prediction(*process.split(network(x, float(t[0]) * process.T - 1), x, t))

    held = adjusted(model, process, None, clip)
    return list(trajectory(held, process, White(), latents, time_grid(process, steps), eta))


def theirs(scheduler, latents, steps, start_scale, step):
    """diffusers starts from x_T itself; we from b(1)·ε, so its first draw is scaled by b(1)."""
    scheduler.set_timesteps(steps)
    x = latents(0)["z"] * start_scale
    path = [x]
    for k, index in enumerate(scheduler.timesteps):
        x = step(network(x, float(index)), index, x, latents(k + 1)["z"]).prev_sample
        path.append(x)
    return path


def assert_equal_paths(mine, other, bound):
    """Relative to the largest value on the way: where x̂0 is divided by a small a, values reach
    1e4.
    """
    worst = max(
        float((x - y).abs().max() / y.abs().max().clamp(min=1))
        for x, y in zip(mine, other, strict=True)
    )
    assert worst <= bound, worst


def ddpm(**params):
    return DDPM(DDPMParams(**params), Context(shape=SHAPE))


def float64_tables(scheduler, process):
    t = torch.arange(1, process.T + 1, dtype=torch.float64) / process.T
    scheduler.alphas_cumprod = process.signal_scale(t) ** 2
    scheduler.alphas = scheduler.alphas_cumprod / torch.cat(
        [torch.ones(1).double(), scheduler.alphas_cumprod[:-1]]
    )
    scheduler.betas = 1 - scheduler.alphas
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def common(schedule, target):
    return {
        "num_train_timesteps": 1000,
        "beta_schedule": SCHEDULES[schedule],
        "prediction_type": PREDICTIONS[target],
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }


EXACT = pytest.mark.parametrize("exact", [True, False], ids=["float64-tables", "own-tables"])
BOUND = {True: 1e-10, False: 2e-5}
"""With our float64 tables put in; with diffusers' own, which are float32."""


@EXACT
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(schedule, target, eta, exact):
    process = ddpm(schedule=schedule, target=target)
    scheduler = DDIMScheduler(**common(schedule, target), set_alpha_to_one=True)
    if exact:
        float64_tables(scheduler, process)
    latents = source(0)

    def step(out, index, x, fresh):
        return scheduler.step(out, index, x, eta=eta, variance_noise=fresh)

    b_T = float(process.noise_scale(torch.ones(1, dtype=torch.float64)))
    assert_equal_paths(
        ours(process, latents, 20, eta), theirs(scheduler, latents, 20, b_T, step), BOUND[exact]
    )


def ancestral(scheduler, monkeypatch):
    """A step of ``DDPMScheduler`` with noise of ours."""

    def step(out, index, x, fresh):
        # Ours adds no noise on the step to 0; diffusers does unless the last index is 0, which
        # respacing never reaches.
        fresh = fresh * 0 if index == scheduler.timesteps[-1] else fresh
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: fresh
        )
        return scheduler.step(out, index, x)

    return step


@EXACT
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    ("variance", "theirs_name"), [("beta-tilde", "fixed_small"), ("beta", "fixed_large")]
)
def test_ddpm(schedule, target, variance, theirs_name, exact, monkeypatch):
    process = ddpm(schedule=schedule, target=target, variance=variance)
    scheduler = DDPMScheduler(**common(schedule, target), variance_type=theirs_name)
    if exact:
        float64_tables(scheduler, process)
    latents = source(0)

    step = ancestral(scheduler, monkeypatch)
    b_T = float(process.noise_scale(torch.ones(1, dtype=torch.float64)))
    assert_equal_paths(
        ours(process, latents, 20, 1.0), theirs(scheduler, latents, 20, b_T, step), BOUND[exact]
    )


@EXACT
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("target", ["eps", "v"])
def test_learned_variance(schedule, target, exact, monkeypatch):
    """diffusers' ``learned_range`` (2102.09672, eq. 15), every number with a variance of its
    own.
    """
    process = ddpm(schedule=schedule, target=target, variance="learned")
    scheduler = DDPMScheduler(**common(schedule, target), variance_type="learned_range")
    if exact:
        float64_tables(scheduler, process)
    latents = source(0)

    def own(x, index):
        return torch.cos(3 * x + index / 50)

    def model(x, t):
        index = float(t[0]) * process.T - 1
        first, head = network(x, index), own(x, index)
        return Prediction(*process.split(first, x, t), None, head)

    def step(out, index, x, fresh):
        fresh = fresh * 0 if index == scheduler.timesteps[-1] else fresh
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: fresh
        )
        return scheduler.step(torch.cat([out, own(x, float(index))], 1), index, x)

    mine = list(trajectory(model, process, White(), latents, time_grid(process, 20), 1.0))
    b_T = float(process.noise_scale(torch.ones(1, dtype=torch.float64)))
    assert_equal_paths(mine, theirs(scheduler, latents, 20, b_T, step), BOUND[exact])


def test_zero_terminal_snr_tables_equal_diffusers():
    process = ddpm(schedule="linear", zero_terminal_snr=True, target="v")
    scheduler = DDIMScheduler(**common("linear", "v"), rescale_betas_zero_snr=True)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert float(process.signal_scale(t)[-1]) == pytest.approx(0, abs=1e-15)
    assert torch.allclose(
        process.signal_scale(t) ** 2, scheduler.alphas_cumprod.double(), atol=1e-6
    )


def test_iadb_is_the_papers_blending():
    """x_{α−Δ} = x_α + Δ·D(x_α), D → x0 − ε (2305.03486, algorithm 2, with α = 1 at the noise)."""
    process = IADB(IADBParams(), Context(shape=SHAPE))
    latents = source(1)
    x = latents(0)["z"]
    expected = [x]
    for k in range(10):
        x = x + 0.1 * network(x, (1 - k / 10) * 1000 - 1)
        expected.append(x)
    assert_equal_paths(ours(process, latents, 10, 0.0), expected, 1e-12)


def test_bndms_step_is_the_papers_formula():
    """x_{t−1} = x_t + Δα(x0 − L_t z) + Δγ α_{t−1}(L − I)z (2402.04930, eq. 12), for both outputs
    arbitrary.
    """
    gamma = lambda t: t**2  # noqa: E731

    class Moving(White):
        extra_heads = 1

        def transport(self, eps, heads, t, s):
            shift = (gamma(t) - gamma(s)).reshape(-1, 1, 1, 1)
            return eps + shift * heads

    process, noise = IADB(IADBParams(), Context(shape=SHAPE)), Moving()

    def heads(x):
        return torch.cos(x)

    def model(x, t):
        return Prediction(*process.split(network(x, float(t[0]) * 1000 - 1), x, t), heads(x))

    latents = source(2)
    mine = list(trajectory(model, process, noise, latents, time_grid(process, 10), 0.0))
    x = latents(0)["z"]
    expected = [x]
    for k in range(10):
        t, s = 1 - k / 10, 1 - (k + 1) / 10
        d1, h = network(x, t * 1000 - 1), heads(x)
        x = x + (t - s) * d1 + (gamma(t) - gamma(s)) * s * h
        expected.append(x)
    assert_equal_paths(mine, expected, 1e-12)


def test_ddpm_between_its_tables_keeps_unit_variance_and_hits_them_exactly():
    process = ddpm(schedule="cosine")
    t = torch.linspace(0, 1, 4321, dtype=torch.float64)
    a, b = process.signal_scale(t), process.noise_scale(t)
    assert torch.allclose(a**2 + b**2, torch.ones_like(a), atol=1e-14)
    assert (a[1:] <= a[:-1]).all()
    betas = np.minimum(
        1
        - np.cos((np.arange(1, 1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        / np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2,
        0.999,
    )
    on_grid = process.signal_scale(torch.arange(1, 1001, dtype=torch.float64) / 1000).numpy()
    assert np.allclose(on_grid**2, np.cumprod(1 - betas), rtol=1e-9, atol=0)


class Weak(White):
    power_floor = 1e-3


def resolved(noise, **params):
    return DDPM(DDPMParams(**params), Context(shape=SHAPE, noise=noise)).params


def test_autos_with_white_noise_are_ddpms_and_with_static_coloured_noise_hide_the_signal():
    plain = resolved(White())
    assert (plain.schedule, plain.T, plain.target) == ("linear", 1000, "eps")
    assert (plain.zero_terminal_snr, plain.variance, plain.weighting) == (
        False,
        "beta-tilde",
        "none",
    )
    weak = resolved(Weak())
    assert (weak.schedule, weak.zero_terminal_snr, weak.target) == ("linear", True, "v")
    assert resolved(Weak(), schedule="cosine").target == "v"


@pytest.mark.parametrize(
    ("noise", "params", "said"),
    [
        (Weak(), {"schedule": "linear", "zero_terminal_snr": False}, "zero_terminal_snr=true"),
        (Weak(), {"target": "eps"}, "target=v"),
        (White(), {"target": "eps", "zero_terminal_snr": True}, "target=v"),
    ],
)
def test_what_would_start_the_sampler_wrong_is_refused_with_what_to_type(noise, params, said):
    with pytest.raises(Exception, match=said):
        resolved(noise, **params)


def test_cosine_with_static_coloured_noise_runs_and_states_its_floor():
    process = DDPM(DDPMParams(schedule="cosine"), Context(shape=SHAPE, noise=Weak()))
    assert "4.9e-05" in compatible.notes(process, Weak())[0]


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_dpmpp_2m_is_diffusers_multistep_solver_for_white_noise(schedule, target):
    """On the same times with float64 tables, through its own update functions (``step`` itself
    rounds the sample to float32)."""
    process, latents, steps = ddpm(schedule=schedule, target=target), source(5), 20
    times = time_grid(process, steps)

    def model(x, t):
        return Prediction(*process.split(network(x, float(t[0]) * 1000 - 1), x, t))

    mine = list(sample.trajectory(model, process, White(), latents, times, DPMSolver2M()))
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type=PREDICTIONS[target],
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    a, b = process.signal_scale(times), process.noise_scale(times)
    scheduler.sigmas = torch.cat([(b / a)[:-1], torch.zeros(1, dtype=torch.float64)])
    x = latents(0)["z"] * b[0]
    other, known = [x], []
    for k in range(steps):
        scheduler._step_index = k
        out = network(x, float(times[k]) * 1000 - 1)
        known.append(scheduler.convert_model_output(out, sample=x))
        if k in (0, steps - 1):  # its lower_order_final at a last sigma of zero
            x = scheduler.dpm_solver_first_order_update(known[-1], sample=x)
        else:
            x = scheduler.multistep_dpm_solver_second_order_update(known[-2:], sample=x)
        other.append(x)
    assert_equal_paths(mine, other, 1e-8)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    ("clip", "asked"),
    [
        (Clip("static"), {"clip_sample": True}),
        (
            Clip("dynamic", 0.8),
            {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1e9},
        ),
    ],
    ids=["static", "dynamic"],
)
def test_a_clipped_x0_moves_the_ancestral_step_as_in_diffusers(target, clip, asked, monkeypatch):
    quiet = network
    monkeypatch.setitem(globals(), "network", lambda x, index: 3 * quiet(x, index))
    process = ddpm(schedule="linear", target=target)
    scheduler = DDPMScheduler(**common("linear", target) | asked, variance_type="fixed_small")
    float64_tables(scheduler, process)
    latents = source(0)

    step = ancestral(scheduler, monkeypatch)
    b_T = float(process.noise_scale(torch.ones(1, dtype=torch.float64)))
    unclipped = ours(process, latents, 20, 1.0)
    mine = ours_clipped(process, latents, 20, 1.0, clip)
    other = theirs(scheduler, latents, 20, b_T, step)
    assert max(float((x - y).abs().max()) for x, y in zip(mine, unclipped, strict=True)) > 0.01
    assert_equal_paths(mine, other, BOUND[True])


@pytest.mark.parametrize("target", ["eps", "v"])
def test_a_clipped_x0_moves_the_deterministic_step_as_diffusers_with_the_eps_it_leaves(target):
    process = ddpm(schedule="linear", target=target)
    scheduler = DDIMScheduler(
        **common("linear", target) | {"clip_sample": True}, set_alpha_to_one=True
    )
    float64_tables(scheduler, process)
    latents = source(0)

    def step(out, index, x, fresh):
        return scheduler.step(out, index, x, eta=0.0, use_clipped_model_output=True)

    b_T = float(process.noise_scale(torch.ones(1, dtype=torch.float64)))
    mine = ours_clipped(process, latents, 20, 0.0, Clip("static"))
    assert_equal_paths(mine, theirs(scheduler, latents, 20, b_T, step), BOUND[True])
