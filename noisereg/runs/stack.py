"""Runs of one architecture as one network whose weights have a further axis, (cells, …): a step of
all of them is one forward pass, one backward pass of the sum of their losses, which gives each its
own gradient, and one call of the optimiser.

Each run keeps its own objects: its weights, its averages and its optimiser's state are made views
of the stacked ones, so that what saves, checks or samples a run sees it as if it trained alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from noisereg.api import Pairing, TrainStep
from noisereg.diffusion.loss import Weighted, Whole, output_of
from noisereg.errors import NoiseregError
from noisereg.runs.build import Parts
from noisereg.runs.config import horizon
from noisereg.runs.feed import Feed, MicroBatch
from noisereg.runs.meter import Meter
from noisereg.runs.optimizer import learning_rate
from noisereg.runs.stacked_linear import StackedLinear
from noisereg.runs.train import Training
from noisereg.transfer import to_device

TOLERANCE = 1e-3
"""How far a run's loss and gradient in the stack may be from its own, relatively, in float32."""
TOLERANCE_TF32 = 0.01
"""On CUDA, whose convolutions round to 10 bits, each kernel at other places."""
TOLERANCE_BF16 = 0.05


class Parted(Whole):
    """A batch (cells·B, …) of which each cell has B consecutive samples; what is summed over a
    cell's part is (cells,).
    """

    def __init__(self, stack: Stack, vectorised: bool) -> None:
        self.stack = stack
        self.vectorised = vectorised
        """Whether the regularizers of all cells are one call, by ``torch.vmap``; what cannot be is
        found out by :meth:`Stack.check`."""

    def mean(self, v: Tensor) -> Tensor:
        return self._parts(v).mean(1)

    def order(
        self, pairing: Pairing, x0: Tensor, latents: Mapping[str, Tensor], eps: Tensor, t: Tensor
    ) -> Tensor:
        """Each cell's own permutation, of its own part."""
        size = len(t) // self.stack.count
        parts = []
        for k, cell in enumerate(self.stack.cells):
            own = slice(k * size, (k + 1) * size)
            assert cell.parts.pairing is not None
            some = {name: z[own] for name, z in latents.items()}
            parts.append(cell.parts.pairing(x0[own], some, eps[own], t[own]) + k * size)
        return torch.cat(parts)

    def terms(
        self, regularizers: Sequence[Weighted], seen: TrainStep
    ) -> list[tuple[float | Tensor, Tensor, dict[str, Tensor]]]:
        """Of each regularizer the cells' weights, values and logs, each (cells,)."""
        found = self._at_once(seen) if self.vectorised else self._one_by_one(seen)
        weights = [
            [cell.parts.diffusion.regularizers[i].at(seen.step) for cell in self.stack.cells]
            for i in range(len(regularizers))
        ]
        device = seen.t.device
        return [
            (to_device(torch.tensor(of_cells), device), *of)
            for of_cells, of in zip(weights, found, strict=True)
        ]

    def _at_once(self, seen: TrainStep) -> list[tuple[Tensor, dict[str, Tensor]]]:
        terms = [r.term for r in self.stack.parts.diffusion.regularizers]

        def of_a_cell(weights: dict[str, Tensor], tensors: dict[str, Any]) -> Any:
            s = self._step(seen, tensors, functools.partial(self.stack.call, weights))
            return [(term(s), term.logs()) for term in terms]

        tensors = {k: self._parted(v) for k, v in vars(seen).items() if _tensors(v)}
        found = torch.vmap(of_a_cell)(self.stack.weights, tensors)
        return [(v, dict(logs)) for v, logs in found]

    def _one_by_one(self, seen: TrainStep) -> list[tuple[Tensor, dict[str, Tensor]]]:
        every = []
        size = len(seen.t) // self.stack.count
        for k, cell in enumerate(self.stack.cells):
            part = operator.itemgetter(slice(k * size, (k + 1) * size))
            tensors = {n: _map(v, part) for n, v in vars(seen).items() if _tensors(v)}
            weights = {name: w[k] for name, w in self.stack.weights.items()}
            s = self._step(seen, tensors, functools.partial(self.stack.call, weights))
            # What a term draws from torch's generator it draws as in the cell's own training.
            cell.seed_torch(seen.step)
            every.append([(r.term(s), r.term.logs()) for r in cell.parts.diffusion.regularizers])
        return [
            (
                torch.stack([value for value, _ in of]),
                {name: torch.stack([logs[name] for _, logs in of]) for name in of[0][1]},
            )
            for of in zip(*every, strict=True)
        ]

    def _step(self, seen: TrainStep, tensors: dict[str, Any], net: Any) -> TrainStep:
        """What the regularizers of one cell see."""
        cond, channels = tensors.get("cond"), seen.x0.shape[1]

        def denoise(x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
            out = output_of(net, seen.process, x, times, cond)
            return seen.process.split(out[:, :channels], x, times)

        return dataclasses.replace(seen, **tensors, denoise=denoise)

    def _parts(self, v: Tensor) -> Tensor:
        return v.unflatten(0, (self.stack.count, -1))

    def _parted(self, value: Any) -> Any:
        return _map(value, self._parts)


def _tensors(value: Any) -> bool:
    return isinstance(value, Tensor | Mapping)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: change(v) for name, v in value.items()}
    return change(value)


class _Rows:
    """Neighbouring cells whose optimiser and averages have the same settings, as one."""

    def __init__(self, stack: Stack, rows: slice) -> None:
        self.first = stack.cells[rows.start]
        self.weights = [w.detach()[rows] for w in stack.weights.values()]
        self.gradients = list(stack.weights.values())
        self.rows = rows
        self.averages = [a[rows] for a in stack.averages.values()]
        group = self.first.optimizer.param_groups[0]
        options = {k: v for k, v in group.items() if k not in ("params", "scale")}
        self.optimizer = type(self.first.optimizer)([{"params": self.weights, **options}])
        for weight, name in zip(self.weights, stack.weights, strict=True):
            if name in stack.moments:
                self.optimizer.state[weight] = {
                    "step": torch.tensor(float(stack.step), device=weight.device),
                    **{k: v[rows] for k, v in stack.moments[name].items()},
                }

    def take_step(self, step: int) -> None:
        for weight, whole in zip(self.weights, self.gradients, strict=True):
            # What the loss does not depend on has none, and an optimiser leaves it as it is.
            weight.grad = None if whole.grad is None else whole.grad[self.rows]
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.first.config, step)
        self.optimizer.step()
        decay = self.first.ema.decay_at(self.first.updates + step + 1)
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)


class Stack:
    """Runs at the same step that train together from there, until :meth:`close`.

    Raises:
        NoiseregError: for runs that cannot, with the reason.
    """

    def __init__(self, cells: Sequence[Training], vectorised: bool = True) -> None:
        """``vectorised``: see :class:`Parted`."""
        self.cells = sorted(cells, key=_optimiser_key)
        self.parts: Parts = self.cells[0].parts
        self.count = len(self.cells)
        self.step = self.cells[0].at
        refuse_what_cannot([cell.parts for cell in self.cells])
        objectives = [dict(cell.objective.named_parameters()) for cell in self.cells]
        self.weights: dict[str, Tensor] = {
            name: torch.stack([own[name].detach() for own in objectives]).requires_grad_()
            for name, p in objectives[0].items()
            if p.requires_grad
        }
        self.averages = {
            name: torch.stack([cell.ema.shadow[name] for cell in self.cells])
            for name in self.weights
        }
        self.moments = self._moments(objectives)
        for k, (cell, own) in enumerate(zip(self.cells, objectives, strict=True)):
            for name, stacked in self.weights.items():
                own[name].data = stacked.detach()[k]
                cell.ema.shadow[name] = self.averages[name][k]
        self.objectives = objectives
        keys = [_optimiser_key(cell) for cell in self.cells]
        self.rows: list[_Rows] = []
        for _, same in itertools.groupby(range(self.count), keys.__getitem__):
            indices = list(same)
            self.rows.append(_Rows(self, slice(indices[0], indices[-1] + 1)))
        self.one_time = all(cell.config.train.times == "batch" for cell in self.cells)
        """Whether each cell's batch has one t."""
        self._times: Tensor | None = None
        """The batch's, of which that is true."""
        self.batch = Parted(self, vectorised)
        self.meter = Meter()
        self.last: MicroBatch | None = None
        self._forward = torch.vmap(self.call)

    def _moments(self, objectives: list[dict[str, nn.Parameter]]) -> dict[str, dict[str, Tensor]]:
        """The optimisers' running means by parameter, stacked; not of what has had no gradient."""
        states = [cell.optimizer.state for cell in self.cells]
        found: dict[str, dict[str, Tensor]] = {}
        for name in self.weights:
            of: list[Any] = [
                state.get(own[name]) for state, own in zip(states, objectives, strict=True)
            ]
            if any(one is None for one in of):
                continue
            found[name] = {
                key: torch.stack([one[key] for one in of]) for key in of[0] if key != "step"
            }
        return found

    def call(self, weights: Mapping[str, Tensor], *given: Tensor) -> Any:
        """The network of the given weights."""
        own = {name.removeprefix("denoiser."): w for name, w in weights.items()}
        return functional_call(self.parts.denoiser, own, given)

    def net(self, *given: Tensor) -> Tensor:
        """(cells·B, …) of x_t, t and what the network is told, each (cells·B, …)."""
        x, t, *told = (v.unflatten(0, (self.count, -1)) for v in given)
        if given[1] is self._times:
            t = t[:, :1].expand_as(t)
        autocast = torch.autocast(
            given[0].device.type, torch.bfloat16, enabled=self.parts.objective.bf16
        )
        with autocast, StackedLinear():
            out = self._forward(self.weights, x, t, *told).flatten(0, 1)
        # A stack of one is not copied by that, and W xᵀ's order in memory is that in which a
        # regularizer's torch.rand_like is filled.
        return out.contiguous()

    def loss(self, batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(cells,), and its parts, each (cells,)."""
        self._times = batch.t if self.one_time else None
        total, parts = self.parts.diffusion.loss(
            self.net,
            batch.x0,
            latents=batch.latents,
            t=batch.t,
            cond=batch.cond,
            step=step,
            batch=self.batch,
        )
        return total, {name: v.expand(self.count) for name, v in parts.items()}

    def take_step(self, step: int, batches: Sequence[MicroBatch]) -> None:
        """One step of the optimiser, over its micro-batches."""
        self.last = batches[-1]
        for batch in batches:
            total, parts = self.loss(batch, step)
            (total.sum() / len(batches)).backward()
            self.meter.add(parts, step)
        clip = self.parts.config.train.clip
        gradients = [w.grad for w in self.weights.values() if w.grad is not None]
        if clip is not None:
            squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
            scale = (clip / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1)
            for g in gradients:
                g.mul_(scale.reshape(-1, *[1] * (g.ndim - 1)))
        for rows in self.rows:
            rows.take_step(step)
        for w in self.weights.values():
            w.grad = None
        self.step = step + 1

    def hand_out(self) -> None:
        """Give each run its part of the meter, of the last batch and of the optimiser's state,
        which it can keep.
        """
        for rows in self.rows:
            group, states = rows.optimizer.param_groups[0], rows.optimizer.state
            for k in range(rows.rows.start, rows.rows.stop):
                cell, own = self.cells[k], self.objectives[k]
                cell.meter.take(self.meter, k)
                cell.batch = None if self.last is None else part_of(self.last, k, self.count)
                cell.optimizer.param_groups[0]["lr"] = group["lr"]
                cell.optimizer.state.clear()
                for name, weight in zip(self.weights, rows.weights, strict=True):
                    if state := states.get(weight):
                        cell.optimizer.state[own[name]] = {
                            key: v.clone() if key == "step" else v[k - rows.rows.start].clone()
                            for key, v in state.items()
                        }
        self.meter = Meter()

    def close(self) -> None:
        """Give each run weights and averages of its own again."""
        for k, (cell, own) in enumerate(zip(self.cells, self.objectives, strict=True)):
            for name, stacked in self.weights.items():
                own[name].data = stacked.detach()[k].clone()
                cell.ema.shadow[name] = self.averages[name][k].clone()

    def check(self, batches: Sequence[MicroBatch]) -> None:
        """That each run's loss and gradient in the stack are those that it has by itself, from
        each run's first micro-batch.

        Raises:
            NoiseregError: if they are not, or cannot be computed together.
        """
        whole, step = stacked_batch(batches), self.step
        try:
            total = self._tried(whole, step)
        except NoiseregError:
            raise
        except Exception as error:  # of anybody's network, under vmap
            said = next(iter(str(error).splitlines()), "")[:200]
            raise NoiseregError(
                f"the network cannot be trained together with others of its kind: "
                f"{type(error).__name__}: {said}"
            ) from error
        gradients = _gradients(total.sum(), list(self.weights.values()))
        bound = TOLERANCE_TF32 if whole.x0.is_cuda else TOLERANCE
        bound = TOLERANCE_BF16 if self.parts.objective.bf16 else bound
        for k, (cell, batch) in enumerate(zip(self.cells, batches, strict=True)):
            cell.seed_torch(step)
            own, _ = cell.objective(batch.x0, batch.latents, batch.t, batch.cond, step)
            wanted = _gradients(own, [self.objectives[k][name] for name in self.weights])
            size, gap = (
                _norm(wanted),
                _norm([g[k] - w for g, w in zip(gradients, wanted, strict=True)]),
            )
            value, off = float(own.detach()), float((own - total[k]).detach().abs())
            if math.isfinite(value) and not (off <= bound * abs(value) and gap <= bound * size):
                raise NoiseregError(
                    f"{cell.out.name} is not the same trained together: its loss is {value:.6g} "
                    f"and off by {off:.1e}, its gradient by {gap / max(size, 1e-30):.1e} "
                    f"of itself (expected {bound:g} of each at most): a component differs from "
                    f"{self.cells[0].out.name}'s, or draws numbers of its own"
                )

    def _tried(self, whole: MicroBatch, step: int) -> Tensor:
        """The loss, with the regularizers at once if that can be."""
        try:
            return self.loss(whole, step)[0]
        except Exception:
            if not self.parts.diffusion.regularizers or not self.batch.vectorised:
                raise
        self.batch.vectorised = False
        return self.loss(whole, step)[0]


def _gradients(value: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """0 for a weight on which the value does not depend."""
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(v.double().square().sum()) for v in tensors))


def _optimiser_key(cell: Training) -> str:
    """Equal for runs whose optimiser and averages take the same step."""
    config = cell.config
    return f"{config.optim!r} {horizon(config)} {config.ema!r} {cell.updates}"


def refuse_what_cannot(every: Sequence[Parts]) -> None:
    """
    Raises:
        NoiseregError: for parts that cannot be stacked, whatever their numbers are.
    """
    for parts in every:
        name = parts.config.denoiser.name
        if learning := [n for n in _trainable(parts) if not n.startswith("denoiser.")]:
            raise NoiseregError(
                f"{learning[0]} learns beside the network, which runs that train together cannot"
            )
        for module in parts.denoiser.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                raise NoiseregError(
                    f"denoiser {name} drops units at random by torch's generator, which runs that "
                    "train together would share; expected dropout=0"
                )
        if parts.shape != every[0].shape:
            raise NoiseregError(
                f"samples of {parts.shape} and of {every[0].shape} cannot be trained together"
            )


def _trainable(parts: Parts) -> list[str]:
    return [name for name, p in parts.objective.named_parameters() if p.requires_grad]


def stacked_batch(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Those of all cells as one, (cells·B, …)."""
    cond = [batch.cond for batch in batches if batch.cond is not None]
    return MicroBatch(
        torch.cat([batch.x0 for batch in batches]),
        torch.cat(cond) if cond else None,
        torch.cat([batch.t for batch in batches]),
        {
            name: torch.cat([batch.latents[name] for batch in batches])
            for name in batches[0].latents
        },
    )


def part_of(batch: MicroBatch, k: int, count: int) -> MicroBatch:
    """What the k-th of ``count`` cells has of a stacked batch."""
    size = len(batch.t) // count
    own = slice(k * size, (k + 1) * size)
    return MicroBatch(
        batch.x0[own],
        None if batch.cond is None else batch.cond[own],
        batch.t[own],
        {name: z[own] for name, z in batch.latents.items()},
    )


class Feeds:
    """What all cells see at a step; what they draw alike is drawn once."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = feeds
        self.ahead = any(feed.ahead for feed in feeds)
        """Whether there is work that can hide behind the network."""

    def each(self, step: int, micro: int) -> list[MicroBatch]:
        drawn: dict[Any, Any] = {}
        return [feed.prepare(step, micro, drawn) for feed in self.feeds]

    def prepare(self, step: int, micro: int) -> MicroBatch:
        return stacked_batch(self.each(step, micro))
