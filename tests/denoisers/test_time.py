"""What the networks are told about time."""

from __future__ import annotations

import math

import pytest
import torch

from noisereg.denoisers.time import Sinusoidal
from noisereg.diffusion.law import network_time


def test_training_times_become_exact_integers():
    k = torch.arange(1, 1001)
    t = k.double() / 1000
    assert torch.equal(network_time(t, "index"), (k - 1).float())
    assert torch.equal(network_time(t, "step"), k.float())
    assert torch.equal(network_time(t, "unit"), t.float())


def test_times_between_steps_stay_between():
    assert network_time(
        torch.tensor([0.0, 0.12345, 1.0], dtype=torch.float64), "step"
    ).tolist() == pytest.approx([0, 123.45, 1000])


def test_the_embedding_is_pairs_of_sines_and_cosines_of_falling_frequency():
    time = torch.tensor([0.0, 3.0, 999.0])
    expected = [
        [f(x * 10_000 ** (-2 * i / 8)) for i in range(4) for f in (math.sin, math.cos)]
        for x in time.tolist()
    ]
    torch.testing.assert_close(Sinusoidal(8)(time), torch.tensor(expected), atol=1e-4, rtol=0)
