"""What every denoiser does: the output it is asked for, from x_t, t and the condition it is told
about.
"""

from __future__ import annotations

import pytest
import torch

from noisereg.api import Context, Noise, Process, Task
from noisereg.denoisers import DenseParams, MLPParams, UNetParams, auto_denoiser
from noisereg.denoisers.dense import Dense
from noisereg.denoisers.mlp import MLP
from noisereg.denoisers.unet import UNet
from noisereg.errors import NoiseregError


def make(kind: str, ctx: Context, **params) -> torch.nn.Module:
    """A small denoiser with no weight at zero, so that everything that is connected shows."""
    torch.manual_seed(0)
    if kind == "dense":
        model = Dense(DenseParams(**params), ctx)
    elif kind == "mlp":
        model = MLP(MLPParams(**{"width": 32, "blocks": 2, **params}), ctx)
    else:
        model = UNet(
            UNetParams(**{"channels": (8, 16), "layers": 1, "attention": (1,), **params}), ctx
        )
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def context(
    shape: tuple[int, ...], noise_heads: int = 0, process_heads: int = 0, task: Task | None = None
) -> Context:
    noise, process = Noise(), Process()
    noise.extra_heads, process.extra_heads = noise_heads, process_heads
    return Context(shape=shape, noise=noise, process=process, task=task)


def conditioned(channels: int = 0, classes: int = 0) -> Task:
    task = Task()
    task.channels, task.classes = channels, classes
    return task


CASES = [
    ("dense", (2,)),
    ("mlp", (2,)),
    ("mlp", (1, 8, 8)),
    ("mlp", (3, 5, 7)),
    ("unet", (1, 8, 8)),
    ("unet", (3, 9, 14)),
]


@pytest.mark.parametrize(("kind", "shape"), CASES)
@pytest.mark.parametrize(("noise_heads", "process_heads"), [(0, 0), (1, 0), (1, 1), (2, 0)])
def test_the_output_has_a_block_of_channels_for_each_head(kind, shape, noise_heads, process_heads):
    model = make(kind, context(shape, noise_heads, process_heads))
    out = model(torch.randn(3, *shape), torch.rand(3, dtype=torch.float64))
    assert out.shape == (3, shape[0] * (1 + noise_heads + process_heads), *shape[1:])
    assert out.dtype == torch.float32


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_denoiser_can_be_built_without_noise_process_and_task(kind, shape):
    assert make(kind, Context(shape=shape))(
        torch.randn(2, *shape), torch.rand(2).double()
    ).shape == (2, *shape)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_each_sample_sees_its_own_time(kind, shape):
    model = make(kind, context(shape))
    x = torch.randn(1, *shape).expand(3, *shape)
    out = model(x, torch.tensor([0.1, 0.9, 0.1], dtype=torch.float64))
    assert torch.allclose(out[0], out[2], atol=1e-5)
    assert not torch.allclose(out[0], out[1], atol=1e-3)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_labels_and_the_null_label_change_the_output(kind, shape):
    model = make(kind, context(shape, task=conditioned(classes=4)))
    x, t = torch.randn(1, *shape).expand(5, *shape), torch.full((5,), 0.5, dtype=torch.float64)
    out = model(x, t, torch.arange(5))  # 4 is "no label"
    distances = torch.cdist(out.flatten(1), out.flatten(1)) + torch.eye(5) * 9
    assert distances.min() > 1e-3
    with pytest.raises(ValueError, match="without one"):
        model(x, t)


@pytest.mark.parametrize(("kind", "shape"), [case for case in CASES if len(case[1]) == 3])
def test_an_image_condition_changes_the_output(kind, shape):
    model = make(kind, context(shape, noise_heads=1, task=conditioned(channels=3)))
    x, t = torch.randn(2, *shape), torch.full((2,), 0.5, dtype=torch.float64)
    first, second = (model(x, t, torch.full((2, 3, *shape[1:]), value)) for value in (0.0, 1.0))
    assert first.shape == (2, 2 * shape[0], *shape[1:])
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "mlp"])
def test_points_cannot_be_conditioned_on_an_image(kind):
    with pytest.raises(NoiseregError, match=f"{kind} cannot .*task="):
        make(kind, context((2,), task=conditioned(channels=1)))


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_initial_weights_follow_torchs_seed(kind, shape):
    a, b = (make(kind, context(shape)).state_dict() for _ in range(2))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("kind", "shape"), [("mlp", (1, 4, 4)), ("unet", (1, 8, 8))])
def test_dropout_acts_in_training_and_not_in_evaluation(kind, shape):
    model = make(kind, context(shape), dropout=0.5)
    x, t = torch.randn(2, *shape), torch.rand(2, dtype=torch.float64)
    assert torch.equal(model(x, t), model(x, t))
    model.train()
    assert not torch.equal(model(x, t), model(x, t))


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_every_parameter_takes_part(kind, shape):
    """A parameter without a gradient would stop data-parallel training."""
    task = conditioned(classes=3)
    model = make(kind, context(shape, noise_heads=1, task=task)).train()
    model(
        torch.randn(2, *shape), torch.rand(2).double(), torch.tensor([0, 3])
    ).square().sum().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_dense_refuses_images_and_says_what_takes_them():
    with pytest.raises(
        NoiseregError, match=r"dense takes points, not images of 1×8×8; type denoiser=mlp .*unet"
    ):
        Dense(DenseParams(), Context(shape=(1, 8, 8)))


def test_unet_refuses_points_and_says_what_takes_them():
    with pytest.raises(
        NoiseregError, match=r"unet takes images, not points of 2 numbers; type denoiser=dense"
    ):
        UNet(UNetParams(), Context(shape=(2,)))


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((2,), "dense"),
        ((1, 8, 8), "mlp"),
        ((3, 16, 16), "mlp"),
        ((1, 16, 17), "unet"),
        ((1, 28, 28), "unet"),
        ((3, 64, 64), "unet"),
    ],
)
def test_auto_takes_the_network_for_the_shape(shape, name):
    assert auto_denoiser(shape) == name
