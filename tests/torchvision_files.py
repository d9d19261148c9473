"""torchvision's data sets as small files in the formats they are published in."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

RNG = np.random.default_rng(0)

CIFARS = {
    "cifar10": (
        "cifar-10-batches-py",
        [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
        "labels",
        10,
    ),
    "cifar100": ("cifar-100-python", ["train", "test"], "fine_labels", 100),
}
"""Folder, files, the key of the labels, and how many there are."""


def accept_any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torchvision compares a file's MD5 with the published one, that check alone is
    replaced.
    """
    for module in ("cifar", "flowers102", "celeba"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity",
            lambda path, md5=None: Path(path).exists(),
        )


def jpeg(path: Path, value: int, width: int = 30, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, value, value)).save(path, quality=100)


def write_idx(raw: Path, sizes: Mapping[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MNIST's and Fashion-MNIST's files: ``sizes`` by prefix, ``train`` and ``t10k``. Returns
    images and labels.
    """
    raw.mkdir(parents=True)
    written = {}
    for prefix, n in sizes.items():
        images = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = RNG.integers(0, 10, n, dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, n) + labels.tobytes()
        )
        written[prefix] = (images, labels)
    return written


def write_cifar(root: Path, name: str, n: int = 4) -> dict[str, dict]:
    """``n`` images a file of ``cifar10`` or ``cifar100``. Returns what is in each file."""
    folder, parts, key, classes = CIFARS[name]
    (root / folder).mkdir(parents=True)
    written = {}
    for part in parts:
        written[part] = {
            "data": RNG.integers(0, 256, (n, 3072), dtype=np.uint8),
            key: RNG.integers(0, classes, n).tolist(),
        }
        (root / folder / part).write_bytes(pickle.dumps(written[part]))
    for meta, names in (("batches.meta", "label_names"), ("meta", "fine_label_names")):
        (root / folder / meta).write_bytes(pickle.dumps({names: [str(i) for i in range(classes)]}))
    return written


def write_flowers(root: Path) -> None:
    """Eight flowers of labels 1 to 8 and grey values 20 to 160: two to train on, two to validate,
    four to test.
    """
    base = root / "flowers-102"
    for i in range(1, 9):
        jpeg(base / f"jpg/image_{i:05}.jpg", 20 * i)
    savemat(base / "imagelabels.mat", {"labels": np.arange(1, 9)[None]})
    savemat(
        base / "setid.mat",
        {
            "trnid": np.array([[2, 4]]),
            "valid": np.array([[1, 8]]),
            "tstid": np.array([[3, 5, 6, 7]]),
        },
    )


def write_pets(root: Path) -> None:
    """Three pets, two of them to train on."""
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for name, value in (("Abyssinian_1", 40), ("pug_2", 80), ("yorkshire_terrier_3", 120)):
        jpeg(base / f"images/{name}.jpg", value)
    (base / "annotations/trainval.txt").write_text(
        "Abyssinian_1 1 1 1\nyorkshire_terrier_3 37 2 25\n"
    )
    (base / "annotations/test.txt").write_text("pug_2 26 2 18\n")


def write_celeba(root: Path, partition: Sequence[int] = (0, 2, 1, 0, 2, 1)) -> None:
    """A face an entry of ``partition`` (0 training, 1 validation, 2 test), of grey values 0, 40,
    80 …
    """
    base = root / "celeba"
    names = [f"{i:06}.jpg" for i in range(1, len(partition) + 1)]
    for i, name in enumerate(names):
        jpeg(base / "img_align_celeba" / name, 40 * i, width=178, height=218)
    (base / "list_eval_partition.txt").write_text(
        "".join(f"{n} {p}\n" for n, p in zip(names, partition, strict=True))
    )
    (base / "identity_CelebA.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    (base / "list_bbox_celeba.txt").write_text(
        f"{len(names)}\nimage_id x_1 y_1 width height\n" + "".join(f"{n} 1 2 3 4\n" for n in names)
    )
    (base / "list_landmarks_align_celeba.txt").write_text(
        f"{len(names)}\na b\n" + "".join(f"{n}  1 2\n" for n in names)
    )
    (base / "list_attr_celeba.txt").write_text(
        f"{len(names)}\nSmiling Young\n" + "".join(f"{n} -1  1\n" for n in names)
    )


def write_all(root: Path) -> None:
    """All of them, side by side as torchvision keeps them."""
    for folder in ("MNIST", "FashionMNIST"):
        write_idx(root / folder / "raw", {"train": 7, "t10k": 3})
    for name in CIFARS:
        write_cifar(root, name)
    write_flowers(root)
    write_pets(root)
    write_celeba(root)
