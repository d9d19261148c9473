"""A tenth is held out, always the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noisereg.data import unit_range
from noisereg.datasets.splits import ResidentSplit, holdout


@pytest.mark.parametrize(("n", "held"), [(1797, 180), (100, 10), (11, 1), (2, 1), (1, 0)])
def test_a_tenth_is_held_out_and_at_least_one_of_two(n, held):
    train, heldout = holdout(n)
    assert (len(train), len(heldout)) == (n - held, held)
    np.testing.assert_array_equal(np.sort(np.concatenate((train, heldout))), np.arange(n))


def test_the_held_out_images_are_these_for_good():
    """Published numbers rest on them."""
    assert holdout(1797)[1][:6].tolist() == [6, 14, 18, 34, 37, 39]


def test_pixels_span_minus_one_to_one():
    values = unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.tensor([-1.0, -0.6, 1.0]))


def test_images_are_held_as_bytes_and_batched_as_floats():
    pixels = torch.randint(0, 256, (6, 1, 2, 2), dtype=torch.uint8)
    split = ResidentSplit(pixels, torch.arange(6), "cpu")
    batch = split.batch(torch.tensor([4, 1]))
    assert split.pixels.dtype == torch.uint8
    torch.testing.assert_close(batch.x, pixels[[4, 1]] / 127.5 - 1)
    assert batch.labels.tolist() == [4, 1]
