"""What diffusers samples from an exported folder is what noisereg samples from the run."""

import pytest
import torch

from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.exchange.to_diffusers import export
from noisereg.runs.run import draw

COUNT = 3


def ours(run, steps, eta):
    """Samples in [0, 1] before they are rounded, and the white latents of each step."""
    model = run.model(steps=steps, eta=eta)
    x = draw(model, range(COUNT))
    latents = [model.latents(range(COUNT), k)["z"] for k in range(steps)]
    return (x / 2 + 0.5).clamp(0, 1), latents


def fed(monkeypatch, latents, *modules):
    """diffusers draws ``latents`` in place of its own noise, in turn."""
    left = iter(latents)
    for module in modules:
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *a, **k: next(left))


def close(mine, other, bound=5e-5):
    """Ours starts from b(1)·z, theirs from z (b(1) is 0.99998), and their tables are float32."""
    assert mine.std() > 0.05  # not all clamped
    assert (mine - other).abs().max() < bound


@pytest.mark.parametrize("target", ["eps", "v", "x0"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ddim_pipeline_gives_equal_samples_for_equal_latents(
    train, tmp_path, monkeypatch, target, schedule
):
    from diffusers import DDIMPipeline

    run = train(
        "run", process=f"ddpm:schedule={schedule},target={target}", sample={"steps": 2, "eta": 0}
    )
    assert export(run, tmp_path / "out") == "DDIMPipeline"
    mine, latents = ours(run, 10, 0.0)
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "out")
    fed(monkeypatch, latents, "pipelines.ddim.pipeline_ddim")
    images = pipeline(batch_size=COUNT, num_inference_steps=10, output_type="pt").images
    # From ε, x̂0 is divided by a(1) = 0.006 under the linear schedule (0.00005 under the cosine
    # one: all is clamped).
    close(mine, images, 3e-3 if (target, schedule) == ("eps", "linear") else 5e-5)


@pytest.mark.parametrize("variance", ["beta-tilde", "beta", "learned"])
def test_ddpm_pipeline_gives_equal_samples_for_equal_latents(
    train, tmp_path, monkeypatch, variance
):
    from diffusers import DDPMPipeline

    run = train("run", process=f"ddpm:target=v,variance={variance}")
    assert export(run, tmp_path / "out") == "DDPMPipeline"
    steps = 10
    mine, latents = ours(run, steps, 1.0)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    # Ours adds no noise on the step to 0; theirs does unless it ends at index 0, which ten steps
    # do not.
    fed(
        monkeypatch,
        [*latents, torch.zeros_like(latents[0])],
        "pipelines.ddpm.pipeline_ddpm",
        "schedulers.scheduling_ddpm",
    )
    close(mine, pipeline(batch_size=COUNT, num_inference_steps=steps, output_type="pt").images)


def test_either_pipeline_loads_the_folder(train, tmp_path):
    from diffusers import DDIMPipeline, DDPMPipeline

    run = train("run")
    export(run, tmp_path / "out")
    for kind in (DDPMPipeline, DDIMPipeline):
        images = kind.from_pretrained(tmp_path / "out")(
            batch_size=2, num_inference_steps=2, output_type="np"
        ).images
        assert images.shape == (2, 8, 8, 1)
    assert "DDPMPipeline.from_pretrained" in (tmp_path / "out/README.md").read_text()


@pytest.fixture
def own_modules(tmp_path_factory, monkeypatch):
    """diffusers copies a folder's pipeline file before it runs it: here, not into the user's
    cache.
    """
    folder = tmp_path_factory.mktemp("modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(folder))
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("sections", "bound"),
    [
        ({"process": "iadb"}, 1e-6),
        ({"process": "iadb", "noise": "blue-tv", "reg": ["isotropy"]}, 1e-6),
        ({"process": "iadb", "noise": "blue-tv:normalize=true,gamma.form=cosine"}, 1e-6),
        ({"process": "iadb", "noise": "red-tv:gamma.form=linear"}, 1e-6),
        ({"process": "iadb", "noise": "blue-tv:gamma.learn=true"}, 1e-6),
        ({"process": "ddpm:target=v", "noise": "blue-tv"}, 1e-5),
        ({"process": "ddpm:schedule=cosine,target=eps", "noise": "blue-tv"}, 1e-4),
        ({"process": "ddpm:target=x0,zero_terminal_snr=true,T=400"}, 1e-5),
        (
            {
                "process": "ddpm:target=v",
                "denoiser": "unet:channels=8,16,attention=1,time_input=unit",
            },
            1e-5,
        ),
        (
            {
                "process": "iadb",
                "data": "digits:size=9",
                "denoiser": "unet:channels=8,16,attention=1,time_input=step",
            },
            1e-6,
        ),
    ],
    ids=lambda value: (
        str(value.get("noise", "")) + str(value["process"]) if isinstance(value, dict) else ""
    ),
)
@pytest.mark.usefixtures("own_modules")
def test_what_diffusers_has_no_scheduler_for_samples_with_the_folders_own_pipeline(
    train, tmp_path, sections, bound
):
    from diffusers import DiffusionPipeline

    run = train("run", **sections)
    assert export(run, tmp_path / "out") == "NoiseregPipeline"
    mine, latents = ours(run, 10, 0.0)
    pipeline = DiffusionPipeline.from_pretrained(
        tmp_path / "out", custom_pipeline=str(tmp_path / "out"), trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    other = pipeline(latents=latents[0], num_inference_steps=10, output_type="pt").images
    assert mine.std() > 0.05
    assert (mine - other).abs().max() <= bound
    again = pipeline(
        latents=latents[0], times=[1 - k / 10 for k in range(11)], output_type="pt"
    ).images
    assert torch.equal(other, again)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"denoiser": "mlp:width=16"}, "denoiser mlp is not one of diffusers'"),
        ({"task": "class"}, "task class: diffusers' pipelines"),
        ({"task": "superres:factor=2"}, "task superres: diffusers' pipelines"),
        ({"noise": "blue"}, "sampling starts from coloured noise"),
        ({"noise": "blue-tv:transport=whiten", "process": "iadb"}, "only transport=heads"),
        (
            {"process": "ddpm:variance=learned", "data": "digits:size=9"},
            "ours knows ddpm with a fixed variance and iadb",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(train, tmp_path, sections, said):
    with pytest.raises(NoiseregError, match=said):
        export(train("run", **sections), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(train, tmp_path, capsys):
    run = train("run")
    arguments = ["export", str(run.path), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert command(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: DDPMPipeline\n"
    assert command(arguments) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert command([*arguments[:3], "onnx", "--out", str(tmp_path / "other")]) == 2
    assert "--to onnx: expected diffusers" in capsys.readouterr().err


def test_the_averaged_weights_are_exported_unless_asked_otherwise(train, tmp_path):
    from safetensors.torch import load_file

    run = train("run")
    for ema in (True, False):
        export(run, tmp_path / str(ema), ema=ema)
        weights = load_file(tmp_path / str(ema) / "unet/diffusion_pytorch_model.safetensors")
        expected = run.checkpoint().weights(ema)
        assert all(
            torch.equal(value, expected[f"denoiser.unet.{name}"])
            for name, value in weights.items()
        )
