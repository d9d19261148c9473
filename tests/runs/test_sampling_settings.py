"""What replaces a run's own sampling settings, and what another solver brings with it."""

import pytest

from noisereg.diffusion.diffusion import Diffusion
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.python import build
from noisereg.runs.config import SampleConfig
from noisereg.runs.sampling import notes, override, resolve

OWN = SampleConfig(eta=1.0, grid=Spec(name="uniform"))


def resolved(settings, noise="white", shape=(1, 8, 8), **options):
    made = build("noise", noise, shape=shape)
    process = build("process", "ddpm", shape=shape, noise=made)
    task = build("task", "unconditional")
    return resolve(settings, registry(), Diffusion(shape, process, made), task, **options)


def test_another_solver_takes_its_own_eta_and_grid_unless_they_are_given():
    found = resolved(override(OWN, registry(), solver="dpmpp-2m"))
    assert (found.eta, found.grid.name) == (0.0, "chebyshev")
    assert resolved(override(OWN, registry(), solver="dpmpp-2m"), "blue").grid.name == "logsnr"
    assert resolved(override(OWN, registry(), solver="heun", grid="edm")).grid.name == "edm"
    assert resolved(override(OWN, registry(), steps=7)) == resolved(
        OWN.model_copy(update={"steps": 7})
    )


def test_a_grid_of_given_times_has_its_own_number_of_steps():
    given = override(OWN, registry(), grid="times:values=1,0.5")
    assert given.steps == resolved(given).steps == 2
    assert resolved(OWN.model_copy(update={"grid": given.grid})).steps == 2
    assert override(OWN, registry(), grid="times:values=1,0.5", steps=2).steps == 2
    with pytest.raises(NoiseregError, match=r"steps=50.*: grid times.* has 2 steps"):
        override(OWN, registry(), grid="times:values=1,0.5", steps=50)


def test_the_solvers_eta_is_the_runs_eta():
    assert resolved(override(OWN, registry(), solver="ddim:eta=0.5")).eta == 0.5
    assert resolved(override(OWN, registry(), solver="ddim")).eta == 1.0
    with pytest.raises(NoiseregError, match="give one"):
        resolved(override(OWN, registry(), solver="ddim:eta=0.5", eta=0.25))
    with pytest.raises(NoiseregError, match="heun has no η and eta is 1"):
        resolved(override(OWN, registry(), solver="heun", eta=1.0))


def test_a_factor_of_eps_is_a_number_and_anything_else_a_regularizer_with_all_its_parameters():
    assert resolved(override(OWN, registry(), eps_scale="1.02")).eps_scale == 1.02
    assert resolved(OWN).eps_scale == 1.0
    term = resolved(override(OWN, registry(), eps_scale="isotropy:weight=0.3")).eps_scale
    assert (term.name, term.params["weight"], term.params["mean"]) == ("isotropy", 0.3, "batch")
    whitened = override(OWN, registry(), eps_scale="isotropy:space=whitened")
    assert resolved(whitened, "blue").eps_scale.params["space"] == "whitened"
    with pytest.raises(NoiseregError, match="those of 4,096 numbers a channel"):
        resolved(whitened, "blue", shape=(3, 64, 64))


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("eps_scale", -1, "expected a factor above 0"),
        ("eps_scale", "isotopy", "did you mean 'isotropy'"),
        ("eps_scale", "isotropy:space=whitened,mean=sample-plain", "or space=plain"),
        ("eps_scale", "isotropy:schedule=cosine", "expected a constant weight"),
        ("clip", "statik", "did you mean 'static'"),
        ("clip", "static:percentile=0.9", "static takes no parameters"),
        ("clip", "dynamic:percentile=1.5", "above 0 and at most 1"),
        ("clip", "dynamic:percentile=most", "expected a share"),
    ],
)
def test_what_is_no_scale_and_no_clip_is_refused_in_one_line(setting, value, said):
    with pytest.raises(NoiseregError, match=said) as error:
        resolved(override(OWN, registry(), **{setting: value}))
    assert "\n" not in str(error.value)


def test_only_images_have_a_range_to_clip_to_and_coloured_noise_is_told_of():
    clipped = override(OWN, registry(), clip="dynamic:percentile=0.99")
    assert resolved(clipped).clip.params == {"percentile": "0.99"}
    with pytest.raises(NoiseregError, match="points or latents"):
        resolved(clipped, images=False)
    assert notes(clipped, build("noise", "white", shape=(1, 8, 8))) == []
    (said,) = notes(clipped, build("noise", "blue", shape=(1, 8, 8)))
    assert "the images' colour" in said
