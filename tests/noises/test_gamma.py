"""γ(t) and its parameters."""

import math

import pytest
import torch
from pydantic import ValidationError

from noisereg.noises import Gamma, MaskParams, PowerLawParams, TimeVaryingParams
from noisereg.noises.gamma import GammaCurve

CURVES = [
    {},
    {"form": "sigmoid", "s": -3, "e": 3, "tau": 0.7},
    {"tau": 1000},
    {"form": "linear"},
    {"form": "cosine"},
    {"form": "cosine", "s": 0.2, "e": 0.9, "tau": 0.3},
]
T = torch.linspace(0, 1, 101, dtype=torch.float64)


def curve(**values):
    return GammaCurve(Gamma.model_validate(values))


@pytest.mark.parametrize("values", CURVES)
def test_gamma_rises_from_0_to_1(values):
    gamma = curve(**values)(T)
    assert gamma.dtype == torch.float64
    assert gamma[0] == 0
    assert gamma[-1] == pytest.approx(1, abs=1e-12)
    assert (gamma.diff() >= 0).all()


@pytest.mark.parametrize("values", CURVES)
def test_its_rate_is_its_derivative(values):
    gamma, t = curve(**values), T.clone().requires_grad_()
    (automatic,) = torch.autograd.grad(gamma(t).sum(), t)
    assert torch.allclose(gamma.rate(T)[1:-1], automatic[1:-1], rtol=1e-9, atol=1e-12)


def test_the_sigmoid_is_the_papers_normalised_one():
    s, e, tau, t = -1.0, 2.0, 0.4, 0.3

    def sigma(x):
        return 1 / (1 + math.exp(-x))

    expected = (sigma((s + (e - s) * t) / tau) - sigma(s / tau)) / (
        sigma(e / tau) - sigma(s / tau)
    )
    assert float(curve(s=s, e=e, tau=tau)(torch.tensor([t]))) == pytest.approx(expected, abs=1e-7)


def test_the_cosine_is_the_papers():
    t = torch.tensor([0.37], dtype=torch.float64)
    assert float(curve(form="cosine", tau=0.5)(t)) == pytest.approx(
        1 - math.cos(0.37 * math.pi / 2), abs=1e-12
    )


def test_tau_1000_is_linear_in_effect():
    assert (curve(tau=1000)(T) - T).abs().max() < 1e-6


def test_a_float32_time_is_computed_in_float64():
    assert curve()(T.float()).dtype == torch.float64


def test_what_is_left_out_takes_the_forms_own_values():
    assert Gamma.model_validate({}).curve == (0, 3, 0.2)
    assert Gamma.model_validate({"form": "cosine"}).curve == (0, 1, 1)
    assert Gamma.model_validate({"form": "sigmoid", "e": None, "tau": "0.5"}).curve == (0, 3, 0.5)


@pytest.mark.parametrize("values", CURVES)
def test_a_written_configuration_is_read_back(values):
    params = TimeVaryingParams.model_validate({"gamma": values})
    assert TimeVaryingParams.model_validate(params.model_dump()) == params
    assert TimeVaryingParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"form": "linear", "tau": 1}, "has no tau"),
        ({"s": 3, "e": 1}, "s < e"),
        ({"tau": 0}, "greater than 0"),
        ({"tau": "nan"}, "finite|greater"),
        ({"s": 50, "e": 60, "tau": 0.1}, "raise tau"),
        ({"form": "cosine", "e": 3}, "0 ≤ s < e ≤ 1"),
        ({"form": "cosine", "tau": 0.2}, "tau ≥ 0.5"),
        ({"form": "cubic"}, "linear"),
        ({"learn": "true", "form": "cosine"}, "sigmoid"),
        ({"speed": 1}, "speed"),
    ],
)
def test_values_out_of_range_are_refused(values, says):
    with pytest.raises(ValidationError, match=says):
        Gamma.model_validate(values)


@pytest.mark.parametrize(
    ("model", "values", "says"),
    [
        (MaskParams, {"jitter": 0}, "factor=spectral"),
        (MaskParams, {"jitter": -1}, "greater"),
        (MaskParams, {"jitter": 1.5}, "less"),
        (MaskParams, {"factor": "lu"}, "cholesky"),
        (PowerLawParams, {"exponent": 9}, "less"),
        (TimeVaryingParams, {"transport": "fly"}, "heads"),
    ],
)
def test_parameters_of_the_noises_are_checked(model, values, says):
    with pytest.raises(ValidationError, match=says):
        model.model_validate(values)
