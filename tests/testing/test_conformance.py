"""``conformance`` as a plugin's author uses it, and the built-in components under their own
kit.
"""

import re
import subprocess
import sys

import pytest
import torch
from kit_tools import failures

import noisereg
from noisereg import testing
from noisereg.api import Component, Noise
from noisereg.errors import NoiseregError
from noisereg.testing import Subject, checks, conformance, run

PLUGIN = """
from noisereg.api import Component, Noise, hookimpl

class Loud(Noise):
    def __init__(self, params, ctx):
        pass

    def color(self, latents, t):
        return 2 * latents["z"]

    def mean_square(self, t):
        return t * 0 + 1

@hookimpl
def noisereg_noises():
    yield Component(name="loud", impl=Loud, summary="white noise, twice as loud as it says")
"""
TEST = """
from noisereg.testing import conformance

EXPECTED = {"mean_square_of_draws": "as in the paper", "centred": "it was not, once"}
test_mine = conformance("noise", "file/loud", plugin="plugin.py", expected_failures=EXPECTED)
"""


def test_what_an_author_sees(tmp_path):
    """A failure with its explanation and confidence, one that is expected, one that was and is
    stale, and reasons to skip.
    """
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "test_mine.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfxXs", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    out = done.stdout
    assert done.returncode == 1
    assert "test_mine.py::test_mine[mean_square_of_matrix]" in out
    assert "tr(L Lᵀ)/n is 4.000000 and mean_square says 1.000000" in out
    assert "mean_square_of_matrix: For a linear noise, mean_square(t) is tr(L_t L_tᵀ)/n" in out
    assert "confidence: exact up to a relative 1e-4" in out
    assert "XFAIL test_mine.py::test_mine[mean_square_of_draws] - as in the paper" in out
    assert "[XPASS(strict)] it was not, once" in out
    assert "it has no extra heads" in out
    summary = out.splitlines()[-1]
    assert "2 failed" in summary
    assert "1 xfailed" in summary
    counted = sum(int(n) for n in re.findall(r"(\d+) (?:failed|passed|skipped|xfailed)", summary))
    assert counted == len(checks("noise"))


def test_a_component_that_is_not_there_fails_every_check_with_the_hint():
    (only, *_) = checks("task")
    with pytest.raises(NoiseregError, match="no task is called 'clas'; did you mean 'class'"):
        run(only, Subject.find("task", "clas"))


def test_a_misspelt_check_or_kind_is_an_error_at_once():
    with pytest.raises(
        NoiseregError, match="no check of a noise is called 'centered'; did you mean 'centred'"
    ):
        conformance("noise", "white", expected_failures={"centered": "why"})
    with pytest.raises(NoiseregError, match="no kind is called 'nois'; did you mean 'noise'"):
        conformance("nois", "white")


def test_a_noise_that_passes_by_refusing_everything_is_not_right():
    class Refuses:
        def __init__(self, params, ctx):
            raise NoiseregError("not today")

    found = failures("noise", Refuses)
    assert "it can be built for none of the shapes" in found["shape_dtype_device"]


BUILT_IN = {
    "noise": [
        "white",
        "blue",
        "blue-tv",
        "blue-tv:transport=whiten,normalize=true",
        "red-tv:factor=spectral",
        "power-law",
    ],
    "regularizer": [
        "isotropy",
        "isotropy:space=whitened",
        "isotropy:mean=sample",
        "isotropy:mean=timestep-bin",
        "isotropy:mean=sample-plain",
    ],
    "pairing": ["greedy", "optimal", "greedy:cost=noised"],
    "process": ["ddpm", "iadb", "ddpm:schedule=cosine", "ddpm:target=x0"],
    "denoiser": ["dense", "mlp:width=64"],
    "dataset": ["digits", "swiss-roll"],
    "task": ["unconditional", "class", "superres"],
    "metric": ["prdc", "fd"],
    "features": ["pixels"],
}


@pytest.mark.parametrize(
    ("kind", "spec"), [(kind, spec) for kind, specs in BUILT_IN.items() for spec in specs]
)
def test_built_in_components_conform(kind, spec):
    outcomes = [run(check, Subject.find(kind, spec)) for check in checks(kind)]
    assert {o.check.name: o.message for o in outcomes if o.status == "failed"} == {}
    assert sum(o.status == "passed" for o in outcomes) >= 2


LARGE = """
from noisereg.api import Component, Noise, NoiseregError, hookimpl

class ForPhotos(Noise):
    def __init__(self, params, ctx):
        if len(ctx.shape) != 3 or ctx.shape[0] != 3 or min(ctx.shape[1:]) < 16:
            raise NoiseregError(f"it is for three channels and sides of at least 16, not {ctx.shape}")

    def color(self, latents, t):
        return latents["z"]

    def mean_square(self, t):
        return t * 0 + 1

@hookimpl
def noisereg_noises():
    yield Component(name="for-photos", impl=ForPhotos, summary="white noise for photographs")
"""


def test_a_component_that_takes_none_of_the_kits_shapes_is_tried_on_those_given(tmp_path):
    from noisereg.plugins.registry import Policy, Registry

    file = tmp_path / "photos.py"
    file.write_text(LARGE)
    known = Registry(Policy(entry_points=False))
    known.load(str(file))
    quick = [c for c in checks("noise") if c.name in ("shape_and_dtype", "works_or_refuses")]
    quick = quick or checks("noise")[:3]
    alone = [run(c, Subject.find("noise", "file/for-photos", known)) for c in quick]
    assert any("--shape 3x32x32" in o.message for o in alone)
    given = [run(c, Subject.find("noise", "file/for-photos", known, [(3, 16, 16)])) for c in quick]
    assert {o.check.name: o.message for o in given if o.status == "failed"} == {}


def test_check_takes_shapes_and_says_a_reason_once(tmp_path, capsys):
    from noisereg.cli.main import run as command

    file = tmp_path / "photos.py"
    file.write_text(LARGE)
    assert command(["plugins", "check", str(file), "--shape", "huge"]) == 2
    assert "expected CxHxW" in capsys.readouterr().err
    assert command(["plugins", "check", str(file)]) == 1
    said = capsys.readouterr().out
    assert said.count("it can be built for none of the shapes") <= 4  # the kit's lists of shapes
    assert "(the same)" in said


def test_failures_are_said_by_name_in_a_session():
    assert testing.failures("noise", "white") == {}

    class Silent(Noise):
        def __init__(self, params, ctx):
            pass

        def color(self, latents, t):
            return 0.5 * latents["z"]

        def mean_square(self, t):
            return torch.ones_like(t)

    noisereg.register(Component(name="half-as-loud", impl=Silent))
    found = testing.failures("noise", "half-as-loud")
    assert "mean_square_of_draws" in found
    assert "\n" not in found["mean_square_of_draws"]
    with pytest.raises(NoiseregError, match="no kind is called 'nois'"):
        testing.failures("nois", "white")
