"""Training times: the law is what is asked for, rises with u, and changes nothing by default."""

import numpy as np
import pytest
import torch
from scipy import stats

from noisereg import draws
from noisereg.errors import NoiseregError
from noisereg.processes import TrainingTimesParams, times
from noisereg.python import build

ALPHA = 1e-4
"""The chance at which a right law fails: seeds are fixed, so that it does not come and go."""


def logit_normal(mean, std):
    """The distribution function of t where logit t ~ N(mean, std²), by scipy."""
    return lambda t: stats.norm.cdf(np.log(t / (1 - t)), loc=mean, scale=std)


def p_value(t, law):
    return stats.kstest(t.numpy(), law).pvalue


def drawn(spec, count=20_000):
    return draws.times(5, 0, count, build("process", spec, shape=(2,)))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.2, 0.6), (0.5, 1.5)])
def test_logit_normal_times_have_the_law_of_the_paper(mean, std):
    """By Kolmogorov's and Smirnov's test at ALPHA, on 20,000 draws, each moved back by a uniform
    share of its 1/T so that the law is continuous; a law whose mean is off by a tenth fails."""
    T = 100_000
    t = drawn(f"iadb:T={T},times=logit-normal,times_mean={mean},times_std={std}")
    assert p_value(t - 0.5 / T, logit_normal(mean, std)) > ALPHA
    assert p_value(t - 0.5 / T, logit_normal(mean + 0.1, std)) < ALPHA
    assert p_value(t - 0.5 / T, logit_normal(mean, std * 1.1)) < ALPHA


@pytest.mark.parametrize("process", ["ddpm", "iadb"])
def test_times_stay_those_of_the_process(process):
    """k/T, P(t ≤ k/T) being the law's own: by χ² on ten bins at ALPHA."""
    t = drawn(f"{process}:T=10,times=logit-normal")
    k = (t * 10).round()
    torch.testing.assert_close(k / 10, t, rtol=0, atol=1e-15)
    counts = np.bincount(k.long().numpy(), minlength=11)[1:]
    edges = logit_normal(0, 1)(np.arange(1, 10) / 10)
    expected = np.diff(np.concatenate([[0], edges, [1]])) * len(t)
    assert stats.chisquare(counts, expected).pvalue > ALPHA


@pytest.mark.parametrize("law", ["uniform", "logit-normal"])
def test_they_rise_with_u_and_lie_in_0_to_1(law):
    u = torch.tensor([0.0, 1e-300, 1e-9, 0.25, 0.5, 1 - 2**-53], dtype=torch.float64)
    wide = {} if law == "uniform" else {"times_mean": 10, "times_std": 10}
    for params in (TrainingTimesParams(times=law), TrainingTimesParams(times=law, **wide)):
        t = times.on_grid(params, u, 1000)
        assert ((t > 0) & (t <= 1)).all()
        assert (t.diff() >= 0).all()
        assert (times.draw(params, u).diff() >= 0).all()


def test_by_default_they_are_k_of_T_as_ever():
    u = torch.rand(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for process in (build("process", name, shape=(2,)) for name in ("ddpm", "iadb")):
        assert torch.equal(process.time(u), ((u * 1000).floor() + 1) / 1000)


def test_antithetic_pairs_are_mirrored():
    t = draws.times(0, 0, 64, build("process", "iadb:times=logit-normal", shape=(2,)), True)
    torch.testing.assert_close(t[0::2] + t[1::2], torch.ones(32).double(), rtol=0, atol=1.1e-3)


def test_a_run_says_its_law():
    built = build("process", "ddpm:times=logit-normal,times_mean=-0.5", shape=(2,))
    assert built.summary == "linear, T 1000, target ε, times logit-normal(-0.5, 1)"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("iadb:times_mean=1", "times_mean belongs to times=logit-normal"),
        ("ddpm:times=normal", "uniform"),
        ("ddpm:times=logit-normal,times_std=0", "times_std"),
        ("ddpm:times=logit-normal,variance=learned", "expected times=uniform"),
    ],
)
def test_what_has_no_meaning_is_refused(spec, said):
    with pytest.raises(NoiseregError, match=said) as caught:
        build("process", spec, shape=(2,))
    assert "\n" not in str(caught.value)
