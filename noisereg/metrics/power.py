"""The power of the predicted noise over t, beside what is optimal for Gaussian data of the same
covariance.

The minimum of the mean squared error lies below the noise's own power: E‖ε̂‖² = E‖ε‖² − E‖ε − ε̂‖²
for ε̂ = E[ε | x_t]. So a network can be brought to that level only at the price of a larger error
(theory, §6); these numbers show how much.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import Context, Dataset, Metric, Model, Noise, Process
from noisereg.data import batches, spaced
from noisereg.diffusion import compatible
from noisereg.diffusion.law import MAX_GAIN, add_noise
from noisereg.diffusion.matrix import noise_matrix
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.metrics import IsotropyGapParams

LARGEST = 3072
"""Numbers a sample (3×32×32) up to which a dense covariance is taken."""


@dataclass(frozen=True)
class Optimum:
    """Of the optimal denoiser for Gaussian data, one number a time."""

    power: list[float]
    """E‖ε̂‖²/n."""
    error: list[float]
    """E‖ε − ε̂‖²/n: what is missing to E‖ε‖²/n."""


def covariance(dataset: Dataset, split: str = "train") -> Tensor:
    """Of a split's samples around their mean, (n, n) float64."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for batch in batches(dataset, split):
        x = batch.flatten(1).double().cpu()
        count, total, square = count + len(x), total + x.sum(0), square + x.T @ x
    mean = total / count
    return square / count - mean[:, None] * mean


def gaussian_optimum(
    process: Process, noise: Noise, shape: tuple[int, ...], data: Tensor, times: Tensor
) -> Optimum:
    """For x0 ~ N(μ, ``data``) and a linear noise: ε̂ = b L_tL_tᵀ Σ_t⁻¹(x_t − aμ) with Σ_t = a²C +
    b²L_tL_tᵀ, whose power is b²·tr(L_tL_tᵀ Σ_t⁻¹ L_tL_tᵀ)/n."""
    n = len(data)
    power, error = [], []
    with torch.no_grad():
        for time in times.double().cpu():
            a, b = (float(f(time[None])) for f in (process.signal_scale, process.noise_scale))
            root = noise_matrix(noise, shape, float(time))
            coloured = root @ root.T
            solved = torch.linalg.solve(a**2 * data + b**2 * coloured, coloured)
            power.append(b**2 * float((coloured * solved).sum()) / n)
            error.append(float(coloured.trace()) / n - power[-1])
    return Optimum(power, error)


def optimum(model: Model, data: Dataset, times: Tensor) -> Optimum | None:
    """With the covariance of the data that the run was trained on.

    None for a noise that is not linear and Gaussian, and for samples of more than 3,072 numbers.
    """
    known = model.noise.linear and model.noise.gaussian and math.prod(model.shape) <= LARGEST
    # Of noise that depends on the condition each sample has another optimum.
    if not known or compatible.sees_condition(model.noise):
        return None
    noise = (
        copy.deepcopy(model.noise).cpu()
        if isinstance(model.noise, torch.nn.Module)
        else model.noise
    )
    return gaussian_optimum(model.process, noise, model.shape, covariance(data), times)


class PredictedPower(Metric):
    """``isotropy-gap``: the mean over t of |E‖ε̂‖²/n − m(t)|, m the noise's own mean square;
    ``eps-mse``: that of E‖ε − ε̂‖²/n; ``gap-gaussian``: both, of the optimal denoiser for Gaussian
    data of the training set's covariance. Without a constraint gap and error agree; a gap below
    the error is bought by a larger error.

    t runs over k/K, K = ``times``, without the times at which ε̂ repeats an error of the network
    more than fivefold, which isotropy leaves out too (an x0 target near t = 0).
    """

    better = dict.fromkeys(("isotropy-gap", "eps-mse", "gap-gaussian"), "lower")
    needs_model = True

    def __init__(self, params: IsotropyGapParams, ctx: Context) -> None:
        self.params = params
        self._notes: list[str] = []

    def notes(self) -> list[str]:
        return self._notes

    @torch.inference_mode()
    def of_model(self, model: Model, data: Dataset) -> dict[str, float]:
        """
        Raises:
            NoiseregError: for data without the split.
        """
        p, process, noise = self.params, model.process, model.noise
        split = data.split(p.split)
        if not len(split):
            raise NoiseregError(
                f"isotropy: the data have no {p.split} split; give isotropy:split=train"
            )
        times = torch.arange(1, p.times + 1, dtype=torch.float64) / p.times
        times = times[process.noise_gain(times) <= MAX_GAIN]
        indices = spaced(len(split), p.num)
        device = model.device
        powers, errors, levels = torch.zeros(3, len(times)).double()
        for places in torch.arange(len(indices)).split(p.batch_size):
            batch = split.batch(indices[places])
            x0, cond = batch.x.to(device), model.task.cond(batch)
            cond = None if cond is None else cond.to(device)
            told = noise.given(cond)
            for k, time in enumerate(times):
                t = time.to(device).expand(len(x0))
                drawn = draws.latents(
                    noise, model.shape, p.seed, Stream.BOUND, places.tolist(), k, device
                )
                eps = told.color(drawn, t)
                x_t = add_noise(process, x0, eps, t)
                eps_hat = model.predict(x_t, t, cond).eps_hat
                powers[k] += eps_hat.double().square().flatten(1).mean(1).sum().cpu()
                levels[k] += told.mean_square(t).double().sum().cpu()
                errors[k] += (eps_hat - eps).double().square().flatten(1).mean(1).sum().cpu()
        numbers = {
            "isotropy-gap": float(((powers - levels) / len(indices)).abs().mean()),
            "eps-mse": float(errors.mean() / len(indices)),
        }
        best = optimum(model, data, times)
        if best is not None:
            numbers["gap-gaussian"] = sum(best.error) / len(times)
        self._notes = [
            f"isotropy-gap: {len(indices):,} of {p.split}, {len(times)} times"
            + (
                ""
                if best
                else "; no Gaussian optimum: it needs a linear Gaussian noise and at most 3,072 "
                "numbers a sample"
            )
        ]
        return numbers
