"""The conformance kit, and the metric on paths whose length is known."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from noisereg.api import Batch, Context
from noisereg.plugins.registry import registry
from noisereg.python import build
from noisereg.testing import conformance

FILE = str(Path(__file__).with_name("straightness.py"))

test_path_length = conformance("metric", "file/path-length", plugin=FILE)


class Data:
    def split(self, name):
        return self

    def __len__(self):
        return 3

    def batch(self, indices):
        return Batch(torch.zeros(len(indices), 2))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([[0.0, 0.0], [1.0, 1.0], [4.0, 4.0]], 1.0),
        ([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]], 7 / 5),
    ],
)
def test_a_straight_path_is_1_and_a_corner_more(path, expected):
    registry().load(FILE)
    metric = registry().build("metric", "file/path-length", {}, Context(shape=(2,)))

    def trajectory(indices, cond):
        for x in path:
            yield torch.tensor(x).expand(len(indices), 2)

    task = build("task", "unconditional", shape=(2,))
    model = SimpleNamespace(task=task, device="cpu", trajectory=trajectory)
    assert metric.of_model(model, Data())["path-length"] == pytest.approx(expected)
