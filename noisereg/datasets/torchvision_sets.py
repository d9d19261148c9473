"""The data sets that torchvision reads, each with its files where torchvision expects them."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, ClassVar

from torch.utils.data import ConcatDataset

from noisereg.api import Context
from noisereg.datasets import TorchvisionParams
from noisereg.datasets.images import ImageDataset, ImageSplit, Source
from noisereg.errors import NoiseregError
from noisereg.folders import no_empty_remains


class TorchvisionDataset(ImageDataset):
    """Held out is torchvision's test split; everything else is trained on.

    Raises:
        NoiseregError: if the data are not there, damaged, or cannot be downloaded; says how to get
        them.
    """

    name: ClassVar[str]
    reader: ClassVar[str]
    """The class in ``torchvision.datasets``."""
    place: ClassVar[str]
    """What torchvision looks for in root."""
    native: ClassVar[tuple[int, int]] = (3, 0)
    """Channels, and the side of the images where it is one for all."""
    training: ClassVar[list[dict[str, Any]]] = [{"train": True}]
    """The reader's arguments for each part that is trained on."""
    testing: ClassVar[dict[str, Any]] = {"train": False}

    params: TorchvisionParams

    def __init__(self, params: TorchvisionParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        channels = params.channels or self.native[0]
        side = params.size or self.native[1]
        parts = [self._read(arguments) for arguments in self.training]
        train: ConcatDataset[Any] = ConcatDataset(parts)
        test = self._read(self.testing)
        names = tuple(map(str, getattr(test, "classes", ())))
        self.class_names = names if len(names) == self.classes else ()
        self.hold(
            self._part(train, "training", channels),
            self._part(test, "test", channels),
            height=side,
            width=side,
        )

    def _part(self, source: Source, which: str, channels: int) -> ImageSplit:
        return ImageSplit(
            source,
            range(len(source)),
            self.params.size,
            channels,
            lambda i: f"{self.name}: {which} image {i} in {self.params.root}",
        )

    def _read(self, arguments: dict[str, Any]) -> Any:
        import torchvision.datasets

        root, download = self.params.root, self.params.download
        try:
            # torchvision prints; stdout is for results
            with no_empty_remains(root), contextlib.redirect_stdout(sys.stderr):
                return getattr(torchvision.datasets, self.reader)(
                    root, download=download, **arguments
                )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if download:
                raise NoiseregError(
                    f"{self.name} could not be downloaded to {root} ({reason}); "
                    f"fetch it elsewhere and put it at {root / self.place}"
                ) from None
            if not (root / self.place).exists():
                raise NoiseregError(
                    f"{self.name} is not at {root / self.place}; type "
                    f"{self.name}:root={root},download=true to fetch it, "
                    "or root=DIR if it is elsewhere"
                ) from None
            raise NoiseregError(
                f"{self.name} at {root / self.place} is incomplete or damaged ({reason}); take it "
                "away and type "
                f"{self.name}:root={root},download=true to fetch it again"
            ) from None


class MNIST(TorchvisionDataset):
    """70,000 handwritten digits of 28×28, grey: 60,000 and 10,000."""

    name, reader, place = "mnist", "MNIST", "MNIST/raw"
    native, classes = (1, 28), 10


class FashionMNIST(TorchvisionDataset):
    """70,000 pieces of clothing of 28×28, grey: 60,000 and 10,000."""

    name, reader, place = "fashion-mnist", "FashionMNIST", "FashionMNIST/raw"
    native, classes = (1, 28), 10


class CIFAR10(TorchvisionDataset):
    """60,000 photographs of 32×32: 50,000 and 10,000."""

    name, reader, place = "cifar10", "CIFAR10", "cifar-10-batches-py"
    native, classes = (3, 32), 10


class CIFAR100(TorchvisionDataset):
    """60,000 photographs of 32×32 in 100 classes: 50,000 and 10,000."""

    name, reader, place = "cifar100", "CIFAR100", "cifar-100-python"
    native, classes = (3, 32), 100


class Flowers102(TorchvisionDataset):
    """8,189 photographs of flowers: 2,040 (training and validation) and 6,149."""

    name, reader, place = "flowers102", "Flowers102", "flowers-102"
    classes = 102
    training, testing = [{"split": "train"}, {"split": "val"}], {"split": "test"}


class OxfordPets(TorchvisionDataset):
    """7,349 photographs of cats and dogs: 3,680 and 3,669."""

    name, reader, place = "oxford-pets", "OxfordIIITPet", "oxford-iiit-pet"
    classes = 37
    training, testing = [{"split": "trainval"}], {"split": "test"}


class CelebA(TorchvisionDataset):
    """202,599 aligned faces of 178×218: 182,637 (training and validation) and 19,962."""

    name, reader, place = "celeba", "CelebA", "celeba"
    training = [{"split": "train", "target_type": []}, {"split": "valid", "target_type": []}]
    testing = {"split": "test", "target_type": []}
