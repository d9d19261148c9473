"""What diffusers samples from an exported folder is what noisereg samples from the run."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.exchange.pipeline import NoiseregPipeline
from noisereg.exchange.scheduler import NoiseScheduler
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


def test_ddpm_pipeline_gives_equal_samples_for_equal_latents(train, tmp_path, monkeypatch):
    from diffusers import DDPMPipeline

    steps = 10
    run = train("run", process="ddpm:target=v", sample={"steps": steps, "num": 1})
    assert export(run, tmp_path / "out") == "DDPMPipeline"
    mine, latents = ours(run, steps, 1.0)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert not isinstance(pipeline.scheduler, NoiseScheduler)
    fed(
        monkeypatch,
        [*latents, torch.zeros_like(latents[0])],
        "pipelines.ddpm.pipeline_ddpm",
        "schedulers.scheduling_ddpm",
    )
    close(mine, pipeline(batch_size=COUNT, num_inference_steps=steps, output_type="pt").images)


@pytest.mark.parametrize("variance", ["beta", "learned"])
@pytest.mark.parametrize("steps", [10, 1000])
def test_another_variance_needs_our_scheduler(train, tmp_path, variance, steps):
    """diffusers adds noise of it on the step to 0, unless it takes as many steps as there are
    indices; and its pipeline may be called with any number."""
    run = train(
        "run", process=f"ddpm:target=v,variance={variance}", sample={"steps": steps, "num": 1}
    )
    assert export(run, tmp_path / "out") == "DDPMPipeline"
    assert "import noisereg.exchange.scheduler" in (tmp_path / "out/README.md").read_text()


def test_the_page_names_a_plugin_by_name_and_content_and_no_path(train, tmp_path):
    """An export is handed on."""
    source = Path(__file__).parents[2] / "plugins/single-file/edges.py"
    file = shutil.copy(source, tmp_path / "mine.py")
    run = train("run", noise="file/edges", plugins=str(file), process="ddpm:target=v")
    export(run, tmp_path / "out")
    said = (tmp_path / "out/README.md").read_text()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    assert f"needs the plugins mine.py (SHA-256 {digest}…)" in said
    assert str(tmp_path) not in said


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


BLUE_TV = {"process": "iadb", "noise": "blue-tv"}


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"process": "iadb"}, "DDPMPipeline"),
        ({"process": "ddpm:target=v", "sample": {"solver": "dpmpp-2m"}}, "DDPMPipeline"),
        ({**BLUE_TV, "reg": ["isotropy"]}, "DDPMPipeline"),
        (
            {"process": "iadb", "noise": "blue-tv:normalize=true,gamma.form=cosine"},
            "DDPMPipeline",
        ),
        ({"process": "iadb", "noise": "blue-tv:gamma.learn=true"}, "DDPMPipeline"),
        ({"process": "iadb", "noise": "blue-tv:transport=whiten"}, "DDPMPipeline"),
        ({"process": "iadb", "noise": "blue"}, "DDPMPipeline"),
        ({**BLUE_TV, "sample": {"solver": "dpmpp-2m", "grid": "chebyshev"}}, "DDPMPipeline"),
        (
            {"process": "ddpm:target=v,T=400", "noise": "red-tv", "sample": {"eta": 0}},
            "DDPMPipeline",
        ),
        (
            {
                "process": "ddpm:target=v,variance=learned",
                "denoiser": "unet:channels=8,16,attention=1,time_input=unit",
                "sample": {"eta": 0},
            },
            "DDPMPipeline",
        ),
        (
            {
                **BLUE_TV,
                "data": "digits:size=9",
                # three levels: a border of one pixel before and two after
                "denoiser": "unet:channels=8,8,16,attention=2,time_input=step",
            },
            "NoiseregPipeline",
        ),
    ],
    ids=lambda value: (
        f"{value.get('noise', '')}, {value['process']}" if isinstance(value, dict) else value
    ),
)
def test_the_rest_is_sampled_by_our_scheduler_as_the_run_samples(
    train, tmp_path, monkeypatch, sections, name
):
    from diffusers import DDPMPipeline

    run = train("run", **sections)
    assert export(run, tmp_path / "out") == name
    mine, latents = ours(run, 10, 0.0)
    kind = {"DDPMPipeline": DDPMPipeline, "NoiseregPipeline": NoiseregPipeline}[name]
    pipeline = kind.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    for module in ("diffusers.pipelines.ddpm.pipeline_ddpm", "noisereg.exchange.pipeline"):
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *a, **k: latents[0])
    other = pipeline(batch_size=COUNT, num_inference_steps=10, output_type="pt").images
    assert mine.std() > 0.05
    assert (mine - other).abs().max() <= 1e-4


def test_an_eta_between_those_of_ddim_and_ddpm_is_kept(train, tmp_path):
    from diffusers import DDPMPipeline

    run = train("run", process="ddpm:target=v", sample={"eta": 0.5})
    assert export(run, tmp_path / "out") == "DDPMPipeline"
    scheduler = DDPMPipeline.from_pretrained(tmp_path / "out").scheduler
    assert isinstance(scheduler, NoiseScheduler)
    assert scheduler.config.solver["params"]["eta"] == 0.5


def test_a_solver_of_two_evaluations_is_our_pipelines(train, tmp_path):
    from diffusers import DDPMPipeline

    run = train("run", process="iadb", sample={"solver": "heun", "steps": 2})
    assert export(run, tmp_path / "out") == "NoiseregPipeline"
    with pytest.raises(NoiseregError, match="evaluates the network 2 times a step"):
        DDPMPipeline.from_pretrained(tmp_path / "out")(num_inference_steps=2)


def test_what_the_readme_of_a_folder_says_runs(train, tmp_path):
    """The first in a new process, which has imported nothing of ours."""
    for name, sections in (
        ("a", {"process": "iadb", "noise": "blue"}),
        ("b", {"process": "iadb", "data": "digits:size=9"}),
        ("c", {}),
    ):
        run = train(name, **sections)
        folder = tmp_path / f"exported-{name}"
        export(run, folder)
        said = (folder / "README.md").read_text()
        code = "\n".join(line[4:] for line in said.splitlines() if line.startswith("    "))
        code = f"folder = {str(folder)!r}\n{code}\nassert len(images) == 4"
        if name == "a":
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            exec(code, {})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"denoiser": "mlp:width=16"}, "denoiser mlp is not one of diffusers'"),
        ({"task": "class"}, "task class: diffusers' pipelines"),
        ({"task": "superres:factor=2"}, "task superres: diffusers' pipelines"),
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


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_broken_off_export_leaves_nothing_in_the_way(train, tmp_path, monkeypatch, error):
    run, out = train("run", process="ddpm"), tmp_path / "out"

    def broken(*_):
        assert list(out.glob("unet/*"))  # half of it is there
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("noisereg.exchange.to_diffusers._readme", broken)
        with pytest.raises((NoiseregError, KeyboardInterrupt)):
            export(run, out)
    assert not out.exists() or not list(out.iterdir())
    assert export(run, out)


def test_our_pipeline_takes_a_network_of_one_size():
    from diffusers import UNet2DModel

    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,),
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    pipeline = NoiseregPipeline(unet, NoiseScheduler((1, 8, 8), solver="heun"))
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(batch_size=2, num_inference_steps=2, output_type="pt").images
    assert found.shape == (2, 1, 8, 8)
