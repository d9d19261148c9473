"""L Lᵀ = Σ_j, in matrices, in draws, and backwards."""

import numpy as np
import pytest
import torch

import noisereg.noises.factors as factors
from noisereg.api import Context
from noisereg.errors import NoiseregError
from noisereg.noises import MaskParams, PowerLawParams, TimeVaryingParams
from noisereg.noises.analysis import chi2_limits, periodogram
from noisereg.noises.blue import BlueNoise, PowerLawNoise, RedNoise
from noisereg.noises.colours import even_parts
from noisereg.noises.covariance import circulant, resize, ring_means, rings, with_jitter
from noisereg.noises.factors import CholeskyFactor, SpectralFactor
from noisereg.noises.spectrum_file import shipped
from noisereg.noises.time_varying import BlueTimeVarying
from noisereg.noises.white import WhiteNoise

SIZES = [(8, 8), (16, 16), (32, 32), (64, 64), (24, 40)]
FACTORS = ["cholesky", "spectral"]


def blue(size, factor, channels=1, cls=BlueNoise, **params):
    return cls(MaskParams(factor=factor, **params), Context(shape=(channels, *size)))


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def times(n, value=0.0):
    return torch.full((n,), value, dtype=torch.float64)


# Matrices


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_l_lt_is_the_covariance(size, factor, dtype, tolerance):
    """‖L Lᵀ − Σ_j‖_F/‖Σ_j‖_F, exactly up to 32²; at 64² over 256 columns of each, drawn at
    random.
    """
    noise = blue(size, factor)
    n = size[0] * size[1]
    columns = np.arange(n) if n <= 1024 else np.random.default_rng(0).choice(n, 256, replace=False)
    basis = torch.zeros(len(columns), 1, *size, dtype=dtype)
    basis.reshape(len(columns), n)[torch.arange(len(columns)), torch.from_numpy(columns)] = 1
    root = noise.factor.root(basis)
    if factor == "cholesky":
        product = (root.double() @ root.double()[columns].T).T
        assert torch.equal(root, root.tril())
    else:  # the symmetric root is its own transpose
        product = noise.factor.apply(noise.factor.apply(basis)).double().reshape(len(columns), n)
    sigma = torch.from_numpy(circulant(noise.factor.power)[columns])
    assert torch.linalg.norm(product - sigma) / torch.linalg.norm(sigma) <= tolerance
    diagonal = product[torch.arange(len(columns)), torch.from_numpy(columns)]
    assert (diagonal - 1).abs().max() <= 1e-6


@pytest.mark.parametrize("factor", FACTORS)
def test_the_matrix_is_what_color_applies_to_each_channel(factor):
    noise = blue((6, 10), factor, channels=2)
    z = normal(3, 2, 6, 10, dtype=torch.float64)
    applied = noise.color({"z": z}, times(3)).reshape(6, 60)
    assert torch.allclose(applied, z.reshape(6, 60) @ noise.matrix(0.0).T, atol=1e-13)


def test_blocks_do_not_change_the_cholesky_product(monkeypatch):
    noise, z = blue((16, 16), "cholesky"), normal(2, 3, 16, 16, dtype=torch.float64)
    whole = noise.color({"z": z}, times(2))
    monkeypatch.setattr(factors, "PRODUCT_ROWS", 100)
    assert torch.allclose(noise.color({"z": z}, times(2)), whole, atol=1e-13)


def test_a_matrix_that_is_no_covariance_of_full_rank_says_what_to_do():
    power = with_jitter(shipped(8).power, 0.0)
    with pytest.raises(NoiseregError, match="larger jitter, or factor=spectral"):
        CholeskyFactor(power - 1e-3).root(torch.zeros(1))


# Draws

DRAWS = 2000
BINS = sum(len(np.unique(rings(*size))) for size in SIZES)
LEVEL = 1 - 0.01 / (BINS * len(FACTORS))
"""Of each band, so that all of them together hold with 99 % for draws of the right law."""


def in_band(draws, power):
    """Whether the mean of |F ε|²/(nλ) over every ring of one integer radius is within its χ²
    band.
    """
    _, ratio, modes = ring_means(periodogram(draws) / power)
    low, high = chi2_limits(modes, DRAWS, LEVEL)
    return bool(((ratio >= low) & (ratio <= high)).all())


def draws_of(noise, size, seed):
    return noise.color({"z": normal(DRAWS, 1, *size, seed=seed)}, times(DRAWS))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", SIZES)
def test_draws_have_the_spectrum_of_the_covariance_and_others_do_not(size, factor):
    noise = blue(size, factor)
    power = noise.factor.power
    assert in_band(draws_of(noise, size, 1), power)
    assert not in_band(normal(DRAWS, 1, *size, seed=2), power)
    other = shipped(16 if size == (32, 32) else 32).power
    stranger = SpectralFactor(with_jitter(resize(other, *size), 1e-3))
    assert not in_band(stranger.apply(normal(DRAWS, 1, *size, seed=3)), power)


# Backwards


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (64, 64), (24, 40), (5, 70)])
def test_whiten_inverts_color_in_float32(size, factor):
    """max |z' − z| ≤ 2e-5 for t over [0, 1] and for static noise (numbers of size 1; cond L is 39
    to 79).
    """
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    z = normal(11, 2, *size)
    for noise in (
        BlueTimeVarying(TimeVaryingParams(factor=factor), Context(shape=(2, *size))),
        blue(size, factor, channels=2),
    ):
        assert (noise.whiten(noise.color({"z": z}, t), t) - z).abs().max() <= 2e-5


@pytest.mark.parametrize("factor", FACTORS)
def test_whitening_a_mixture_is_the_inverse_of_each_samples_own_matrix(factor):
    noise = BlueTimeVarying(TimeVaryingParams(factor=factor), Context(shape=(2, 9, 8)))
    t = torch.tensor([0.0, 0.02, 0.3, 1.0], dtype=torch.float64)
    eps = normal(4, 2, 9, 8, dtype=torch.float64)
    ours = noise.whiten(eps, t).reshape(4, 2, 72)
    for i, time in enumerate(t.tolist()):
        dense = torch.linalg.solve(noise.matrix(time), eps[i].reshape(2, 72).T).T
        assert torch.allclose(ours[i], dense, atol=1e-11)


@pytest.mark.parametrize("factor", FACTORS)
def test_gradients_flow_through_color_and_whiten(factor):
    noise = BlueTimeVarying(
        TimeVaryingParams(factor=factor, normalize=True), Context(shape=(1, 9, 8))
    )
    t = torch.tensor([0.1], dtype=torch.float64)
    eps = normal(1, 1, 9, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: noise.whiten(e, t), eps)
    assert torch.autograd.gradcheck(lambda e: noise.color({"z": e}, t), eps)


def test_whitening_a_singular_noise_is_refused_with_its_condition_number():
    noise = blue((8, 8), "spectral", jitter=0)
    with pytest.raises(NoiseregError, match="condition number of L is"):
        noise.whiten(normal(1, 1, 8, 8), times(1))
    small = blue((8, 8), "spectral", jitter=1e-12)
    with pytest.raises(NoiseregError, match=r"condition number of L is 2\.5e\+06"):
        small.whiten(normal(1, 1, 8, 8), times(1))
    assert small.whiten(normal(1, 1, 8, 8, dtype=torch.float64), times(1)).isfinite().all()


def test_a_mixture_with_a_singular_noise_can_be_whitened_away_from_its_end():
    noise = BlueTimeVarying(
        TimeVaryingParams(factor="spectral", jitter=0), Context(shape=(1, 8, 8))
    )
    z = normal(1, 1, 8, 8)
    assert (
        noise.whiten(noise.color({"z": z}, times(1, 0.5)), times(1, 0.5)) - z
    ).abs().max() < 1e-5
    with pytest.raises(NoiseregError, match="condition number"):
        noise.whiten(z, times(1, 0.0))


# Tiles


def test_sides_are_cut_into_as_few_and_as_equal_parts_as_can_be():
    assert even_parts(64) == [64]
    assert even_parts(65) == [33, 32]
    assert even_parts(128) == [64, 64]
    assert even_parts(200) == [50, 50, 50, 50]


def test_tiles_are_independent_draws_of_their_own_size():
    """Edge tiles have their own factor; the whole is block diagonal."""
    noise = blue((5, 131), "cholesky")  # 44 + 44 + 43 columns
    sigma = noise.matrix(0.0) @ noise.matrix(0.0).T
    columns = torch.arange(5 * 131) % 131
    tile = (columns >= 44).long() + (columns >= 88).long()
    assert sigma[tile[:, None] != tile[None, :]].abs().max() == 0
    assert torch.allclose(sigma.diagonal(), torch.ones(655, dtype=torch.float64), atol=1e-9)
    for index, width in enumerate((44, 44, 43)):
        own = with_jitter(resize(shipped(64).power, 5, width), 1e-3)
        assert torch.allclose(
            sigma[tile == index][:, tile == index], torch.from_numpy(circulant(own)), atol=1e-9
        )


def test_tiling_is_said_and_the_spectral_factor_has_no_tiles():
    tiled, seamless = blue((65, 66), "cholesky"), blue((65, 66), "spectral")
    assert "independent tiles" in tiled.notes[0]
    assert "4 tiles" in tiled.summary
    assert seamless.notes == ()
    assert isinstance(seamless.factor, SpectralFactor)


def test_tiles_whiten_and_mix_as_one_factor_does():
    noise = BlueTimeVarying(TimeVaryingParams(), Context(shape=(2, 5, 131)))
    z, t = (
        normal(3, 2, 5, 131, dtype=torch.float64),
        torch.tensor([0.0, 0.1, 0.9], dtype=torch.float64),
    )
    assert torch.allclose(noise.whiten(noise.color({"z": z}, t), t), z, atol=1e-10)
    dense = noise.matrix(0.1)
    assert noise.mean_square(t)[1] == pytest.approx(
        float((dense @ dense.T).trace()) / 655, abs=1e-7
    )


# Colours, data


@pytest.mark.parametrize("factor", FACTORS)
def test_power_floor_is_the_smallest_eigenvalue_over_the_mean(factor):
    """Of the covariance itself, whichever root: about the jitter for blue and red, computed for
    power laws.
    """
    shape = Context(shape=(1, 16, 16))
    for noise, expected in (
        (BlueNoise(MaskParams(factor=factor), shape), 1e-3),
        (RedNoise(MaskParams(factor=factor), shape), 1e-3),
        (PowerLawNoise(PowerLawParams(factor=factor, exponent=-1), shape), None),
        (PowerLawNoise(PowerLawParams(factor=factor, exponent=0), shape), 1.0),
    ):
        root = noise.matrix(0.0)
        measured = float(torch.linalg.eigvalsh(root @ root.T).min())
        assert noise.power_floor == pytest.approx(measured, rel=1e-6)
        if expected is not None:
            assert noise.power_floor == pytest.approx(expected, rel=0.5)


def test_a_power_law_is_the_filter_it_says():
    noise = PowerLawNoise(PowerLawParams(exponent=0.5, jitter=0), Context(shape=(1, 10, 12)))
    z = normal(1, 1, 10, 12, dtype=torch.float64)
    f = torch.hypot(torch.fft.fftfreq(10).double()[:, None], torch.fft.fftfreq(12).double()[None])
    by_hand = torch.fft.ifft2(f**0.5 * torch.fft.fft2(z)).real
    ours = noise.color({"z": z}, times(1))
    assert torch.allclose(ours / ours.std(), by_hand / by_hand.std(), atol=1e-6)


def test_channels_are_coloured_independently():
    noise = blue((8, 8), "cholesky", channels=3)
    z = normal(2, 3, 8, 8)
    changed = z.clone()
    changed[:, 1] += 1
    before, after = noise.color({"z": z}, times(2)), noise.color({"z": changed}, times(2))
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_points_have_no_space_to_shape_noise_in():
    with pytest.raises(NoiseregError) as caught:
        BlueNoise(MaskParams(), Context(shape=(2,)))
    assert (
        str(caught.value)
        == "blue noise is shaped in space and needs images; the data are points of 2 numbers"
    )


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8)])
def test_white_noise_is_the_latents(shape):
    noise = WhiteNoise(None, Context(shape=shape))
    z = normal(4, *shape)
    assert torch.equal(noise.color({"z": z}, times(4)), z)
    assert torch.equal(noise.whiten(z, times(4)), z)
    assert noise.mean_square(times(4)).tolist() == [1, 1, 1, 1]
