"""The loss of one batch: the process's, the heads', and the regularizers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from noisereg.api import (
    Noise,
    NoiseregError,
    Pairing,
    Prediction,
    Process,
    Regularizer,
    TrainStep,
    per_sample,
)
from noisereg.diffusion.law import add_noise

Net = Callable[..., Any]
"""(x_t (B, *shape), t (B,)) or, with a condition, (x_t, t, cond) → (B, C·(1 + heads), …): a
tensor, or what has it as ``.sample``, as diffusers' networks do."""


class Loss(NamedTuple):
    """What :func:`loss` gives."""

    loss: Tensor
    """A scalar, to be differentiated."""
    parts: dict[str, Tensor]
    """What it is made of, detached."""


def mean_over_ranks(v: Tensor) -> Tensor:
    """The mean of v, (B, …) or (), over its first axis and over all ranks (each has as many), with
    the gradient that one rank with all of it would have.

    Gradients are averaged over ranks afterwards (DDP), so each needs the gradient of its own part
    only: value of the whole, derivative of the local mean.
    """
    local = v.mean(0) if v.ndim else v
    if ranks() == 1:
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    return total / ranks() + (local - local.detach())


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def output_of(
    net: Net, process: Process, x: Tensor, t: Tensor, cond: Tensor | None = None
) -> Tensor:
    """The network's output, (B, C·(1 + heads), …), in x's dtype whatever it computes in.

    Raises:
        NoiseregError: for an output that differs from x in more than its channels.
    """
    scale = process.input_scale(t)
    x_in = x if scale is None else per_sample(scale, x) * x
    out = net(x_in, t) if cond is None else net(x_in, t, cond)
    out = out if isinstance(out, Tensor) else getattr(out, "sample", None)
    if not isinstance(out, Tensor):
        raise NoiseregError(
            "the network gave no tensor; expected one, or an object that has it as `sample` (of "
            "diffusers: not return_dict=False)"
        )
    out = out.to(x.dtype)
    if out.ndim != x.ndim or (len(out), *out.shape[2:]) != (len(x), *x.shape[2:]):
        sizes = ", ".join(map(str, (len(x), "C", *x.shape[2:])))
        raise NoiseregError(
            f"the network gave {tuple(out.shape)} for {tuple(x.shape)}; expected ({sizes}), C "
            "being the channels of all its outputs"
        )
    return out


def under_autocast_of_caller(net: Net, device: torch.device) -> Net:
    """``net`` in the number format of the autocast that is on here. Only the network is meant by
    it: the rest runs outside, since L z as a product of bfloat16 would be another noise.
    """
    if not torch.is_autocast_enabled(device.type):
        return net
    dtype = torch.get_autocast_dtype(device.type)

    def called(*args: Tensor) -> Any:
        with torch.autocast(device.type, dtype):
            return net(*args)

    return called


def blocks(
    out: Tensor, process: Process, noise: Noise, channels: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The first C channels, the process's own heads (B, C·heads, …) or None, and the noise's or
    None: in this order.

    Raises:
        NoiseregError: for an output of another size.
    """
    end = channels * (1 + process.extra_heads)
    if out.shape[1] != (wanted := end + channels * noise.extra_heads):
        raise NoiseregError(
            f"the network gave {tuple(out.shape)}; expected (B, {wanted}, …), "
            f"{wanted // channels} × {channels}: "
            + ", ".join(
                ["the process's target"]
                + ["the process's own heads"] * bool(process.extra_heads)
                + ["the noise's"] * bool(noise.extra_heads)
            )
        )
    own = out[:, channels:end] if process.extra_heads else None
    return out[:, :channels], own, out[:, end:] if noise.extra_heads else None


def read(out: Tensor, x_t: Tensor, t: Tensor, process: Process, noise: Noise) -> Prediction:
    """What the network's output says of x_t."""
    first, own, heads = blocks(out, process, noise, x_t.shape[1])
    return Prediction(*process.split(first, x_t, t), heads, own)


def guided(
    net: Net, process: Process, x_t: Tensor, t: Tensor, cond: Tensor, null: Tensor, guidance: float
) -> Tensor:
    """u + w(c − u) of the network's outputs under the condition, c, and without, u, in one batch
    (Ho & Salimans 2022, arXiv 2207.12598, eq. 6, whose w is ours less 1).

    x̂0, ε̂ and the noise's heads are affine in the output with weights that sum to 1, so this
    guides all of them alike; the process's own heads (a variance) stay those of the condition.
    """
    both = output_of(
        net, process, torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([cond, null])
    )
    told, untold = both.chunk(2)
    out = untold + guidance * (told - untold)
    own = slice(x_t.shape[1], x_t.shape[1] * (1 + process.extra_heads))
    out[:, own] = told[:, own]
    return out


@dataclass(frozen=True)
class Weighted:
    """A regularizer, its weight, and the name of its column among the parts of the loss."""

    name: str
    weight: float
    term: Regularizer
    schedule: Callable[[int], float] | None = None
    """A factor of the weight by optimiser step."""

    def at(self, step: int) -> float:
        """λ at optimiser step ``step``."""
        return self.weight * (self.schedule(step) if self.schedule is not None else 1.0)


class Whole:
    """A batch as one run has it: sums are over all of it. (Several runs at once, each with its
    part of the batch, are :class:`noisereg.runs.stack.Parted`.)
    """

    def mean(self, v: Tensor) -> Tensor:
        """Of v, (B,)."""
        return v.mean()

    def order(
        self, pairing: Pairing, x0: Tensor, latents: Mapping[str, Tensor], eps: Tensor, t: Tensor
    ) -> Tensor:
        """The pairing's permutation, (B,)."""
        return pairing(x0, latents, eps, t)

    def terms(
        self, regularizers: Sequence[Weighted], seen: TrainStep
    ) -> list[tuple[float | Tensor, Tensor, dict[str, Tensor]]]:
        """Of each regularizer its weight, its value and its logs."""
        return [(r.at(seen.step), r.term(seen), r.term.logs()) for r in regularizers]


WHOLE = Whole()


def loss(
    net: Net,
    x0: Tensor,
    latents: Mapping[str, Tensor],
    t: Tensor,
    *,
    process: Process,
    noise: Noise,
    regularizers: Sequence[Weighted] = (),
    pairing: Pairing | None = None,
    cond: Tensor | None = None,
    step: int = 0,
    mean: Callable[[Tensor], Tensor] = mean_over_ranks,
    batch: Whole = WHOLE,
) -> Loss:
    """The loss of x0 (B, *shape) with the given latents, by name (B, …), and times (B,), in [0,
    1].

    mean(w(t)·‖e₁‖²/n) + mean(w_h(t)·‖e_h‖²/n) + mean(the process's own) + Σ weight·regularizer: e₁
    and e_h are the errors of the network's first block and of the noise's heads; means are over
    dimensions and batch. ``cond``, (B, …), is what the network is told beside x_t and t; ``step``,
    from 0, is what schedules of weights go by; ``batch`` is how the batch is summed.
    """
    if pairing is not None:
        with torch.no_grad():
            order = batch.order(pairing, x0, latents, noise.color(latents, t), t)
        latents = {name: values[order] for name, values in latents.items()}
        t = t[order] if pairing.moves_time else t
    eps, basis = noise.color_and_basis(latents, t)
    x_t = add_noise(process, x0, eps, t)

    first, own, heads = blocks(output_of(net, process, x_t, t, cond), process, noise, x0.shape[1])
    error = (first - process.target(x0, eps, t)).flatten(1).square().mean(1)
    total = batch.mean(process.weight(t).to(error) * error)
    parts = {"mse": batch.mean(error.detach())}
    if heads is not None:
        if basis is None:
            raise NoiseregError(
                f"{type(noise).__name__} has {noise.extra_heads} extra heads, and its "
                "color_and_basis gives no basis for them"
            )
        head_error = (heads - basis).flatten(1).square().mean(1)
        head_weight = noise.head_weight(t, process).detach().to(head_error)
        total = total + batch.mean(head_weight * head_error)
        parts["mse_heads"] = batch.mean(head_error.detach())

    if regularizers or own is not None:
        x0_hat, eps_hat = process.split(first, x_t, t)

        def denoise(x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
            again = output_of(net, process, x, times, cond)
            return process.split(again[:, : x0.shape[1]], x, times)

        seen = TrainStep(
            x0=x0,
            latents=latents,
            t=t,
            eps=eps,
            x_t=x_t,
            x0_hat=x0_hat,
            eps_hat=eps_hat,
            heads=heads,
            cond=cond,
            noise=noise,
            process=process,
            step=step,
            denoise=denoise,
            mean=mean,
            own=own,
            ranks=ranks(),
        )
        if own is not None:
            own_loss = batch.mean(process.head_loss(seen))
            total = total + own_loss
            parts["process_heads"] = own_loss.detach()
        terms = batch.terms(regularizers, seen)
        for regularizer, (weight, value, logs) in zip(regularizers, terms, strict=True):
            total = total + weight * value
            name = _free(parts, regularizer.name, "reg")
            parts[name] = value.detach()
            for log, v in logs.items():
                parts[_free(parts, log, name)] = v.detach()
    parts |= {_free(parts, name, "noise"): v for name, v in noise.logs().items()}
    return Loss(total, {"loss": total.detach(), **parts})


def _free(parts: Mapping[str, Tensor], name: str, owner: str) -> str:
    """``name``, or ``owner/name`` where another part has it: nobody's number hides another's, and
    least of all the loss, by which a run is stopped.
    """
    while name == "loss" or name in parts:
        name = f"{owner}/{name}"
    return name
