"""Metrics that torch-fidelity computes: FID, KID, the Inception score, precision and recall, and
their kin elsewhere.

Its functions of features are called, with its seeds, so the numbers are its own. FID, KID and the
Inception score are names for numbers in Inception's space; in another space the same distances are
``fd-SPACE`` and ``kd-SPACE``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.data import unit_range
from noisereg.errors import NoiseregError
from noisereg.metrics import (
    FidParams,
    FrechetParams,
    InceptionScoreParams,
    KernelDistanceParams,
    PrecisionRecallParams,
)


def moments(features: Tensor) -> Tensor:
    """Mean and covariance of features (N, D), as torch-fidelity takes them: (D + 1, D) float64,
    the mean first.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics = fid_features_to_statistics(features)
    dimension = features.shape[1]
    # Σ of one feature is a number
    rows = [
        statistics["mu"].reshape(1, dimension),
        statistics["sigma"].reshape(dimension, dimension),
    ]
    return torch.from_numpy(np.concatenate(rows))


def distance_of_moments(a: Tensor, b: Tensor) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of two :func:`moments` (Heusel et al. 2017, eq. 6)."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first, second = ({"mu": m[0].numpy(), "sigma": m[1:].numpy()} for m in (a, b))
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """That of features (N, D) and (M, D)."""
    return distance_of_moments(moments(a), moments(b))


def kernel_distance(a: Tensor, b: Tensor, params: KernelDistanceParams, name: str) -> float:
    """The unbiased MMD² with the kernel (x·y/D + 1)³, averaged over subsets (Bińkowski et al.
    2018).
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    _check_subsets(len(a), len(b), params, name)
    computed = kid_features_to_metric(
        a, b, kid_subsets=params.subsets, kid_subset_size=params.subset_size, verbose=False
    )
    return computed[KEY_METRIC_KID_MEAN]


def _check_subsets(samples: int, reference: int, p: KernelDistanceParams, name: str) -> None:
    smallest = min(samples, reference)
    if smallest < p.subset_size:
        raise NoiseregError(
            f"{name} averages over subsets of {p.subset_size} samples and there are {smallest}; "
            f"give {name}:subset_size={max(2, smallest // 2)}, or more samples"
        )


def _check_two(samples: int, reference: int) -> None:
    for name, count in (("generated", samples), ("reference", reference)):
        if count < 2:
            raise NoiseregError(f"the {name} set has {count} samples; expected at least 2")


def _finite(values: Tensor, name: str) -> Tensor:
    if not values.isfinite().all():
        raise NoiseregError(f"the {name} set has features that are not finite (inf or nan)")
    return values


def _both(samples: Tensor, reference: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    _check_two(len(samples), len(reference))
    a, b = unit_range(features(samples)), unit_range(features(reference))
    return _finite(a, "generated"), _finite(b, "reference")


class _Frechet(Metric):
    """Says when there are too few samples for the covariance."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def distance(self, samples: Tensor, reference: Tensor, features: Features, name: str) -> float:
        self.check_counts(len(samples), len(reference))
        own = moments(_finite(unit_range(features(samples)), "generated"))
        real = features.statistic(
            reference,
            "moments",
            {"version": 1},
            lambda: moments(_finite(unit_range(features(reference)), "reference")),
        )
        fewest, dimension = min(len(samples), len(reference)), own.shape[1]
        self._notes = (
            [
                f"{name}: {fewest:,} samples for {dimension:,} features leave covariances "
                "singular; the distance is biased"
            ]
            if fewest <= dimension
            else []
        )
        return distance_of_moments(own, real)

    def check_counts(self, samples: int, reference: int) -> None:
        _check_two(samples, reference)

    def notes(self) -> list[str]:
        return self._notes


class FID(_Frechet):
    """Fréchet Inception distance (Heusel et al. 2017, arXiv 1706.08500)."""

    space = "inception"
    better = {"fid": "lower"}

    def __init__(self, params: FidParams, ctx: Context) -> None:
        super().__init__()

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        return {"fid": self.distance(samples, reference, features, "fid")}


class FrechetDistance(_Frechet):
    """The same distance in any space, under that space's name: ``fd-pixels``; pixels in [−1,
    1].
    """

    def __init__(self, params: FrechetParams, ctx: Context) -> None:
        super().__init__()
        self.better: Mapping[str, str] = {}

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        name = f"fd-{features.name}"
        self.better = {name: "lower"}
        return {name: self.distance(samples, reference, features, name)}


class KID(Metric):
    """Kernel Inception distance (Bińkowski et al. 2018, arXiv 1801.01401)."""

    space = "inception"
    better = {"kid": "lower"}

    def __init__(self, params: KernelDistanceParams, ctx: Context) -> None:
        self.params = params

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        return {"kid": kernel_distance(*_both(samples, reference, features), self.params, "kid")}

    def check_counts(self, samples: int, reference: int) -> None:
        _check_subsets(samples, reference, self.params, "kid")


class KernelDistance(Metric):
    """The same distance in any space, under that space's name: ``kd-pixels``; pixels in [−1,
    1].
    """

    def __init__(self, params: KernelDistanceParams, ctx: Context) -> None:
        self.params = params
        self.better: Mapping[str, str] = {}

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        name = f"kd-{features.name}"
        self.better = {name: "lower"}
        return {name: kernel_distance(*_both(samples, reference, features), self.params, "kd")}

    def check_counts(self, samples: int, reference: int) -> None:
        _check_subsets(samples, reference, self.params, "kd")


class InceptionScore(Metric):
    """exp E KL(p(y|x) ‖ p(y)) (Salimans et al. 2016, arXiv 1606.03498); uses no reference."""

    space = "inception"
    better = {"is": "higher"}

    def __init__(self, params: InceptionScoreParams, ctx: Context) -> None:
        self.params = params

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        self.check_counts(len(samples), len(reference))
        logits = features.logits(features(samples))
        return {"is": isc_features_to_metric(logits, self.params.splits)[KEY_METRIC_ISC_MEAN]}

    def check_counts(self, samples: int, reference: int) -> None:
        if samples < self.params.splits:
            raise NoiseregError(
                f"is averages over {self.params.splits} splits and there are {samples} samples; "
                f"give is:splits={max(1, samples // 2)}, or more samples"
            )


class PrecisionRecall(Metric):
    """Kynkäänniemi et al. 2019 (arXiv 1904.06991) as torch-fidelity counts it: ``≤``, k = 3."""

    better = {"pr-precision": "higher", "pr-recall": "higher"}

    def __init__(self, params: PrecisionRecallParams, ctx: Context) -> None:
        self.params = params

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        from torch_fidelity.metric_prc import (
            KEY_METRIC_PRECISION,
            KEY_METRIC_RECALL,
            prc_features_to_metric,
        )

        self.check_counts(len(samples), len(reference))
        a, b = _both(samples, reference, features)
        # float64: torch.cdist expands the square for large sets, which cancels in float32
        computed = prc_features_to_metric(
            a.to(torch.float64),
            b.to(torch.float64),
            prc_neighborhood=self.params.k,
            prc_batch_size=2000,
            save_cpu_ram=True,
            verbose=False,
        )
        return {
            "pr-precision": computed[KEY_METRIC_PRECISION],
            "pr-recall": computed[KEY_METRIC_RECALL],
        }

    def check_counts(self, samples: int, reference: int) -> None:
        fewest, k = min(samples, reference), self.params.k
        if fewest <= k:
            raise NoiseregError(f"pr with k={k} needs more than {k} samples, not {fewest}")
