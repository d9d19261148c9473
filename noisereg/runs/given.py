"""What a Python caller gives as an object where a configuration has a name: tensors or a torch
``Dataset`` as data, an ``nn.Module`` as denoiser.
"""

from __future__ import annotations

import copy
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noisereg.api import Component, Context, Denoiser, Params
from noisereg.datasets.array_file import read_samples
from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Registry
from noisereg.store import write_atomically

MOST_BYTES = 4 << 30
"""Of data given as an object, which is held in memory and written once."""


def data_path(data: Any) -> str:
    """The file in which data given as an object are kept, so that the run that is trained on them
    is resumed, sampled and evaluated like any other.

    ``data`` is a tensor or an array: uint8 images or floats in [−1, 1], (N, C, H, W) or
    (N, H, W, C), or points (N, D); a pair of such and labels (N,); or a torch ``Dataset`` of
    tensors, arrays or pairs of one and a label.

    Raises:
        NoiseregError: for anything else, more than 4 GiB, and samples or labels that the data set
            ``arrays`` would refuse; nothing is kept then.
    """
    if isinstance(data, Path):
        raise NoiseregError(f"data is a path; expected its text: data={str(data)!r}")
    x, labels = _pair(data)
    if x.nbytes > MOST_BYTES:
        raise NoiseregError(
            f"data: {x.nbytes / 2**30:.1f} GiB are too many to be given as an object; expected a "
            "folder of images, an .npy, or a data set as a plugin"
        )
    arrays: dict[str, Any] = {"samples": x} | ({} if labels is None else {"labels": labels})
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    path = cache_dir() / "data" / f"{digest.hexdigest()[:16]}.npz"
    if not path.is_file():
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path, buffer.getvalue())
        try:
            read_samples(path)
        except NoiseregError as error:
            path.unlink()
            raise NoiseregError(f"{error}".replace(str(path), "data")) from None
    return str(path)


def _pair(data: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples and, if there are any, their labels."""
    if isinstance(data, Tensor | np.ndarray):
        return _array(data), None
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape"):
        return _array(data[0]), _labels(_array(data[1]))
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise NoiseregError(
            f"data: {type(data).__name__} is no data set; expected a tensor (N, C, H, W) or "
            "(N, D), a pair of it and labels, a torch Dataset, or a name"
        )
    items = [data[i] for i in range(len(data))]
    if not items:
        raise NoiseregError("data: the data set is empty")
    several = isinstance(items[0], tuple | list)
    each = [_array(item[0] if several else item) for item in items]
    if each[0].dtype.kind == "O":
        raise NoiseregError(
            f"data: its items are {type(items[0]).__name__}; expected tensors or arrays, or pairs "
            "of one and a label"
        )
    if len(sizes := sorted({x.shape for x in each})) > 1:
        raise NoiseregError(
            f"data: its samples differ in shape, {sizes[0]} and {sizes[1]}; expected one shape"
        )
    x = np.stack(each)
    if not several or len(items[0]) < 2:
        return x, None
    return x, _labels(np.stack([_array(item[1]) for item in items]))


def _labels(given: np.ndarray) -> np.ndarray:
    """
    Raises:
        NoiseregError: for what is not whole, which would be cut off.
    """
    if given.dtype.kind == "f" and (bad := given[given != given.round()]).size:  # NaN too
        raise NoiseregError(f"data: labels such as {bad[0]}; expected whole numbers from 0")
    if given.dtype.kind not in "iubf":
        raise NoiseregError(f"data: labels are {given.dtype}; expected whole numbers from 0")
    return given.astype(np.int64)


def _array(x: Any) -> np.ndarray:
    if isinstance(x, Tensor) and x.dtype == torch.bfloat16:  # which NumPy has not
        x = x.float()
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def register_denoiser(module: nn.Module, registry: Registry) -> str:
    """The name under which a module is a denoiser for this session: a run begins with a copy of
    its weights. It is called with (x_t, t in [0, 1]) and, where there is one, the condition; what
    it returns is a tensor or has one as ``sample``.

    The name is made of its class and its sizes, so that the same network in another session goes
    on with the run.
    """
    sizes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    digest = hashlib.sha256(repr(sizes).encode()).hexdigest()[:8]
    short = re.sub(r"[^a-z0-9]+", "-", type(module).__name__.lower()).strip("-") or "net"
    name = f"given-{short}-{digest}"

    class Given(nn.Module, Denoiser):
        def __init__(self, params: Params, ctx: Context) -> None:
            nn.Module.__init__(self)
            self.net = copy.deepcopy(module)
            self._check(ctx)

        def _check(self, ctx: Context) -> None:
            """That a sample comes out with the channels that the run reads.

            Raises:
                NoiseregError: with the number there should be.
            """
            assert ctx.process is not None
            assert ctx.noise is not None
            if ctx.task is not None and (ctx.task.channels or ctx.task.classes):
                return  # its condition is not known here
            wanted = ctx.shape[0] * (1 + ctx.process.extra_heads + ctx.noise.extra_heads)
            kept = list(self.net.parameters())
            place = kept[0].device if kept else torch.device("cpu")
            mode = self.net.training
            self.net.eval()
            with torch.no_grad():
                out = self(
                    torch.zeros(2, *ctx.shape, device=place), torch.full((2,), 0.5, device=place)
                )
            self.net.train(mode)
            if tuple(out.shape) != (2, wanted, *ctx.shape[1:]):
                raise NoiseregError(
                    f"denoiser: {type(module).__name__} gives {tuple(out.shape)[1:]} for a sample "
                    f"{ctx.shape}; expected {(wanted, *ctx.shape[1:])}"
                )

        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            t = t.to(x_t.dtype)
            out = self.net(x_t, t) if cond is None else self.net(x_t, t, cond)
            return getattr(out, "sample", out)

    registry.register(Component(name=name, impl=Given, summary="given from Python"), "denoiser")
    return name


def named(sections: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The sections of a configuration with objects in them replaced by names."""
    found = dict(sections)
    data = found.get("data")
    if data is not None and not isinstance(data, str | Mapping):
        found["data"] = data_path(data)
    if isinstance(found.get("denoiser"), nn.Module):
        found["denoiser"] = register_denoiser(found["denoiser"], registry)
    return found
