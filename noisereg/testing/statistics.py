"""Bounds for what is measured on draws, wide enough that a right component fails about once in a
million runs.

All draws of the kit have fixed seeds, so a component that passed passes again; the confidence is
that of the seeds' choice.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import kurtosistest, norm, skewtest
from torch import Tensor

ALPHA = 1e-6
"""The chance, over all comparisons of one check, at which a right component fails it."""
SAYS = (
    "a right component fails once in 10⁶ (z-test over independent draws, Bonferroni over the "
    "comparisons)"
)


def threshold(comparisons: int) -> float:
    """The |z| that one of so many standard normal numbers exceeds with chance :data:`ALPHA`."""
    return float(norm.isf(ALPHA / (2 * comparisons)))


def z_scores(values: Tensor, expected: Tensor | float) -> Tensor:
    """(mean − expected) / standard error, over the first dimension of independent values (N,
    …).
    """
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    gap = values.mean(0) - expected
    return gap / torch.where(error > 0, error, torch.where(gap == 0, 1.0, 1e-300))


def gaussian_p_value(projections: Tensor) -> float:
    """The smallest p-value, times the number of tests, of skewness and excess kurtosis of each
    column (N, D).

    D'Agostino's and Anscombe & Glynn's transforms, whose tails are right at the thousands of draws
    used here.
    """
    columns = projections.double().numpy()
    columns = columns[:, columns.std(0) > 1e-12]
    tests = [skewtest(columns).pvalue.min(), kurtosistest(columns).pvalue.min()]
    return float(min(tests) * 2 * columns.shape[1])
