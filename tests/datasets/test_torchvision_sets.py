"""torchvision's data sets, from small files in the formats they are published in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision_files import (
    CIFARS,
    accept_any_checksum,
    jpeg,
    write_celeba,
    write_cifar,
    write_flowers,
    write_idx,
    write_pets,
)

from noisereg.api import Context
from noisereg.datasets import FlippedParams, PhotoParams, TorchvisionParams
from noisereg.datasets import torchvision_sets as sets
from noisereg.errors import NoiseregError
from noisereg.folders import no_empty_remains


@pytest.fixture
def _any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    accept_any_checksum(monkeypatch)


def values(dataset: sets.TorchvisionDataset, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    part = dataset.split(split)
    batch = part.batch(torch.arange(len(part)))
    pixels = ((batch.x + 1) * 127.5).round().to(torch.uint8).numpy()
    return pixels, None if batch.labels is None else batch.labels.numpy()


@pytest.mark.parametrize(
    ("kind", "folder"), [(sets.MNIST, "MNIST"), (sets.FashionMNIST, "FashionMNIST")]
)
@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_idx_files_are_read_as_they_are(tmp_path, kind, folder, memory):
    written = write_idx(tmp_path / folder / "raw", {"train": 7, "t10k": 3})
    dataset = kind(TorchvisionParams(root=tmp_path, memory=memory), Context())
    assert dataset.shape == (1, 28, 28)
    assert dataset.summary.startswith("7 images of 1×28×28 (3 held out), ")
    for split, prefix in (("train", "train"), ("heldout", "t10k")):
        pixels, labels = values(dataset, split)
        np.testing.assert_array_equal(pixels[:, 0], written[prefix][0])
        np.testing.assert_array_equal(labels, written[prefix][1])
    assert dataset.flip is False
    assert len(dataset.class_names) == 10
    assert dataset.fingerprint()["classes"] == list(dataset.class_names)


@pytest.mark.usefixtures("_any_checksum")
@pytest.mark.parametrize("kind", [sets.CIFAR10, sets.CIFAR100])
def test_cifars_pickles_are_read_as_they_are(tmp_path, kind):
    _, parts, key, classes = CIFARS[kind.name]
    written = write_cifar(tmp_path, kind.name)
    assert kind.classes == classes
    dataset = kind(FlippedParams(root=tmp_path), Context())
    assert dataset.shape == (3, 32, 32)
    assert dataset.flip is True
    for split, chosen in (("train", parts[:-1]), ("heldout", parts[-1:])):
        pixels, labels = values(dataset, split)
        np.testing.assert_array_equal(
            pixels, np.concatenate([written[p]["data"] for p in chosen]).reshape(-1, 3, 32, 32)
        )
        np.testing.assert_array_equal(labels, np.concatenate([written[p][key] for p in chosen]))


def test_a_cifar_file_with_another_checksum_is_never_unpickled(tmp_path):
    """Pickles can run code; torchvision opens only the published ones."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(
        b"cos\nsystem\n(S'touch OPENED'\ntR."
    )
    with pytest.raises(
        NoiseregError,
        match=r"cifar10 at .* is incomplete or damaged .*download=true to fetch it again",
    ):
        sets.CIFAR10(FlippedParams(root=tmp_path), Context())


@pytest.mark.usefixtures("_any_checksum")
def test_flowers_are_trained_on_without_the_test_split(tmp_path):
    write_flowers(tmp_path)
    for memory in ("resident", "stream"):
        dataset = sets.Flowers102(PhotoParams(root=tmp_path, size=16, memory=memory), Context())
        assert dataset.shape == (3, 16, 16)
        pixels, labels = values(dataset, "train")
        assert labels.tolist() == [1, 3, 0, 7]
        assert pixels[:, 0, 8, 8] == pytest.approx([40, 80, 20, 160], abs=2)
        assert values(dataset, "heldout")[1].tolist() == [2, 4, 5, 6]


def test_pets_are_read_with_their_37_breeds(tmp_path):
    write_pets(tmp_path)
    dataset = sets.OxfordPets(PhotoParams(root=tmp_path), Context())
    assert dataset.shape == (3, 64, 64)
    pixels, labels = values(dataset, "train")
    assert labels.tolist() == [0, 36]
    assert pixels[:, 1, 30, 30] == pytest.approx([40, 120], abs=2)
    assert values(dataset, "heldout")[1].tolist() == [25]
    assert dataset.classes == 37


@pytest.mark.usefixtures("_any_checksum")
def test_celebas_faces_have_no_classes(tmp_path):
    write_celeba(tmp_path)
    dataset = sets.CelebA(PhotoParams(root=tmp_path, size=32), Context())
    assert dataset.shape == (3, 32, 32)
    assert dataset.classes == 0
    pixels, labels = values(dataset, "train")
    assert labels is None
    assert pixels[:, 0, 9, 9] == pytest.approx(
        [0, 120, 80, 200], abs=2
    )  # training, then validation
    assert values(dataset, "heldout")[0][:, 0, 9, 9] == pytest.approx([40, 160], abs=2)


SETS = [
    sets.MNIST,
    sets.FashionMNIST,
    sets.CIFAR10,
    sets.CIFAR100,
    sets.Flowers102,
    sets.OxfordPets,
    sets.CelebA,
]


@pytest.mark.parametrize("kind", SETS)
def test_a_data_set_that_is_not_there_says_how_to_get_it(tmp_path, kind):
    with pytest.raises(NoiseregError) as caught:
        kind(PhotoParams(root=tmp_path), Context())
    message = str(caught.value)
    assert message.startswith(
        f"{kind.name} is not at {tmp_path / kind.place}; type "
        f"{kind.name}:root={tmp_path},download=true"
    )
    assert "\n" not in message


@pytest.mark.parametrize("kind", SETS)
def test_a_download_that_fails_says_where_to_put_the_data(tmp_path, monkeypatch, kind):
    def offline(*args, **kwargs):
        raise OSError("Name or service\nnot known")

    module = {
        "CIFAR100": "cifar",
        "CIFAR10": "cifar",
        "FashionMNIST": "mnist",
        "OxfordIIITPet": "oxford_iiit_pet",
    }.get(kind.reader, kind.reader.lower())
    download = (
        "download_file_from_google_drive"
        if kind is sets.CelebA
        else "download_and_extract_archive"
    )
    monkeypatch.setattr(f"torchvision.datasets.{module}.{download}", offline)
    root = tmp_path / "own" / "data"
    with pytest.raises(NoiseregError) as caught:
        kind(PhotoParams(root=root, download=True), Context())
    assert str(caught.value) == (
        f"{kind.name} could not be downloaded to {root} (Name or service not known); "
        f"fetch it elsewhere and put it at {root / kind.place}"
    )
    assert not any(tmp_path.iterdir())


def test_what_was_there_before_a_download_that_failed_stays(tmp_path):
    (tmp_path / "data" / "empty").mkdir(parents=True)

    def fetch():
        (tmp_path / "data" / "made" / "deep").mkdir(parents=True)
        (tmp_path / "data" / "part").mkdir()
        (tmp_path / "data" / "part" / "whole.gz").write_bytes(b"kept")
        raise OSError("offline")

    with pytest.raises(OSError, match="offline"), no_empty_remains(tmp_path / "data"):
        fetch()
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == ["data", "data/empty", "data/part", "data/part/whole.gz"]


def test_a_damaged_file_is_named(tmp_path):
    write_idx(tmp_path / "MNIST/raw", {"train": 7, "t10k": 3})
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 short")
    with pytest.raises(NoiseregError, match=r"mnist at .*MNIST/raw is incomplete or damaged"):
        sets.MNIST(TorchvisionParams(root=tmp_path), Context())


def test_an_unreadable_image_is_named_by_its_number(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    jpeg(base / "images/pug_1.jpg", 9)
    (base / "images/pug_2.jpg").write_bytes(b"no image")
    (base / "annotations/trainval.txt").write_text("pug_1 1 1 1\npug_2 1 1 1\n")
    (base / "annotations/test.txt").write_text("pug_1 1 1 1\n")
    with pytest.raises(
        NoiseregError,
        match=r"oxford-pets: training image 1 in .* cannot be read as an image \(.*pug_2",
    ):
        sets.OxfordPets(PhotoParams(root=tmp_path), Context())


FASHION = Path(__file__).resolve().parents[3] / "shared/data"


@pytest.mark.skipif(
    not (FASHION / "FashionMNIST/raw").is_dir(), reason="no FashionMNIST beside the checkout"
)
def test_the_published_fashion_mnist():
    dataset = sets.FashionMNIST(TorchvisionParams(root=FASHION), Context())
    assert dataset.summary == "60,000 images of 1×28×28 (10,000 held out), in memory"
    batch = dataset.split("train").batch(torch.arange(60_000))
    assert torch.bincount(batch.labels).tolist() == [6000] * 10
    assert (batch.x.double().mean().item() + 1) / 2 == pytest.approx(
        0.2860, abs=1e-4
    )  # as published for it
