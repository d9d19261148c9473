"""γ that learns: where the loss drives it, what the projection holds, and that a run keeps and
uses it.
"""

import json

import pytest
import torch
from stepping import time_grid

from noisereg import python as noisereg
from noisereg.errors import NoiseregError
from noisereg.noises import LEARNED_BOX, Gamma, sigmoid_limits
from noisereg.noises.gamma import GammaCurve, max_rate, mean
from noisereg.python import build
from noisereg.testing.oracle import (
    GaussianOracle,
    bayes_risk,
    output_covariance,
    relative_error,
    smooth_covariance,
)

SHAPE = (1, 8, 8)
DATA = smooth_covariance(SHAPE)
TIMES = (torch.arange(1, 5, dtype=torch.float64) - 0.5) / 4


def curve(values=None):
    gamma = GammaCurve(Gamma.model_validate({"learn": True}))
    if values is not None:
        with torch.no_grad():
            for parameter, value in zip(gamma.parameters(), values, strict=True):
                parameter.fill_(value)
    return gamma


def place(module):
    return torch.stack([p.detach() for p in module.parameters()])


def assert_within_limits(at):
    s, e, tau = at.tolist()
    for value, (low, high) in zip((s, e, tau), LEARNED_BOX, strict=True):
        assert low <= value <= high
    assert max_rate(at) <= 10
    assert 0.3 <= mean(at) <= 0.9


def test_it_starts_where_the_issue_says_and_in_float64():
    gamma = curve()
    assert dict(gamma.named_parameters()).keys() == {"s", "e", "tau"}
    assert place(gamma).tolist() == [-0.01, 3.0, 1.0]
    assert place(gamma).dtype == torch.float64


@pytest.mark.parametrize(
    "values",
    [(-0.01, 3.0, 1.0), (-3, 0.01, 0.5), (-1.0, 2.0, 0.1), (-3, 0.01, 10), (-2.5, 3, 0.01)],
)
def test_the_closed_forms_of_its_limits(values):
    """max dγ/dt and ∫γ dt, against 200,000 points of the curve."""
    gamma = curve(values)
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    assert max_rate(place(gamma)).item() == pytest.approx(gamma.rate(t).max().item(), rel=1e-4)
    assert mean(place(gamma)).item() == pytest.approx(
        torch.trapezoid(gamma(t), t).item(), abs=1e-6
    )
    assert sigmoid_limits(*values) == pytest.approx(
        (max_rate(place(gamma)).item(), mean(place(gamma)).item()), rel=1e-9
    )


def test_a_curve_within_its_limits_is_left_alone():
    values = (-1.0, 0.5, 0.3)
    gamma = curve(values)
    gamma.project()
    assert place(gamma).tolist() == pytest.approx(values, abs=1e-12)


def test_any_point_is_brought_within_the_limits():
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        gamma = curve((torch.rand(3, generator=generator) * 12 - 6).tolist())
        gamma.project()
        assert_within_limits(place(gamma))


def test_the_projection_is_nearly_the_nearest_point():
    """From a step outside, as training takes it: no point of a ball of 9/10 of the distance is
    within the limits.
    """
    outside = torch.tensor([-2.95, 0.03, 0.6], dtype=torch.float64)
    assert mean(outside) < 0.3
    gamma = curve(outside.tolist())
    gamma.project()
    distance = (place(gamma) - outside).norm()
    assert 0 < distance < 0.2
    directions = torch.nn.functional.normalize(
        torch.randn(4000, 3, generator=torch.Generator().manual_seed(1)).double()
    )
    ball = (
        outside
        + 0.9 * distance * directions * torch.linspace(0.1, 1, 4000, dtype=torch.float64)[:, None]
    )
    inside = (max_rate(ball) <= 10) & (mean(ball) >= 0.3) & (mean(ball) <= 0.9)
    inside &= (ball[:, 0] <= -0.01) & (ball[:, 1] >= 0.01)
    assert not inside.any()


def trained(project):
    """γ under the gradient of the optimal denoiser's loss, IADB; and the sampler's error with it
    in 100 steps.
    """
    noise = build("noise", "blue-tv:gamma.learn=true", shape=SHAPE)
    process = build("process", "iadb", shape=SHAPE, noise=noise)
    optimizer = torch.optim.Adam(noise.parameters(), lr=0.1)
    for _ in range(160):
        optimizer.zero_grad()
        bayes_risk(process, noise, SHAPE, DATA, TIMES).backward()
        optimizer.step()
        if project:
            noise.after_step()
            assert_within_limits(place(noise.gamma))
        else:  # BNDM's clamps alone
            with torch.no_grad():
                for parameter, (low, high) in zip(
                    noise.gamma.parameters(), LEARNED_BOX, strict=True
                ):
                    parameter.clamp_(low, high)
    return noise, process


@torch.no_grad()
def error(noise, process):
    oracle = GaussianOracle(process, noise, SHAPE, DATA)
    return relative_error(
        output_covariance(oracle, process, noise, SHAPE, time_grid(process, 100)), DATA
    )


def test_without_the_projection_the_loss_drives_gamma_into_the_corner_and_with_it_sampling_stays_sound():
    """The corner is static blue noise with a jump at t = 1. With the limits the
    sampler's error at 100 steps is under twice that of γ = t."""
    linear = build("noise", "blue-tv:gamma.form=linear", shape=SHAPE)
    reference = error(linear, build("process", "iadb", shape=SHAPE, noise=linear))
    free, process = trained(project=False)
    assert place(free.gamma)[0] < -2.9
    assert place(free.gamma)[1] < 0.2
    assert max_rate(place(free.gamma)) > 20
    assert error(free, process) > 4 * reference
    held, process = trained(project=True)
    assert mean(place(held.gamma)) < 0.4  # it went there too, and was stopped
    assert error(held, process) < 2 * reference


def test_its_gradient_is_that_of_the_loss_with_constant_weights():
    """Against central differences of the risk, the weights of the heads held where they are."""
    noise = build("noise", "blue-tv:gamma.learn=true", shape=(1, 4, 4))
    process = build("process", "ddpm", shape=(1, 4, 4), noise=noise)
    covariance = smooth_covariance((1, 4, 4))
    weights = {float(t): noise.head_weight(t[None], process).detach() for t in TIMES}
    noise.head_weight = lambda t, process: weights[float(t[0])]
    bayes_risk(process, noise, (1, 4, 4), covariance, TIMES).backward()
    for parameter in noise.parameters():
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step
                values.append(bayes_risk(process, noise, (1, 4, 4), covariance, TIMES).item())
                parameter -= step
        assert parameter.grad.item() == pytest.approx(
            (values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-9
        )


SMALL = {
    "reg": ["isotropy:space=whitened"],
    "denoiser": "mlp:width=32",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 3},
}


def train(
    out, steps, resume=False, noise="blue-tv:gamma.learn=true,gamma.lr=0.05", process="iadb"
):
    settings = {"steps": steps, "batch_size": 16, "checkpoint_every": 2, "log_every": 1}
    return noisereg.train(
        out=out, resume=resume, noise=noise, process=process, train=settings, **SMALL
    )


@pytest.mark.parametrize("process", ["iadb", "ddpm"])
def test_a_run_learns_saves_resumes_logs_and_samples_with_it(process, tmp_path):
    whole = train(tmp_path / "whole", 6, process=process)
    train(tmp_path / "parts", 3, process=process)
    resumed = train(tmp_path / "parts", 6, resume=True, process=process)
    weights = whole.checkpoint().weights(ema=False)
    for name, value in resumed.checkpoint().weights(ema=False).items():
        assert torch.equal(value, weights[name]), name
    learned = torch.stack([weights[f"diffusion.noise.gamma.{name}"] for name in ("s", "e", "tau")])
    assert learned.dtype == torch.float64
    assert (
        learned - torch.tensor([-0.01, 3, 1])
    ).abs().max() > 0.05  # at a rate of its own, 50 times the network's
    assert_within_limits(learned)
    lines = [json.loads(line) for line in (whole.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["gamma/tau"] != lines[0]["gamma/tau"] == pytest.approx(1)

    parts = whole.load(ema=False)
    assert place(parts.noise.gamma).tolist() == pytest.approx(learned.tolist())
    before = whole.sample(2, steps=4, ema=False)
    other = build("noise", "blue-tv:gamma.learn=true", shape=SHAPE)
    t = torch.tensor([0.5], dtype=torch.float64)
    assert not torch.allclose(parts.noise.gamma(t), other.gamma(t), atol=1e-3)
    assert before.shape == (2, *SHAPE)


def test_level_and_weights_do_not_train_it():
    """The engine detaches them; without an error to reduce, no gradient reaches γ from m or the
    loss weight.
    """
    from noisereg.diffusion.diffusion import Diffusion
    from noisereg.diffusion.loss import Weighted

    noise = build("noise", "blue-tv:gamma.learn=true", shape=SHAPE)
    process = build("process", "ddpm", shape=SHAPE, noise=noise)
    term = build("regularizer", "isotropy:weight=1", shape=SHAPE, noise=noise, process=process)

    class Knows(torch.nn.Module):
        """Outputs that are right and that no gradient passes through."""

        def forward(self, x, t):
            return torch.cat([noise.color(latents, t), noise.basis(latents)], 1).detach()

    latents = {"z": torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))}
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    diffusion = Diffusion(SHAPE, process, noise, [Weighted("isotropy", 1.0, term)])
    loss, parts = diffusion.loss(Knows(), torch.zeros(6, *SHAPE), latents=latents, t=t)
    loss.backward()
    assert parts["isotropy"] > 0
    assert all(p.grad.abs() < 1e-6 for p in noise.parameters())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("gamma.learn=true,gamma.form=cosine", "sigmoid"),
        ("gamma.learn=true,gamma.form=linear", "sigmoid"),
        ("gamma.learn=true,gamma.s=0", r"keeps s in \[-3, -0.01\]"),
        ("gamma.learn=true,gamma.tau=0.05", "max dγ/dt ≤ 10"),
        ("gamma.lr=0.1", "learn=true"),
        ("gamma.learn=maybe", "gamma.learn"),
    ],
)
def test_starts_outside_the_limits_are_refused(spec, said):
    with pytest.raises(NoiseregError, match=said):
        build("noise", f"blue-tv:{spec}", shape=SHAPE)
