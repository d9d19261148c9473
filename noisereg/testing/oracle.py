"""Gaussian data, for which everything is known: the optimal denoiser, and the sampler's output
without sampling.

For x0 ~ N(0, C) and ε_t = L_t z, x_t ~ N(0, Σ_t) with Σ_t = a²C + b²L_tL_tᵀ, and the minimum of
the mean squared error is linear: x̂0 = aC Σ_t⁻¹ x_t, ẑ = b L_tᵀ Σ_t⁻¹ x_t (docs/theory.md, §4). A
sampler with a linear denoiser is itself linear, so its matrix is what it does to the unit vectors,
and the covariance of its output follows exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import Noise, Prediction, Process, Solver
from noisereg.diffusion.matrix import noise_matrix
from noisereg.diffusion.sample import Predict, trajectory
from noisereg.diffusion.solvers import DDIM


def basis_matrix(noise: Noise, shape: tuple[int, ...]) -> Tensor:
    """What the heads predict, as a matrix on z: (heads·n, n) float64, for a noise with the one
    latent z.
    """
    n = math.prod(shape)
    rows = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    return noise.basis({"z": rows}).flatten(1).T


@dataclass
class GaussianOracle:
    """The optimal denoiser for x0 ~ N(0, ``covariance``), as the sampler calls it.

    ``head_error`` scales its heads and ``color_error`` its idea of L: 1 is right, and anything
    else must be found out.
    """

    process: Process
    noise: Noise
    shape: tuple[int, ...]
    covariance: Tensor
    head_error: float = 1.0
    color_error: float = 1.0

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        a, b = float(self.process.signal_scale(t[:1])), float(self.process.noise_scale(t[:1]))
        root = noise_matrix(self.noise, self.shape, float(t[0])) * self.color_error
        total = a**2 * self.covariance + b**2 * root @ root.T
        solved = torch.linalg.solve(total, x_t.flatten(1).T)
        x0_hat = (a * self.covariance @ solved).T.reshape(x_t.shape)
        z_hat = b * root.T @ solved
        eps_hat = (root @ z_hat).T.reshape(x_t.shape)
        heads = None
        if self.noise.extra_heads:
            flat = basis_matrix(self.noise, self.shape) @ z_hat
            heads = self.head_error * flat.T.reshape(len(x_t), -1, *self.shape[1:])
        return Prediction(x0_hat, eps_hat, heads)


def bayes_risk(
    process: Process, noise: Noise, shape: tuple[int, ...], covariance: Tensor, times: Tensor
) -> Tensor:
    """The training loss of the optimal denoiser, averaged over ``times`` (K,): a scalar, float64.

    Its gradient is that with which a noise's own parameters are trained once the network has
    caught up; as in training, the weights of the loss are constants to it.
    """
    n = len(covariance)
    basis = basis_matrix(noise, shape) if noise.extra_heads else None
    total = torch.zeros((), dtype=torch.float64)
    for t in times.double().split(1):
        a, b = process.signal_scale(t), process.noise_scale(t)
        root = noise_matrix(noise, shape, float(t))
        coloured = root @ root.T
        solved = torch.linalg.inv(a**2 * covariance + b**2 * coloured)
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        of_x0, of_eps = (
            process.target(one, zero, t).squeeze(),
            process.target(zero, one, t).squeeze(),
        )
        cross = of_x0 * a * covariance + of_eps * b * coloured
        own = of_x0**2 * covariance.trace() + of_eps**2 * coloured.trace()
        total = total + process.weight(t).squeeze() * (own - (cross @ solved * cross).sum()) / n
        if basis is not None:
            cross = b * basis @ root.T
            weight = noise.head_weight(t, process).detach().squeeze()
            total = total + weight * (basis.square().sum() - (cross @ solved * cross).sum()) / n
    return total / len(times)


def _response(
    run: Callable[[Callable[[int], dict[str, Tensor]]], Tensor],
    latents: dict[str, tuple[int, ...]],
    at: int,
) -> Tensor:
    """How the output answers to each latent of draw ``at``: (n, m), the latents of all other draws
    being zero.
    """
    sizes = {name: math.prod(s) for name, s in latents.items()}
    total = sum(sizes.values())
    rows = torch.eye(total, dtype=torch.float64)
    units, start = {}, 0
    for name, shape in latents.items():
        units[name] = rows[:, start : start + sizes[name]].reshape(total, *shape)
        start += sizes[name]
    zeros = {name: torch.zeros_like(unit) for name, unit in units.items()}
    return run(lambda k: units if k == at else zeros).flatten(1).T


def output_covariance(
    model: Predict,
    process: Process,
    noise: Noise,
    shape: tuple[int, ...],
    times: Tensor,
    eta: float = 0.0,
    solver: Solver | None = None,
) -> Tensor:
    """Cov(x at the last time), (n, n) float64, of the sampler with a linear ``model``: exact,
    nothing is drawn. The ``solver`` is DDIM with ``eta`` where it is None.

    The matrix of a deterministic solver is what the whole trajectory does to the unit vectors;
    that of a stochastic one is read off step by step, with what each step adds. So it is the real
    sampler that is measured.
    """
    solver = solver or DDIM(eta)
    n = math.prod(shape)
    latents = noise.latents(shape)
    start = noise_matrix(noise, shape, float(times[0])) * float(process.noise_scale(times[:1]))
    covariance = start @ start.T
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    zeros = {name: torch.zeros(n, *s, dtype=torch.float64) for name, s in latents.items()}
    whole = [times] if solver.deterministic else times.unfold(0, 2, 1)
    for some in whole:
        path = trajectory(model, process, noise, lambda _: zeros, some, solver, start=unit)
        moved = list(path)[-1].flatten(1).T
        covariance = moved @ covariance @ moved.T
        if not solver.deterministic and float(some[-1]) > 0:

            def one_step(
                source: Callable[[int], dict[str, Tensor]], pair: Tensor = some
            ) -> Tensor:
                size = len(next(iter(source(1).values())))
                still = torch.zeros(size, *shape, dtype=torch.float64)
                path = trajectory(model, process, noise, source, pair, solver, start=still)
                return list(path)[-1]

            added = _response(one_step, latents, at=1)
            covariance = covariance + added @ added.T
    return covariance


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖_F / ‖wanted‖_F."""
    return float((found - wanted).norm() / wanted.norm())


def smooth_covariance(shape: tuple[int, ...], length: float = 2.0, floor: float = 0.01) -> Tensor:
    """A covariance of image-like data, (n, n): exp(−distance/length) between pixels, variances
    from 0.5 to 1.5 across a channel, plus ``floor``·I. Neither stationary nor diagonal in any
    basis the noises use."""
    if len(shape) == 1:
        position = torch.arange(shape[0], dtype=torch.float64)[:, None]
        channels = 1
    else:
        channels, height, width = shape
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float64),
            torch.arange(width, dtype=torch.float64),
            indexing="ij",
        )
        position = torch.stack([y.flatten(), x.flatten()], 1)
    scale = torch.linspace(0.5, 1.5, len(position), dtype=torch.float64).sqrt()
    one = torch.exp(-torch.cdist(position, position) / length) * scale[:, None] * scale[None]
    one = one + floor * torch.eye(len(position), dtype=torch.float64)
    return torch.block_diag(*[one] * channels)
