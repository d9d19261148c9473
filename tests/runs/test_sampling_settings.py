"""What replaces a run's own sampling settings, and what another solver brings with it."""

import pytest

from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.python import build
from noisereg.runs.config import SampleConfig
from noisereg.runs.sampling import override, resolve

OWN = SampleConfig(eta=1.0, grid=Spec(name="uniform"))


def resolved(settings, noise="white"):
    made = build("noise", noise, shape=(1, 8, 8))
    process = build("process", "ddpm", shape=(1, 8, 8), noise=made)
    return resolve(settings, registry(), process, made, build("task", "unconditional"))


def test_another_solver_takes_its_own_eta_and_grid_unless_they_are_given():
    found = resolved(override(OWN, registry(), solver="dpmpp-2m"))
    assert (found.eta, found.grid.name) == (0.0, "chebyshev")
    assert resolved(override(OWN, registry(), solver="dpmpp-2m"), "blue").grid.name == "logsnr"
    assert resolved(override(OWN, registry(), solver="heun", grid="edm")).grid.name == "edm"
    assert resolved(override(OWN, registry(), steps=7)) == resolved(
        OWN.model_copy(update={"steps": 7})
    )


def test_the_solvers_eta_is_the_runs_eta():
    assert resolved(override(OWN, registry(), solver="ddim:eta=0.5")).eta == 0.5
    assert resolved(override(OWN, registry(), solver="ddim")).eta == 1.0
    with pytest.raises(NoiseregError, match="give one"):
        resolved(override(OWN, registry(), solver="ddim:eta=0.5", eta=0.25))
    with pytest.raises(NoiseregError, match="deterministic path"):
        resolved(override(OWN, registry(), solver="heun", eta=1.0))
