"""The numbers of ``noise show`` are right for noises whose numbers are known."""

import numpy as np
import pytest
import torch

from noisereg.api import Context, Noise
from noisereg.noises import MaskParams, TimeVaryingParams
from noisereg.noises.analysis import (
    SECTORS,
    autocovariance,
    look,
    periodogram,
    power_by_orientation,
    radial_power,
)
from noisereg.noises.blue import BlueNoise
from noisereg.noises.covariance import circulant, frequency, rings, unit_mean
from noisereg.noises.factors import SpectralFactor
from noisereg.noises.time_varying import BlueTimeVarying
from noisereg.noises.white import WhiteNoise


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_periodogram_of_one_pixel_is_flat_and_sums_to_its_energy():
    image = torch.zeros(1, 1, 4, 6)
    image[0, 0, 1, 2] = 3.0
    power = periodogram(image)
    assert np.allclose(power, 9 / 24)


def test_rings_count_steps_of_the_longer_axis():
    assert rings(8, 8)[0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert rings(4, 8)[:, 0].tolist() == [0, 2, 4, 2]


def test_the_band_of_a_ring_holds_as_often_as_it_says():
    """White noise, 600 repetitions of 5 draws: misses of a 90 % band, 10 % ± 4.5 sd over all rings
    but those few of 1.
    """
    misses, total = 0, 0
    for seed in range(600):
        radial = radial_power(periodogram(normal(5, 1, 8, 8, seed=seed)), 5, level=0.9)
        misses += int(((radial.low > 1) | (radial.high < 1)).sum())
        total += len(radial.power)
    assert abs(misses / total - 0.1) < 4.5 * (0.09 / total) ** 0.5


def test_autocovariance_is_the_circulants_first_row():
    power = unit_mean(np.random.default_rng(0).random((5, 6)))
    assert np.allclose(autocovariance(power).ravel(), circulant(power)[:, 0])


def test_stripes_have_one_orientation():
    """Columns that alternate every other pixel: power along x alone."""
    x = torch.cos(2 * torch.pi * 0.375 * torch.arange(16)).expand(16, 16)
    power = power_by_orientation(periodogram(x[None, None]))
    assert power.argmax() == 0
    assert power[SECTORS // 2] < 1e-9


def test_a_look_at_white_noise_is_flat():
    draws = 4000
    one = look(WhiteNoise(None, Context(shape=(1, 16, 16))), {"z": normal(draws, 1, 16, 16)}, 0.5)
    assert one.declared == 1
    assert abs(one.measured - 1) < 4 * one.error
    assert one.error == pytest.approx((2 / 256 / draws) ** 0.5, rel=0.1)
    assert abs(one.low_power - 1) < 0.03
    assert one.anisotropy < 1.02
    assert abs(one.variance - 1).max() < 5 * (2 / draws) ** 0.5


def test_a_look_at_blue_noise_finds_its_spectrum():
    noise = BlueNoise(MaskParams(factor="spectral"), Context(shape=(1, 16, 16)))
    one = look(noise, {"z": normal(4000, 1, 16, 16)}, 0.0)
    truth = radial_power(noise.factor.power, 10**9)
    assert (np.abs(one.radial.power / truth.power - 1) < 0.1).all()
    assert one.low_power < 0.03
    assert one.covariance[0, 0] == pytest.approx(one.measured)


def test_a_cholesky_mixture_is_neither_stationary_nor_isotropic_and_a_spectral_one_is_both():
    """At γ = ½ and 32² the exact pixel variance is .64 to 1.00, .874 in the mean; the symmetric
    root's .955 everywhere.
    """
    looks = {}
    for factor in ("cholesky", "spectral"):
        noise = BlueTimeVarying(
            TimeVaryingParams.model_validate({"factor": factor, "gamma": {"form": "linear"}}),
            Context(shape=(1, 32, 32)),
        )
        looks[factor] = look(noise, {"z": normal(2000, 1, 32, 32)}, 0.5)
    scatter = (2 / 2000) ** 0.5
    assert looks["cholesky"].measured == pytest.approx(0.874, abs=0.005)
    assert looks["cholesky"].variance.min() < 0.75
    assert looks["cholesky"].anisotropy > 1.2
    assert looks["spectral"].measured == pytest.approx(0.955, abs=0.005)
    assert abs(looks["spectral"].variance / looks["spectral"].measured - 1).max() < 5 * scatter
    assert looks["spectral"].anisotropy < 1.1


def test_too_small_an_image_has_no_orientation():
    one = look(WhiteNoise(None, Context(shape=(1, 1, 1))), {"z": normal(10, 1, 1, 1)}, 0.0)
    assert np.isnan(one.anisotropy)
    assert one.low_power == pytest.approx(1)  # frequency 0 is all there is


def test_frequency_0_is_counted():
    """Offset noise adds one number to all pixels of a channel: its power is at frequency 0."""

    class Offset(Noise):
        def color(self, latents, t):
            return latents["z"] + latents["z"][..., :1, :1]

        def mean_square(self, t):
            return torch.full_like(t, 2.0)

    one = look(Offset(), {"z": normal(2000, 1, 32, 32)}, 0.0)
    modes = (frequency(32, 32) < 0.1).sum()
    expected = (modes - 1 + 1024 + 3) / modes / (2 + 2 / 1024)
    assert one.low_power == pytest.approx(expected, rel=0.1)
    assert one.low_power > 13
    assert one.numbers()["power_at_0"] == pytest.approx(1027, rel=0.1)


@pytest.mark.parametrize("size", ["1", "1x2", "2", "3", "4x5", "7"])
def test_the_table_of_a_small_image_has_no_nan(size, capsys):
    from noisereg.cli.main import run

    assert run(["noise", "show", "white", "--size", size, "--draws", "20"]) == 0
    printed = capsys.readouterr()
    assert "nan" not in printed.out + printed.err
    assert run(["noise", "show", "white", "--size", size, "--draws", "20", "--json"]) == 0
    assert "NaN" not in capsys.readouterr().out


def test_a_filter_that_prefers_one_axis_is_called_anisotropic():
    power = np.ones((16, 16))
    power[:, 5:12] = 3  # high frequencies along x
    factor = SpectralFactor(unit_mean(power))

    class Stripes(WhiteNoise):
        def color(self, latents, t):
            return factor.apply(latents["z"])

    one = look(Stripes(None, Context(shape=(1, 16, 16))), {"z": normal(500, 1, 16, 16)}, 0.0)
    assert one.anisotropy > 2
