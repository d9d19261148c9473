"""The conformance kit, and that the ratio of signal to noise is one at all frequencies."""

import pytest
import torch
from noisereg_equal_snr.noise import decibels, signal_to_noise

from noisereg import build
from noisereg.api import NoiseregError
from noisereg.data import batches
from noisereg.testing import conformance

NAME = "noisereg-equal-snr/equal-snr"

test_equal_snr = conformance("noise", NAME)
test_one_spectrum_for_all_channels = conformance("noise", f"{NAME}:per_channel=false,floor=0.2")


@pytest.fixture(scope="module")
def digits():
    data = build("dataset", "digits")
    return data, torch.cat(list(batches(data, "train")))


def test_the_ratio_is_one_at_all_frequencies_of_digits(digits):
    """The spread of signal to noise over frequencies that the README states, 5th to 95th
    percentile.
    """
    data, x = digits
    noise = build("noise", f"{NAME}:floor=1e-6", shape=data.shape)
    noise.fit(batches(data, "train"))
    ratio = signal_to_noise(x, noise.power)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0)
    assert decibels(signal_to_noise(x, torch.ones_like(noise.power))) == pytest.approx(
        13.9, abs=0.05
    )
    default = build("noise", NAME, shape=data.shape)
    default.fit(batches(data, "train"))
    assert decibels(signal_to_noise(x, default.power)) < 0.1


def test_unfitted_it_is_white_and_fitted_it_has_unit_power(digits):
    data, _ = digits
    noise = build("noise", NAME, shape=data.shape)
    z = torch.randn(4, *data.shape, generator=torch.Generator().manual_seed(0))
    t = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(noise.color({"z": z}, t), z)
    noise.fit(batches(data, "train"))
    assert float(noise.power.mean()) == pytest.approx(1)
    assert float(noise.power.min()) >= noise.power_floor
    assert not torch.allclose(noise.color({"z": z}, t), z, atol=0.1)


def test_a_channel_that_never_varies_is_refused():
    noise = build("noise", NAME, shape=(2, 4, 4))
    x = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0.5
    with pytest.raises(NoiseregError, match="a channel that never varies"):
        noise.fit(iter([x]))
    flat = build("noise", f"{NAME}:per_channel=false", shape=(2, 4, 4))
    flat.fit(iter([x]))
    assert torch.equal(flat.power[0], flat.power[1])


def test_points_are_refused():
    with pytest.raises(NoiseregError, match="needs images"):
        build("noise", NAME, shape=(2,))
