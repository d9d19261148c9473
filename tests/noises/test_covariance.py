"""From masks to Σ: the shift average is circulant, and its spectrum is all of it."""

import numpy as np
import pytest

from noisereg.noises.covariance import (
    circulant,
    frequency,
    gaussian_by_rank,
    mirrored,
    power_law,
    resize,
    total_power,
    unit_mean,
    with_jitter,
)
from noisereg.noises.masks import void_and_cluster
from noisereg.noises.spectrum_file import shipped


def test_the_spectrum_is_that_of_the_outer_products_averaged_over_all_shifts_and_masks():
    height, width = 4, 6
    masks = [void_and_cluster(height, width, np.random.default_rng(seed)) for seed in range(3)]
    brute = np.zeros((24, 24))
    for mask in masks:
        for dy in range(height):
            for dx in range(width):
                g = np.roll(gaussian_by_rank(mask), (dy, dx), (0, 1)).ravel()
                brute += np.outer(g, g)
    brute /= brute.trace() / 24
    assert np.allclose(circulant(unit_mean(total_power(masks, height, width))), brute, atol=1e-14)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_shipped_spectra_are_symmetric_of_mean_one_and_empty_at_low_frequencies(size):
    power = shipped(size).power
    assert power.mean() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(power, np.roll(power[::-1, ::-1], (1, 1), (0, 1)))
    assert power[0, 0] < 1e-12
    f = frequency(size, size)
    if size >= 16:
        assert power[(f > 0) & (f < 0.1)].mean() < 0.03
    assert power[(f > 0.4) & (f < 0.5)].mean() > 1.2


@pytest.mark.parametrize(
    "size", [(24, 40), (48, 48), (63, 17), (28, 28), (96, 32), (128, 128), (1, 9), (1, 1)]
)
def test_other_sizes_are_spectra_too(size):
    power = resize(shipped(64).power, *size)
    assert power.shape == size
    assert power.min() >= 0
    assert power.mean() == pytest.approx(1, abs=1e-12)
    assert np.allclose(power, np.roll(power[::-1, ::-1], (1, 1), (0, 1)), atol=1e-12)


@pytest.mark.parametrize("size", [(24, 40), (48, 48), (96, 128), (128, 128)])
def test_other_sizes_keep_the_gap_at_low_frequencies(size):
    power, f = resize(shipped(64).power, *size), frequency(*size)
    assert power[(f > 0) & (f < 0.1)].mean() < 0.03


@pytest.mark.parametrize("size", [(24, 40), (31, 64), (80, 65)])
def test_resizing_keeps_the_autocovariance_at_every_lag_both_sizes_have(size):
    """Before the negatives are clipped, which moves it a little: 1 % of the variance at most."""
    old, new = (
        np.fft.ifft2(p).real for p in (shipped(64).power, resize(shipped(64).power, *size))
    )
    for dy in range(-(min(size[0], 64) // 2) + 1, min(size[0], 64) // 2):
        for dx in range(-(min(size[1], 64) // 2) + 1, min(size[1], 64) // 2):
            assert abs(old[dy, dx] - new[dy, dx]) < 0.01


def test_resizing_to_the_same_size_changes_nothing():
    assert resize(shipped(16).power, 16, 16) is shipped(16).power


def test_jitter_keeps_the_diagonal_and_lifts_the_smallest_eigenvalue():
    power = with_jitter(shipped(16).power, 1e-3)
    sigma = circulant(power)
    assert np.allclose(np.diag(sigma), 1)
    assert np.linalg.eigvalsh(sigma).min() == pytest.approx(1e-3)


def test_circulant_has_the_spectrum_as_eigenvalues_and_fourier_modes_as_eigenvectors():
    rng = np.random.default_rng(0)
    power = unit_mean(rng.random((4, 5)))
    sigma = circulant(power)
    assert np.allclose(np.sort(np.linalg.eigvalsh(sigma)), np.sort(power.ravel()))
    mode = np.exp(
        2j * np.pi * (np.arange(4)[:, None] * 1 / 4 + np.arange(5)[None, :] * 2 / 5)
    ).ravel()
    assert np.allclose(sigma @ mode, power[1, 2] * mode)


def test_red_is_blue_mirrored_and_has_its_power_where_blue_has_none():
    power, f = mirrored(shipped(64).power), frequency(64, 64)
    assert power[f < 0.1].mean() > 3
    assert power[f > 0.4].max() < 0.1
    assert power.mean() == pytest.approx(1)


@pytest.mark.parametrize("exponent", [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0])
def test_power_laws_are_straight_lines_in_double_logarithmic_axes(exponent):
    power, f = power_law(exponent, 16, 24), frequency(16, 24)
    away = f > 0
    slope = np.polyfit(np.log(f[away]), np.log(power[away]), 1)[0]
    assert slope == pytest.approx(2 * exponent, abs=1e-10)
    assert power.mean() == pytest.approx(1)
    assert np.isfinite(power).all()
