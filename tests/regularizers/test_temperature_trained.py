"""Isotropy's closed form against networks that were trained with the term."""

import pytest
import torch
from torch import nn

from noisereg import Diffusion
from noisereg.api import TrainedPower
from noisereg.diffusion.law import add_noise
from noisereg.testing.oracle import smooth_covariance

SHAPE, SIZE, BATCH, STEPS = (1, 4, 4), 16, 512, 500
TIME = 0.3


class Net(nn.Module):
    """For one t, of which it need not be told."""

    def __init__(self):
        super().__init__()
        width = 64
        self.skip = nn.Linear(SIZE, SIZE)
        self.rest = nn.Sequential(
            nn.Linear(SIZE, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, SIZE),
        )

    def forward(self, x, t):
        flat = x.flatten(1)
        return (self.skip(flat) + self.rest(flat)).reshape(x.shape)


def images(count):
    """Smooth and of two grey levels: no Gaussian."""
    root = torch.linalg.cholesky(smooth_covariance(SHAPE)).float()
    z = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(5))
    return ((z @ root.T).sign() * 0.7).reshape(-1, *SHAPE)


def trained(noise, reg, x0):
    diffusion, source = Diffusion(SHAPE, noise=noise, reg=reg), torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    t = torch.full((BATCH,), TIME, dtype=torch.float64)
    for _ in range(STEPS):
        batch = x0[torch.randint(len(x0), (BATCH,), generator=source)]
        loss, _ = diffusion.loss(net, batch, t=t, generator=source)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return diffusion, net


@pytest.mark.parametrize("space", ["plain", "whitened"])
def test_a_trained_network_does_what_the_closed_form_says_of_one_without_the_term(space):
    """At one t and λ = 3: ε̂ with the term, on ε̂ without it, has the slope of the closed form
    within a tenth of what it is off 1, and is nearer to the scaled ε̂ than to the other. Under
    blue noise the whitened form's directions are nearer than any single number.
    """
    noise = "blue" if space == "whitened" else "white"
    x0 = images(4096)
    diffusion, without = trained(noise, "none", x0)
    with_term, other = trained(noise, f"isotropy:weight=3,space={space}", x0)
    t = torch.full((len(x0),), TIME, dtype=torch.float64)
    z = torch.randn(len(x0), *SHAPE, generator=torch.Generator().manual_seed(7))
    x = add_noise(diffusion.process, x0, diffusion.noise.color({"z": z}, t), t)
    with torch.no_grad():
        before = diffusion.predict(without, x, t).eps_hat.double()
        after = with_term.predict(other, x, t).eps_hat.double()

    def means(of, known):
        return of(before, 0).mean(0, keepdim=True)

    power = before.flatten(1).square().mean().reshape(1)
    found = TrainedPower(
        diffusion.process, t[:1], power, torch.ones(1).double(), True, diffusion.noise, SHAPE,
        means=means,
    )  # fmt: skip
    (term,) = with_term.regularizers
    scaled = term.term.eps_scale(3.0, found)(before, t)

    def slope(of):
        return float((of * before).sum() / before.square().sum())

    assert slope(scaled) > 1.04
    assert slope(after) - 1 == pytest.approx(slope(scaled) - 1, rel=0.1)
    assert (after - scaled).norm() < 0.67 * (after - before).norm()
    if space == "whitened":
        assert (after - scaled).norm() < 0.6 * (after - slope(after) * before).norm()
