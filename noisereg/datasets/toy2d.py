"""The four two-dimensional sets of Iso-Diffusion (arXiv 2403.16790), in both versions of the
authors' public code.

Each class gives points in the plane; the base class scales them and splits them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from noisereg.api import Context
from noisereg.datasets import PointsParams
from noisereg.datasets.splits import PointSplit, TwoSplits

POPULATION = 10_000
"""The sets are defined by counts out of 10,000 points (9,500 and 500, …). Fewer are a random part
of so many, so that even one point is drawn from the whole set and not from its first component."""


class Points(TwoSplits):
    """A set of points in the plane, min-max scaled to [−1, 1] per axis.

    Held-out and fresh points come from the same distribution and are scaled with the *training
    set's* minimum and maximum, so that they can lie a little outside [−1, 1].
    """

    def __init__(self, params: PointsParams, ctx: Context) -> None:
        self.params = params
        self.shape = (2,)
        self.device = torch.device(ctx.device)
        train_source, heldout_source = (
            np.random.default_rng([params.seed, part]) for part in range(2)
        )
        points = self._draw(params.n, train_source)
        self._low, self._high = points.min(0), points.max(0)
        self.train = PointSplit(self._scaled(points))
        self.heldout = PointSplit(self.fresh(max(1, params.n // 10), heldout_source))
        self.summary = (
            f"{len(self.train):,} points of 2 numbers ({len(self.heldout):,} held out), in memory"
        )

    def points(self, n: int, generator: Generator) -> ndarray:
        """(n, 2), unscaled, n ≥ :data:`POPULATION`, in any order."""
        raise NotImplementedError

    def fresh(self, n: int, generator: Generator) -> Tensor:
        """``n`` new points (n, 2), float32, scaled as the training points are."""
        return self._scaled(self._draw(n, generator))

    def _draw(self, n: int, generator: Generator) -> ndarray:
        points = self.points(max(n, POPULATION), generator)
        return points[generator.permutation(len(points))[:n]]

    def _scaled(self, points: ndarray) -> Tensor:
        unit = 2 * (points - self._low) / (self._high - self._low) - 1
        return torch.from_numpy(unit).to(device=self.device, dtype=torch.float32)


def crescent(n: int, generator: Generator) -> ndarray:
    """``n`` points of the first crescent of scikit-learn's ``make_moons(noise=0.1)``."""
    from sklearn.datasets import make_moons

    return make_moons((n, 0), noise=0.1, random_state=_seed(generator))[0]


def _seed(generator: Generator) -> int:
    """scikit-learn takes no ``Generator``."""
    return int(generator.integers(2**32))


def _polar(r: ndarray, theta: ndarray) -> ndarray:
    return np.stack((r * np.cos(theta), r * np.sin(theta)), 1)


class SwissRoll(Points):
    """``make_swiss_roll``, columns 0 and 2; noise 0.5 (version 2: 0.1)."""

    def points(self, n: int, generator: Generator) -> ndarray:
        from sklearn.datasets import make_swiss_roll

        noise = 0.5 if self.params.version == 1 else 0.1
        return make_swiss_roll(n, noise=noise, random_state=_seed(generator))[0][:, [0, 2]]


class ScatteredMoon(Points):
    """95 % a crescent, 5 % copies of its points moved by N(0, 0.3²) per axis; both versions."""

    def points(self, n: int, generator: Generator) -> ndarray:
        scattered = n // 20
        moon = crescent(n - scattered, generator)
        copies = moon[generator.choice(len(moon), scattered, replace=False)]
        return np.concatenate((moon, copies + generator.normal(scale=0.3, size=copies.shape)))


class MoonCircles(Points):
    """90 % a crescent, and two discs of 5 % each: radius 0.2·√U + 0.05·N about (∓1.5, −1) (version
    2: (∓1, −0.75)).
    """

    def points(self, n: int, generator: Generator) -> ndarray:
        count = n // 20
        x, y = (1.5, -1.0) if self.params.version == 1 else (1.0, -0.75)
        discs = []
        for centre in ((-x, y), (x, y)):
            radius = 0.2 * np.sqrt(generator.random(count)) + generator.normal(
                scale=0.05, size=count
            )
            discs.append(centre + _polar(radius, 2 * np.pi * generator.random(count)))
        return np.concatenate((crescent(n - 2 * count, generator), *discs))


class CentralBanana(Points):
    """95 % a spiral arm r = e^(−kθ)(1 + 2 sin θ), θ ~ Exp(scale 0.25), with uniform jitter; 5 % a
    blob inside it.

    Version 1: k = 0.5, jitter of width 0.3·(1 − r); blob θ ~ N(π/3, 0.5²), r = 0.5·U(0.5, 0.8),
    moved by N(0, 0.05²). Version 2: k = 0.6, width 0.3·(1 − r/2); blob θ ~ N(π/3, 0.1²), r =
    U(0.5, 0.7), moved by N((−0.5, −0.25), 0.06²). The jitter is centred; where r > 1 makes its
    width negative, only the size counts.
    """

    def points(self, n: int, generator: Generator) -> ndarray:
        first = self.params.version == 1
        count = n // 20
        theta = generator.exponential(0.25, n - count)
        r = np.exp(-(0.5 if first else 0.6) * theta) * (1 + 2 * np.sin(theta))
        width = 0.3 * (1 - (r if first else r / 2))
        arm = _polar(r, theta) + width[:, None] * generator.uniform(-0.5, 0.5, (n - count, 2))
        if first:
            theta = generator.normal(np.pi / 3, 0.5, count)
            blob = _polar(0.5 * generator.uniform(0.5, 0.8, count), theta)
            blob += generator.normal(scale=0.05, size=blob.shape)
        else:
            theta = generator.normal(np.pi / 3, 0.1, count)
            blob = _polar(generator.uniform(0.5, 0.7, count), theta)
            blob += generator.normal((-0.5, -0.25), 0.06, blob.shape)
        return np.concatenate((arm, blob))
