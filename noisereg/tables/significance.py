"""Intervals, tests and power over seeds, by ``scipy.stats``. Imports no torch.

Numbers that are not finite have no interval and no test, and no warning of NumPy or SciPy leaves
this module.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noisereg.tables.table import Verdict

ALPHA = 0.05
FEWEST = 3
"""Seeds from which on a mean has an interval and a difference a test."""
POWER = 0.8
"""The share of cases in which the difference that a table names would be found."""
ROUNDING = 1e-12
"""Differences below this part of the numbers' size are their rounding."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What NumPy and SciPy would warn of, the callers look for themselves."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; infinite or NaN where the numbers are, or their sum is."""
    with _quiet():
        return float(np.mean(values))


def half_width(values: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of a mean; None below three values, and where it is not
    finite.
    """
    n = len(values)
    if n < FEWEST:
        return None
    with _quiet():
        half = _quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return half if math.isfinite(half) else None


@functools.lru_cache(maxsize=1024)
def _quantile(freedom: int) -> float:
    """Of Student's distribution, for a two-sided 95 % interval."""
    from scipy import stats

    return float(stats.t.ppf(1 - ALPHA / 2, freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


@dataclass(frozen=True)
class Test:
    """A difference between two configurations, and what a t test says of it."""

    verdict: Verdict | None
    """Why there is no p; None where there is one."""
    difference: float
    n: int
    """Pairs, or the smaller of two sets."""
    paired: bool = True
    p: float | None = None
    error: float = 0.0
    """Standard error of the difference."""
    freedom: float = 0.0
    """Degrees of freedom of the test; not a whole number in Welch's."""


def difference_test(
    row: Mapping[str, float], base: Mapping[str, float], size: float = 0.0
) -> Test:
    """Student's test of row − base, paired over shared seeds; Welch's where there are none to
    share. ``size`` is that of the numbers which the difference is of, where it is greater than
    what is given: their rounding is no difference."""
    from scipy import stats

    shared = [seed for seed in row if seed in base and seed]
    paired = bool(shared)
    if paired:
        a, b = (np.array([v[s] for s in shared]) for v in (row, base))
        n = len(shared)
    else:
        a, b = np.array(list(row.values())), np.array(list(base.values()))
        n = min(len(a), len(b))
    with _quiet():
        difference = float((a - b).mean() if paired else a.mean() - b.mean())
        if not math.isfinite(difference):
            return Test("not finite", difference, n, paired)
        rounding = ROUNDING * float(max(np.abs(a).max(), np.abs(b).max(), size))
        if paired:
            spread = float(np.ptp(a - b))
            largest = float(np.abs(a - b).max())
            error = float(np.std(a - b, ddof=1) / math.sqrt(n)) if n > 1 else 0.0
        else:
            spread = error = float(
                math.hypot(*(np.std(x, ddof=1) / math.sqrt(len(x)) for x in (a, b)))
                if n > 1
                else 0.0
            )
            largest = abs(difference)
        if spread <= rounding and (n >= FEWEST or (paired and largest == 0)):
            return Test("identical" if largest <= rounding else "constant", difference, n, paired)
        if n < FEWEST:
            return Test("too few seeds", difference, n, paired)
        result = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
        p, freedom = float(result.pvalue), float(result.df)
    if not (math.isfinite(p) and math.isfinite(error)):  # squares beyond a float's range
        return Test("not finite", difference, n, paired)
    return Test(None, difference, n, paired, p, error, freedom)


def found_with_power(t: Test, family: int) -> float:
    """The true difference that a test like ``t`` would find in 80 % of cases (:data:`POWER`), as
    the strongest of ``family`` comparisons (Holm's first step), if differences spread as they did.
    """
    return noncentrality(round(t.freedom, 1), family) * t.error


@functools.lru_cache(maxsize=1024)
def noncentrality(freedom: float, family: int) -> float:
    """The true difference, in its standard errors, at which a two-sided t test at 5 % / ``family``
    rejects in 80 % of cases: from the noncentral t distribution.
    """
    from scipy import optimize, stats

    with _quiet():
        critical = float(stats.t.isf(ALPHA / (2 * family), freedom))

        def excess(delta: float) -> float:
            rejected = stats.nct.sf(critical, freedom, delta)
            return float(rejected) - POWER

        # at twice the critical value and more, nearly all cases are beyond it
        return float(optimize.brentq(excess, 0.0, 2 * critical + 5))
