"""FID, KID, the Inception score, precision and recall are torch-fidelity's; feature spaces are
registered with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from torch.utils.data import Dataset

from noisereg.api import Context, Features
from noisereg.data import unit_range
from noisereg.datasets import ImageParams, PointsParams
from noisereg.datasets.digits import Digits
from noisereg.datasets.toy2d import SwissRoll
from noisereg.errors import NoiseregError
from noisereg.features import ClassifierParams, InceptionParams, PixelsParams, RandomVgg16Params
from noisereg.features.cached import Space, register
from noisereg.features.classifier import Classifier
from noisereg.features.spaces import Inception, Pixels, RandomVgg16
from noisereg.metrics import (
    FidParams,
    FrechetParams,
    InceptionScoreParams,
    KernelDistanceParams,
    PrecisionRecallParams,
    PsnrParams,
    SsimParams,
    fidelity,
)
from noisereg.metrics.paired import PSNR, SSIM
from noisereg.store import Store


class Images(Dataset):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.x[i]


def images(n: int, seed: int, channels: int = 1, side: int = 8) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (1, channels, side, side))
    return torch.from_numpy(
        np.clip(base + rng.normal(0, 40 + 5 * seed, (n, channels, side, side)), 0, 255)
    ).byte()


def measured_by_torch_fidelity(
    a: torch.Tensor, b: torch.Tensor, space: Space, **flags: object
) -> dict[str, float]:
    return torch_fidelity.calculate_metrics(
        input1=Images(a),
        input2=Images(b),
        feature_extractor=register(space, space.name),
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        **flags,
    )


@pytest.fixture(scope="module")
def pixels() -> Space:
    return Space(Pixels(PixelsParams(), Context()), "pixels")


@pytest.fixture(scope="module")
def vgg() -> Space:
    return Space(RandomVgg16(RandomVgg16Params(), Context()), "random-vgg16")


@pytest.mark.parametrize("name", ["pixels", "random-vgg16"])
def test_distances_equal_torch_fidelitys_in_the_same_space(
    name: str, request: pytest.FixtureRequest
) -> None:
    space: Space = request.getfixturevalue({"pixels": "pixels", "random-vgg16": "vgg"}[name])
    a, b = images(120, 1), images(90, 2)
    subsets = {"kid_subsets": 5, "kid_subset_size": 60}
    theirs = measured_by_torch_fidelity(a, b, space, fid=True, kid=True, prc=True, **subsets)
    fd = fidelity.FrechetDistance(FrechetParams(), Context())
    kd = fidelity.KernelDistance(KernelDistanceParams(subsets=5, subset_size=60), Context())
    pr = fidelity.PrecisionRecall(PrecisionRecallParams(), Context())
    assert fd.compute(a, b, space) == {
        f"fd-{name}": pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    }
    assert fd.better == {f"fd-{name}": "lower"}
    assert kd.compute(a, b, space) == {
        f"kd-{name}": pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    }
    assert pr.compute(a, b, space) == {
        "pr-precision": pytest.approx(theirs["precision"]),
        "pr-recall": pytest.approx(theirs["recall"]),
    }


def test_frechet_distance_equals_the_closed_form_and_kid_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 5)), rng.normal(0.5, 2, size=(150, 5)) @ rng.normal(size=(5, 5))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    gap = a.mean(0) - b.mean(0)
    exact = gap @ gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert fidelity.frechet_distance(x, y) == pytest.approx(exact, rel=1e-9)

    a, b = a[:100], b[:100]  # one subset of all of them: the unbiased MMD² itself
    kernel = lambda u, v: (u @ v.T / 5 + 1) ** 3  # noqa: E731
    off = lambda k: (k.sum() - np.trace(k)) / (100 * 99)  # noqa: E731
    mmd = off(kernel(a, a)) + off(kernel(b, b)) - 2 * kernel(a, b).mean()
    params = KernelDistanceParams(subsets=1, subset_size=100)
    assert fidelity.kernel_distance(x[:100], y[:100], params, "kd") == pytest.approx(mmd, rel=1e-9)


def test_one_feature_has_a_frechet_distance_too() -> None:
    a, b = torch.randn(50, 1).double(), torch.randn(60, 1).double() * 3
    exact = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert fidelity.frechet_distance(a, b) == pytest.approx(exact.item(), rel=1e-9)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for torch-fidelity's weights file: the same names and shapes, random values, the
    same format.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    keep = torch.hub.load_state_dict_from_url
    path = tmp_path_factory.mktemp("weights") / "weights-inception-2015-12-05-6726825d.pth"
    module = torch_fidelity.feature_extractor_inceptionv3
    loaded = FeatureExtractorInceptionV3.load_state_dict
    try:
        module.load_state_dict_from_url = lambda *a, **k: {}
        FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    finally:
        FeatureExtractorInceptionV3.load_state_dict = loaded
        module.load_state_dict_from_url = keep
    torch.save(network.state_dict(), path)
    return path


def frechet_of_few(a: torch.Tensor, b: torch.Tensor) -> float:
    """The closed form where Σ = AAᵀ for a narrow A: tr (Σ₁Σ₂)^½ is the sum of the singular values
    of A₁ᵀA₂.
    """
    first, second = (((x - x.mean(0)) / (len(x) - 1) ** 0.5).double() for x in (a, b))
    traces = first.square().sum() + second.square().sum()
    return float(
        (a.mean(0) - b.mean(0)).square().sum()
        + traces
        - 2 * torch.linalg.svdvals(first @ second.T).sum()
    )


def test_fid_runs_end_to_end_from_a_weights_file(weights: Path) -> None:
    """The whole path, grey 8×8 images to a number, against torch-fidelity reading the same file by
    itself.
    """
    space = Space(
        Inception(InceptionParams(weights=weights, batch_size=4), Context()), "inception"
    )
    assert "sha256:" in space.identity
    assert "batch 4" in space.identity
    a, b = images(4, 1), images(4, 2)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(a.expand(-1, 3, -1, -1)),
        input2=Images(b.expand(-1, 3, -1, -1)),
        feature_extractor_weights_path=str(weights),
        batch_size=4,
        isc=True,
        kid=True,
        isc_splits=2,
        kid_subsets=2,
        kid_subset_size=3,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    fid = fidelity.FID(FidParams(), Context())
    assert fid.compute(a, b, space)["fid"] == pytest.approx(
        frechet_of_few(space(a), space(b)), rel=1e-3
    )
    assert fid.notes() == [
        "fid: 4 samples for 2,048 features leave covariances singular; the distance is biased"
    ]
    kid = fidelity.KID(KernelDistanceParams(subsets=2, subset_size=3), Context())
    assert kid.compute(a, b, space)["kid"] == pytest.approx(
        theirs["kernel_inception_distance_mean"], rel=1e-4
    )
    score = fidelity.InceptionScore(InceptionScoreParams(splits=2), Context())
    assert score.compute(a, b, space)["is"] == pytest.approx(
        theirs["inception_score_mean"], rel=1e-5
    )


def test_a_file_that_is_no_weights_file_is_one_line(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(NoiseregError) as error:
            Inception(InceptionParams(weights=path), Context())
        return str(error.value)

    assert "No such file" in message(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    assert "holds no weights" in message(tmp_path / "text.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    assert "holds other weights" in message(tmp_path / "other.pth")
    assert all(
        "expected torch-fidelity's weights-inception-2015-12-05" in message(p)
        for p in tmp_path.glob("*.pth")
    )


def test_a_weights_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"fc.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(NoiseregError, match="holds no weights"):
        Inception(InceptionParams(weights=tmp_path / "bomb.pth"), Context())
    assert not (tmp_path / "ran").exists()


def test_random_vgg16_is_the_same_each_time_and_takes_small_and_colour_images(vgg: Space) -> None:
    assert RandomVgg16(RandomVgg16Params(), Context()).identity == vgg.identity
    assert RandomVgg16(RandomVgg16Params(seed=1), Context()).identity != vgg.identity
    assert vgg(images(3, 0)).shape == (3, 512)
    large = vgg(images(2, 0, channels=3, side=40))
    assert large.shape == (2, 512)
    assert large.std() > 0
    with pytest.raises(NoiseregError, match="give features=pixels"):
        vgg(torch.zeros(5, 2))
    with pytest.raises(NoiseregError, match="1 or 3 channels, not 4"):
        vgg(images(2, 0, channels=4))


def test_the_classifier_learns_the_data_is_cached_and_says_how_good_it_is(tmp_path: Path) -> None:
    digits = Digits(ImageParams(), Context())
    params = ClassifierParams(steps=150, width=8)
    first = Classifier(params, Context(dataset=digits, cache_dir=tmp_path))
    assert first.accuracy > 0.8  # chance is 0.1
    assert (
        first.summary == f"classifier: {100 * first.accuracy:.1f} % of 180 held-out images right"
    )
    (cached,) = (tmp_path / "classifier").iterdir()
    written = cached.stat().st_mtime_ns
    again = Classifier(params, Context(dataset=digits, cache_dir=tmp_path))
    assert (again.identity, cached.stat().st_mtime_ns) == (first.identity, written)
    assert again(images(4, 0)).shape == (4, 64)
    cached.write_bytes(b"damaged")
    assert (
        Classifier(params, Context(dataset=digits, cache_dir=tmp_path)).identity == first.identity
    )


def test_the_classifier_needs_labels() -> None:
    with pytest.raises(NoiseregError, match="images with labels, and these points have none"):
        Classifier(ClassifierParams(), Context(dataset=SwissRoll(PointsParams(n=50), Context())))


def test_features_of_a_set_are_taken_once(tmp_path: Path) -> None:
    class Counting(Features):
        identity, calls = "counting", 0

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            Counting.calls += 1
            return x.flatten(1)

    space, x = Space(Counting(), "counting"), images(4, 0)
    space(x), space(x)
    assert Counting.calls == 1
    other = images(3, 0)
    space(other)
    space.forget_all_but(x)
    space(x), space(other)
    assert Counting.calls == 3
    for _ in range(2):  # another command
        later = Space(Counting(), "counting")
        later.keep(x, "x", Store(tmp_path))
        assert torch.equal(later(x), x.flatten(1))
    assert Counting.calls == 4


def test_mistakes_are_one_line(pixels: Space) -> None:
    few = images(4, 0)
    with pytest.raises(
        NoiseregError, match="kid averages over subsets of 1000 samples and there are 4"
    ):
        fidelity.KID(KernelDistanceParams(), Context()).compute(few, few, pixels)
    with pytest.raises(NoiseregError, match="pr with k=5 needs more than 5 samples, not 4"):
        fidelity.PrecisionRecall(PrecisionRecallParams(k=5), Context()).compute(few, few, pixels)
    with pytest.raises(NoiseregError, match="is averages over 10 splits and there are 4 samples"):
        fidelity.InceptionScore(InceptionScoreParams(), Context()).compute(few, few, pixels)
    with pytest.raises(NoiseregError, match="expected at least 2"):
        fidelity.FrechetDistance(FrechetParams(), Context()).compute(few[:1], few, pixels)


def test_psnr_and_ssim_of_pairs() -> None:
    x = images(3, 0, channels=3, side=16)
    y = (x.int() + 10).clamp(0, 255).byte()
    error = (x.double() - y.double()).square().mean((1, 2, 3))
    exact = (10 * torch.log10(255**2 / error)).mean().item()
    assert PSNR(PsnrParams(), Context()).compute(y, x, Pixels(PixelsParams(), Context()))[
        "psnr"
    ] == pytest.approx(exact)
    ssim = SSIM(SsimParams(), Context())
    assert ssim.compute(x, x, Pixels(PixelsParams(), Context())) == {"ssim": pytest.approx(1)}
    assert ssim.compute(y, x, Pixels(PixelsParams(), Context()))["ssim"] < 1
    assert ssim.notes() == []
    small = images(2, 0)
    assert ssim.compute(small, small, Pixels(PixelsParams(), Context()))["ssim"] == pytest.approx(
        1
    )
    assert "a uniform one of 7" in ssim.notes()[0]
    with pytest.raises(NoiseregError, match="each image with its own reference"):
        ssim.compute(x[:2], x, Pixels(PixelsParams(), Context()))


def test_pixels_keep_bytes_and_distances_take_them_to_the_unit_range(pixels: Space) -> None:
    x = images(2, 0)
    assert pixels(x).dtype == torch.uint8
    assert unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
