"""Iso-Diffusion's dense network and our MLP."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from noisereg.api import Context
from noisereg.denoisers import DenseParams, MLPParams, UNetParams
from noisereg.denoisers.dense import Dense
from noisereg.denoisers.mlp import MLP
from noisereg.denoisers.time import Sinusoidal


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_dense_is_the_papers_network():
    """Each layer: Linear(in, w), and for t Linear(128, w), ReLU, Linear(w, w)."""
    layers = [(2, 128), (128, 128), (128, 128), (128, 2)]
    expected = sum(a * w + w + 128 * w + w + w * w + w for a, w in layers)
    assert count(Dense(DenseParams(), Context(shape=(2,)))) == expected == 133_002


def test_dense_layers_are_relu_of_linear_plus_time_and_the_last_has_no_activation():
    torch.manual_seed(1)
    model = Dense(DenseParams(widths="4", embedding=2), Context(shape=(2,)))
    x, t = torch.randn(5, 2), torch.full((5,), 0.003, dtype=torch.float64)
    embedded = torch.tensor([3.0]).sin(), torch.tensor([3.0]).cos()  # told 1000t
    emb = torch.cat(embedded).expand(5, 2)
    first, last = model.layers
    hidden = torch.relu(first.linear(x) + first.time[2](torch.relu(first.time[0](emb))))
    expected = last.linear(hidden) + last.time[2](torch.relu(last.time[0](emb)))
    torch.testing.assert_close(model(x, t), expected)
    assert (expected < 0).any()


def test_mlp_has_under_eight_hundred_thousand_parameters_at_8x8():
    assert 0.7e6 < count(MLP(MLPParams(), Context(shape=(1, 8, 8)))) < 0.8e6


def test_mlp_starts_at_zero_and_learns():
    torch.manual_seed(0)
    model = MLP(MLPParams(width=32), Context(shape=(1, 4, 4)))
    x, t = torch.randn(64, 1, 4, 4), torch.rand(64, dtype=torch.float64)
    assert not model(x, t).any()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = (model(x, t) - 0.5 * x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize("name", ["dense", "mlp"])
def test_one_time_of_all_samples_is_embedded_once(name, monkeypatch):
    """As a sampler tells it, and a training with one t a minibatch: output and gradients are those
    of as many equal times.
    """
    torch.manual_seed(2)
    context = Context(shape=(2,), task=SimpleNamespace(classes=3, channels=0))
    model = Dense(DenseParams(), context) if name == "dense" else MLP(MLPParams(), context)
    for p in model.parameters():
        nn.init.normal_(p, std=0.05)
    seen = []
    embed = Sinusoidal.forward
    monkeypatch.setattr(Sinusoidal, "forward", lambda s, t: seen.append(len(t)) or embed(s, t))
    x, labels = torch.randn(16, 2), torch.arange(16) % 3
    t = torch.tensor(0.3, dtype=torch.float64)
    found = []
    for times in (t.expand(16), t.repeat(16)):
        out = model(x, times, labels)
        found.append((out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))))
    assert seen == [1, 16]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_parameters_are_read_from_text():
    assert DenseParams(widths="64,128,256").widths == (64, 128, 256)
    assert DenseParams(widths="64").widths == (64,)
    assert DenseParams(widths="[64, 128]").widths == (64, 128)
    assert UNetParams(channels="[64,128]", attention="[]").attention == ()
    assert UNetParams(attention=4).attention == UNetParams(attention="[4]").attention == (4,)
    assert DenseParams(widths=[8, 9]).widths == (8, 9)
    for bad in ("", "[]", "64,zero", "64,,32", "0,64", "none"):
        with pytest.raises(ValidationError, match="widths"):
            DenseParams(widths=bad)
    with pytest.raises(ValidationError, match="dropout"):
        MLPParams(dropout=1)
