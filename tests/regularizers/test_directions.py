"""The matrix behind ``whitened_power``, found from the noise alone."""

import pytest
import torch

from noisereg.api import Noise, NoiseregError
from noisereg.python import build
from noisereg.regularizers.directions import LARGEST, Directions

SHAPE = (3, 6, 4)
CPU = torch.device("cpu")


class Mixing(Noise):
    """A channel of its own colour: the channels are apart, and not alike."""

    def color(self, latents, t):
        return latents["z"] * torch.tensor([1.0, 2.0, 3.0]).double()[:, None, None]

    def whiten(self, eps, t):
        return eps / torch.tensor([1.0, 2.0, 3.0]).double()[:, None, None]


class Shared(Noise):
    """Each channel is added to the next: alike, and not apart."""

    def color(self, latents, t):
        return latents["z"] + latents["z"].roll(1, 1) / 2

    def whitened_power(self, eps, t):
        mixed = (eps + eps.roll(1, 1) / 2).flatten(1)
        return mixed.square().sum(1), torch.full_like(mixed[:, 0], mixed.shape[1])


class Crossing(Noise):
    """Channels that are alike at t = ½ alone."""

    def color(self, latents, t):
        return latents["z"] * self.scales(t)

    def scales(self, t):
        power = torch.tensor([0.5, 1.0, 2.0]).double()[None]
        return (((2 * t[:, None] + 0.1) / 1.1) ** power)[:, :, None, None]

    def whiten(self, eps, t):
        return eps / self.scales(t)


class Rounded(Noise):
    """Computes in float32, and keeps all directions but one of each channel."""

    def color(self, latents, t):
        return latents["z"]

    def whitened_power(self, eps, t):
        z = torch.fft.fft2(eps.float(), norm="ortho").flatten(2)[..., 1:]
        total = (z.real.square() + z.imag.square()).sum((1, 2))
        return total, torch.full_like(total, z[0].numel())


@pytest.mark.parametrize(
    ("noise", "channels"),
    [
        ("white", 3),
        ("blue", 3),
        ("blue:factor=spectral", 3),
        ("blue-tv:gamma.form=linear", 3),
        ("red-tv:factor=spectral,normalize=true", 3),
        (Mixing(), 1),
        (Shared(), 1),
        (Crossing(), 1),
        (Rounded(), 3),
    ],
)
@pytest.mark.parametrize("t", [0.0, 0.37, 1.0])
def test_the_whitened_power_is_a_sum_of_squares_over_the_directions(noise, channels, t):
    made = build("noise", noise, shape=SHAPE) if isinstance(noise, str) else noise
    eps = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    times = torch.full((5,), t, dtype=torch.float64)
    with torch.inference_mode():  # as sampling calls it
        made.color({"z": eps}, times)
        directions = Directions(made, SHAPE, CPU)
        at = directions.at(t)
    total, count = made.whitened_power(eps, times)
    along = directions.parts(eps) @ at.vectors
    assert directions.channels == channels
    assert torch.allclose(
        (at.values * along.square()).sum((1, 2)),
        total.double(),
        rtol=1e-6 if isinstance(noise, Rounded) else 1e-9,
    )
    assert at.count == float(count[0])
    assert int((at.values > 0).sum()) * channels == at.count
    identity = torch.eye(directions.size, dtype=torch.float64)
    assert torch.allclose(at.vectors.mT @ at.vectors, identity, atol=1e-12)


def test_a_drawn_noise_has_as_much_of_every_direction_that_is_kept():
    """Each of 23 means of 6,000 squares (of 3 channels) within 5 standard deviations of 1: all of
    them but for one time in 70,000.
    """
    made = build("noise", "blue-tv:gamma.form=linear", shape=SHAPE)
    directions = Directions(made, SHAPE, CPU)
    t = torch.full((2000,), 0.3, dtype=torch.float64)
    z = torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(2)).double()
    at = directions.at(0.3)
    squares = (directions.parts(made.color({"z": z}, t)) @ at.vectors).square()
    each = (at.values * squares.mean((0, 1)))[at.values > 0]
    assert len(each) == 23
    assert (each - 1).abs().max() < 5 * (2 / 6000) ** 0.5


def test_what_is_found_is_kept_serves_gradients_and_is_found_once_for_a_noise_that_does_not_move():
    made = build("noise", "blue", shape=SHAPE)
    directions = Directions(made, SHAPE, CPU)
    with torch.inference_mode():
        at = directions.at(0.2)
    assert directions.at(0.2) is at
    assert directions.at(0.7) is at
    x = torch.ones(1, directions.size, dtype=torch.float64, requires_grad=True)
    (x @ at.vectors).sum().backward()
    assert x.grad is not None


def test_too_many_numbers_are_refused():
    side = int(LARGEST**0.5) + 1
    shape = (1, side, side)
    with pytest.raises(NoiseregError, match="1,089 numbers a channel take too long to find"):
        Directions(build("noise", "white", shape=shape), shape, CPU)
    shape = (3, 32, 32)
    with pytest.raises(NoiseregError, match="those of 3,072 numbers of unlike channels"):
        Directions(Mixing(), shape, CPU)
