"""The loss of one micro-batch: the process's, the heads', and the regularizers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noisereg.api import Noise, Pairing, Process, Regularizer, TrainStep, per_sample
from noisereg.diffusion.sampler import Model, Prediction
from noisereg.runs.schedule import CONSTANT, Schedule


def run_network(
    denoiser: nn.Module, x: Tensor, t: Tensor, cond: Tensor | None, bf16: bool = False
) -> Tensor:
    """The network's output, (B, C·(1 + heads), …), in x's dtype whatever it computes in."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        out = denoiser(x, t, cond)
    return out.to(x.dtype)


def blocks(
    out: Tensor, process: Process, noise: Noise, channels: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The first C channels, the process's own heads (B, C·heads, …) or None, and the noise's or
    None: in this order.
    """
    end = channels * (1 + process.extra_heads)
    own = out[:, channels:end] if process.extra_heads else None
    return out[:, :channels], own, out[:, end:] if noise.extra_heads else None


def as_model(
    denoiser: nn.Module,
    process: Process,
    noise: Noise,
    cond: Tensor | None = None,
    bf16: bool = False,
    guidance: float = 1.0,
    null: Tensor | None = None,
) -> Model:
    """The denoiser as the sampler calls it; with ``null``, under classifier-free guidance."""

    def model(x_t: Tensor, t: Tensor) -> Prediction:
        if null is None:
            out = run_network(denoiser, x_t, t, cond, bf16)
        else:
            out = guided(denoiser, process, x_t, t, cond, null, guidance, bf16)
        first, own, heads = blocks(out, process, noise, x_t.shape[1])
        return Prediction(*process.split(first, x_t, t), heads, own)

    return model


def guided(
    denoiser: nn.Module,
    process: Process,
    x_t: Tensor,
    t: Tensor,
    cond: Tensor | None,
    null: Tensor,
    guidance: float,
    bf16: bool = False,
) -> Tensor:
    """u + w(c − u) of the network's outputs under the condition, c, and without, u (Ho & Salimans
    2022, arXiv 2207.12598, eq. 6, whose w is ours less 1), in one batch.

    x̂0, ε̂ and the noise's heads are affine in the output with weights that sum to 1, so this
    guides all of them alike; the process's own heads (a variance) stay those of the condition.
    """
    assert cond is not None
    both = run_network(
        denoiser, torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([cond, null]), bf16
    )
    told, untold = both.chunk(2)
    out = untold + guidance * (told - untold)
    own = slice(x_t.shape[1], x_t.shape[1] * (1 + process.extra_heads))
    out[:, own] = told[:, own]
    return out


@dataclass(frozen=True)
class Weighted:
    """A regularizer under the name of its column in metrics.jsonl."""

    name: str
    weight: float
    term: Regularizer
    schedule: Schedule = CONSTANT

    def at(self, step: int) -> float:
        """λ at optimiser step ``step``."""
        return self.weight * self.schedule(step)

    def describe(self) -> str:
        rise = f", up over {self.schedule.warmup:,} steps" if self.schedule.warmup else ""
        fall = f", {self.schedule.kind} to 0" if self.schedule.kind != "constant" else ""
        return f"{self.name} × {self.weight:g}{rise}{fall}"


class Objective(nn.Module):
    """Everything that can learn, and the loss. DDP wraps it whole, so that a noise or a
    regularizer that is an ``nn.Module`` is synchronised like the denoiser."""

    def __init__(
        self,
        denoiser: nn.Module,
        noise: Noise,
        process: Process,
        regularizers: Sequence[Weighted] = (),
        pairing: Pairing | None = None,
        mean: Callable[[Tensor], Tensor] = torch.mean,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        # nn.Module registers those that are modules; the others are plain attributes.
        self.noise = noise
        self.process = process
        self.pairing = pairing
        self.regularizers = list(regularizers)
        self.learners = nn.ModuleList(
            r.term for r in regularizers if isinstance(r.term, nn.Module)
        )
        self.mean = mean
        self.bf16 = bf16

    def forward(
        self, x0: Tensor, latents: Mapping[str, Tensor], t: Tensor, cond: Tensor | None, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of x0 (B, *shape), and what it is made of, detached.

        Loss: mean(w(t)·‖e₁‖²/n) + mean(w_h(t)·‖e_h‖²/n) + mean(the process's own) + Σ
        weight·regularizer; means over dimensions and batch.
        """
        noise, process = self.noise, self.process
        eps = noise.color(latents, t)
        if self.pairing is not None:
            with torch.no_grad():
                order = self.pairing(x0, latents, eps, t)
            latents = {name: values[order] for name, values in latents.items()}
            t = t[order] if self.pairing.moves_time else t
            eps = noise.color(latents, t)
        x_t = (
            per_sample(process.signal_scale(t), x0) * x0
            + per_sample(process.noise_scale(t), eps) * eps
        )

        def network(x: Tensor, times: Tensor) -> Tensor:
            return run_network(self.denoiser, x, times, cond, self.bf16)

        first, own, heads = blocks(network(x_t, t), process, noise, x0.shape[1])
        error = (first - process.target(x0, eps, t)).flatten(1).square().mean(1)
        loss = (process.weight(t).to(error) * error).mean()
        parts = {"mse": error.detach().mean()}
        if heads is not None:
            head_error = (heads - noise.basis(latents)).flatten(1).square().mean(1)
            loss = (
                loss + (noise.head_weight(t, process).detach().to(head_error) * head_error).mean()
            )
            parts["mse_heads"] = head_error.detach().mean()

        if self.regularizers or own is not None:
            x0_hat, eps_hat = process.split(first, x_t, t)
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
                denoise=lambda x, times: process.split(
                    network(x, times)[:, : x0.shape[1]], x, times
                ),
                mean=self.mean,
                own=own,
            )
            if own is not None:
                own_loss = process.head_loss(seen).mean()
                loss = loss + own_loss
                parts["process_heads"] = own_loss.detach()
            for regularizer in self.regularizers:
                value = regularizer.term(seen)
                loss = loss + regularizer.at(step) * value
                parts[regularizer.name] = value.detach()
                parts |= {name: v.detach() for name, v in regularizer.term.logs().items()}
        return loss, {"loss": loss.detach(), **parts, **noise.logs()}
