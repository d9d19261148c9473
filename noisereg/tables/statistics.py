"""Intervals and tests over seeds. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noisereg.tables.table import Verdict

ALPHA = 0.05
FEWEST = 3
"""Seeds from which on a mean has an interval and a difference a test."""
ENOUGH = 5
"""Seeds below which the table says what it could not have seen."""


def half_width(values: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of a mean; None below three values."""
    from scipy import stats

    n = len(values)
    if n < FEWEST:
        return None
    return float(stats.t.ppf(1 - ALPHA / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def _constant(differences: np.ndarray, scale: float) -> bool:
    """Whether differences vary by no more than rounding."""
    return bool(np.ptp(differences) <= 1e-12 * scale)


@dataclass(frozen=True)
class Test:
    verdict: Verdict | None
    difference: float
    n: int
    paired: bool = True
    p: float | None = None
    error: float = 0.0
    """Standard error of the difference."""
    freedom: float = 0.0


def difference_test(
    row: Mapping[str, float], base: Mapping[str, float], size: float = 0.0
) -> Test:
    """Student's test of row − base, paired over shared seeds; Welch's where there are none to
    share. ``size`` is that of the numbers which the difference is of, where it is greater than
    what is given: their rounding is no difference."""
    from scipy import stats

    shared = [seed for seed in row if seed in base and seed]
    if shared:
        a, b = (np.array([v[s] for s in shared]) for v in (row, base))
        d = a - b
        n, difference = len(d), float(d.mean())
        scale = float(max(np.abs(a).max(), np.abs(b).max(), size))
        if _constant(d, scale) and (n >= FEWEST or not d.any()):
            return Test(
                "identical" if np.abs(d).max() <= 1e-12 * scale else "constant", difference, n
            )
        if n < FEWEST:
            return Test("too few seeds", difference, n)
        error = float(d.std(ddof=1) / math.sqrt(n))
        freedom = float(n - 1)
        paired = True
    else:
        a, b = np.array(list(row.values())), np.array(list(base.values()))
        n, difference, paired = min(len(a), len(b)), float(a.mean() - b.mean()), False
        if n < FEWEST:
            return Test("too few seeds", difference, n, paired)
        u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        error = math.sqrt(u + v)
        if error <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):
            return Test(
                "identical" if abs(difference) <= 1e-12 * np.abs(a).max() else "constant",
                difference,
                n,
                paired,
            )
        freedom = float((u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)))
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return Test(None, difference, n, paired, p, error, freedom)


def detectable(t: Test, family: int) -> float:
    """The smallest difference that would be significant as the largest effect of ``family``
    comparisons (Holm's first step).
    """
    from scipy import stats

    return float(stats.t.ppf(1 - ALPHA / (2 * family), t.freedom) * t.error)
