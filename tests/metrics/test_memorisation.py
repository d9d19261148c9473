"""Nearest training samples, against all differences, and the share of copies."""

import pytest
import torch

from noisereg.api import Context
from noisereg.data import read_split
from noisereg.metrics import memorisation
from noisereg.metrics.memorisation import is_copy, nearest
from noisereg.plugins.registry import registry


@pytest.mark.parametrize("numbers", [2**24, 50])
def test_the_nearest_are_found_exactly_and_a_copy_is_at_distance_0(monkeypatch, numbers):
    """In one block, and in blocks of a sample."""
    monkeypatch.setattr(memorisation, "NUMBERS", numbers)
    generator = torch.Generator().manual_seed(0)
    train = (torch.rand(3000, 40, generator=generator) * 255).byte()
    x = torch.cat([train[[5, 17]], (torch.rand(50, 40, generator=generator) * 255).byte()])
    distances, places = nearest(x, train, 3)
    best = torch.cdist(x.double(), train.double()).topk(3, largest=False)
    assert torch.allclose(distances, best.values)
    assert torch.equal(places, best.indices)
    assert distances[:2, 0].tolist() == [0, 0]
    assert places[:2, 0].tolist() == [5, 17]


def test_a_copy_far_from_the_origin_is_told_from_a_neighbour():
    """By the expanded square in float32 both would be at distance 0."""
    train = 1000 + torch.tensor([[0.0, 0.0], [0.01, 0.0], [9.0, 9.0]])
    distances, places = nearest(train[:1] + torch.tensor([[0.001, 0.0]]), train, 2)
    assert places.tolist() == [[0, 1]]
    assert distances[0].tolist() == pytest.approx([0.001, 0.009], rel=0.1)


def test_the_share_of_copies():
    dataset = registry().build("dataset", "digits", {}, Context())
    features = registry().build("features", "pixels", {}, Context())
    metric = registry().build("metric", "memorisation", {}, Context(dataset=dataset))
    train = read_split(dataset, "train")
    noise = torch.randint(0, 255, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    found = metric.compute(torch.cat([train[:2], noise]), train[:10], features)
    assert found == {"memorised": 0.25}
    assert is_copy(torch.tensor([[1.0, 2.9], [1.0, 3.1], [0.0, 0.0]])).tolist() == [
        False,
        True,
        True,
    ]
