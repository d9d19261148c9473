"""Packages that are as good as installed: a module and its metadata in a folder on sys.path."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

GOOD = """
    from noisereg.api import Component, Noise, hookimpl

    class Plain(Noise):
        def __init__(self, params, ctx):
            pass

        def color(self, latents, t):
            return latents["z"]

        def mean_square(self, t):
            return t * 0 + 1

    @hookimpl
    def noisereg_noises():
        yield Component(name="{name}", impl=Plain, summary="for a test", api={api})
"""


LOUDER = """
from noisereg.api import Component, Noise, Params, hookimpl

class Louder(Noise):
    def __init__(self, params, ctx):
        pass

    def color(self, latents, t):
        return latents["z"] * {scale}

    def mean_square(self, t):
        return {scale}**2 + 0 * t

@hookimpl
def noisereg_noises():
    yield Component(name="louder", impl=Louder, params=Params)
"""
"""A noise of a scale that is filled in: another version of a plugin."""


def good(name: str, api: int = 1) -> str:
    """A plugin with one noise."""
    return GOOD.format(name=name, api=api)


class Packages:
    """Installs and removes packages in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self, name: str, code: str, version: str = "1.0", entry: str | None = None
    ) -> Path:
        """A distribution ``name`` whose module is ``code``, registered in the entry-point group
        noisereg.
        """
        module = name.replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[noisereg]\n{name} = {entry or module}\n")
        path = self.folder / f"{module}.py"
        path.write_text(textwrap.dedent(code))
        importlib.invalidate_caches()
        return path

    def uninstall(self, name: str) -> None:
        module = name.replace("-", "_")
        (self.folder / f"{module}.py").unlink()
        for info in self.folder.glob(f"{module}-*.dist-info"):
            for file in info.iterdir():
                file.unlink()
            info.rmdir()
        self.forget()

    def forget(self) -> None:
        """As a new process would start: none of the folder's modules is imported."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "") or "").startswith(str(self.folder)):
                del sys.modules[name]
        importlib.invalidate_caches()
