"""Min-SNR and P2: one rule for every target, against the papers' formulas for each."""

import pytest
import torch
from pydantic import ValidationError

from noisereg.api import Context, Noise
from noisereg.diffusion import compatible
from noisereg.processes import DDPMParams, IADBParams
from noisereg.processes.ddpm import DDPM
from noisereg.processes.iadb import IADB

T = torch.linspace(0.001, 1, 400, dtype=torch.float64)
SHAPE = (1, 2, 2)


def ddpm(**params):
    return DDPM(DDPMParams(**params), Context(shape=SHAPE))


def snr(process):
    return (process.signal_scale(T) / process.noise_scale(T)) ** 2


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_min_snr_is_the_papers_for_each_target(target):
    """2303.09556, §3.4: min(SNR, γ) for x0, over SNR for ε, over SNR + 1 for v."""
    process = ddpm(target=target, weighting="min-snr", snr_cap=3)
    ratio = snr(process)
    expected = (
        ratio.clamp(max=3) / {"eps": ratio, "x0": torch.ones_like(ratio), "v": ratio + 1}[target]
    )
    assert torch.allclose(process.weight(T), expected, rtol=1e-10)


def test_p2_is_the_papers_on_eps():
    """2204.00227, eq. 8, over the weight 1 of L_simple."""
    process = ddpm(weighting="p2", p2_k=2, p2_gamma=0.5)
    assert torch.allclose(process.weight(T), 1 / (2 + snr(process)).sqrt(), rtol=1e-12)


@pytest.mark.parametrize("weighting", ["min-snr", "p2"])
@pytest.mark.parametrize("process", ["eps", "x0", "v", "iadb"])
def test_the_weighted_loss_is_the_same_whatever_the_target(weighting, process):
    """The same error of x̂0, seen through each target, costs the same: w_ε‖e_ε‖² with e_ε =
    −(a/b)e_0.
    """
    if process == "iadb":
        process = IADB(IADBParams(weighting=weighting), Context(shape=SHAPE))
        inside = T[:-1]  # at t = 1 no error of x̂0 can be read off ε̂
    else:
        process, inside = ddpm(target=process, weighting=weighting), T
    generator = torch.Generator().manual_seed(0)
    x0, eps, e = (
        torch.randn(len(inside), *SHAPE, generator=generator, dtype=torch.float64)
        for _ in range(3)
    )
    a, b = process.signal_scale(inside), process.noise_scale(inside)
    ratio = (a / b).reshape(-1, 1, 1, 1)
    error = process.target(x0 + e, eps - ratio * e, inside) - process.target(x0, eps, inside)
    cost = process.weight(inside) * error.square().flatten(1).sum(1)
    of_eps = (5 / (a / b) ** 2).clamp(max=1) if weighting == "min-snr" else 1 / (1 + (a / b) ** 2)
    assert torch.allclose(cost, of_eps * (ratio * e).square().flatten(1).sum(1), rtol=1e-9)


def test_without_it_every_time_weighs_1():
    assert torch.equal(ddpm(target="v").weight(T), torch.ones_like(T))


def test_min_snr_is_finite_where_no_signal_is_left():
    weight = ddpm(zero_terminal_snr=True, target="v", weighting="min-snr").weight(T)
    assert weight.isfinite().all()
    assert weight[-1] == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"snr_cap": 3}, "weighting=min-snr"),
        ({"weighting": "min-snr", "p2_k": 2}, "weighting=p2"),
        ({"weighting": "min-snr", "snr_cap": 0}, "greater than 0"),
        ({"weighting": "max-snr"}, "min-snr"),
    ],
)
def test_a_parameter_that_would_be_ignored_is_refused(values, says):
    with pytest.raises(ValidationError, match=says):
        DDPMParams.model_validate(values)


def test_a_written_configuration_is_read_back():
    params = DDPMParams(weighting="p2", p2_gamma=0.5, variance="learned", bound_weight=0.01)
    assert DDPMParams.model_validate(params.model_dump(mode="json")) == params


def test_a_weight_of_zero_at_the_time_where_sampling_starts_is_said():
    white = Noise()
    for process in (
        ddpm(target="v", zero_terminal_snr=True, weighting="min-snr"),
        ddpm(target="x0", zero_terminal_snr=True, weighting="p2"),
        IADB(IADBParams(weighting="min-snr"), Context(shape=SHAPE)),
    ):
        (said,) = compatible.notes(process, white)
        assert "weight 0 at t = 1, where sampling starts" in said
    for process in (
        ddpm(target="v", zero_terminal_snr=True),
        ddpm(weighting="min-snr"),
        IADB(IADBParams(), Context(shape=SHAPE)),
    ):
        assert compatible.notes(process, white) == ()
