"""Data: parameters and hook. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from noisereg.api import Component, ContentPath, Field, Params, hookimpl
from noisereg.paths import address, is_remote

MAX_SIZE = 4096
"""The largest side an image data set resizes to, in pixels."""


def _said(value: Any) -> Any:
    """Of an empty path pathlib makes the current folder."""
    if value == "":
        raise ValueError("an empty path; expected a file or folder, . for the current one")
    return value


def _here(path: Path) -> Path:
    if is_remote(path):
        raise ValueError("an address; expected a folder of this machine")
    return path.expanduser()


def _written(path: Path) -> str:
    """An address with both its strokes."""
    return address(path) if is_remote(path) else str(path)


UserPath = Annotated[Path, BeforeValidator(_said), AfterValidator(_here)]
DataPath = Annotated[
    Path,
    BeforeValidator(_said),
    AfterValidator(Path.expanduser),
    PlainSerializer(_written, return_type=str, when_used="json"),
]
"""Of this machine, or an address, which is fetched (:func:`noisereg.remote.fetched`)."""


def _names(value: Any) -> Any:
    """``auto`` as text, which ``Params`` has split at its commas."""
    if isinstance(value, list | tuple):
        if list(value) == ["auto"]:
            return "auto"
        if twice := next((name for k, name in enumerate(value) if name in value[:k]), None):
            raise ValueError(f"{twice!r} stands twice; expected each name once")
        return list(value)
    return value


Names = Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(_names)]


class PointsParams(Params):
    """A two-dimensional set of Iso-Diffusion (arXiv 2403.16790)."""

    version: Literal[1, 2] = Field(
        1, description="1: the authors' first public code; 2: their later one"
    )
    n: int = Field(
        10_000,
        ge=2,
        le=10_000_000,
        description="how many training points; a tenth as many are held out",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="what the training points are drawn from, whatever the run's seed",
    )


class ImageParams(Params):
    """What every image data set takes."""

    size: int | None = Field(
        None,
        gt=0,
        le=MAX_SIZE,
        description="side in pixels: the shorter side is resized to it, the centre cut out",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 grey, 3 colour; unset: as the images are"
    )
    flip: bool = Field(False, description="mirror half of the training images left to right")
    memory: Literal["auto", "resident", "stream"] = Field(
        "auto",
        description="resident: decoded once, held as uint8; stream: decoded for each batch; auto: "
        "what fits",
    )


class TorchvisionParams(ImageParams):
    """A data set that torchvision reads."""

    root: UserPath = Field(
        Path("data"), description="the folder torchvision keeps its data sets in"
    )
    download: bool = Field(False, description="fetch the data into root if they are not there")


class FlippedParams(TorchvisionParams):
    """Small photographs, whose mirror images are as likely as they are."""

    flip: bool = Field(True, description="mirror half of the training images left to right")


class PhotoParams(FlippedParams):
    """Photographs of different sizes."""

    size: int = Field(
        64,
        gt=0,
        le=MAX_SIZE,
        description="side in pixels: the shorter side is resized to it, the centre cut out",
    )


class FolderParams(ImageParams):
    """A folder of images, or a .zip of them."""

    path: DataPath = Field(
        description="searched for images at any depth; two or more folders in it are classes, and "
        "train, val and test are splits; or a .zip as EDM makes it"
    )
    heldout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the images that is not trained on, where no folder val or test says",
    )
    classes: Names = Field(
        "auto",
        description="the classes' folders in the order of their labels; auto: as found, 2 before "
        "10; []: none",
    )
    splits: Literal["auto", "none"] = Field(
        "auto",
        description="auto: train is trained on, val and test are held out, where folders are "
        "called so; none: they are folders like others",
    )


class ArraysParams(ImageParams):
    """Images or points in a .npy or .npz."""

    path: DataPath = Field(
        description="an .npy, or an .npz whose array is called samples or arr_0, or is the only "
        "one; labels (N,) are read if there are any"
    )
    key: str | None = Field(None, description="the array's name in the .npz")
    layout: Literal["auto", "nhwc", "nchw"] = Field(
        "auto", description="the order of the axes; auto: channels are the axis of 1 or 3"
    )
    range: Literal["signed", "unit"] = Field(
        "signed", description="of floats in images: signed: [−1, 1]; unit: [0, 1]"
    )
    heldout: float = Field(
        0.1, ge=0, lt=1, description="share of the samples that is not trained on"
    )


class HuggingFaceParams(ImageParams):
    """A data set of Hugging Face's library."""

    path: str = Field(
        min_length=1,
        description="a folder or .parquet, as save_to_disk or the library's builders lay it out, "
        "or a name that the library finds",
    )
    column: str = Field("image", description="the column of images")
    label: str = Field(
        "auto",
        description="the column of labels; auto: the one of class labels, if it is one; "
        "none: no labels",
    )
    split: str = Field("train", description="what is trained on")
    heldout: str = Field(
        "auto",
        description="the split held out; auto: test or validation if there is one, else a tenth "
        "by a hash of each row's index",
    )


class WebDatasetParams(ImageParams):
    """Images in .tar shards, as the package webdataset writes them."""

    path: str = Field(
        min_length=1,
        description="the shards: data/shard-{000..009}.tar, or an address, "
        "s3://bucket/{train,more}-{0..9}.tar",
    )
    image: str = Field(
        "auto",
        description="what the image of a sample ends in, such as jpg or input.png; auto: the one "
        "that is an image",
    )
    label: str = Field(
        "auto",
        description="what the label of a sample ends in, a whole number as text; auto: cls, where "
        "there is one; none: no labels",
    )
    heldout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the samples that is not trained on, by a hash of each one's key",
    )


class LatentsParams(Params):
    """Latents of an autoencoder, computed beforehand."""

    path: DataPath = Field(
        description="an .npz with latents (N, C, H, W), and scale and labels if there are any"
    )
    scale: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        "auto",
        description="multiplies the latents; auto: the file's own, or 1 over their standard "
        "deviation",
    )
    decoder: Annotated[ContentPath, BeforeValidator(_said), AfterValidator(_here)] | None = Field(
        None,
        description="folder of the diffusers autoencoder that decodes them; unset: samples stay "
        "latents",
    )


BY_ENDING = {
    ".npy": "arrays",
    ".npz": "arrays",
    ".parquet": "hf",
    ".zip": "folder",
    ".tar": "webdataset",
}
"""The component that reads a file, by its ending; folders are the folder's."""


def is_path(text: str) -> bool:
    """Whether ``--data`` names a place rather than a data set, whatever is or is not there."""
    place, _ = split_path(text)
    here = text[:1] in (".", "/", "~") or Path(place).suffix.lower() in BY_ENDING
    return here or is_remote(text)


def split_path(text: str) -> tuple[str, dict[str, Any]]:
    """``photos:size=64`` as a path and parameters; all of it is the path where there is such a
    one.
    """
    from noisereg.plugins.spec import KEY, parse_values

    match = re.match(rf"(.+?):(?={KEY}=)", text)
    if match is None or os.path.lexists(os.path.expanduser(text)):
        return text, {}
    return match[1], parse_values(text[match.end() :])


def path_spec(path: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The component that reads ``path``, with its parameters, as a run's configuration has it."""
    place = Path(path).expanduser()
    name = "folder" if place.is_dir() else BY_ENDING.get(place.suffix.lower(), "folder")
    return {"name": name, "params": {"path": path, **params}}


@hookimpl
def noisereg_datasets() -> Iterator[Component]:
    yield Component(
        name="digits",
        impl="noisereg.datasets.digits:Digits",
        params=ImageParams,
        summary="scikit-learn's 1,797 real 8×8 digits; comes with noisereg",
    )
    yield Component(
        name="swiss-roll",
        impl="noisereg.datasets.toy2d:SwissRoll",
        params=PointsParams,
        summary="2-D: a spiral",
        cite="the 2-D sets of Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="scattered-moon",
        impl="noisereg.datasets.toy2d:ScatteredMoon",
        params=PointsParams,
        summary="2-D: a crescent with scattered points",
        cite="the 2-D sets of Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="moon-circles",
        impl="noisereg.datasets.toy2d:MoonCircles",
        params=PointsParams,
        summary="2-D: a crescent and two discs",
        cite="the 2-D sets of Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="central-banana",
        impl="noisereg.datasets.toy2d:CentralBanana",
        params=PointsParams,
        summary="2-D: a curved lobe and a separate mode",
        cite="the 2-D sets of Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="mnist",
        impl="noisereg.datasets.torchvision_sets:MNIST",
        params=TorchvisionParams,
        summary="70,000 handwritten digits, 28×28",
    )
    yield Component(
        name="fashion-mnist",
        impl="noisereg.datasets.torchvision_sets:FashionMNIST",
        params=TorchvisionParams,
        summary="70,000 garments, 28×28",
        cite="Xiao et al. 2017, arXiv 1708.07747",
    )
    yield Component(
        name="cifar10",
        impl="noisereg.datasets.torchvision_sets:CIFAR10",
        params=FlippedParams,
        summary="60,000 colour photographs of 10 classes, 32×32",
    )
    yield Component(
        name="cifar100",
        impl="noisereg.datasets.torchvision_sets:CIFAR100",
        params=FlippedParams,
        summary="60,000 colour photographs of 100 classes, 32×32",
    )
    yield Component(
        name="flowers102",
        impl="noisereg.datasets.torchvision_sets:Flowers102",
        params=PhotoParams,
        summary="8,189 photographs of 102 flowers",
    )
    yield Component(
        name="oxford-pets",
        impl="noisereg.datasets.torchvision_sets:OxfordPets",
        params=PhotoParams,
        summary="7,349 photographs of 37 breeds of cats and dogs",
    )
    yield Component(
        name="celeba",
        impl="noisereg.datasets.torchvision_sets:CelebA",
        params=PhotoParams,
        summary="202,599 photographs of faces",
    )
    yield Component(
        name="folder",
        impl="noisereg.datasets.folder:Folder",
        params=FolderParams,
        summary="any images in a folder or a .zip",
    )
    yield Component(
        name="arrays",
        impl="noisereg.datasets.arrays:Arrays",
        params=ArraysParams,
        summary="images or points in a .npy or .npz",
    )
    yield Component(
        name="hf",
        impl="noisereg.datasets.hugging_face:HuggingFace",
        params=HuggingFaceParams,
        summary="images of Hugging Face's datasets library, local or not",
    )
    yield Component(
        name="webdataset",
        impl="noisereg.datasets.webdataset:WebDataset",
        params=WebDatasetParams,
        summary="images in .tar shards, here or in a store, beyond memory and disk",
    )
    yield Component(
        name="latents",
        impl="noisereg.datasets.latents:Latents",
        params=LatentsParams,
        summary="latents computed beforehand, decoded by a diffusers autoencoder",
        cite="BNDM, arXiv 2402.04930, in latent space",
    )
