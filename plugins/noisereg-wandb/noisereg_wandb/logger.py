"""What a run measures, to Weights & Biases."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisereg.api import Context, Logger, NoiseregError
from noisereg_wandb import WandbParams


def run_id(out: Path) -> str:
    """The same for one folder, so that a run that is resumed goes on with its curves."""
    return hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]


def remove_links_out(out: Path) -> None:
    """wandb links its own log from the user's cache into the run's folder, and a run with a link
    that leads out of its folder is not opened.
    """
    for path in (out / "wandb").rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(out.resolve()):
            path.unlink()


class WandbLogger(Logger):
    """One wandb run a run folder, with its whole configuration; marked as failed if training
    failed.

    Raises:
        NoiseregError: if wandb is not installed.
    """

    def __init__(self, params: WandbParams, ctx: Context) -> None:
        try:
            import wandb
        except ImportError:
            raise NoiseregError("--log wandb needs the package wandb: pip install wandb") from None
        self.params = params
        self._wandb = wandb
        self._run: Any = None

    def run_started(self, out: Path, config: dict[str, Any]) -> None:
        given = self.params
        self._run = self._wandb.init(
            project=given.project,
            entity=given.entity,
            name=given.title or out.resolve().name,
            group=given.group,
            tags=list(given.tags) or None,
            mode=given.mode,
            dir=str(out),
            id=run_id(out),
            resume="allow",
            reinit="create_new",  # two runs in one process are two
            config=config,
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self._out = out
        remove_links_out(out)

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def pictured(self, step: int, name: str, picture: bytes) -> None:
        from PIL import Image

        image = self._wandb.Image(Image.open(io.BytesIO(picture)))
        self._run.log({name: image}, step=step)

    def run_ended(self, error: BaseException | None) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)
            remove_links_out(self._out)
