"""Nearest training samples, against all differences."""

import pytest
import torch

from noisereg.metrics import memorisation
from noisereg.metrics.memorisation import is_copy, nearest


@pytest.mark.parametrize("numbers", [2**24, 50])
def test_the_nearest_are_those_of_all_differences(monkeypatch, numbers):
    """In one block, and in blocks of a sample."""
    monkeypatch.setattr(memorisation, "NUMBERS", numbers)
    generator = torch.Generator().manual_seed(0)
    x, train = torch.randn(9, 6, generator=generator), torch.randn(40, 6, generator=generator)
    x[3] = train[7]
    distances, places = nearest(x, train, 3)
    every = (x[:, None].double() - train.double()).square().sum(2).sqrt()
    best = every.topk(3, largest=False)
    assert torch.equal(places, best.indices)
    assert torch.allclose(distances, best.values, rtol=1e-12)
    assert (distances[3, 0], places[3, 0]) == (0, 7)
    assert bool(is_copy(distances)[3])


def test_a_copy_far_from_the_origin_is_told_from_a_neighbour():
    """By the expanded square in float32 both would be at distance 0."""
    train = 1000 + torch.tensor([[0.0, 0.0], [0.01, 0.0], [9.0, 9.0]])
    distances, places = nearest(train[:1] + torch.tensor([[0.001, 0.0]]), train, 2)
    assert places.tolist() == [[0, 1]]
    assert distances[0].tolist() == pytest.approx([0.001, 0.009], rel=0.1)
