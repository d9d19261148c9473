"""What a denoiser must do."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import Context, Noise
from noisereg.diffusion.diffusion import Diffusion
from noisereg.testing.doubles import (
    LearningNoise,
    descend,
    draw_latents,
    seeded,
    smooth_data,
    times,
)
from noisereg.testing.kinds.common import EXACT, learns, relative_error, unchanged
from noisereg.testing.kit import IMAGES, POINTS, Subject, check, expect

SHAPES: tuple[tuple[int, ...], ...] = (IMAGES, POINTS, (3, 32, 32))
BATCH = 4


class TwoHeads(LearningNoise):
    """Asks for two more blocks of channels."""

    extra_heads = 2


def built(
    subject: Subject,
    shape: tuple[int, ...] | None = None,
    noise: Noise | None = None,
    seed: int = 0,
) -> Any:
    """The network for white noise and an unconditional task, with weights from ``seed``, not
    training.
    """
    shape = shape or first_shape(subject)
    noise = noise or subject.registry.build("noise", "white", {}, Context(shape=shape))
    process = subject.registry.build("process", "iadb", {}, Context(shape=shape))
    task = subject.registry.build("task", "unconditional", {}, Context(shape=shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return subject.build(shape=shape, noise=noise, process=process, task=task).eval()


def first_shape(subject: Subject) -> tuple[int, ...]:
    return accepted(subject)[0]


def accepted(subject: Subject) -> list[tuple[int, ...]]:
    known, white = subject.registry, Context(shape=POINTS)
    return subject.shapes(
        SHAPES,
        noise=known.build("noise", "white", {}, white),
        process=known.build("process", "iadb", {}, white),
        task=known.build("task", "unconditional", {}, white),
    )


def awake(network: nn.Module) -> nn.Module:
    """The network with every parameter that is all zeros made small: layers that start at zero
    hide what lies before.
    """
    source = seeded(8)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
    return network


def inputs(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, *shape, generator=seeded(seed)), times(BATCH, 0.1, 0.9)


@check("denoiser", EXACT)
def is_a_module(subject: Subject) -> None:
    """It is a torch.nn.Module with parameters: the engine moves, saves and trains it."""
    network = built(subject)
    expect(learns(network), f"it is {type(network).__name__} and no torch.nn.Module")
    expect(any(p.requires_grad for p in network.parameters()), "it has no parameter that learns")


@check("denoiser", EXACT)
def output_shape(subject: Subject) -> None:
    """For every shape that it takes the output is (B, C·(1 + heads), …) in float32 and finite,
    from t = 0 to t = 1, for a batch of one too; the noise's extra heads are counted."""
    for shape in accepted(subject):
        for noise, blocks in ((None, 1), (TwoHeads(), 3)):
            network = built(subject, shape, noise)
            for count in (BATCH, 1):
                x, t = torch.randn(count, *shape, generator=seeded(1)), times(BATCH)[-count:]
                with torch.no_grad():
                    out = network(x, t, None)
                wanted = (count, shape[0] * blocks, *shape[1:])
                expect(
                    tuple(out.shape) == wanted,
                    f"it gives {tuple(out.shape)} with {blocks - 1} heads; expected {wanted}",
                )
                expect(
                    out.dtype == torch.float32, f"it gives {out.dtype} from float32; t is float64"
                )
                expect(
                    bool(torch.isfinite(out).all()),
                    f"its output is not finite for t in {t.tolist()}",
                )


@check("denoiser", EXACT)
def depends_on_sample_and_time(subject: Subject) -> None:
    """With no layer left at zero, the output changes with x_t and with t."""
    shape = first_shape(subject)
    network = awake(built(subject, shape))
    x, t = inputs(shape)
    with torch.no_grad():
        out, other_x, other_t = (
            network(x, t, None),
            network(x + 1, t, None),
            network(x, t.flip(0), None),
        )
    expect(not torch.equal(out, other_x), "its output does not depend on x_t")
    expect(not torch.equal(out, other_t), "its output does not depend on t")


@check("denoiser", "exact up to a relative 1e-4, for kernels that depend on the batch size")
def samples_do_not_see_each_other(subject: Subject) -> None:
    """A sample's output does not depend on the other samples of the batch, in training either: no
    batch normalisation.
    """
    shape = first_shape(subject)
    network = awake(built(subject, shape))
    x, t = inputs(shape)
    changed = torch.cat([x[:1], 10 * x[1:] + 3])
    for training in (False, True):
        network.train(training)
        outs = []
        for batch in (x, changed):
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same dropout
                outs.append(copy.deepcopy(network)(batch, t, None)[:1])
        error = relative_error(*outs)
        mode = "in training" if training else "in evaluation"
        expect(
            error <= 1e-4,
            f"{mode} a sample's output changes by {error:.1e} with the other samples of the batch",
        )


@check("denoiser", EXACT)
def every_parameter_gets_a_gradient(subject: Subject) -> None:
    """After a backward pass no parameter is without a gradient: DistributedDataParallel waits for
    all of them.
    """
    shape = first_shape(subject)
    network = built(subject, shape).train()
    x, t = inputs(shape)
    network(x, t, None).square().sum().backward()
    unused = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    expect(
        not unused, f"no gradient reaches {', '.join(unused[:3])}{' …' if len(unused) > 3 else ''}"
    )


@check("denoiser", EXACT)
def state_round_trip(subject: Subject) -> None:
    """Another one with its state_dict gives the same output bit for bit: a checkpoint is all that
    sampling has.
    """
    shape = first_shape(subject)
    one, two = awake(built(subject, shape)), built(subject, shape, seed=1)
    two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    x, t = inputs(shape)
    with torch.no_grad():
        same = torch.equal(one(x, t, None), two.eval()(x, t, None))
    expect(same, "after load_state_dict its output differs: something is no parameter or buffer")


@check("denoiser", EXACT)
def weights_come_from_the_seed(subject: Subject) -> None:
    """Under one state of torch's generator it starts from the same weights, and under another from
    others: that is how a run's seed fixes them."""
    shape = first_shape(subject)
    states = [built(subject, shape, seed=s).state_dict() for s in (3, 3, 4)]
    differing = [n for n, v in states[0].items() if not torch.equal(v, states[1][n])]
    expect(not differing, f"built twice from one seed, {', '.join(differing[:3])} differ")
    expect(
        any(not torch.equal(v, states[2][n]) for n, v in states[0].items()),
        "built from another seed, it has the same weights: seeds would be no repetitions",
    )


@check("denoiser", EXACT)
def inputs_unchanged(subject: Subject) -> None:
    """It changes neither x_t nor t in place."""
    shape = first_shape(subject)
    x, t = inputs(shape)
    with torch.no_grad(), unchanged("it", x_t=x, t=t):
        built(subject, shape)(x, t, None)


@check(
    "denoiser",
    "the mean squared error of one batch, seen 60 times, must fall by at least a tenth; seeds are "
    "fixed",
)
def learns_one_batch(subject: Subject) -> None:
    """Gradient steps on one batch lower its loss."""
    shape = first_shape(subject)
    network = built(subject, shape).train()
    noise = subject.registry.build("noise", "white", {}, Context(shape=shape))
    process = subject.registry.build("process", "iadb", {}, Context(shape=shape, noise=noise))
    diffusion = Diffusion(shape, process, noise)
    x0, latents, t = smooth_data(shape, 8), draw_latents(noise, shape, 8), times(8, 0.1)
    losses = []
    for step in range(60):
        loss, _ = diffusion.loss(network, x0, latents=latents, t=t, step=step)
        losses.append(loss.item())
        descend(nn.ModuleList([network, diffusion]), loss, rate=0.5, longest=0.2)
    best = min(losses)
    expect(
        best <= 0.9 * losses[0],
        f"the loss of one batch goes from {losses[0]:.4f} to {best:.4f} at best in 60 steps",
    )
