"""Linear layers of several networks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class StackedLinear(TorchFunctionMode):
    """In the block, ``torch.nn.functional.linear`` of two axes is W xᵀ and not x Wᵀ: under
    ``torch.vmap`` the gradient of W then comes in W's own order. That of x Wᵀ comes transposed,
    and copying it takes a sixth of a small network's step.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and not kwargs and args[0].ndim == 2:
            return _linear(*args)
        return func(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, out) of x (B, in)."""
    out = weight @ x.mT
    # Under autocast the product is of lower precision, and so is a linear layer's result.
    return (out if bias is None else out + bias[:, None].to(out.dtype)).mT
