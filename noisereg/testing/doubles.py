"""Small stand-ins with which the kit surrounds a component under test: data, a network, a noise
that learns, ranks.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import (
    Batch,
    Context,
    Dataset,
    Model,
    Noise,
    Process,
    Regularizer,
    Solver,
    Split,
    TrainStep,
)
from noisereg.diffusion import compatible, grids
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.loss import Weighted, mean_over_ranks
from noisereg.diffusion.solvers import DDIM
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs.build import build_parts
from noisereg.runs.config import validate
from noisereg.runs.model import RunModel
from noisereg.runs.runtime import Runtime

PROCESSES = ("iadb", "ddpm")
SECONDS = 5.0
"""How long one of :class:`Ranks` waits for the others."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_latents(
    noise: Noise,
    shape: tuple[int, ...],
    count: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """N(0, 1) latents of ``count`` samples."""
    source = seeded(seed)
    return {
        name: torch.randn(count, *s, generator=source, dtype=torch.float64).to(dtype)
        for name, s in noise.latents(shape).items()
    }


def times(count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Evenly spread, (count,) float64."""
    return torch.linspace(low, high, count, dtype=torch.float64)


def smooth_data(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """Data with more power at low frequencies than at high, in [−1, 1]: (count, *shape)
    float32.
    """
    x = torch.randn(count, *shape, generator=seeded(seed))
    for axis in range(2, x.ndim):
        for _ in range(2):
            x = (x + x.roll(1, axis)) / math.sqrt(2)
    return (x / 4).clamp(-1, 1)


def smooth_batches(shape: tuple[int, ...], split: str = "train") -> Iterator[Tensor]:
    """``ctx.batches``: 256 samples in batches of 64."""
    data = smooth_data(shape, 256, seed=1 if split == "train" else 2)
    yield from data.split(64)


class FewDigits(Dataset):
    """The first eight held-out digits, in both splits."""

    levels = 256

    def __init__(self, whole: Dataset) -> None:
        self.shape, self.whole = whole.shape, whole

    def split(self, name: str) -> Split:
        return self

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Tensor) -> Batch:
        return self.whole.split("heldout").batch(indices)


def default_times(
    process: Process,
    noise: Noise,
    steps: int,
    registry: Registry | None = None,
    solver: Solver | None = None,
) -> Tensor:
    """The sampling times that this process and noise get, (steps + 1,); a process's own grid
    needs the ``registry`` that builds it.
    """
    grid = compatible.default_grid(process, noise, solver or DDIM())
    if registry is None:
        return grids.own(grid).times(process, steps)
    spec = Spec.parse(grid)
    return registry.build("grid", spec.name, spec.params, Context()).times(process, steps)


def untrained_model(registry: Registry) -> tuple[Model, Dataset]:
    """White noise, IADB and a network as it starts, with a few digits: what a metric of models is
    tried on.
    """
    config = validate({"process": "iadb", "denoiser": "mlp:width=16,blocks=1"})
    parts = build_parts(config, registry, Runtime(torch.device("cpu")))
    assert parts.dataset is not None
    parts.objective.eval()
    return RunModel(parts, parts.config.sample, registry, 0), FewDigits(parts.dataset)


class SmallNetwork(nn.Module):
    """A denoiser with a hidden layer and a time input; every sample on its own."""

    def __init__(
        self, shape: tuple[int, ...], blocks: int = 1, width: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        self.shape, self.blocks = shape, blocks
        n = math.prod(shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Linear(n + 1, width)
            self.leave = nn.Linear(width, n * blocks)
            self.skip = nn.Parameter(torch.tensor(0.7))

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        flat = x_t.flatten(1)
        hidden = torch.tanh(self.enter(torch.cat([flat, t.to(flat)[:, None]], 1)))
        out = self.leave(hidden).reshape(len(x_t), self.blocks * self.shape[0], *self.shape[1:])
        return out + self.skip * x_t.repeat(1, self.blocks, *[1] * (x_t.ndim - 2))


def descend(
    learner: nn.Module, loss: Tensor, rate: float = 1e-3, longest: float = math.inf
) -> None:
    """One step of gradient descent, of at most the length ``longest``."""
    learner.zero_grad(set_to_none=True)
    loss.backward()
    with torch.no_grad():
        moving = [(p, p.grad) for p in learner.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(grad.square().sum()) for _, grad in moving))
        for parameter, grad in moving:
            parameter.sub_(min(rate, longest / max(norm, 1e-12)) * grad)


class LearningNoise(nn.Module, Noise):
    """ε = e^s z with a trained s, so that a gradient that reaches the noise can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.3))

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return self.log_scale.exp().to(latents["z"]) * latents["z"]

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.ones_like(t) * (2 * self.log_scale.double()).exp()

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        return eps / self.log_scale.exp().to(eps)


class Probe(Regularizer):
    """Keeps what the engine hands to regularizers."""

    def __init__(self) -> None:
        self.seen: TrainStep | None = None

    def __call__(self, s: TrainStep) -> Tensor:
        self.seen = s
        return s.eps_hat.sum() * 0


def train_step(
    registry: Registry,
    process: str = "iadb",
    *,
    shape: tuple[int, ...],
    batch: int = 12,
    noise: Noise | None = None,
    network: nn.Module | None = None,
    rows: slice = slice(None),
    mean: Callable[[Tensor], Tensor] = mean_over_ranks,
) -> tuple[TrainStep, nn.Module]:
    """What the engine hands to a regularizer for ``rows`` of a batch whose times are spread over
    (0, 1], and the network.

    Samples differ in size and time along the batch, so that its halves are unlike.
    """
    noise = noise or registry.build("noise", "white", {}, Context(shape=shape))
    made: Process = registry.build("process", process, {}, Context(shape=shape, noise=noise))
    network = network or SmallNetwork(shape, 1 + made.extra_heads + noise.extra_heads)
    growing = torch.linspace(0.5, 1.5, batch).reshape(-1, *[1] * len(shape))
    x0 = smooth_data(shape, batch) * growing
    latents = {
        k: v * growing.reshape(-1, *[1] * (v.ndim - 1))
        for k, v in draw_latents(noise, shape, batch, 3).items()
    }
    t = (torch.arange(1, batch + 1, dtype=torch.float64) / batch * made.T).round() / made.T
    probe = Probe()
    diffusion = Diffusion(shape, made, noise, [Weighted("probe", 1.0, probe)], mean=mean)
    some = {k: v[rows] for k, v in latents.items()}
    diffusion.loss(network, x0[rows], latents=some, t=t[rows])
    assert probe.seen is not None
    return probe.seen, network


def permuted(s: TrainStep, order: Tensor) -> TrainStep:
    """The same micro-batch in another order."""
    changed: dict[str, Any] = {
        f.name: getattr(s, f.name)[order]
        for f in dataclasses.fields(s)
        if isinstance(getattr(s, f.name), Tensor)
    }
    return dataclasses.replace(s, latents={k: v[order] for k, v in s.latents.items()}, **changed)


class Ranks:
    """``TrainStep.mean`` of several ranks, each a thread: the arithmetic of ``mean_over_ranks``,
    its all-reduce a barrier.

    What a rank gets is the value of the whole and the derivative of its own part, as
    DistributedDataParallel's average over ranks wants it. A rank that calls it more often than
    another waits in vain, as it would in a group of processes.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world, timeout=SECONDS)
        self.local: list[Tensor] = [torch.empty(0)] * world

    def mean(self, rank: int) -> Callable[[Tensor], Tensor]:
        def mean(v: Tensor) -> Tensor:
            local = v.mean(0) if v.ndim else v
            self.local[rank] = local.detach()
            self.barrier.wait()
            total = torch.stack(self.local).mean(0)
            self.barrier.wait()
            return total + (local - local.detach())

        return mean

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """``work(rank)`` on every rank at once; what each returned or raised."""
        results: list[Any] = [None] * self.world

        def target(rank: int) -> None:
            try:
                results[rank] = work(rank)
            except BaseException as error:
                results[rank] = error
                self.barrier.abort()

        threads = [
            threading.Thread(target=target, args=(rank,), daemon=True)
            for rank in range(self.world)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
