"""The data set that needs no download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from noisereg.api import Context
from noisereg.datasets import ImageParams
from noisereg.datasets.digits import Digits
from noisereg.datasets.splits import holdout


def test_digits_are_scikit_learns_on_a_scale_of_256():
    dataset = Digits(ImageParams(), Context())
    assert dataset.summary == "1,617 images of 1×8×8 (180 held out), in memory"
    assert dataset.shape == (1, 8, 8)
    assert dataset.classes == 10
    assert dataset.flip is False
    assert dataset.fresh is None
    reference = load_digits()
    for name, indices in zip(("train", "heldout"), holdout(1797), strict=True):
        batch = dataset.split(name).batch(torch.arange(len(indices)))
        expected = np.rint(reference.images[indices] * 255 / 16) / 127.5 - 1
        np.testing.assert_allclose(batch.x[:, 0].numpy(), expected, atol=1e-6)
        assert batch.labels.tolist() == reference.target[indices].tolist()
        assert (batch.x.min(), batch.x.max()) == (-1, 1)


def test_digits_can_be_enlarged_and_coloured():
    dataset = Digits(ImageParams(size="16", channels="3"), Context())
    assert dataset.shape == (3, 16, 16)
    x = dataset.split("train").batch(torch.arange(4)).x
    assert torch.equal(x[:, 0], x[:, 2])
    native = Digits(ImageParams(channels="3"), Context()).split("train").batch(torch.arange(4)).x
    same = Digits(ImageParams(size="8", channels="3"), Context()).split("train")
    assert torch.equal(native, same.batch(torch.arange(4)).x)


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch):
    own = Digits(ImageParams(), Context()).split("heldout").batch(torch.arange(180))
    monkeypatch.setattr("noisereg.datasets.digits.find_spec", lambda name: None)
    read = Digits(ImageParams(), Context()).split("heldout").batch(torch.arange(180))
    assert torch.equal(own.x, read.x)
    assert torch.equal(own.labels, read.labels)
