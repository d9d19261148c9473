"""Feature spaces: what a metric measures distances in, and torch-fidelity's view of them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from noisereg import draws
from noisereg.api import Context, Features
from noisereg.data import unit_range
from noisereg.errors import NoiseregError
from noisereg.features import InceptionParams, PixelsParams, RandomVgg16Params
from noisereg.reading import check_ordinary


def as_rgb(x: Tensor, space: str) -> Tensor:
    """uint8 images (N, 1 or 3, H, W) as (N, 3, H, W).

    Raises:
        NoiseregError: for points, and for other numbers of channels.
    """
    check_shape(tuple(x.shape[1:]), space)
    return x.expand(-1, 3, -1, -1)


def check_shape(shape: tuple[int, ...], space: str) -> None:
    """Whether samples of ``shape`` can be seen as RGB; () is not known yet."""
    if shape and len(shape) != 3:
        raise NoiseregError(
            f"{space} features are of images; these are points of {shape[0]} numbers: give "
            "`features=pixels`"
        )
    if shape and shape[0] not in (1, 3):
        raise NoiseregError(
            f"{space} features need images of 1 or 3 channels, not {shape[0]}: give "
            "`features=pixels`"
        )


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a network's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Pixels(Features):
    """The pixels themselves, in uint8, as Iso-Diffusion measures images; points as they are."""

    identity = "pixels"
    cheap = True

    def __init__(self, params: PixelsParams, ctx: Context) -> None:
        pass

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class RandomVgg16(Features):
    """Means of the last convolution's channels in a VGG-16 of random weights, (N, 512).

    A random network is a feature space that needs no download and prefers no data set; Naeem et
    al. 2020 (arXiv 2002.09797) propose it for data unlike ImageNet. Images are taken at their own
    size; sides under 32 pixels are enlarged to 32, below which five poolings leave nothing.
    """

    def __init__(self, params: RandomVgg16Params, ctx: Context) -> None:
        from torchvision.models import vgg16

        check_shape(ctx.shape, "random-vgg16")
        self.device, self.batch_size = torch.device(ctx.device), params.batch_size
        with draws.seeded(params.seed):
            # the classifier, 120 M parameters that are not used, is made without memory
            with torch.device("meta"):
                network = vgg16(weights=None, init_weights=False)
            features = network.features.to_empty(device="cpu")
            for layer in features:
                if isinstance(layer, nn.Conv2d):
                    assert layer.bias is not None
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
        self.identity = (
            f"random-vgg16 sha256:{weights_hash(features)[:16]} batch {params.batch_size}"
        )
        self.network = features.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        x = as_rgb(x, "random-vgg16")
        size = [max(32, side) for side in x.shape[2:]]
        parts = []
        for part in x.split(self.batch_size):
            images = unit_range(part.to(self.device))
            if size != list(x.shape[2:]):
                images = nn.functional.interpolate(
                    images, size, mode="bilinear", align_corners=False
                )
            parts.append(self.network(images).mean((2, 3)).cpu())
        return torch.cat(parts)


class Inception(Features):
    """torch-fidelity's Inception v3, the pool layer, (N, 2048): the space of FID, KID and the
    Inception score.
    """

    def __init__(self, params: InceptionParams, ctx: Context) -> None:
        check_shape(ctx.shape, "inception")
        self.device, self.batch_size = torch.device(ctx.device), params.batch_size
        path = params.weights or downloaded_weights()
        self.network, digest = load_inception(path)
        self.network.to(self.device)
        self.identity = f"inception sha256:{digest[:16]} batch {params.batch_size}"

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        x = as_rgb(x, "inception")
        return torch.cat(
            [self.network(part.to(self.device))[0].cpu() for part in x.split(self.batch_size)]
        )

    def logits(self, features: Tensor) -> Tensor:
        """The class scores that go with pool features (N, 2048), without bias, as the Inception
        score takes them.
        """
        head: Tensor = self.network.get_parameter("fc.weight")
        return features @ head.T.cpu()


def downloaded_weights() -> Path:
    """torch-fidelity's own weights file in torch.hub's cache, downloaded if it is not there.

    Raises:
        NoiseregError: if it cannot be downloaded.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                URL_INCEPTION_V3,
                str(path),
                hash_prefix=path.stem.rpartition("-")[2],
                progress=False,
            )
        except (OSError, RuntimeError) as error:
            raise NoiseregError(
                f"the Inception weights could not be downloaded ({error}): fetch "
                f"{URL_INCEPTION_V3} and give it as "
                "`inception_weights=FILE`, or measure without them: `metric=fd` `features=pixels`"
            ) from None
    return path


def load_inception(path: Path) -> tuple[nn.Module, str]:
    """torch-fidelity's extractor with the weights in ``path``, and the file's SHA-256.

    torch-fidelity unpickles the file without restriction, so it is read once, checked with
    ``weights_only``, and the very bytes that passed are handed on.

    Raises:
        NoiseregError: if it is no file of such weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    expected = f"expected torch-fidelity's {URL_INCEPTION_V3.rpartition('/')[2]}"
    check_ordinary(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NoiseregError(f"`inception_weights={path}`: {error.strerror}; {expected}") from None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except Exception as error:  # torch.load raises many types on a file that is none
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise NoiseregError(
            f"`inception_weights={path}` holds no weights ({reason}); {expected}"
        ) from None
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], io.BytesIO(data))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise NoiseregError(
            f"`inception_weights={path}` holds other weights ({reason}…); {expected}"
        ) from None
    return network, hashlib.sha256(data).hexdigest()
