"""Metrics that torch-fidelity computes: FID, KID, the Inception score, precision and recall, and
their kin elsewhere.

Its functions of features are called, with its seeds, so the numbers are its own. FID, KID and the
Inception score are names for numbers in Inception's space; in another space the same distances are
``fd-SPACE`` and ``kd-SPACE``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.data import unit_range
from noisereg.errors import NoiseregError
from noisereg.features.spaces import Space
from noisereg.metrics import (
    FidParams,
    FrechetParams,
    InceptionScoreParams,
    KernelDistanceParams,
    PrecisionRecallParams,
)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of features (N, D) and (M, D) (Heusel et al. 2017, eq.
    6).
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    first, second = (fid_features_to_statistics(v) for v in (a, b))
    # Σ of one feature is a number; torch-fidelity expects a matrix
    first, second = (
        {"mu": s["mu"], "sigma": s["sigma"].reshape(a.shape[1], a.shape[1])}
        for s in (first, second)
    )
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def kernel_distance(a: Tensor, b: Tensor, params: KernelDistanceParams, name: str) -> float:
    """The unbiased MMD² with the kernel (x·y/D + 1)³, averaged over subsets (Bińkowski et al.
    2018).
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    smallest = min(len(a), len(b))
    if smallest < params.subset_size:
        raise NoiseregError(
            f"{name} averages over subsets of {params.subset_size} samples and there are "
            f"{smallest}; "
            f"give {name}:subset_size={max(2, smallest // 2)}, or more samples"
        )
    found = kid_features_to_metric(
        a, b, kid_subsets=params.subsets, kid_subset_size=params.subset_size, verbose=False
    )
    return found[KEY_METRIC_KID_MEAN]


def _both(samples: Tensor, reference: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    a, b = unit_range(features(samples)), unit_range(features(reference))
    for name, values in (("generated", a), ("reference", b)):
        if len(values) < 2:
            raise NoiseregError(f"the {name} set has {len(values)} samples; expected at least 2")
        if not values.isfinite().all():
            raise NoiseregError(f"the {name} set has features that are not finite (inf or nan)")
    return a, b


class _Frechet(Metric):
    """Says when there are too few samples for the covariance."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def distance(self, samples: Tensor, reference: Tensor, features: Features, name: str) -> float:
        a, b = _both(samples, reference, features)
        fewest, dimension = min(len(a), len(b)), a.shape[1]
        self._notes = (
            [
                f"{name}: {fewest:,} samples for {dimension:,} features leave covariances "
                "singular; the distance is biased"
            ]
            if fewest <= dimension
            else []
        )
        return frechet_distance(a, b)

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


class InceptionScore(Metric):
    """exp E KL(p(y|x) ‖ p(y)) (Salimans et al. 2016, arXiv 1606.03498); uses no reference."""

    space = "inception"
    better = {"is": "higher"}

    def __init__(self, params: InceptionScoreParams, ctx: Context) -> None:
        self.params = params

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        if len(samples) < self.params.splits:
            raise NoiseregError(
                f"is averages over {self.params.splits} splits and there are {len(samples)} "
                "samples; "
                f"give is:splits={max(1, len(samples) // 2)}, or more samples"
            )
        assert isinstance(features, Space)
        logits = features.logits(features(samples))
        return {"is": isc_features_to_metric(logits, self.params.splits)[KEY_METRIC_ISC_MEAN]}


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

        a, b = _both(samples, reference, features)
        fewest = min(len(a), len(b))
        if fewest <= self.params.k:
            raise NoiseregError(
                f"pr with k={self.params.k} needs more than {self.params.k} samples, not {fewest}"
            )
        # float64: torch.cdist expands the square for large sets, which cancels in float32
        found = prc_features_to_metric(
            a.to(torch.float64),
            b.to(torch.float64),
            prc_neighborhood=self.params.k,
            prc_batch_size=2000,
            save_cpu_ram=True,
            verbose=False,
        )
        return {"pr-precision": found[KEY_METRIC_PRECISION], "pr-recall": found[KEY_METRIC_RECALL]}
