"""Every check of a denoiser and of a data set catches a wrong one, and right ones pass."""

import math

import pytest
import torch
from kit_tools import assert_caught, assert_complete, failures
from torch import nn

from noisereg.api import Batch, Dataset, NoiseregError

# Denoisers


class RightDenoiser(nn.Module):
    def __init__(self, params, ctx):
        super().__init__()
        self.shape = ctx.shape
        self.blocks = 1 + ctx.process.extra_heads + ctx.noise.extra_heads
        n = math.prod(ctx.shape)
        self.enter = nn.Linear(n + 1, 32)
        self.leave = nn.Linear(32, self.blocks * n)

    def forward(self, x_t, t, cond=None):
        hidden = torch.tanh(self.enter(torch.cat([x_t.flatten(1), t.to(x_t)[:, None]], 1)))
        return self.leave(hidden).reshape(len(x_t), self.blocks * self.shape[0], *self.shape[1:])


class StartsAtZero(RightDenoiser):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        nn.init.zeros_(self.leave.weight)


class NoModule:
    def __init__(self, params, ctx):
        self.inner = RightDenoiser(params, ctx)

    def eval(self):
        return self


class WithoutHeads(RightDenoiser):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.blocks, self.leave = 1, nn.Linear(32, math.prod(ctx.shape))


class Upcasts(RightDenoiser):
    def forward(self, x_t, t, cond=None):
        return super().forward(x_t, t, cond) * t.reshape(-1, *[1] * (x_t.ndim - 1))


class Timeless(RightDenoiser):
    def forward(self, x_t, t, cond=None):
        return super().forward(x_t, torch.zeros_like(t), cond)


class BatchNorm(RightDenoiser):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.norm = nn.BatchNorm1d(math.prod(ctx.shape))

    def forward(self, x_t, t, cond=None):
        return super().forward(self.norm(x_t.flatten(1)).reshape(x_t.shape), t, cond)


class Unused(RightDenoiser):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.forgotten = nn.Linear(2, 2)


class NoBuffer(RightDenoiser):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.offset = torch.randn(ctx.shape)

    def forward(self, x_t, t, cond=None):
        return super().forward(x_t + self.offset, t, cond)


class SeedsItself(RightDenoiser):
    def __init__(self, params, ctx):
        torch.manual_seed(1234)
        super().__init__(params, ctx)


class ScalesItsInput(RightDenoiser):
    def forward(self, x_t, t, cond=None):
        return super().forward(x_t.mul_(2), t, cond)


class CannotLearn(RightDenoiser):
    """Every parameter has a gradient, and the output hardly depends on any."""

    def forward(self, x_t, t, cond=None):
        return 1e-6 * super().forward(x_t, t, cond)


DENOISERS = {
    "is_a_module": [(NoModule, "no torch.nn.Module")],
    "output_shape": [(WithoutHeads, "with 2 heads"), (Upcasts, "torch.float64 from float32")],
    "depends_on_sample_and_time": [(Timeless, "does not depend on t")],
    "samples_do_not_see_each_other": [(BatchNorm, "in training a sample's output changes")],
    "every_parameter_gets_a_gradient": [(Unused, "forgotten.weight, forgotten.bias")],
    "state_round_trip": [(NoBuffer, "no parameter or buffer")],
    "weights_come_from_the_seed": [(SeedsItself, "seeds would be no repetitions")],
    "inputs_unchanged": [(ScalesItsInput, "changes x_t in place")],
    "learns_one_batch": [(CannotLearn, "the loss of one batch goes from")],
}


@pytest.mark.parametrize("implementation", [RightDenoiser, StartsAtZero])
def test_a_right_denoiser_passes_every_check(implementation):
    assert failures("denoiser", implementation) == {}


@pytest.mark.parametrize(
    ("name", "case"), [(n, k) for n, cases in DENOISERS.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_denoiser(name, case):
    assert_caught("denoiser", name, *DENOISERS[name][case])


def test_every_check_has_a_wrong_denoiser():
    assert_complete("denoiser", DENOISERS)


# Data sets


class Points:
    def __init__(self, x, labels=None):
        self.x, self.labels = x, labels

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return Batch(self.x[indices], None if self.labels is None else self.labels[indices])


def ring(n, seed):
    angle = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], 1)


class RightDataset(Dataset):
    shape = (2,)
    summary = "300 points on a circle"
    classes = 2

    def __init__(self, params, ctx):
        self.parts = {name: Points(x, (x[:, 0] > 0).long()) for name, x in self.data().items()}

    def data(self):
        return {"train": ring(200, 1), "heldout": ring(100, 2)}

    def split(self, name):
        if name not in self.parts:
            raise NoiseregError(f"no split is called {name!r}; expected train or heldout")
        return self.parts[name]

    def fresh(self, n, generator):
        return ring(n, int(generator.integers(2**31)))


class KeyErrors(RightDataset):
    def split(self, name):
        return self.parts[name]


class Empty(RightDataset):
    def data(self):
        return {"train": ring(200, 1), "heldout": ring(0, 2)}


class DoubleData(RightDataset):
    def data(self):
        return {name: x.double() for name, x in super().data().items()}


class TooManyLabels(RightDataset):
    classes = 1


class Bytes(RightDataset):
    shape = (1, 4, 4)
    classes = 0

    def data(self):
        return {
            name: torch.arange(160.0).reshape(10, 1, 4, 4) + k
            for k, name in enumerate(("train", "heldout"))
        }


class Augments(RightDataset):
    class Jittered(Points):
        def batch(self, indices):
            return Batch(
                self.x[indices] + 0.01 * torch.randn(len(indices), 2), self.labels[indices]
            )

    def split(self, name):
        part = super().split(name)
        return self.Jittered(part.x, part.labels)


class Sorts(RightDataset):
    class Sorted(Points):
        def batch(self, indices):
            return super().batch(indices.sort().values)

    def split(self, name):
        part = super().split(name)
        return self.Sorted(part.x, part.labels)


class DrawsItsData(RightDataset):
    def data(self):
        return {"train": torch.randn(50, 2), "heldout": torch.randn(20, 2)}


class NotHeldOut(RightDataset):
    def data(self):
        return {"train": ring(200, 1), "heldout": ring(200, 1)}


class StaleFresh(RightDataset):
    def fresh(self, n, generator):
        return ring(n, 5)


class GlobalFresh(RightDataset):
    def fresh(self, n, generator):
        return torch.randn(n, 2)


class ForgetsItself(RightDataset):
    def fingerprint(self):
        return {"built": id(self)}


class NoJson(RightDataset):
    def fingerprint(self):
        return {"shape": {1: float("nan")}}


class MirroredPoints(RightDataset):
    flip = True


DATASETS = {
    "shape_and_splits": [(KeyErrors, "raises KeyError"), (Empty, "heldout is empty")],
    "batches_are_as_promised": [
        (DoubleData, "expected float32"),
        (TooManyLabels, "outside 0 … 0"),
        (Bytes, "expected [−1, 1]"),
    ],
    "index_decides": [
        (Augments, "global generator of torch"),
        (Sorts, "in the order of their indices"),
        (DrawsItsData, "is not the same data"),
    ],
    "fingerprint_tells_it_apart": [
        (ForgetsItself, "built twice, its fingerprint is"),
        (NoJson, "no plain JSON"),
    ],
    "heldout_is_held_out": [(NotHeldOut, "are those of train")],
    "fresh_samples_come_from_the_generator": [
        (StaleFresh, "another seed"),
        (GlobalFresh, "global generator"),
    ],
    "trains": [(MirroredPoints, "no left and right")],
}


def test_a_right_data_set_passes_every_check():
    assert failures("dataset", RightDataset) == {}


@pytest.mark.parametrize(
    ("name", "case"), [(n, k) for n, cases in DATASETS.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_data_set(name, case):
    assert_caught("dataset", name, *DATASETS[name][case])


def test_every_check_has_a_wrong_data_set():
    assert_complete("dataset", DATASETS)
