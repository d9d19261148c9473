"""Features of a small classifier trained here, on the data's own labels: a space that knows the
data, offline.
"""

from __future__ import annotations

import functools
import math

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from noisereg import draws
from noisereg.api import Context, Dataset, Features
from noisereg.data import to_uint8, unit_range
from noisereg.errors import NoiseregError
from noisereg.features import ClassifierParams
from noisereg.features.spaces import weights_hash
from noisereg.store import BYTES, Store

VERSION = 1
"""Raised when the network or its training changes."""
DIMENSION = 64
BATCH = 128


def network(shape: tuple[int, ...], classes: int, width: int) -> nn.Sequential:
    """Convolutions of stride 2 down to about 4×4, means of their channels, 64 features, class
    scores.
    """
    channels, side = shape[0], min(shape[1:])
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    for level in range(max(1, math.ceil(math.log2(side / 4)))):
        before, after = width * min(4, 2**level), width * min(4, 2 ** (level + 1))
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    last = width * min(4, 2 ** max(1, math.ceil(math.log2(side / 4))))
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * last, DIMENSION), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(DIMENSION, classes))


class Classifier(Features):
    """The last hidden layer, (N, 64), of a classifier of the run's own data; its held-out accuracy
    is in ``summary``.
    """

    def __init__(self, params: ClassifierParams, ctx: Context) -> None:
        data = ctx.dataset
        if data is None or not data.classes or len(data.shape) != 3:
            what = "points" if data is not None and len(data.shape) == 1 else "data"
            raise NoiseregError(
                f"classifier features are learnt from images with labels, and these {what} have "
                "none: "
                "give `features=pixels` or `features=random-vgg16`"
            )
        self.params, self.device = params, torch.device(ctx.device)
        with draws.seeded(params.seed):
            self.network = network(tuple(data.shape), data.classes, params.width)
        key = {
            "classifier": VERSION,
            "data": data.fingerprint(),
            "classes": data.classes,
            "params": params.model_dump(exclude={"batch_size"}),
        }
        if ctx.cache_dir is None:
            weights = self._trained(data)
        else:
            store = Store(ctx.cache_dir)
            weights = store.cached(
                "classifier/weights", key, BYTES, functools.partial(self._trained, data)
            )
        self.network.load_state_dict(load(weights))
        self.network.to(self.device).eval().requires_grad_(False)
        self.accuracy, held = accuracy(self.network, data, self.device)
        self.identity = (
            f"classifier sha256:{weights_hash(self.network)[:16]} batch {params.batch_size}"
        )
        which = "held-out" if held else ""
        self.summary = f"classifier: {100 * self.accuracy:.1f} % of {held:,} {which} images right"

    def _trained(self, data: Dataset) -> bytes:
        """The weights, as safetensors."""
        self._train(data)
        return save({k: v.cpu().contiguous() for k, v in self.network.state_dict().items()})

    def _train(self, data: Dataset) -> None:
        split = data.split("train")
        order = torch.Generator().manual_seed(self.params.seed)
        network = self.network.to(self.device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(self.params.steps):
            batch = split.batch(torch.randint(len(split), (BATCH,), generator=order))
            assert batch.labels is not None
            # quantised as the generated images will be
            x = unit_range(to_uint8(batch.x.to(self.device)))
            loss = nn.functional.cross_entropy(network(x), batch.labels.to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        hidden = self.network[:-1]
        return torch.cat(
            [
                hidden(unit_range(part.to(self.device))).cpu()
                for part in x.split(self.params.batch_size)
            ]
        )

    def logits(self, features: Tensor) -> Tensor:
        """Class scores (N, classes) of features (N, 64)."""
        return self.network[-1](features.to(self.device)).cpu()


@torch.inference_mode()
def accuracy(network: nn.Module, data: Dataset, device: torch.device) -> tuple[float, int]:
    """The share of held-out images classified rightly, and their number."""
    split = data.split("heldout")
    right = 0
    for start in range(0, len(split), 500):
        batch = split.batch(torch.arange(start, min(start + 500, len(split))))
        assert batch.labels is not None
        right += int((network(batch.x.to(device)).argmax(1).cpu() == batch.labels.cpu()).sum())
    return right / max(1, len(split)), len(split)
