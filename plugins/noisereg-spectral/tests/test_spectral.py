"""The conformance kit, and what the term sees that isotropy does not."""

import dataclasses

import pytest
import torch
from noisereg_spectral.spectral import rings

from noisereg import build
from noisereg.api import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.testing import conformance
from noisereg.testing.doubles import train_step

NAME = "noisereg-spectral/spectral"

test_spectral = conformance("regularizer", NAME)
test_many_bands = conformance("regularizer", f"{NAME}:bands=64,floor=0.5")


def step_with(eps_hat):
    s, _ = train_step(registry(), "iadb", shape=tuple(eps_hat.shape[1:]), batch=len(eps_hat))
    return dataclasses.replace(s, eps_hat=eps_hat)


def smoothed(eps):
    """The same total power, less of it at high frequencies."""
    smooth = (eps + eps.roll(1, -1) + eps.roll(1, -2)) / 3
    return smooth * (eps.square().mean() / smooth.square().mean()).sqrt()


def test_it_sees_a_wrong_spectrum_of_the_right_power():
    s, _ = train_step(registry(), "iadb", shape=(2, 16, 16), batch=64)
    wrong = dataclasses.replace(s, eps_hat=smoothed(s.eps))
    spectral = build("regularizer", NAME, shape=(2, 16, 16))
    isotropy = build("regularizer", "isotropy", shape=(2, 16, 16), noise=s.noise)
    right = dataclasses.replace(s, eps_hat=s.eps)
    assert float(spectral(right)) == 0
    assert float(spectral(wrong)) > 0.1
    assert abs(float(isotropy(wrong)) - float(isotropy(right))) < 1e-3


def test_parseval():
    """The bands' mean powers, weighted by their sizes, are the total power."""
    term = build("regularizer", f"{NAME}:bands=5", shape=(3, 6, 9))
    eps = torch.randn(4, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    sizes = torch.bincount(rings(6, 9, 5).flatten(), minlength=5).float()
    torch.testing.assert_close(term.spectrum(eps) @ sizes / 54, eps.flatten(1).square().mean(1))


def test_rings_are_of_radial_frequency():
    found = rings(8, 8, 4)
    assert found[0, 0] == 0
    assert found[4, 4] == 3  # the highest frequency of both axes
    assert torch.equal(found, found.T)
    assert torch.equal(found[1:], found[1:].flip(0))  # ±f


def test_points_are_refused():
    with pytest.raises(NoiseregError, match="needs images"):
        build("regularizer", NAME, shape=(2,))
