"""The 2-D sets are the distributions that Iso-Diffusion's authors published.

Statistical bounds are five standard errors, or p < 1e-6 for Kolmogorov-Smirnov: a right sampler
fails one run in a million. Seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp

from noisereg.api import Context
from noisereg.datasets import PointsParams
from noisereg.datasets.toy2d import CentralBanana, MoonCircles, Points, ScatteredMoon, SwissRoll

SETS = [SwissRoll, ScatteredMoon, MoonCircles, CentralBanana]
VERSIONS = [1, 2]


def build(kind: type[Points], version: int = 1, n: int = 10_000, seed: int = 0) -> Points:
    return kind(PointsParams(version=version, n=n, seed=seed), Context())


def raw(kind: type[Points], version: int, n: int = 100_000) -> np.ndarray:
    return build(kind, version).points(n, np.random.default_rng(1))


def assert_mean(values: np.ndarray, expected: float) -> None:
    """Five standard errors: 1 in 1.7 million."""
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 5 * error


def train(dataset: Points) -> np.ndarray:
    return dataset.split("train").batch(torch.arange(len(dataset.split("train")))).x.numpy()


@pytest.mark.parametrize(("version", "noise"), [(1, 0.5), (2, 0.1)])
def test_swiss_roll_is_a_spiral_with_the_versions_noise(version, noise):
    points = raw(SwissRoll, version, 20_000)
    angle = 1.5 * math.pi * (1 + 2 * np.linspace(0, 1, 20_001))
    distance, _ = cKDTree(np.stack((angle * np.cos(angle), angle * np.sin(angle)), 1)).query(
        points
    )
    # Across the curve the noise has one component; the spiral's curvature changes its mean square
    # by a few per cent.
    assert np.mean(distance**2) == pytest.approx(noise**2, rel=0.05)
    assert_mean(
        (points**2).sum(1),
        quad(lambda a: a**2 / (3 * math.pi), angle[0], angle[-1])[0] + 2 * noise**2,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_scattered_moon_is_a_half_circle_of_noise_a_tenth_with_a_twentieth_of_it_moved(version):
    points = raw(ScatteredMoon, version)
    assert_mean((points**2).sum(1), 1 + 2 * 0.1**2 + 0.05 * 2 * 0.3**2)
    assert_mean(points[:, 0], 0)
    assert_mean(points[:, 1], 2 / math.pi)


@pytest.mark.parametrize(
    ("version", "x", "y", "reach"), [(1, 1.5, -1.0, 0.45), (2, 1.0, -0.75, 0.36)]
)
def test_moon_circles_has_two_discs_of_a_twentieth_each(version, x, y, reach):
    points = raw(MoonCircles, version)
    for centre in ((-x, y), (x, y)):
        disc = points[
            np.linalg.norm(points - centre, axis=1) < reach
        ]  # the moon ends seven standard deviations off
        assert len(disc) == pytest.approx(5_000, abs=20)
        assert_mean(disc[:, 0], centre[0])
        assert_mean(disc[:, 1], centre[1])
        assert np.mean(((disc - centre) ** 2).sum(1)) == pytest.approx(
            0.2**2 / 2 + 0.05**2, rel=0.05
        )


@pytest.mark.parametrize(
    ("version", "decay", "blob"),
    [
        (1, 0.5, 0.5 * 0.65 * np.exp(1j * math.pi / 3 - 0.5**2 / 2)),
        (2, 0.6, 0.6 * np.exp(1j * math.pi / 3 - 0.1**2 / 2) - 0.5 - 0.25j),
    ],
)
def test_central_banana_has_the_spiral_arms_mean_and_the_blobs(version, decay, blob):
    points = raw(CentralBanana, version, 400_000)
    # E r·e^(iθ) with θ of density 4e^(−4θ), from ∫ e^(−sθ) = 1/s and ∫ e^(−sθ) sin θ = 1/(s² + 1).
    s = 4 + decay - 1j
    mean = 0.95 * 4 * (1 / s + 2 / (s**2 + 1)) + 0.05 * blob
    assert_mean(points[:, 0], mean.real)
    assert_mean(points[:, 1], mean.imag)


@pytest.mark.parametrize(("version", "width"), [(1, 0.0), (2, 0.15)])
def test_central_bananas_jitter_where_the_arm_starts(version, width):
    """At θ = 0, r = 1: the jitter's width 0.3·(1 − r) is 0 in version 1 and 0.3·(1 − r/2) = 0.15
    in version 2.
    """
    arm = raw(CentralBanana, version, 200_000)[:190_000]
    decay = 0.5 if version == 1 else 0.6
    theta = np.linspace(0, 3, 30_001)
    r = np.exp(-decay * theta) * (1 + 2 * np.sin(theta))
    distance, nearest = cKDTree(np.stack((r * np.cos(theta), r * np.sin(theta)), 1)).query(arm)
    start = distance[(theta[nearest] > 0) & (theta[nearest] < 0.02)]
    assert len(start) > 1000
    assert start.max() <= width / 2 * math.sqrt(2) + 0.01
    assert start.max() >= width / 2
    assert distance.max() <= 0.3 / 2 * math.sqrt(2)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("version", VERSIONS)
def test_training_points_span_minus_one_to_one_on_both_axes(kind, version):
    dataset = build(kind, version)
    points = train(dataset)
    assert points.shape == (10_000, 2)
    np.testing.assert_allclose(points.min(0), -1, atol=1e-6)
    np.testing.assert_allclose(points.max(0), 1, atol=1e-6)
    assert dataset.shape == (2,)
    assert dataset.summary == "10,000 points of 2 numbers (1,000 held out), in memory"


def same_distribution(a: np.ndarray, b: np.ndarray, p: float = 1e-6) -> bool:
    """Kolmogorov-Smirnov along 8 directions; False if one of them rejects at ``p``/8
    (Bonferroni).
    """
    angles = np.arange(8) * math.pi / 8
    return all(
        ks_2samp(a @ d, b @ d).pvalue >= p / 8
        for d in np.stack((np.cos(angles), np.sin(angles)), 1)
    )


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("version", VERSIONS)
def test_fresh_points_are_new_points_of_the_same_distribution(kind, version):
    dataset = build(kind, version)
    points, fresh = train(dataset), dataset.fresh(10_000, np.random.default_rng(7)).numpy()
    assert fresh.dtype == np.float32
    assert not set(map(tuple, points)) & set(map(tuple, fresh))
    assert same_distribution(points, fresh)
    assert not same_distribution(points, fresh + 0.1)  # the test can tell


@pytest.mark.parametrize("kind", [SwissRoll, MoonCircles, CentralBanana])
def test_the_two_versions_differ(kind):
    assert not same_distribution(train(build(kind, 1)), train(build(kind, 2)))


@pytest.mark.parametrize("kind", SETS)
def test_single_fresh_points_come_from_the_whole_set(kind):
    """One at a time or all at once: no component comes first."""
    dataset, generator = build(kind), np.random.default_rng(3)
    singles = np.concatenate([dataset.fresh(1, generator).numpy() for _ in range(300)])
    assert same_distribution(singles, train(dataset))


@pytest.mark.parametrize("kind", SETS)
def test_the_seed_alone_decides_the_points(kind):
    a, b, other = build(kind, n=1000), build(kind, n=1000), build(kind, n=1000, seed=1)
    np.testing.assert_array_equal(train(a), train(b))
    assert torch.equal(a.split("heldout").x, b.split("heldout").x)
    assert not np.array_equal(train(a), train(other))
    drawn = [a.fresh(50, np.random.default_rng(5)) for _ in range(2)]
    assert torch.equal(*drawn)


def test_held_out_points_are_a_tenth_as_many_and_none_of_them_trained_on():
    dataset = build(SwissRoll, n=5000)
    held = dataset.split("heldout").batch(torch.arange(500)).x
    assert len(dataset.split("heldout")) == 500
    assert not set(map(tuple, train(dataset))) & set(map(tuple, held.numpy()))


def test_a_batch_is_in_the_order_asked_for():
    dataset = build(SwissRoll, n=100)
    x = dataset.split("train").batch(torch.tensor([5, 0, 5])).x
    assert torch.equal(x[0], x[2])
    assert torch.equal(x[1], dataset.split("train").batch(torch.tensor([0])).x[0])
    assert dataset.split("train").batch(torch.tensor([0])).labels is None
