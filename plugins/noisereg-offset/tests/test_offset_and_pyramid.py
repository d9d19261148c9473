"""The conformance kit on both noises, and that they are the noises of their authors."""

import math

import pytest
import torch
from noisereg_offset.pyramid import covariance
from torch.nn import functional

from noisereg import build
from noisereg.api import NoiseregError
from noisereg.testing import conformance

test_offset = conformance("noise", "noisereg-offset/offset")
test_pyramid = conformance("noise", "noisereg-offset/pyramid")


def matrix(noise, shape):
    """L, (n, n), of the first channel."""
    n = math.prod(shape[1:])
    z = torch.zeros(n, *shape, dtype=torch.float64)
    z[:, 0] = torch.eye(n, dtype=torch.float64).reshape(n, *shape[1:])
    return noise.color({"z": z}, torch.ones(n, dtype=torch.float64))[:, 0].reshape(n, n).T


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.5])
def test_offset_has_the_covariance_of_its_definition(strength):
    """Cov(z + k·shift) = I + k²·11ᵀ, exactly."""
    root = matrix(
        build("noise", f"noisereg-offset/offset:strength={strength}", shape=(3, 5, 7)), (3, 5, 7)
    )
    expected = torch.eye(35, dtype=torch.float64) + strength**2
    torch.testing.assert_close(root @ root.T, expected, atol=1e-12, rtol=0)


def test_pyramid_has_the_covariance_of_the_sum_of_its_levels():
    """Against the responses of torch's own bilinear enlargement to unit pixels, level by level."""
    height, width, discount = 8, 12, 0.8
    expected = torch.eye(height * width, dtype=torch.float64)
    for level in range(1, 5):
        h, w = max(1, height >> level), max(1, width >> level)
        units = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
        responses = functional.interpolate(units, (height, width), mode="bilinear").flatten(1).T
        expected += discount ** (2 * level) * responses @ responses.T
    torch.testing.assert_close(covariance(height, width, discount, None), expected)


def test_pyramid_without_levels_or_discount_is_white():
    for spec in ("pyramid:levels=0", "pyramid:discount=0"):
        root = matrix(build("noise", f"noisereg-offset/{spec}", shape=(1, 4, 4)), (1, 4, 4))
        torch.testing.assert_close(root, torch.eye(16, dtype=torch.float64))


def test_the_means_of_images_are_those_that_the_readme_states():
    """The standard deviation of a 64×64 channel's mean, from the covariance: exact."""
    n = 64 * 64
    assert math.sqrt(1 / n) == pytest.approx(0.0156, abs=5e-5)
    assert math.sqrt(1 / n + 0.1**2) == pytest.approx(0.101, abs=5e-4)
    total = covariance(64, 64, 0.9, None)
    assert float((total.mean() / total.diagonal().mean()).sqrt()) == pytest.approx(0.392, abs=5e-4)


@pytest.mark.parametrize("name", ["offset", "pyramid"])
def test_points_are_refused(name):
    with pytest.raises(NoiseregError, match=r"points|images"):
        build("noise", f"noisereg-offset/{name}", shape=(2,))


def test_large_images_are_refused_by_pyramid():
    with pytest.raises(NoiseregError, match=r"128×128 are 16,384"):
        build("noise", "noisereg-offset/pyramid", shape=(3, 128, 128))
