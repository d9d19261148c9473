"""The conformance kit, without a condition and with one."""

from pathlib import Path

import torch

from noisereg.api import Context
from noisereg.plugins.registry import registry
from noisereg.testing import conformance

FILE = str(Path(__file__).with_name("edges.py"))

test_edges = conformance("noise", "file/edges", plugin=FILE)


def test_the_noise_goes_where_the_edge_is_and_its_power_stays():
    registry().load(FILE)
    noise = registry().build("noise", "file/edges", {"share": 0.8}, Context(shape=(1, 8, 8)))
    cond = torch.zeros(2, 1, 8, 8)
    cond[1, :, :, 4:] = 1.0
    told = noise.given(cond)
    power = told.color(torch.ones(2, 1, 8, 8), torch.ones(2).double()).square()
    torch.testing.assert_close(power.mean((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(power[0], torch.ones(1, 8, 8))  # no edge: white
    assert float(power[1, 0, :, 4].mean()) > 3
    assert float(power[1, 0, :, 2].mean()) < 0.21
    assert noise.scale is None  # what it was asked for one batch does not stay
