"""Two blocked passes give the prdc package's numbers."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from prdc import compute_prdc

from noisereg.api import Context, Features
from noisereg.errors import NoiseregError
from noisereg.metrics import PrdcParams, prdc
from noisereg.metrics.prdc import Prdc, manifolds, package_memory, package_prdc


class AsIs(Features):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x


def package(real: torch.Tensor, fake: torch.Tensor, k: int) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return {
            name: float(v)
            for name, v in compute_prdc(real.numpy(), fake.numpy(), nearest_k=k).items()
        }


def problem(kind: str, n: int, m: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    if (
        kind == "uint8"
    ):  # 6 pixels of 4 values: hundreds of duplicates and a tie in nearly every comparison
        real, fake = rng.integers(0, 4, (n, 6), np.uint8), rng.integers(0, 5, (m, 6), np.uint8)
        return torch.from_numpy(real), torch.from_numpy(fake)
    real, fake = rng.normal(size=(n, 12)), rng.normal(0.3, 1.1, size=(m, 12))
    return torch.from_numpy(real.astype(kind)), torch.from_numpy(fake.astype(kind))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prdc, "BLOCK", 128)  # several blocks, the last of them short


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("sizes", [(300, 300), (517, 260), (130, 401)])
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
def test_equals_the_package_on_random_problems(kind: str, sizes: tuple[int, int], k: int) -> None:
    for seed in range(3):
        real, fake = problem(kind, *sizes, seed)
        assert manifolds(real, fake, k).numbers() == pytest.approx(
            package(real, fake, k), abs=1e-12
        )


def test_uint8_duplicates_decide_ties_as_exact_arithmetic_does() -> None:
    """With duplicates, distances tie with radii; brute force over integers says who is right."""
    real, fake = problem("uint8", 200, 180, 7)
    squared = lambda a, b: (a[:, None].long() - b[None].long()).square().sum(-1)  # noqa: E731
    radii = squared(real, real).sort(1).values[:, 5]
    inside = squared(real, fake) < radii[:, None]
    found = manifolds(real, fake, 5)
    assert (inside.sum(0) > 0).any()
    assert torch.equal(found.spans, inside.sum(0))
    assert found.numbers()["density"] == pytest.approx(
        inside.sum(0).double().mean().item() / 5, abs=1e-12
    )


def by_differences(real: torch.Tensor, fake: torch.Tensor, k: int) -> dict[str, float]:
    """The four numbers from all differences, in float64; of float32 features rounded to float32."""

    def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squared = torch.stack([(row.double() - b.double()).square().sum(1) for row in a])
        return squared.sqrt() if a.dtype != torch.float32 else squared.float().sqrt()

    of_real, of_fake = (distances(x, x).sort(1).values[:, k] for x in (real, fake))
    across = distances(real, fake)
    inside = across < of_real[:, None]
    return {
        "precision": inside.any(0).double().mean().item(),
        "density": inside.sum(0).double().mean().item() / k,
        "recall": (across < of_fake).any(1).double().mean().item(),
        "coverage": inside.any(1).double().mean().item(),
    }


def hard(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features at which a product in float32 cannot tell one distance from another, or overflows."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 260, 20)).astype(np.float32)
    if case == "an outlier":
        x[0, 7] = 1e6
    if case == "small clusters far apart":
        x = (x * 1e-4 + 10 * rng.integers(0, 5, (2, 260, 1))).astype(np.float32)
    if case == "all distances equal":
        x = np.stack([np.eye(260, 300, i, dtype=np.float32) for i in (0, 30)])
    if case == "one point over and over":
        x[1, 20:] = x[1, 3]
    if case == "the same set":
        x[1] = x[0]
    if case in ("squares beyond float32", "squares below float32"):
        x *= 1e15 if "beyond" in case else 1e-22
    if case == "sorted, the nearest last":
        x[0] = x[0][np.argsort(-np.square(x[0]).sum(1))]
    real, fake = torch.from_numpy(x)
    if case == "integers that float32 does not hold":
        return (real * 1000).to(torch.int16), (fake * 8000).to(torch.int16)
    return real, fake


@pytest.mark.parametrize(
    "case",
    [
        "an outlier",
        "small clusters far apart",
        "all distances equal",
        "one point over and over",
        "the same set",
        "squares beyond float32",
        "squares below float32",
        "sorted, the nearest last",
        "integers that float32 does not hold",
    ],
)
def test_what_float32_leaves_open_is_decided_exactly(case: str) -> None:
    real, fake = hard(case)
    assert manifolds(real, fake, 5).numbers() == by_differences(real, fake, 5)
    if real.dtype == torch.float32:
        real, fake = real.double() * 1.1, fake.double() * 1.1
        assert manifolds(real, fake, 5).numbers() == by_differences(real, fake, 5)


def test_of_ordinary_features_few_pairs_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are multiplied in float32 and nothing in float64; about one distance a point is
    computed, its radius."""
    rng = np.random.default_rng(5)
    real, fake = torch.from_numpy(rng.normal(size=(2, 600, 64)).astype(np.float32))
    pairs, widths = [], []
    computed, left = prdc._Points.distances, prdc._Points.left
    monkeypatch.setattr(
        prdc._Points, "distances", lambda s, p, o, q: pairs.append(len(p)) or computed(s, p, o, q)
    )
    monkeypatch.setattr(
        prdc._Points, "left", lambda s, w, sl, dtype: widths.append(dtype) or left(s, w, sl, dtype)
    )
    found = manifolds(real, fake, 5)
    assert found.numbers() == by_differences(real, fake, 5)
    assert set(widths) == {torch.float32}
    assert sum(pairs) < 1.2 * 1200


def test_where_products_are_narrower_than_float32_they_are_made_in_float64() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert list(prdc._dtypes(torch.device("cpu"))) == [torch.float64]
    finally:
        torch.set_float32_matmul_precision(before)
    assert list(prdc._dtypes(torch.device("cpu"))) == [torch.float32, torch.float64]


def test_a_large_common_mean_changes_nothing() -> None:
    """‖x‖² − 2x·y + ‖y‖² without centring loses 12 of 16 digits here; a shift by a power of two is
    exact.
    """
    real, fake = problem("float64", 300, 300, 1)
    real, fake = (real * 2**20).round() / 2**20, (fake * 2**20).round() / 2**20
    assert manifolds(real + 2**20, fake + 2**20, 5).numbers() == manifolds(real, fake, 5).numbers()


def test_constant_features_count_nothing_and_are_said() -> None:
    metric = Prdc(PrdcParams(), Context())
    same = torch.full((40, 3), 0.1)
    numbers = metric.compute(same, same, AsIs())
    assert numbers == {"precision": 0, "density": 0, "recall": 0, "coverage": 0}
    assert len(metric.notes()) == 2
    assert "one point over and over" in metric.notes()[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_of_float_features_are_at_distance_zero(dtype: torch.dtype) -> None:
    """0.1 is no binary fraction: without the exact comparison the expanded square leaves rounding
    errors.
    """
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(size=(60, 50))).to(dtype)
    fake = torch.cat(
        [real[:10].repeat(4, 1), torch.from_numpy(rng.normal(size=(20, 50))).to(dtype)]
    )
    found = manifolds(real, fake, 3)
    assert (found.fake_radii[:40] == 0).all()
    assert found.covered[:10].all()
    metric = Prdc(PrdcParams(k=3), Context())
    metric.compute(fake, real, AsIs())
    assert metric.notes() == [
        "prdc: 40 of 60 points of the generated set have at least 3 exact duplicates: "
        "their radius is 0 and nothing lies within it"
    ]


def test_the_package_backend_prints_nothing_and_gives_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, fake = problem("float32", 200, 150, 3)
    assert package_prdc(real, fake, 5) == pytest.approx(
        manifolds(real, fake, 5).numbers(), abs=1e-12
    )
    assert capsys.readouterr().out == ""


def test_the_package_backend_is_refused_where_its_matrices_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert package_memory(50_000, 50_000, torch.float32) == 50_000**2 * 14  # 33 GiB
    monkeypatch.setattr(prdc, "free_host_memory", lambda: 2**20)
    real, fake = problem("float32", 400, 400, 0)
    with pytest.raises(
        NoiseregError, match=r"backend=package builds N×N matrices: 0\.0 GiB for 400 samples"
    ):
        package_prdc(real, fake, 5)


def test_mistakes_are_one_line() -> None:
    real, fake = problem("float32", 40, 5, 0)
    with pytest.raises(
        NoiseregError, match="k=5 needs more than 5 samples and the generated set has 5"
    ):
        manifolds(real, fake, 5)
    real[3, 2] = torch.nan
    with pytest.raises(NoiseregError, match="reference set has features that are not finite"):
        manifolds(real, real, 5)
    with pytest.raises(NoiseregError, match="generated set has features that are too large"):
        manifolds(real.nan_to_num().double(), torch.full((40, 12), 1e200, dtype=torch.float64), 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_numbers() -> None:
    for kind in ("float32", "float64", "uint8"):
        real, fake = problem(kind, 517, 260, 0)
        assert manifolds(real, fake, 5, "cuda").numbers() == manifolds(real, fake, 5).numbers()
