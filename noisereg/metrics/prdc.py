"""Precision, recall, density and coverage in bounded memory (Naeem et al. 2020, arXiv 2002.09797).

The ``prdc`` package builds whole N×N matrices (its peak is over 30 GiB at 50,000 points). Two
passes over blocks give the same numbers: the first finds each point's radius, the distance to its
k-th nearest neighbour in its own set; the second counts who lies within whose radius, ``<`` as in
the package.

Distances follow the package (that is, scikit-learn): they are accumulated in float64; of float32
features they are rounded to float32, of integers they are exact, so that ties fall as they do
there. Two things are better than there: features are centred first, because ``‖x‖² − 2x·y + ‖y‖²``
cancels where the mean is large, and exact duplicates are at distance 0 rather than at a rounding
error.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.errors import NoiseregError
from noisereg.memory import free_host_memory
from noisereg.metrics import PrdcParams

EQUAL = 1.2
"""Ratio of the two sets' sizes from which the numbers are said to depend on it."""
BLOCK = 2048
"""Points in a block: one of 2,048 features takes 32 MiB in float64, as much as a block of
distances.
"""


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
    nearest_fake: Tensor
    """(N,): the distance from each real point to the nearest generated one."""
    k: int

    def numbers(self) -> dict[str, float]:
        return {
            "precision": (self.spans > 0).double().mean().item(),
            "density": self.spans.double().mean().item() / self.k,
            "recall": self.recalled.double().mean().item(),
            "coverage": (self.nearest_fake < self.real_radii).double().mean().item(),
        }


class _Points:
    """One set of features, handed out in float64 blocks."""

    def __init__(
        self,
        features: Tensor,
        centre: Tensor | None,
        identities: Tensor | None,
        device: torch.device,
    ) -> None:
        self.features, self.centre, self.device = features, centre, device
        self.identities = identities
        self.square = torch.cat([block.square().sum(1) for _, block in self.blocks()])

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, Tensor]]:
        for i in range(start, len(self), BLOCK):
            where = slice(i, min(i + BLOCK, len(self)))
            block = self.features[where].to(self.device, torch.float64)
            yield where, block if self.centre is None else block - self.centre


def _distances(
    a: _Points, i: slice, x: Tensor, b: _Points, j: slice, y: Tensor, rounded: bool
) -> Tensor:
    """Euclidean distances between two blocks, (len(x), len(y)); in float32 where ``rounded``."""
    squared = (x @ y.T).mul_(-2).add_(a.square[i, None]).add_(b.square[None, j]).clamp_(min=0)
    if a.identities is not None and b.identities is not None:
        squared.masked_fill_(a.identities[i, None] == b.identities[None, j], 0)
    if rounded:
        squared = squared.float()
    return squared.sqrt_()


def _radii(points: _Points, k: int, rounded: bool) -> Tensor:
    """The distance from each point to its k-th nearest neighbour among the others, (N,).

    Blocks below the diagonal are the transposes of those above it, so half are computed.
    """
    nearest = torch.full(
        (len(points), k + 1),
        torch.inf,
        dtype=torch.float32 if rounded else torch.float64,
        device=points.device,
    )

    def keep(where: slice, distances: Tensor) -> None:
        best = distances.topk(min(k + 1, distances.shape[1]), dim=1, largest=False).values
        nearest[where] = (
            torch.cat([nearest[where], best], 1).topk(k + 1, dim=1, largest=False).values
        )

    for i, x in points.blocks():
        for j, y in points.blocks(i.start):
            distances = _distances(points, i, x, points, j, y, rounded)
            if i == j:
                distances.fill_diagonal_(0)
            else:
                keep(j, distances.T)
            keep(i, distances)
    return nearest.amax(1)


def _identities(*sets: Tensor) -> list[Tensor | None]:
    """Numbers that are equal for equal rows, for each set; None where no row occurs twice."""
    seen: dict[bytes, int] = {}
    numbers = []
    for features in sets:
        # + 0 turns −0 into 0, which is equal to it but has other bytes
        rows = (
            row
            for start in range(0, len(features), BLOCK)
            for row in (features[start : start + BLOCK] + 0).numpy()
        )
        digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
        numbers.append(torch.tensor([seen.setdefault(digest, len(seen)) for digest in digests]))
    if len(seen) == sum(len(features) for features in sets):
        return [None for _ in sets]
    return list(numbers)


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

    Beside the features it takes about 0.2 GiB at 2,048 features, whatever N and M are.

    Raises:
        NoiseregError: for k or fewer points in either set, features of unequal width, or values
        that are not finite.
    """
    check_counts(len(fake), len(real), k)
    for name, features in (("reference", real), ("generated", fake)):
        if features.is_floating_point() and not all(
            part.isfinite().all() for part in features.split(BLOCK)
        ):
            raise NoiseregError(
                f"the {name} set has features that are not finite (inf or nan); prdc cannot rank "
                "them"
            )
    if real.shape[1] != fake.shape[1]:
        raise NoiseregError(
            f"the reference has {real.shape[1]} features a sample and the generated set "
            f"{fake.shape[1]}"
        )
    device = torch.device(device)
    if device.type == "mps":  # has no float64
        device = torch.device("cpu")
    exact = not (real.is_floating_point() or fake.is_floating_point())
    rounded = torch.float32 in (real.dtype, fake.dtype)
    centre: Tensor | None = None
    identities: list[Tensor | None] = [None, None]
    if not exact:  # float64 holds sums of squares of integers exactly, so those need neither
        centre = torch.stack([part.to(device).double().sum(0) for part in real.split(BLOCK)]).sum(
            0
        ) / len(real)
        identities = [
            None if v is None else v.to(device) for v in _identities(real.cpu(), fake.cpu())
        ]
    r = _Points(real, centre, identities[0], device)
    f = _Points(fake, centre, identities[1], device)
    if kept is None:
        real_radii = _radii(r, k, rounded)
    else:
        real_radii = kept(
            "float32" if rounded else "float64", lambda: _radii(r, k, rounded).cpu()
        ).to(device)
    fake_radii = _radii(f, k, rounded)
    spans = torch.zeros(len(f), dtype=torch.int64, device=device)
    recalled = torch.zeros(len(r), dtype=torch.bool, device=device)
    nearest_fake = torch.full_like(real_radii, torch.inf)
    for i, x in r.blocks():
        for j, y in f.blocks():
            distances = _distances(r, i, x, f, j, y, rounded)
            spans[j] += (distances < real_radii[i, None]).sum(0)
            recalled[i] |= (distances < fake_radii[None, j]).any(1)
            nearest_fake[i] = torch.minimum(nearest_fake[i], distances.amin(1))
    return Manifolds(
        real_radii.cpu(), fake_radii.cpu(), spans.cpu(), recalled.cpu(), nearest_fake.cpu(), k
    )


def package_memory(n: int, m: int, dtype: torch.dtype) -> int:
    """Bytes that ``prdc`` takes at its peak: a matrix of distances, argpartition's int64 indices
    of it, and working space.

    Bytes a pair as measured at 10,000 and 20,000 points (benchmarks/prdc.py).
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
            what = {"k": k, "distances": distances, "version": 1}
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
