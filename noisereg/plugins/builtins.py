"""The built-in components, registered through the same hooks as everybody's. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from noisereg.api import Component, hookimpl
from noisereg.datasets.params import (
    FlippedParams,
    FolderParams,
    ImageParams,
    LatentsParams,
    PhotoParams,
    PointsParams,
    TorchvisionParams,
)
from noisereg.denoisers.params import DenseParams, DiffusersUNetParams, MLPParams, UNetParams
from noisereg.metrics.params import (
    ClassifierParams,
    FidParams,
    FrechetParams,
    InceptionParams,
    InceptionScoreParams,
    IsotropyGapParams,
    KernelDistanceParams,
    NllParams,
    PixelsParams,
    PrdcParams,
    PrecisionRecallParams,
    PsnrParams,
    RandomVgg16Params,
    SsimParams,
)
from noisereg.noises.params import MaskParams, PowerLawParams, TimeVaryingParams, WhiteParams
from noisereg.pairings.params import PairingParams
from noisereg.processes.params import DDPMParams, IADBParams
from noisereg.regularizers.params import IsotropyParams
from noisereg.tasks.params import ClassParams, SuperresParams


@hookimpl
def noisereg_noises() -> Iterator[Component]:
    yield Component(
        name="white",
        impl="noisereg.noises.white:WhiteNoise",
        params=WhiteParams,
        summary="independent Gaussian numbers, for images and points",
    )
    yield Component(
        name="blue",
        impl="noisereg.noises.blue:BlueNoise",
        params=MaskParams,
        summary="static blue noise: Gaussian, with the spectrum of void-and-cluster masks",
        cite="Huang et al. 2024, arXiv 2402.04930; Ulichney 1993",
    )
    yield Component(
        name="blue-tv",
        impl="noisereg.noises.time_varying:BlueTimeVarying",
        params=TimeVaryingParams,
        summary="blue at the data, white at the noise: ε_t = (γ_t z + (1−γ_t) L z)/c_t",
        cite="Huang et al. 2024, arXiv 2402.04930",
    )
    yield Component(
        name="red",
        impl="noisereg.noises.blue:RedNoise",
        params=MaskParams,
        summary="static red noise: the blue spectrum mirrored in frequency",
    )
    yield Component(
        name="red-tv",
        impl="noisereg.noises.time_varying:RedTimeVarying",
        params=TimeVaryingParams,
        summary="red at the data, white at the noise",
        cite="Huang et al. 2024, arXiv 2402.04930, figure on white to red (which leaves red undefined)",
    )
    yield Component(
        name="power-law",
        impl="noisereg.noises.blue:PowerLawNoise",
        params=PowerLawParams,
        summary="static noise of amplitude |f|^exponent",
    )


@hookimpl
def noisereg_regularizers() -> Iterator[Component]:
    yield Component(
        name="isotropy",
        impl="noisereg.regularizers.isotropy:Isotropy",
        params=IsotropyParams,
        summary="holds E‖ε̂‖²/n to the noise's own level",
        cite="Iso-Diffusion, arXiv 2403.16790, eq. 28",
    )


@hookimpl
def noisereg_pairings() -> Iterator[Component]:
    yield Component(
        name="greedy",
        impl="noisereg.pairings.greedy:Greedy",
        params=PairingParams,
        summary="each noise in turn takes the nearest image left in the batch (rectified mapping)",
        cite="BNDM, arXiv 2402.04930",
    )
    yield Component(
        name="optimal",
        impl="noisereg.pairings.optimal:Optimal",
        params=PairingParams,
        summary="the assignment of least total distance in the batch",
        cite="Immiscible diffusion, arXiv 2406.12303",
    )


@hookimpl
def noisereg_processes() -> Iterator[Component]:
    yield Component(
        name="ddpm",
        impl="noisereg.processes.ddpm:DDPM",
        params=DDPMParams,
        summary="variance-preserving: a = √ᾱ, b = √(1−ᾱ); linear or cosine schedule; predicts ε, x0 or v",
        cite="Ho et al. 2020, arXiv 2006.11239; Nichol & Dhariwal 2021, arXiv 2102.09672",
    )
    yield Component(
        name="iadb",
        impl="noisereg.processes.iadb:IADB",
        params=IADBParams,
        summary="a = 1 − t, b = t; predicts x0 − ε",
        cite="Heitz et al. 2023, arXiv 2305.03486",
    )


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
        summary="any images in a folder",
    )
    yield Component(
        name="latents",
        impl="noisereg.datasets.latents:Latents",
        params=LatentsParams,
        summary="latents computed beforehand, decoded by a diffusers autoencoder",
        cite="BNDM, arXiv 2402.04930, in latent space",
    )


@hookimpl
def noisereg_denoisers() -> Iterator[Component]:
    yield Component(
        name="dense",
        impl="noisereg.denoisers.dense:Dense",
        params=DenseParams,
        summary="fully connected, for points",
        cite="Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="mlp",
        impl="noisereg.denoisers.mlp:MLP",
        params=MLPParams,
        summary="residual and fully connected, for images as small as 8×8",
    )
    yield Component(
        name="unet",
        impl="noisereg.denoisers.unet:UNet",
        params=UNetParams,
        summary="diffusers' UNet2DModel, with the presets of DDPM and BNDM",
        cite="Ho et al. 2020, arXiv 2006.11239; BNDM, arXiv 2402.04930",
    )
    yield Component(
        name="diffusers-unet",
        impl="noisereg.denoisers.diffusers_unet:DiffusersUNet",
        params=DiffusersUNetParams,
        summary="diffusers' UNet2DModel of any architecture: what train --init DIR takes",
    )


@hookimpl
def noisereg_tasks() -> Iterator[Component]:
    yield Component(
        name="unconditional",
        impl="noisereg.api:Task",
        summary="the network is told x_t and t alone",
    )
    yield Component(
        name="class",
        impl="noisereg.tasks.class_label:ClassLabel",
        params=ClassParams,
        summary="class labels, with classifier-free guidance (sample --guidance)",
        cite="Ho & Salimans 2022, arXiv 2207.12598",
    )
    yield Component(
        name="superres",
        impl="noisereg.tasks.superres:SuperResolution",
        params=SuperresParams,
        summary="large images from small ones (sample --input)",
        cite="BNDM, arXiv 2402.04930, super-resolution",
    )


@hookimpl
def noisereg_metrics() -> Iterator[Component]:
    yield Component(
        name="prdc",
        impl="noisereg.metrics.prdc:Prdc",
        params=PrdcParams,
        summary="precision, recall, density and coverage by k-th neighbours, in any feature space",
        cite="Naeem et al. 2020, arXiv 2002.09797; Kynkäänniemi et al. 2019, arXiv 1904.06991",
    )
    yield Component(
        name="pr",
        impl="noisereg.metrics.fidelity:PrecisionRecall",
        params=PrecisionRecallParams,
        summary="precision and recall as torch-fidelity counts them, in any feature space",
        cite="Kynkäänniemi et al. 2019, arXiv 1904.06991",
    )
    yield Component(
        name="fid",
        impl="noisereg.metrics.fidelity:FID",
        params=FidParams,
        summary="Fréchet Inception distance, by torch-fidelity",
        cite="Heusel et al. 2017, arXiv 1706.08500",
    )
    yield Component(
        name="kid",
        impl="noisereg.metrics.fidelity:KID",
        params=KernelDistanceParams,
        summary="kernel Inception distance, by torch-fidelity",
        cite="Bińkowski et al. 2018, arXiv 1801.01401",
    )
    yield Component(
        name="is",
        impl="noisereg.metrics.fidelity:InceptionScore",
        params=InceptionScoreParams,
        summary="Inception score, by torch-fidelity; uses no reference",
        cite="Salimans et al. 2016, arXiv 1606.03498",
    )
    yield Component(
        name="fd",
        impl="noisereg.metrics.fidelity:FrechetDistance",
        params=FrechetParams,
        summary="Fréchet distance in any feature space, named after it: fd-pixels",
        cite="Dowson & Landau 1982; Heusel et al. 2017, eq. 6",
    )
    yield Component(
        name="kd",
        impl="noisereg.metrics.fidelity:KernelDistance",
        params=KernelDistanceParams,
        summary="kernel distance (cubic MMD²) in any feature space, named after it: kd-pixels",
        cite="Bińkowski et al. 2018, arXiv 1801.01401",
    )
    yield Component(
        name="isotropy",
        impl="noisereg.metrics.power:PredictedPower",
        params=IsotropyGapParams,
        summary="how far E‖ε̂‖² lies from the noise's own level, and the error of ε̂, beside the Gaussian optimum",
        cite="Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="nll",
        impl="noisereg.metrics.likelihood:NegativeLogLikelihood",
        params=NllParams,
        summary="bits a dimension of held-out data, by the variational bound and by the flow",
        cite="Nichol & Dhariwal 2021, arXiv 2102.09672; Song et al. 2021, arXiv 2011.13456",
    )
    yield Component(
        name="psnr",
        impl="noisereg.metrics.paired:PSNR",
        params=PsnrParams,
        summary="peak signal-to-noise ratio of paired outputs (super-resolution), in dB",
    )
    yield Component(
        name="ssim",
        impl="noisereg.metrics.paired:SSIM",
        params=SsimParams,
        summary="structural similarity of paired outputs (super-resolution)",
        cite="Wang et al. 2004",
    )


@hookimpl
def noisereg_features() -> Iterator[Component]:
    yield Component(
        name="pixels",
        impl="noisereg.features.spaces:Pixels",
        params=PixelsParams,
        summary="the pixels themselves, in uint8; points as they are",
        cite="Iso-Diffusion, arXiv 2403.16790, measures images so",
    )
    yield Component(
        name="inception",
        impl="noisereg.features.spaces:Inception",
        params=InceptionParams,
        summary="torch-fidelity's Inception v3, 2,048 pool features; weights from a file or its download",
        cite="Heusel et al. 2017, arXiv 1706.08500",
    )
    yield Component(
        name="random-vgg16",
        impl="noisereg.features.spaces:RandomVgg16",
        params=RandomVgg16Params,
        summary="512 features of a VGG-16 with random weights; no download",
        cite="Naeem et al. 2020, arXiv 2002.09797",
    )
    yield Component(
        name="classifier",
        impl="noisereg.features.classifier:Classifier",
        params=ClassifierParams,
        summary="64 features of a small classifier trained here on the data's own labels",
    )


@hookimpl
def noisereg_loggers() -> Iterator[Component]:
    yield Component(
        name="tensorboard",
        impl="noisereg.loggers.tensorboard:TensorBoard",
        summary="event files in RUN/tensorboard (extra: tensorboard)",
    )
