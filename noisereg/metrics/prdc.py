"""Precision, recall, density and coverage in bounded memory (Naeem et al. 2020, arXiv 2002.09797).

The ``prdc`` package builds whole N×N matrices (its peak is over 30 GiB at 50,000 points). Two
passes over blocks give the same numbers: the first finds each point's radius, the distance to its
k-th nearest neighbour in its own set; the second counts who lies within whose radius, ``<`` as in
the package.

All that is asked is whether one distance is smaller than another, and nearly always a product in
float32 can tell: it gives each distance between two bounds that its rounding cannot leave. The few
pairs whose bounds overlap what they are compared with are computed as ‖x − y‖, in float64. So the
answer is exact, at half the price of products in float64 and without sorting. Where float32 leaves
too much open (an outlier, or clusters that are small beside the distance between them), the
products are made in float64, in the same way.

Distances follow the package (that is, scikit-learn): of float32 features they are rounded to
float32, of integers they are exact, so that ties fall as they do there. Two things are better than
there: a large common mean costs no digits, and exact duplicates are at distance 0 rather than at a
rounding error.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.errors import NoiseregError
from noisereg.memory import free_device_memory, free_host_memory
from noisereg.metrics import PrdcParams

EQUAL = 1.2
"""Ratio of the two sets' sizes from which the numbers are said to depend on it."""
BLOCK = 1024
"""Points in a block: one of 2,048 features takes 8 MiB in float32, and a block of distances 4."""
FACTORS = 2**28
"""Bytes of factors that a set keeps, on a GPU an eighth of what is free if that is more; of a
larger set they are made anew for each product.
"""
SPARE = 8
"""Neighbours that are remembered beyond the k nearest, for bounds that overlap."""
SEED = 512
"""Points of a first block that are ranked; of what comes later only what is nearer is."""
PAIRS = 64
"""Pairs whose distances are computed at once: 1 MiB in float64 at 2,048 features."""
OPEN = 1 / 16
"""Share of a block's pairs left open from which it is multiplied again, in float64."""


@dataclass(frozen=True)
class Manifolds:
    """What the two passes found, from which the four numbers and Iso-Diffusion's Figures 4 to 6
    are made.
    """

    real_radii: Tensor
    """(N,): the distance from each real point to its k-th nearest real one."""
    fake_radii: Tensor
    """(M,)"""
    spans: Tensor
    """(M,) int64: how many real points' neighbourhoods hold each generated point."""
    recalled: Tensor
    """(N,) bool: whether a real point lies in any generated point's neighbourhood."""
    covered: Tensor
    """(N,) bool: whether any generated point lies in a real point's neighbourhood."""
    k: int

    def numbers(self) -> dict[str, float]:
        return {
            "precision": (self.spans > 0).double().mean().item(),
            "density": self.spans.double().mean().item() / self.k,
            "recall": self.recalled.double().mean().item(),
            "coverage": self.covered.double().mean().item(),
        }


class _Points:
    """One set of features: its blocks as factors of products, and distances between its points.

    Half of a squared distance is one inner product: ½‖x − y‖² = (−x, 1, ½‖x‖²)·(y, ½‖y‖², 1).
    """

    def __init__(
        self, features: Tensor, centre: Tensor, scale: float, rounded: bool, device: torch.device
    ) -> None:
        self.features, self.centre, self.scale = features, centre, scale
        self.rounded, self.device, self.width = rounded, device, features.shape[1]
        squares = [
            torch.linalg.vector_norm(self._centred(where, torch.float64), dim=1).square()
            for where in self.places()
        ]
        self.square = torch.cat(squares)
        if not features.is_floating_point():
            self.square.round_()
        self.largest_integer = math.inf
        """The largest ‖x‖² of both sets, where they are integers."""
        self._factors: dict[tuple[int, torch.dtype], Tensor] = {}
        self._kept = max(FACTORS, free_device_memory(device) // 8)

    def __len__(self) -> int:
        return len(self.features)

    def places(self, start: int = 0) -> Iterator[slice]:
        for i in range(start, len(self), BLOCK):
            yield slice(i, min(i + BLOCK, len(self)))

    def _centred(
        self, where: slice | Tensor, dtype: torch.dtype, out: Tensor | None = None
    ) -> Tensor:
        """Into ``out``, if it is given."""
        rows = self.features[
            where.to(self.features.device) if isinstance(where, Tensor) else where
        ]
        rows = rows.to(self.device)
        if not rows.is_floating_point() or dtype == torch.float64:
            rows = rows.to(dtype)
        if rows.dtype != dtype:  # float64 in float32, once it is centred
            rows = (rows - self.centre.to(rows)).mul_(self.scale).to(dtype)
            return rows if out is None else out.copy_(rows)
        rows = torch.sub(rows, self.centre.to(rows), out=out)
        return rows.mul_(self.scale) if self.scale != 1 else rows

    def slack(self, dtype: torch.dtype) -> Tensor:
        """(N,): the part that each point has in how far a product in ``dtype`` can be from half of
        a squared distance, which is the sum of two points' parts.

        A sum of n terms in any order is off by at most n·u·Σ|terms| (Higham 2002, §3.1), here
        Σ|terms| ≤ ‖x‖² + ‖y‖². What is added to n is for the factors' own rounding and for n·u
        beside 1, and what float64 adds for that of :meth:`distances`. Of integers whose halves of
        sums all fit, nothing is rounded.
        """
        if 4 * self.largest_integer * torch.finfo(dtype).eps < 1:
            return torch.zeros_like(self.square)
        units = (torch.finfo(dtype).eps + torch.finfo(torch.float64).eps) / 2
        terms = 1.1 * self.width + 8
        return terms * (units * self.square + torch.finfo(dtype).tiny)

    def right(self, where: slice | Tensor, slack: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, D + 2): the second factor of a block; ``slack`` of all points is taken off, so that
        the product is a lower bound.
        """
        key = (where.start, dtype) if isinstance(where, slice) else None
        if key in self._factors:
            return self._factors[key]
        halves = (self.square[where] / 2 - slack[where]).to(dtype)
        factor = torch.empty(len(halves), self.width + 2, dtype=dtype, device=self.device)
        self._centred(where, dtype, out=factor[:, :-2])
        factor[:, -2], factor[:, -1] = halves, 1
        if key is not None and len(self) * factor[0].nbytes <= self._kept:
            self._factors[key] = factor
        return factor

    def left(self, where: slice | Tensor, slack: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, D + 2): the first."""
        right = self.right(where, slack, dtype)
        left = right.neg()
        left[:, -2], left[:, -1] = 1, right[:, -2]
        return left

    def round(self, distances: Tensor) -> Tensor:
        """Distances in float64 as the package has them."""
        return distances.square().float().sqrt() if self.rounded else distances

    def of_half_squares(self, halves: Tensor) -> Tensor:
        """Distances from halves of their squares, of centred and scaled features."""
        return self.round((halves.double() * 2).clamp_(min=0).sqrt_() / self.scale)

    def distances(self, p: Tensor, other: _Points, q: Tensor) -> Tensor:
        """‖x_p − y_q‖ for each pair; a pair's is the same in whatever company."""
        lengths = torch.empty(len(p), dtype=torch.float64, device=self.device)
        p, q = p.to(self.features.device), q.to(self.features.device)
        for i in range(0, len(p), PAIRS):
            x = self.features[p[i : i + PAIRS]].to(self.device, torch.float64)
            x -= other.features[q[i : i + PAIRS]].to(self.device)
            x = x.expand(max(2, len(x)), -1)  # one row alone would be summed in another order
            lengths[i : i + PAIRS] = torch.linalg.vector_norm(x, dim=1)[: len(p) - i]
        return self.round(lengths)


class _Nearest:
    """The points of smallest lower bounds for each of some rows."""

    def __init__(self, rows: int, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.bounds = torch.full((rows, count), torch.inf, dtype=dtype, device=device)
        """(rows, count), ascending: lower bounds of half the squared distances."""
        self.columns = torch.zeros(rows, count, dtype=torch.int64, device=device)

    def offer(self, where: slice, bounds: Tensor, start: int) -> None:
        """A block of bounds of the rows ``where`` and the columns from ``start``."""
        if torch.isinf(self.bounds[where, -1]).any():
            count = min(self.bounds.shape[1], bounds[:, :SEED].shape[1])
            first = bounds[:, :SEED].topk(count, dim=1, largest=False)
            self._merge(where, first.values, first.indices + start)
            bounds, start = bounds[:, SEED:], start + SEED
        nearer = bounds < self.bounds[where, -1:]
        # Along the memory of the block, whichever way it lies.
        upright = bounds.stride(1) == 1
        row, column = (nearer if upright else nearer.T).nonzero().unbind(1)
        if not upright:
            order = column.argsort(stable=True)
            row, column = column[order], row[order]
        counts = row.bincount(minlength=len(bounds))
        width = int(counts.max()) if len(row) else 0
        if not width:
            return
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        values = bounds.new_full((len(bounds), width), torch.inf)
        columns = torch.zeros_like(values, dtype=torch.int64)
        values[row, place] = bounds[row, column]
        columns[row, place] = column + start
        self._merge(where, values, columns)

    def _merge(self, where: slice, bounds: Tensor, columns: Tensor) -> None:
        bounds = torch.cat([self.bounds[where], bounds], 1)
        columns = torch.cat([self.columns[where], columns], 1)
        self.bounds[where], best = bounds.topk(self.bounds.shape[1], dim=1, largest=False)
        self.columns[where] = columns.gather(1, best)


def _dtypes(device: torch.device) -> Iterator[torch.dtype]:
    """In which products are tried; float32 only where the products are in float32."""
    if device.type == "cpu":
        narrow = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    else:
        narrow = torch.backends.cuda.matmul.fp32_precision
    if narrow in ("none", "ieee") and torch.get_float32_matmul_precision() == "highest":
        yield torch.float32
    yield torch.float64


def _radii(points: _Points, k: int) -> Tensor:
    """The distance from each point to its k-th nearest neighbour among the others, (N,)."""
    radii = points.round(torch.full((len(points),), torch.inf, dtype=torch.float64))
    radii = radii.to(points.device)
    left = torch.arange(len(points), device=points.device)
    for dtype in _dtypes(points.device):
        slack = points.slack(dtype)
        nearest = _Nearest(len(left), min(k + SPARE, len(points) - 1), dtype, points.device)
        if len(left) == len(points):
            _offer_all(points, nearest, slack, dtype)
        else:
            _offer_rows(points, left, nearest, slack, dtype)
        found, settled = _kth(points, left, nearest, slack, k)
        radii[left[settled]] = found[settled]
        left = left[~settled]
        if not len(left):
            return radii
    others = torch.arange(len(points), device=points.device)
    for i in left:  # float64 features that tie, or nearly
        others_of = others[others != i]
        radii[i] = points.distances(i.expand(len(others_of)), points, others_of).kthvalue(k).values
    return radii


def _offer_all(points: _Points, nearest: _Nearest, slack: Tensor, dtype: torch.dtype) -> None:
    """Blocks below the diagonal are the transposes of those above it, so half are computed."""
    for i in points.places():
        x = points.left(i, slack, dtype)
        for j in points.places(i.start):
            bounds = x @ points.right(j, slack, dtype).T
            if i == j:
                bounds.fill_diagonal_(torch.inf)
            else:
                nearest.offer(j, bounds.T, i.start)
            nearest.offer(i, bounds, j.start)


def _offer_rows(
    points: _Points, rows: Tensor, nearest: _Nearest, slack: Tensor, dtype: torch.dtype
) -> None:
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        x = points.left(some, slack, dtype)
        for j in points.places():
            bounds = x @ points.right(j, slack, dtype).T
            here = (some >= j.start) & (some < j.stop)
            bounds[here.nonzero()[:, 0], some[here] - j.start] = torch.inf
            nearest.offer(slice(start, start + len(some)), bounds, j.start)


def _kth(
    points: _Points, rows: Tensor, nearest: _Nearest, slack: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k-th smallest distance of each row among those remembered, and whether it is that among
    all.

    It is at least the k-th lower bound and at most the k-th upper one. What lies below both is
    counted; what overlaps is computed, unless its bounds are one number when rounded.
    """
    lower = nearest.bounds.double()
    upper = lower + 2 * (slack[rows, None] + slack[nearest.columns])
    below = upper < lower[:, k - 1 : k]
    open_ = ~below & (lower <= upper.kthvalue(k, dim=1).values[:, None])
    distances = points.of_half_squares(lower)
    highest = points.of_half_squares(upper)
    unsure = open_ & (distances != highest)
    row, place = unsure.nonzero().unbind(1)
    distances[row, place] = points.distances(rows[row], points, nearest.columns[row, place])
    ranked = distances.masked_fill(~open_, torch.inf).sort(1).values
    found = ranked.gather(1, (k - 1 - below.sum(1))[:, None])[:, 0]
    whole = nearest.bounds.shape[1] == len(points) - 1
    settled = found <= points.of_half_squares(lower[:, -1])
    return found, torch.ones_like(settled) if whole else settled


class _Within:
    """Who lies within whose radius, block by block."""

    def __init__(
        self, real: _Points, fake: _Points, real_radii: Tensor, fake_radii: Tensor
    ) -> None:
        self.real, self.fake = real, fake
        self.real_radii, self.fake_radii = real_radii, fake_radii
        self.spans = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
        self.recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
        self.covered = torch.zeros_like(self.recalled)
        self._slack = {
            dtype: [s.slack(dtype) for s in (real, fake)] for dtype in _dtypes(real.device)
        }
        self._limits = [
            # Above what any distance below the radius can have as its lower bound.
            torch.where(
                radii > 0, (radii.double() * real.scale).square() * (0.5 + 2**-20), -torch.inf
            )
            for radii in (real_radii, fake_radii)
        ]

    def count(self) -> None:
        first, *wider = _dtypes(self.real.device)
        for i in self.real.places():
            x = self.real.left(i, self._slack[first][0], first)
            for j in self.fake.places():
                if not self._block(i, j, x, first, final=not wider):
                    y = self.real.left(i, self._slack[wider[0]][0], wider[0])
                    self._block(i, j, y, wider[0], final=True)

    def _block(self, i: slice, j: slice, x: Tensor, dtype: torch.dtype, final: bool) -> bool:
        """Count one block; unless ``final``, not one with too many pairs left open."""
        real_slack, fake_slack = self._slack[dtype]
        lower = x @ self.fake.right(j, fake_slack, dtype).T
        near = lower < self._limits[0][i, None].to(dtype)
        near |= lower < self._limits[1][None, j].to(dtype)
        row, column = near.nonzero().unbind(1)
        bounds = lower[row, column].double()
        p, q = row + i.start, column + j.start
        least = self.real.of_half_squares(bounds)
        distances = self.real.of_half_squares(bounds + 2 * (real_slack[p] + fake_slack[q]))
        open_ = torch.zeros_like(p, dtype=torch.bool)
        for radius in (self.real_radii[p], self.fake_radii[q]):
            open_ |= (least < radius) & (distances >= radius)
        if not final and int(open_.sum()) > OPEN * near.numel():
            return False
        distances[open_] = self.real.distances(p[open_], self.fake, q[open_])
        inside = distances < self.real_radii[p]
        self.spans += q[inside].bincount(minlength=len(self.fake))
        self.covered[p[inside]] = True
        self.recalled[p[distances < self.fake_radii[q]]] = True
        return True


def check_counts(samples: int, reference: int, k: int) -> None:
    """
    Raises:
        NoiseregError: for k or fewer points in either set.
    """
    for name, count in (("reference", reference), ("generated", samples)):
        if count <= k:
            raise NoiseregError(
                f"prdc with k={k} needs more than {k} samples and the {name} set has {count}; "
                f"raise `num`, or give prdc:k={max(1, count - 1)}"
            )


def manifolds(
    real: Tensor,
    fake: Tensor,
    k: int,
    device: torch.device | str = "cpu",
    kept: Callable[[str, Callable[[], Tensor]], Tensor] | None = None,
) -> Manifolds:
    """The two passes, over features (N, D) and (M, D) in uint8, float32 or float64.

    ``kept(distances, compute)`` may have the real points' radii from elsewhere: they are a matter
    of the real points alone, and of whether ``distances`` are float32 or float64.

    Beside the features it takes 0.1 GiB at 2,048 of them, whatever N and M are, and for each set
    that takes no more than ``FACTORS`` as much again.

    Raises:
        NoiseregError: for k or fewer points in either set, features of unequal width, or values
        that are not finite.
    """
    check_counts(len(fake), len(real), k)
    if real.shape[1] != fake.shape[1]:
        raise NoiseregError(
            f"the reference has {real.shape[1]} features a sample and the generated set "
            f"{fake.shape[1]}"
        )
    device = torch.device(device)
    if device.type == "mps":  # has no float64
        device = torch.device("cpu")
    rounded = torch.float32 in (real.dtype, fake.dtype)
    r, f = _sets(real, fake, rounded, device)
    if kept is None:
        real_radii = _radii(r, k)
    else:
        real_radii = kept("float32" if rounded else "float64", lambda: _radii(r, k).cpu()).to(
            device
        )
    fake_radii = _radii(f, k)
    within = _Within(r, f, real_radii, fake_radii)
    within.count()
    return Manifolds(
        real_radii.cpu(),
        fake_radii.cpu(),
        within.spans.cpu(),
        within.recalled.cpu(),
        within.covered.cpu(),
        k,
    )


def _sets(
    real: Tensor, fake: Tensor, rounded: bool, device: torch.device
) -> tuple[_Points, _Points]:
    """Both sets about one centre, at a scale at which float32 holds their squares.

    Raises:
        NoiseregError: for features that are not finite, or whose squares are not in float64.
    """
    centre = torch.stack([part.to(device).double().sum(0) for part in real.split(BLOCK)]).sum(
        0
    ) / len(real)
    integers = not (real.is_floating_point() or fake.is_floating_point())
    if integers:
        centre = centre.round()  # so that integers stay integers
    if rounded:
        centre = centre.float()  # the same number for both sets
    sets = [_Points(features, centre, 1.0, rounded, device) for features in (real, fake)]
    for name, points in zip(("reference", "generated"), sets, strict=True):
        if not points.square.isfinite().all():
            finite = all(part.isfinite().all() for part in points.features.split(BLOCK))
            wrong = "too large: float64 does not hold their squares"
            raise NoiseregError(
                f"the {name} set has features that are "
                f"{wrong if finite else 'not finite (inf or nan)'}; prdc cannot rank them"
            )
    largest = max(float(points.square.max()) for points in sets)
    if integers:
        for points in sets:
            points.largest_integer = largest
    elif largest and not 2.0**-60 < largest < 2.0**60:
        scale = 2.0 ** -round(math.log2(largest) / 2)
        sets = [_Points(features, centre, scale, rounded, device) for features in (real, fake)]
    return sets[0], sets[1]


def package_memory(n: int, m: int, dtype: torch.dtype) -> int:
    """Bytes that ``prdc`` takes at its peak: a matrix of distances, argpartition's int64 indices
    of it, and working space.

    Bytes a pair as measured at 10,000 and 20,000 points (docs/benchmarks.md).
    """
    return max(n, m) ** 2 * (14 if dtype == torch.float32 else 20)


def package_prdc(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The ``prdc`` package's own numbers, its print to stdout caught.

    Raises:
        NoiseregError: where its N×N matrices would not fit in memory.
    """
    from prdc import compute_prdc

    needed, free = package_memory(len(real), len(fake), real.dtype), free_host_memory()
    if needed > free:
        raise NoiseregError(
            f"prdc:backend=package builds N×N matrices: {needed / 2**30:.1f} GiB for "
            f"{max(len(real), len(fake)):,} "
            f"samples, and {free / 2**30:.1f} GiB is free; leave out backend=package, whose "
            "numbers are the same"
        )
    if min(len(real), len(fake)) <= k + 1:
        raise NoiseregError(
            f"prdc:backend=package with k={k} needs at least {k + 2} samples in each set"
        )
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = compute_prdc(real.cpu().numpy(), fake.cpu().numpy(), nearest_k=k)
    return {name: float(numbers[name]) for name in ("precision", "density", "recall", "coverage")}


class Prdc(Metric):
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), as
    in Iso-Diffusion's tables.
    """

    better = {"precision": "higher", "density": "higher", "recall": "higher", "coverage": "higher"}

    def __init__(self, params: PrdcParams, ctx: Context) -> None:
        self.params, self.device = params, ctx.device
        self._notes: list[str] = []

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        real, fake = features(reference), features(samples)
        if self.params.backend == "package":
            self._notes = []
            return package_prdc(real, fake, self.params.k)
        k = self.params.k

        def kept(distances: str, compute: Callable[[], Tensor]) -> Tensor:
            what = {"k": k, "distances": distances, "version": 2}
            return features.statistic(reference, "radii", what, compute)

        found = manifolds(real, fake, k, self.device, kept)
        self._notes = [*_remarks(found), *_unequal(len(fake), len(real))]
        return found.numbers()

    def check_counts(self, samples: int, reference: int) -> None:
        check_counts(samples, reference, self.params.k)

    def notes(self) -> list[str]:
        return self._notes


def _unequal(samples: int, reference: int) -> Iterator[str]:
    if max(samples, reference) > EQUAL * min(samples, reference):
        equal = f"num_reference={samples}" if samples < reference else f"num={reference}"
        yield (
            f"prdc: {samples:,} samples against {reference:,}: the four numbers depend on both "
            f"counts, coverage most of all; compare at these counts alone, or with {equal}"
        )


def _remarks(found: Manifolds) -> Iterator[str]:
    for name, radii in (("reference", found.real_radii), ("generated", found.fake_radii)):
        zero = int((radii == 0).sum())
        if zero == len(radii):
            yield (
                f"prdc: the {name} set is one point over and over: every radius is 0 and nothing "
                "lies within it"
            )
        elif zero:
            yield (
                f"prdc: {zero:,} of {len(radii):,} points of the {name} set have at least "
                f"{found.k} exact duplicates: "
                "their radius is 0 and nothing lies within it"
            )
