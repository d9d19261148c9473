"""Event files for TensorBoard, in RUN/tensorboard; needs the extra ``noisereg[tensorboard]``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisereg.api import Context, Logger, NoiseregError, Params


class TensorBoard(Logger):
    """
    Raises:
        NoiseregError: if the package tensorboard is not installed.
    """

    def __init__(self, params: Params, ctx: Context) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise NoiseregError(
                "`log=tensorboard` needs the package tensorboard: pip install "
                "'noisereg[tensorboard]'"
            ) from None
        self._new_writer = SummaryWriter
        self._writer: Any = None

    def run_started(self, out: Path, config: dict[str, Any]) -> None:
        from noisereg.reading import write_yaml

        self._writer = self._new_writer(str(out / "tensorboard"))
        self._writer.add_text("config", f"```yaml\n{write_yaml(config)}```")

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def pictured(self, step: int, name: str, picture: bytes) -> None:
        import numpy as np
        from PIL import Image

        pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def run_ended(self, error: BaseException | None) -> None:
        self._writer.close()
