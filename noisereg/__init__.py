"""noisereg: diffusion models with any noise and any regularizer, combined and compared fairly.

    import noisereg
    run = noisereg.train(noise="blue-tv", reg=["isotropy:weight=0.1"], out="runs/a")
    images = run.sample(64, steps=50, seed=0)

In one's own training loop, around any network:

    diffusion = noisereg.Diffusion(shape=(3, 64, 64), noise="blue-tv", reg=["isotropy"])
    loss, parts = diffusion.loss(net, x0)
    images = diffusion.sample(net, 16)

Names are imported when first used, so ``import noisereg`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Diffusion",
    "NoiseregError",
    "Run",
    "__version__",
    "build",
    "evaluate",
    "isotropy",
    "load",
    "register",
    "sweep",
    "train",
]

if TYPE_CHECKING:
    from noisereg.errors import NoiseregError
    from noisereg.python import Diffusion, Run, build, evaluate, load, register, sweep, train
    from noisereg.regularizers.isotropy import isotropy
    from noisereg.runs.config import Config

_HOMES = {
    "Config": "noisereg.runs.config",
    "Diffusion": "noisereg.python",
    "NoiseregError": "noisereg.errors",
    "Run": "noisereg.python",
    "build": "noisereg.python",
    "isotropy": "noisereg.regularizers.isotropy",
    "evaluate": "noisereg.python",
    "load": "noisereg.python",
    "register": "noisereg.python",
    "sweep": "noisereg.python",
    "train": "noisereg.python",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'noisereg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
