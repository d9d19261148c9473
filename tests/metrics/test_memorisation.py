"""Nearest training samples, against all differences, and the share of copies."""

import numpy as np
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


@pytest.mark.parametrize("far", [300.0, 10_000.0])
def test_the_nearest_in_groups_that_are_far_apart(far):
    """By the expanded square in float32 the candidates themselves would be others."""
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(3000, 2, generator=generator)
    train[1500:] += far
    x = train[::30] + 0.003 * torch.randn(100, 2, generator=generator)
    distances, places = nearest(x, train, 2)
    best = (x[:, None].double() - train.double()).square().sum(2).sqrt().topk(2, largest=False)
    assert torch.equal(places, best.indices)
    assert torch.equal(distances, best.values)


def test_all_of_a_large_training_set_is_looked_through(tmp_path):
    points = np.random.default_rng(0).normal(size=(57_000, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    dataset = registry().build("dataset", "arrays", {"path": tmp_path / "points.npy"}, Context())
    count = len(dataset.split("train"))
    assert count > 50_000
    x = dataset.split("train").batch(torch.arange(0, count, count // 100)).x
    features = registry().build("features", "pixels", {}, Context())
    metric = registry().build("metric", "memorisation", {}, Context(dataset=dataset))
    assert metric.compute(x, x, features) == {"memorised": 1.0}


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
