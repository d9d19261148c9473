"""What a loop of one's own gives, checked by type: one line in place of what torch says."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from noisereg.diffusion.law import times_of
from noisereg.errors import NoiseregError


def check_tensor(name: str, given: Any) -> None:
    """
    Raises:
        NoiseregError: for what is no tensor.
    """
    if not isinstance(given, Tensor):
        raise NoiseregError(
            f"`{name}` is a {type(given).__name__}; expected a torch.Tensor, as "
            f"torch.as_tensor({name}) makes it"
        )


def check_count(name: str, count: Any) -> None:
    """
    Raises:
        NoiseregError: for what is no whole number from 1.
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise NoiseregError(f"`{name}={count!r}`: expected a whole number, at least 1")


def check_seed(seed: Any) -> None:
    """
    Raises:
        NoiseregError: for what is no whole number from 0 to 2⁶³ − 1: the others are taken for one
            of these.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) < 2**63:
        raise NoiseregError(f"`seed={seed!r}`: expected a whole number from 0 to 2**63 - 1")


def check_number(name: str, number: Any) -> None:
    """
    Raises:
        NoiseregError: for what is no number.
    """
    if not isinstance(number, Real) or isinstance(number, bool):
        raise NoiseregError(f"`{name}={number!r}` is a {type(number).__name__}; expected a number")


def check_generator(generator: Any) -> None:
    """
    Raises:
        NoiseregError: for what is neither torch's generator nor None.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        seed = generator if isinstance(generator, int) else 0
        raise NoiseregError(
            f"`generator={generator!r}` is a {type(generator).__name__}; expected "
            f"torch.Generator().manual_seed({seed})"
        )


def check_network(net: Any) -> None:
    """
    Raises:
        NoiseregError: for what cannot be called.
    """
    if not callable(net):
        raise NoiseregError(
            f"the network is a {type(net).__name__}; expected a module or function of (x_t, t)"
        )


def device_of(given: Any) -> torch.device:
    """
    Raises:
        NoiseregError: for no device's name.
    """
    try:
        return torch.device(given)
    except (RuntimeError, TypeError):
        raise NoiseregError(f"`device={given}`: expected cpu, cuda, cuda:1, … or mps") from None


def check_dtype(dtype: Any) -> None:
    """
    Raises:
        NoiseregError: for what is no floating point dtype of torch's.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise NoiseregError(
            f"`dtype={dtype}`: expected torch.float32, or another floating point dtype of torch's"
        )


def times(t: Any, T: int | None, count: int, device: torch.device) -> Tensor:
    """t in [0, 1], (count,) float64, from such times or a loop's steps
    (:func:`noisereg.diffusion.law.times_of`), each sample's or one number for all.

    Raises:
        NoiseregError: for another number of times, and what is out of range or no number.
    """
    if isinstance(t, Real) and not isinstance(t, bool):
        if isinstance(t, Integral) and T is not None:  # a step
            t = torch.tensor(int(t))
        else:
            t = torch.tensor(float(t), dtype=torch.float64)
    check_tensor("t", t)
    found = times_of(t, T, device)
    if found.ndim == 0:
        return found.expand(count)
    if tuple(found.shape) != (count,):
        raise NoiseregError(
            f"times of shape {tuple(found.shape)}; expected ({count},), as the samples, or one "
            "number for all"
        )
    return found
