"""Super-resolution as in BNDM (Huang et al. 2024, arXiv 2402.04930): the small image, enlarged,
joins the input.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from noisereg.api import Batch, Context, Task
from noisereg.errors import NoiseregError
from noisereg.tasks import SuperresParams


class SuperResolution(Task):
    """``cond`` is the image made ``factor`` times smaller and enlarged again, both bilinearly with
    ``align_corners=True``: corner pixels lie on corner pixels, and nothing is averaged before the
    reduction, as in the paper.

    Raises:
        NoiseregError: for points, and for sides that the factor does not divide.
    """

    def __init__(self, params: SuperresParams, ctx: Context) -> None:
        if len(ctx.shape) != 3:
            raise NoiseregError(
                f"`task=superres` needs images and this data set has points of {ctx.shape[0]} "
                "numbers; expected "
                "`task=unconditional`, or class"
            )
        channels, height, width = ctx.shape
        if height % params.factor or width % params.factor:
            raise NoiseregError(
                f"superres:factor={params.factor} does not divide {height}×{width}; give a factor "
                "that does, or another "
                "size of the data"
            )
        self.params = params
        self.channels = channels
        self.side = (height, width)
        self.input_shape = (channels, height // params.factor, width // params.factor)
        small = "×".join(map(str, self.input_shape[1:]))
        self.summary = f"{small} to {height}×{width}, bilinear"

    def cond(self, batch: Batch) -> Tensor:
        """(B, C, H, W)."""
        assert self.input_shape is not None
        return self.from_input(_bilinear(batch.x, self.input_shape[1:]))

    def from_input(self, images: Tensor) -> Tensor:
        """Small images (N, C, H/factor, W/factor) enlarged to (N, C, H, W)."""
        return _bilinear(images, self.side)


def _bilinear(x: Tensor, side: tuple[int, ...]) -> Tensor:
    return functional.interpolate(x, size=side, mode="bilinear", align_corners=True)
