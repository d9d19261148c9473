"""ε_t = (γ_t z + (1−γ_t) L z)/c_t: its moments, and how ε_t becomes ε_s."""

import pytest
import torch

import noisereg
from noisereg.api import Context, Noise, NoiseregError, Process
from noisereg.noises import MaskParams, TimeVaryingParams
from noisereg.noises.blue import BlueNoise
from noisereg.noises.gamma import GammaCurve
from noisereg.noises.time_varying import BlueTimeVarying, RedTimeVarying

SHAPE = (2, 8, 8)
N = 64
T = torch.tensor([0.0, 0.03, 0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
S = torch.tensor([0.2, 0.0, 0.05, 0.3, 1.0, 0.5], dtype=torch.float64)
VARIANTS = [
    {"factor": "cholesky"},
    {"factor": "spectral"},
    {"factor": "cholesky", "normalize": True, "gamma": {"form": "linear"}},
    {"factor": "spectral", "normalize": True, "gamma": {"form": "cosine"}},
]


class Linear(Process):
    """IADB's path."""

    def signal_scale(self, t):
        return 1 - t.double()

    def noise_scale(self, t):
        return t.double()


class Curved(Process):
    def signal_scale(self, t):
        return torch.cos(t.double() * 1.5)

    def noise_scale(self, t):
        return torch.sin(t.double() * 1.5)


def noise(cls=BlueTimeVarying, **values):
    return cls(TimeVaryingParams.model_validate(values), Context(shape=SHAPE))


def latents(n=len(T), seed=0):
    return torch.randn(
        n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cls", [BlueTimeVarying, RedTimeVarying])
def test_the_matrix_is_the_mixture_and_mean_square_its_trace(cls, variant):
    tv = noise(cls, **variant)
    gamma, squares = tv.gamma(T), tv.mean_square(T)
    root = tv.matrix(0.0)
    for g, square, time in zip(gamma.tolist(), squares.tolist(), T.tolist(), strict=True):
        mixture = g * torch.eye(N, dtype=torch.float64) + (1 - g) * root
        power = float((mixture @ mixture.T).trace()) / N
        if tv.normalize:
            mixture, power = mixture / power**0.5, 1.0
        assert torch.allclose(tv.matrix(time), mixture, atol=1e-7)
        assert square == pytest.approx(power, abs=1e-7)


def test_it_is_static_blue_at_the_data_and_white_at_the_noise():
    z = latents(2)
    ends = noise().color({"z": z}, torch.tensor([0.0, 1.0], dtype=torch.float64))
    static = BlueNoise(MaskParams(), Context(shape=SHAPE)).color({"z": z}, T[:2])
    assert torch.equal(ends[0], static[0])
    assert torch.allclose(ends[1], z[1], atol=1e-12)
    assert noise().power_floor == 1.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("transport", ["heads", "whiten"])
def test_transport_carries_eps_t_to_eps_s(variant, transport):
    tv = noise(**variant, transport=transport)
    z = latents()
    heads = tv.basis({"z": z}) if transport == "heads" else None
    moved = tv.transport(tv.color({"z": z}, T), heads, T, S)
    assert torch.allclose(moved, tv.color({"z": z}, S), atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("transport", ["heads", "whiten"])
def test_transport_rate_is_its_derivative(variant, transport):
    tv = noise(**variant, transport=transport)
    z, step = latents(4), 1e-6
    t = T[1:-1]
    eps, heads = tv.color({"z": z}, t), tv.basis({"z": z}) if transport == "heads" else None
    numeric = (tv.transport(eps, heads, t, t + step) - tv.transport(eps, heads, t, t - step)) / (
        2 * step
    )
    assert torch.allclose(tv.transport_rate(eps, heads, t), numeric, atol=1e-6)


def test_static_noise_does_not_move():
    static, eps = BlueNoise(MaskParams(), Context(shape=SHAPE)), latents(2)
    assert torch.equal(static.transport(eps, None, T[:2], S[:2]), eps)
    assert static.extra_heads == 0


def test_the_heads_predict_l_minus_one_times_z():
    tv, z = noise(), latents(3)
    assert tv.extra_heads == 1
    expected = z.reshape(6, N) @ (tv.matrix(0.0) - torch.eye(N, dtype=torch.float64)).T
    assert torch.allclose(tv.basis({"z": z}).reshape(6, N), expected, atol=1e-12)


def test_transport_by_whitening_needs_no_head():
    tv = noise(transport="whiten")
    assert tv.extra_heads == 0
    with pytest.raises(NoiseregError, match="no extra heads"):
        tv.basis({"z": latents(1)})


def test_the_weight_on_iadbs_path_is_bndms_own():
    """w = α_{t−1}²·Δγ/Δα at Δ = 1/T: their loss ‖e₁‖² + (Δγ/Δα)‖e₂‖² with e₂ = α_{t−1}e_h."""
    tv, process = noise(), Linear()
    process.T = 250
    gamma = GammaCurve(TimeVaryingParams().gamma)
    for k in (1, 2, 40, 250):
        before, now = (torch.tensor([j / 250], dtype=torch.float64) for j in (k - 1, k))
        by_hand = (before**2 * (gamma(now) - gamma(before)) / (1 / 250)).item()
        assert tv.head_weight(now, process).item() == pytest.approx(by_hand, rel=1e-12)
    assert tv.head_weight(torch.tensor([1e-3], dtype=torch.float64), process).item() == 0


@pytest.mark.parametrize("normalize", [False, True])
def test_the_weight_on_other_paths_is_the_rate_of_gamma_times_b_squared(normalize):
    tv, process = noise(normalize=normalize), Curved()
    power = noise().mean_square(T) if normalize else torch.ones_like(T)
    expected = tv.gamma.rate(T) * torch.sin(T * 1.5) ** 2 / power
    assert torch.allclose(tv.head_weight(T, process), expected, rtol=1e-12)
    assert tv.head_weight(T.float(), process).dtype == torch.float64


def test_for_many_steps_bndms_weight_becomes_ours():
    tv, many = noise(), Linear()
    many.T = 10**7
    ours = tv.gamma.rate(T) * T**2
    assert torch.allclose(tv.head_weight(T, many), ours, atol=1e-5)


# The power of L_t⁻¹ε over directions that carry something


@pytest.mark.parametrize("variant", VARIANTS)
def test_whitened_power_has_the_number_of_directions_as_its_mean(variant):
    """E Σ_k (v_kᵀz)² is their number, exactly: for orthonormal v_k the sum of z's unit variances.
    2,000 draws, 4.4 sd.
    """
    tv = noise(**variant)
    draws = 2000
    for time in (0.0, 0.05, 0.5, 1.0):
        t = torch.full((draws,), time, dtype=torch.float64)
        total, count = tv.whitened_power(tv.color({"z": latents(draws, seed=1)}, t), t)
        assert (total.mean() - count[0]).abs() < 4.4 * (2 * count[0] / draws) ** 0.5


def test_whitened_power_leaves_out_the_directions_that_the_noise_hardly_has():
    """At t = 0 those with λ_k < 1 % and frequency 0; at t = 1 frequency 0 alone."""
    tv, eps = noise(), latents(2)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    _, count = tv.whitened_power(eps, ends)
    weak = (tv.factor.eigenvalues < 0.01).sum()
    assert weak >= 1
    assert count.tolist() == [2 * (N - weak), 2 * (N - 1)]


@pytest.mark.parametrize("factor", ["cholesky", "spectral"])
def test_whitened_power_of_static_noise_is_written_out_by_hand(factor):
    static, eps = BlueNoise(MaskParams(factor=factor), Context(shape=SHAPE)), latents(3)
    values, vectors = torch.linalg.eigh(static.matrix(0.0) @ static.matrix(0.0).T)
    strong = values >= 0.01
    coordinates = eps.reshape(3, 2, N) @ vectors[:, strong]
    by_hand = (coordinates.square() / values[strong]).sum((1, 2))
    total, count = static.whitened_power(eps, T[:3])
    assert torch.allclose(total, by_hand, rtol=1e-9)
    assert count.tolist() == [2 * int(strong.sum())] * 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_directions_are_chosen_by_the_power_that_l_t_gives_them(variant):
    """‖L_t v_k‖², from the dense L_t and v_k = Lᵀu_k/√λ_k, against the closed form that
    decides.
    """
    tv, time = noise(**variant), 0.04
    root, mixture = tv.matrix(0.0), tv.matrix(time)
    fourier = torch.fft.fft2(
        torch.eye(N, dtype=torch.float64).reshape(N, 8, 8), norm="ortho"
    ).reshape(N, N)
    eigenvalues = torch.from_numpy(tv.factor.eigenvalues)
    right = root.T.to(fourier) @ fourier.conj().T / eigenvalues.sqrt()
    power = torch.linalg.vector_norm(mixture.to(fourier) @ right, dim=0).square()
    keep = (power >= 0.01 * power.mean()) & (torch.arange(N) > 0)
    z = latents(1)
    eps = (z.reshape(2, N) @ mixture.T).reshape(1, *SHAPE)
    by_hand = (z.reshape(2, N).to(fourier) @ right.conj())[:, keep].abs().square().sum()
    total, count = tv.whitened_power(eps, torch.tensor([time], dtype=torch.float64))
    assert count.item() == 2 * keep.sum()
    assert total.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_isotropy_can_take_the_gradient_of_it():
    tv, eps = noise(), latents(2).float().requires_grad_()
    total, count = tv.whitened_power(eps, T[:2])
    (total / count).mean().backward()
    assert eps.grad.isfinite().all()
    assert eps.grad.abs().max() > 0


def test_a_draw_does_not_depend_on_the_rest_of_the_batch():
    tv, z = noise(), latents(6).float()
    together = tv.color({"z": z}, T)
    alone = torch.cat([tv.color({"z": z[i : i + 1]}, T[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_summary_says_what_was_built():
    assert noise().summary == "sigmoid γ (τ 0.2), Cholesky factor of 8×8, 1 extra head"
    linear = noise(gamma={"form": "linear"}, factor="spectral", transport="whiten", normalize=True)
    assert linear.summary == "linear γ, spectral factor of 8×8, normalized, transport by whitening"


def test_color_and_basis_are_computed_together_and_are_what_each_is(monkeypatch):
    """L z once; a subclass with a color or a basis of its own is not given the parent's."""
    tv = noisereg.build("noise", "blue-tv:gamma.form=linear", shape=(1, 8, 8))
    z, t = torch.randn(4, 1, 8, 8), torch.linspace(0.1, 1, 4, dtype=torch.float64)
    calls = []
    apply = tv.factor.apply
    monkeypatch.setattr(tv.factor, "apply", lambda x: calls.append(1) or apply(x))
    eps, basis = tv.color_and_basis({"z": z}, t)
    assert len(calls) == 1
    assert torch.equal(eps, tv.color({"z": z}, t))
    assert torch.equal(basis, tv.basis({"z": z}))
    assert torch.equal(tv.color_and_basis(z, t)[1], basis)  # a tensor, where there is one latent
    with pytest.raises(NoiseregError, match="times"):
        tv.color_and_basis(z, torch.arange(4))

    class Louder(type(tv)):
        def color(self, latents, t):
            return 2 * super().color(latents, t)

    tv.__class__ = Louder
    assert torch.equal(tv.color_and_basis({"z": z}, t)[0], 2 * eps)
    assert torch.equal(tv.color_and_basis({"z": z}, t)[1], basis)


def test_a_noise_whose_basis_is_missing_is_named_in_a_loop_of_ones_own():
    class Headless(Noise):
        extra_heads = 1

        def color(self, latents, t):
            return latents["z"]

        def color_and_basis(self, latents, t):
            return self.color(latents, t), None

    diffusion = noisereg.Diffusion(shape=(1, 4, 4), noise=Headless())
    with pytest.raises(NoiseregError, match="Headless has 1 extra heads, and its color_and_basis"):
        diffusion.loss(lambda x, t: torch.cat([x, x], 1), torch.randn(2, 1, 4, 4))


def test_a_small_gamma_does_not_make_a_singular_mixture_invertible():
    """(L + Lᵀ)/2 is indefinite for Cholesky's root, so that γI + (1−γ)L has singular values under
    γ."""
    made = BlueTimeVarying(
        TimeVaryingParams.model_validate({"jitter": 1e-12, "gamma": {"form": "linear"}}),
        Context(shape=(1, 16, 16)),
    )
    z = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for gamma in (2.3e-5, 1e-4):
        with pytest.raises(NoiseregError, match="condition number"):
            made.whiten(z, torch.full((2,), gamma, dtype=torch.float64))
    t = torch.full((2,), 0.01, dtype=torch.float64)
    assert (made.whiten(made.color({"z": z}, t), t) - z).abs().max() < 0.01
