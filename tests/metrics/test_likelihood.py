"""Likelihoods of Gaussian data under the optimal denoiser, where they are known; what is refused;
digits.
"""

import json
import math

import pytest
import torch
from stepping import default_grid, time_grid
from torch.distributions import MultivariateNormal

from noisereg import python as noisereg
from noisereg.api import Context, Noise, NoiseregError, Prediction
from noisereg.cli.main import run as command
from noisereg.metrics import NllParams
from noisereg.metrics.likelihood import (
    NegativeLogLikelihood,
    bits_per_dim,
    divergence,
    flow_nll,
    variational_bound,
)
from noisereg.python import build
from noisereg.testing.oracle import GaussianOracle, noise_matrix, smooth_covariance

SHAPE = (1, 3, 4)
N = 12
DATA = smooth_covariance(SHAPE)
LAW = MultivariateNormal(torch.zeros(N, dtype=torch.float64), DATA)
PAIRS = [
    (process, noise)
    for process in ("iadb", "ddpm", "ddpm:schedule=cosine,target=v")
    for noise in ("white", "blue-tv", "blue-tv:transport=whiten,normalize=true", "blue")
]


def parts(process, noise):
    built = build("noise", noise, shape=SHAPE)
    process = build("process", process, shape=SHAPE, noise=built)
    return process, built, GaussianOracle(process, built, SHAPE, DATA)


def data(count, seed=0):
    z = torch.randn(count, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z @ torch.linalg.cholesky(DATA).T).reshape(count, *SHAPE)


def latents(count, seed=1):
    def source(k):
        generator = torch.Generator().manual_seed(1000 * seed + k)
        return {"z": torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)}

    return source


# The flow


@pytest.mark.parametrize(("process", "noise"), PAIRS)
def test_the_flows_density_is_the_closed_form_within_its_stated_error(process, noise):
    """The error that the metric states: the difference from half the steps. With the exact trace,
    40 steps.
    """
    process, noise, oracle = parts(process, noise)
    x = data(3)
    times = time_grid(process, 40, default_grid(noise)).flip(0)
    fine, coarse = (flow_nll(oracle, process, noise, x, some) for some in (times, times[::2]))
    exact = -LAW.log_prob(x.flatten(1))
    stated = (fine - coarse).abs().max()
    assert (fine - exact).abs().max() < stated < 1.5
    assert (fine - exact).abs().max() < 0.4 * (
        coarse - exact
    ).abs().max()  # second order; a quarter in the limit


def test_the_flows_density_for_small_steps():
    """To 1e-3 nats in 12 dimensions; part of what is left is DDPM's signal at t = 1, a(1) =
    6e-3.
    """
    process, noise, oracle = parts("ddpm", "blue-tv:gamma.form=linear")
    x = data(2)
    times = time_grid(process, 300, "uniform").flip(0)
    exact = -LAW.log_prob(x.flatten(1))
    assert torch.allclose(flow_nll(oracle, process, noise, x, times), exact, atol=1e-3)


def test_a_wrong_transport_rate_is_found_out():
    process, noise, oracle = parts("iadb", "blue-tv:gamma.form=linear")
    x = data(3)
    times = time_grid(process, 40, "uniform").flip(0)
    exact = -LAW.log_prob(x.flatten(1))
    noise.transport_rate = lambda eps, heads, t: torch.zeros_like(eps)
    assert (flow_nll(oracle, process, noise, x, times) - exact).abs().max() > 0.3


def test_the_trace_is_exact_without_probes_and_right_on_average_with_them():
    """Of a linear map: over 4,000 Rademacher probes, within 5 standard errors."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(N, N, generator=generator, dtype=torch.float64)
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)

    def flow(x):
        return (x.flatten(1) @ matrix.T).reshape(x.shape)

    v, exact = divergence(flow, x, None)
    assert torch.allclose(v, flow(x))
    assert torch.allclose(exact, matrix.trace().expand(2))
    probes = torch.randint(0, 2, (4000, 2, *SHAPE), generator=generator).double() * 2 - 1
    _, estimate = divergence(flow, x, probes)
    spread = (matrix + matrix.T).fill_diagonal_(0).square().sum().div(2).sqrt()
    assert (estimate - matrix.trace()).abs().max() < 5 * spread / 4000**0.5


# The bound


def expected_terms(process, noise, times, eta, fraction):
    """E of each term over data, noise and x_t, from the posterior covariance of (x0, z) given
    x_t.
    """
    joint = torch.block_diag(DATA, torch.eye(N, dtype=torch.float64))
    nats = []
    for k in range(len(times) - 1):
        t, s = times[k], times[k + 1]
        a_t, b_t, a_s, b_s = (
            float(f(v[None])) for v in (t, s) for f in (process.signal_scale, process.noise_scale)
        )
        at, to = noise_matrix(noise, SHAPE, float(t)), noise_matrix(noise, SHAPE, float(s))
        seen = torch.cat([a_t * torch.eye(N, dtype=torch.float64), b_t * at], 1)
        left = joint - joint @ seen.T @ torch.linalg.solve(seen @ joint @ seen.T, seen @ joint)
        if k == len(times) - 2:
            a_r, b_r = (
                float(f(times[k - 1][None])) for f in (process.signal_scale, process.noise_scale)
            )
            tilde = ((b_r**2 - (a_r / a_t) ** 2 * b_t**2) * b_t**2 / b_r**2) ** 0.5
            std = tilde ** (1 - fraction) * b_t**fraction
            unwhitened = torch.linalg.solve(to, left[:N, :N])
            error = torch.linalg.solve(to, unwhitened.T).trace()
            log_det = torch.linalg.slogdet(to)[1]
            nats.append(
                error / (2 * std**2) + N * math.log(std) + log_det + N / 2 * math.log(2 * math.pi)
            )
            continue
        sigma = eta * (b_t**2 - (a_t / a_s) ** 2 * b_s**2) ** 0.5 * b_s / b_t
        mean = torch.cat(
            [a_s * torch.eye(N, dtype=torch.float64), (b_s**2 - sigma**2) ** 0.5 * to], 1
        )
        whitened = torch.linalg.solve(to, mean)
        u = (whitened @ left @ whitened.T).trace() / sigma**2
        ratio = (b_t / b_s) ** fraction
        nats.append((N + u) / (2 * ratio**2) - N / 2 + N * math.log(ratio))
    one, a, b = (
        noise_matrix(noise, SHAPE, 1.0),
        process.signal_scale(times[:1]),
        process.noise_scale(times[:1]),
    )
    prior = (a / b) ** 2 / 2 * torch.linalg.solve(one @ one.T, DATA).trace()
    return prior.squeeze(), torch.stack(nats[:-1]), nats[-1]


BOUNDS = [
    ("ddpm", "white", 1.0, 0.0),
    ("ddpm:variance=beta", "white", 0.6, 1.0),
    ("ddpm:schedule=cosine,target=v", "blue-tv", 1.0, 0.0),
    ("ddpm", "blue-tv:transport=whiten", 0.5, 0.0),
    ("ddpm", "blue", 1.0, 0.0),
    ("iadb", "white", 1.0, 0.0),
    ("iadb", "blue-tv:gamma.form=linear,normalize=true", 0.4, 0.0),
    ("iadb", "blue", 1.0, 0.0),
]


@pytest.mark.parametrize(("process", "noise", "eta", "fraction"), BOUNDS)
def test_the_bound_is_what_is_computed_by_hand_term_by_term_and_lies_above_the_entropy(
    process, noise, eta, fraction
):
    """Each of 12 terms within 5 standard errors of its expectation (1,500 draws), and the sum of
    the expectations above E[−log p(x0)]."""
    process, noise, oracle = parts(process, noise)
    count = 1500
    times = time_grid(process, 12, default_grid(noise))
    bound = variational_bound(oracle, process, noise, data(count), latents(count), times, eta)
    prior, steps, decoder = expected_terms(process, noise, times, eta, fraction)
    found = torch.cat([bound.prior[None], bound.steps, bound.decoder[None]])
    expected = torch.cat([prior[None], steps, decoder[None]])
    assert found.shape == (13, count)
    errors = found.std(1) / count**0.5
    assert (
        (found.mean(1) - expected).abs() <= 5 * errors + 1e-6 * expected.abs()
    ).all()  # L is kept in float32
    assert expected.sum() > LAW.entropy()
    assert bound.total.mean().item() == pytest.approx(found.mean(1).sum().item())


def test_the_bound_closes_in_on_the_entropy_with_the_number_of_steps():
    process, noise, _ = parts("ddpm:variance=beta", "white")
    gaps = [
        float(
            sum(
                term.sum()
                for term in expected_terms(process, noise, time_grid(process, k), 1.0, 1.0)
            )
            - LAW.entropy()
        )
        for k in (50, 200, 800)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_a_worse_denoiser_has_a_higher_bound():
    process, noise, oracle = parts("iadb", "white")
    times, x, source = time_grid(process, 12), data(200), latents(200)

    def worse(x_t, t):
        p = oracle(x_t, t)
        return Prediction(0.8 * p.x0_hat, p.eps_hat, p.heads)

    best, other = (
        variational_bound(m, process, noise, x, source, times).total.mean()
        for m in (oracle, worse)
    )
    assert other > best + 1


def test_the_discretised_bound_is_above_the_entropy_of_the_grey_levels():
    """Numbers on two of 256 levels, each with probability ½, and the optimal denoiser: at least 1
    bit/dim (by 5 standard errors), and far below the 8 of a uniform guess."""
    process, noise, _ = parts("ddpm", "white")
    low, high = 100 / 127.5 - 1, 140 / 127.5 - 1

    def model(x_t, t):
        a, b = process.signal_scale(t)[0], process.noise_scale(t)[0]
        odds = ((x_t - a * low) ** 2 - (x_t - a * high) ** 2) / (2 * b**2)
        x0_hat = low + (high - low) * odds.sigmoid()
        return Prediction(x0_hat, (x_t - a * x0_hat) / b)

    generator = torch.Generator().manual_seed(0)
    x0 = low + (high - low) * torch.randint(0, 2, (100, *SHAPE), generator=generator).double()
    bound = variational_bound(
        model, process, noise, x0, latents(100), time_grid(process, 1000), levels=256
    )
    bits = bits_per_dim(bound.total, x0, 0)
    assert bits.mean() - 5 * bits.std() / 100**0.5 > 1
    assert bits.mean() < 3
    # At t = 1/T the levels are told apart, and what is left is σ̃ = √β̃_2 against the width of a
    # level.
    a, b = (
        f(torch.tensor([0.001, 0.002], dtype=torch.float64))
        for f in (process.signal_scale, process.noise_scale)
    )
    std = ((b[1] ** 2 - (a[1] / a[0]) ** 2 * b[0] ** 2).sqrt() * b[0] / b[1]).item()
    expected = -math.log2(math.erf(1 / 255 / std / 2**0.5))
    assert bits_per_dim(bound.decoder, x0, 0).tolist() == pytest.approx([expected] * 100, rel=1e-6)


# The metric: what is refused, and digits


def untrained(noise="white", pairing="none", process="iadb", **sample):
    from noisereg.plugins.registry import registry
    from noisereg.runs.build import build_parts
    from noisereg.runs.config import RuntimeConfig, validate
    from noisereg.runs.model import RunModel
    from noisereg.runs.runtime import Runtime

    config = validate(
        {
            "noise": noise,
            "pairing": pairing,
            "process": process,
            "denoiser": "mlp:width=16,blocks=1",
            "sample": sample,
        }
    )
    parts = build_parts(config, registry(), Runtime.start(RuntimeConfig(device="cpu")))
    parts.objective.eval()
    return RunModel(parts, parts.config.sample, registry(), 0)


def measure(model, **params):
    metric = NegativeLogLikelihood(NllParams(num=4, steps=5, ode_steps=4, **params), Context())
    return metric.of_model(model, model.parts.dataset), metric.notes()


def test_the_flow_of_given_times_says_how_many_and_ends_its_coarse_path_at_1(monkeypatch):
    """Every second of an odd number of steps would leave the path at t = .95, from b(.95)."""
    ends = []

    def watched(predict, process, noise, x, times, probes):
        ends.append((float(times[0]), float(times[-1]), len(times) - 1))
        return flow_nll(predict, process, noise, x, times, probes)

    monkeypatch.setattr("noisereg.metrics.likelihood.flow_nll", watched)
    for inner in ([0.95, 0.9, 0.7, 0.5, 0.3, 0.1], [0.95, 0.9, 0.7, 0.5, 0.3]):
        ends.clear()
        grid = {"name": "times", "values": [1.0, *inner, 0.0]}
        numbers, notes = measure(untrained(grid=grid), by="ode", probes=0)
        steps = len(inner) + 1
        assert ends == [(0, 1, steps), (0, 1, (steps + 1) // 2)]
        assert any(f"Heun, {steps} steps" in note for note in notes)
        assert math.isfinite(numbers["nll-ode"])


def test_a_pairing_leaves_the_flow_alone():
    numbers, notes = measure(untrained(pairing="greedy"))
    assert set(numbers) == {"nll-ode"}
    assert any("no bound" in note and "pairing" in note for note in notes)
    with pytest.raises(NoiseregError, match="pairing"):
        measure(untrained(pairing="greedy"), by="bound")


def test_a_singular_l_has_neither():
    with pytest.raises(NoiseregError, match=r"condition number.*larger jitter"):
        measure(untrained("blue:factor=spectral,jitter=0"))


def test_heads_without_whiten_have_no_bound_but_a_flow_where_the_start_has_a_density():
    parts = untrained("blue-tv")
    own, both = type(parts.noise), measure(parts, probes=0)[0]
    assert set(both) == {"nll-bound", "nll-ode"}

    class NoInverse(own):
        def whiten(self, eps, t):
            return eps if float(t.min()) == 1 else Noise.whiten(self, eps, t)

    parts.noise.__class__ = NoInverse
    numbers, notes = measure(parts, probes=0)
    assert numbers == {"nll-ode": both["nll-ode"]}
    assert any("cannot be whitened" in note for note in notes)


def test_noise_that_is_not_gaussian_has_neither():
    parts = untrained()
    parts.noise.gaussian = False
    with pytest.raises(NoiseregError, match="not Gaussian"):
        measure(parts)


def test_eta_0_is_no_bound():
    with pytest.raises(ValueError, match="eta"):
        NllParams(eta=0)


def test_batches_do_not_change_it_and_points_have_densities():
    parts = untrained()
    one, two = (measure(parts, batch_size=size)[0] for size in (1, 4))
    assert one == pytest.approx(two, rel=1e-6)
    x = torch.zeros(2, 5)
    assert bits_per_dim(torch.full((2,), math.log(2) * 5), x, 0).tolist() == pytest.approx([1, 1])
    assert bits_per_dim(torch.zeros(2), x, 256).tolist() == pytest.approx([math.log2(127.5)] * 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Digits with a learned variance: checkpoints after 20 and 400 steps."""
    return noisereg.train(
        out=tmp_path_factory.mktemp("nll") / "run",
        process="ddpm:variance=learned",
        denoiser="mlp:width=64,blocks=1",
        train={"steps": 400, "batch_size": 64, "checkpoint_every": 20, "keep_every": 20},
        sample={"steps": 2},
        runtime={"device": "cpu"},
    )


def test_bits_per_dim_of_digits_are_finite_and_improve_with_training(trained, capsys):
    spec = "nll:num=40,steps=200,ode_steps=40,terms=true"
    numbers = []
    for step in (20, 400):
        arguments = [
            "eval",
            str(trained.path),
            "--metric",
            spec,
            "--checkpoint",
            str(step),
            "--format",
            "json",
        ]
        assert command(arguments) == 0
        out = capsys.readouterr().out
        (row,) = json.loads(out)["tables"][0]["rows"]
        numbers.append({name: cell["mean"] for name, cell in row["metrics"].items()})
    early, late = numbers
    assert all(math.isfinite(v) for row in numbers for v in row.values())
    assert late["nll-bound"] < early["nll-bound"] - 0.5
    assert late["nll-ode"] < early["nll-ode"] - 0.5
    parts = [late[f"nll-bound-{k}"] for k in ("prior", "steps", "decoder")]
    assert sum(parts) == pytest.approx(late["nll-bound"], rel=1e-9)
    assert not (trained.path / "eval" / "samples").exists()  # nothing was sampled for it


def test_eval_says_how_it_was_measured(trained, capsys):
    assert command(["eval", str(trained.path), "--metric", "nll:num=10,steps=10,ode_steps=4"]) == 0
    said = "".join(capsys.readouterr())
    for words in ("10 of heldout", "η 1", "standard error", "half the steps differ by"):
        assert words in said


def test_a_folder_of_images_has_no_likelihood(trained, tmp_path, capsys):
    assert (
        command(
            [
                "sample",
                str(trained.path),
                "--num",
                "3",
                "--steps",
                "2",
                "--out",
                str(tmp_path / "f"),
            ]
        )
        == 0
    )
    assert command(["eval", str(tmp_path / "f"), "--data", "digits", "--metric", "nll"]) == 2
    assert "measured on a model" in capsys.readouterr().err
