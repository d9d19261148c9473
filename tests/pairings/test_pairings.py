"""Pairings permute, optimal never costs more than greedy, and the t-free cost leaves z given t
standard normal.
"""

import pytest
import torch
from scipy import stats

from noisereg.api import Noise, NoiseregError
from noisereg.python import build

SHAPE = (1, 4, 4)
COSTS = ["latent", "noised"]


def cost_of(x0, noise, order):
    return (noise[order] - x0).flatten(1).norm(dim=1).sum().item()


def draw(size, seed):
    generator = torch.Generator().manual_seed(seed)
    x0 = 0.7 * torch.randn(size, *SHAPE, generator=generator) + torch.randn(
        size, 1, 1, 1, generator=generator
    )
    z = torch.randn(size, *SHAPE, generator=generator)
    t = torch.rand(size, generator=generator, dtype=torch.float64)
    return x0, z, t


@pytest.mark.parametrize("name", ["greedy", "optimal"])
@pytest.mark.parametrize("cost", COSTS)
def test_they_permute(name, cost):
    x0, z, t = draw(37, 0)
    pairing = build("pairing", f"{name}:cost={cost}", shape=SHAPE)
    order = pairing(x0, {"z": z}, 2 * z, t)
    assert sorted(order.tolist()) == list(range(37))
    assert pairing.moves_time == (cost == "noised")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cost", COSTS)
def test_optimal_costs_no_more_than_greedy_and_greedy_less_than_none(seed, cost):
    x0, z, t = draw(64, seed)
    eps = (1 + t.reshape(-1, 1, 1, 1).float()) * z
    noise = z if cost == "latent" else eps
    optimal, greedy = (
        cost_of(
            x0, noise, build("pairing", f"{name}:cost={cost}", shape=SHAPE)(x0, {"z": z}, eps, t)
        )
        for name in ("optimal", "greedy")
    )
    assert optimal <= greedy + 1e-6
    assert greedy < cost_of(x0, noise, torch.arange(64))


def test_greedy_is_the_papers_loop():
    x0, z, t = draw(9, 3)
    order = build("pairing", "greedy", shape=SHAPE)(x0, {"z": z}, z, t).tolist()
    taken = set()
    for i in range(9):
        distances = {j: (z[i] - x0[j]).norm().item() for j in range(9) if j not in taken}
        image = min(distances, key=distances.get)
        taken.add(image)
        assert order[image] == i


def quartile_moments(name, cost, batches=150, size=64):
    """Means and variances of z and of x0 along the all-ones direction within each quartile of t,
    as z-scores.

    All are standard normal (variances: asymptotically, by a χ² with ~2,400 degrees of freedom)
    where the pairing leaves z given t, and x0 given t, as they were. Within a batch the paired
    values are a permutation of the independent ones, which only lowers the spread of the means.
    """
    pairing = build("pairing", f"{name}:cost={cost}", shape=SHAPE)
    zs, xs, ts = [], [], []
    for seed in range(batches):
        x0, z, t = draw(size, seed)
        scale = (0.2 + 3 * t**2).reshape(-1, 1, 1, 1).float()
        order = pairing(x0, {"z": z}, scale * z, t)
        zs.append(z[order].flatten(1))
        xs.append(x0.flatten(1))
        ts.append(t[order] if pairing.moves_time else t)
    z, x, t = torch.cat(zs), torch.cat(xs), torch.cat(ts)
    scores = []
    for q in range(4):
        inside = (t >= q / 4) & (t < (q + 1) / 4)
        n = int(inside.sum())
        zq = z[inside].mean(1) * 4  # N(0, 1): 16 numbers
        scores += [zq.mean() * n**0.5, (zq.square().mean() - 1) * (n / 2) ** 0.5]
        radius = z[inside].square().sum(1)  # χ² with 16 degrees of freedom
        scores.append((radius.mean() - 16) * (n / 32) ** 0.5)
        xq = x[inside].mean(1)
        spread = (0.49 / 16 + 1) ** 0.5
        scores += [
            xq.mean() / spread * n**0.5,
            ((xq / spread).square().mean() - 1) * (n / 2) ** 0.5,
        ]
    return torch.stack(scores).abs().max().item(), len(scores)


@pytest.mark.parametrize("name", ["greedy", "optimal"])
def test_the_t_free_cost_leaves_z_and_x0_given_t_as_they_were(name):
    """Simultaneous 99 % bounds (Bonferroni) on moments of z and x0 by quartile of t."""
    worst, count = quartile_moments(name, "latent")
    assert worst < stats.norm.isf(0.005 / count)


def test_the_t_dependent_optimal_cost_does_not():
    worst, count = quartile_moments("optimal", "noised", batches=150)
    # (z, t) move together, so what changes is which images go with which t.
    assert worst > stats.norm.isf(0.005 / count)


def test_a_noise_with_other_latents_needs_the_noised_cost():
    class Two(Noise):
        def latents(self, shape):
            return {"z": shape, "shift": shape[:1]}

    with pytest.raises(NoiseregError, match="cost=noised"):
        build("pairing", "greedy", shape=SHAPE, noise=Two())
    assert build("pairing", "greedy:cost=noised", shape=SHAPE, noise=Two()).moves_time


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_distances_are_right_to_1e_10_far_from_the_origin_too(offset):
    x0 = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(1)) + offset
    z = x0.flip(0) + 1e-3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    made = build("pairing", "greedy", shape=(3, 16, 16)).distances(x0, {"z": z}, z)
    expected = torch.cdist(
        z.flatten(1).double(), x0.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert (made - expected).abs().max() < 1e-10 * max(1.0, offset)


@pytest.mark.parametrize("name", ["greedy", "optimal"])
def test_what_is_not_finite_is_not_paired(name):
    x0, z, t = draw(8, 0)
    x0[3, 0, 1, 1] = float("nan")
    with pytest.raises(NoiseregError, match="not finite"):
        build("pairing", name, shape=SHAPE)(x0, {"z": z}, z, t)
