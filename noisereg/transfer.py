"""Copies to a device that do not wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` on ``device``.

    To a GPU from memory that it can read by itself: a copy from any other waits until all that
    was asked of the GPU before is done, and a thread that prepares the next batch would wait for
    the step of the one before it. The memory is not used again before the copy has been made.
    """
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
