"""Whatever can be sampled can be exported and gives its own samples again, or is refused with the
reason: over the combinations of docs/make_composition.py.
"""

import dataclasses
import importlib.util
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from noisereg.exchange.to_diffusers import pipeline_of
from noisereg.plugins.registry import registry
from noisereg.runs.config import layer
from noisereg.runs.model import RunModel
from noisereg.runs.run import draw

SCRIPT = Path(__file__).parents[2] / "docs/make_composition.py"
spec = importlib.util.spec_from_file_location("make_composition", SCRIPT)
composition = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(composition)

COUNT = 2
REFUSED = {
    "super-resolution": "task superres: ",
    "labels, with guidance": "task class: ",
    "latents as data": "data latents: ",
    "a network of ours": "denoiser mlp ",
    "a measured scale of ε̂": "sample.eps_scale isotropy",
}
"""What is sampled and not exported, by feature, and how the reason begins."""


def sampled(name, **sample):
    return composition.Feature(name, "", {"sample": sample})


MORE = [
    sampled("DPM-Solver++", solver="dpmpp-2m"),
    sampled("η between", eta=0.5),
    sampled("steps that do not divide 1000", steps=3, eta=0),
    sampled("x̂0 clipped", clip="static"),
    sampled("x̂0 clipped by its own numbers", clip="dynamic:percentile=0.9"),
    sampled("a factor of ε̂", eps_scale=1.02),
    sampled("a measured scale of ε̂", eps_scale="isotropy:weight=0.1"),
    composition.Feature("β as the variance", "", params={"process": {"variance": "beta"}}),
    composition.Feature("ε as the target", "", params={"process": {"target": "eps"}}),
    composition.Feature("T of 400", "", params={"process": {"T": 400}}),
    composition.Feature("a network of ours", "", {"denoiser": "mlp:width=8,blocks=1"}),
    composition.Feature(
        "a network told t", "", {"denoiser": "unet:channels=4,4,layers=1,time_input=unit"}
    ),
    composition.Feature(
        "images with a border", "", {"denoiser": "unet:channels=4,4,4,4,4,layers=1,attention=[]"}
    ),
]


def exported(parts, monkeypatch):
    """The samples of the run in [0, 1], and those of its folder from the same white noise."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # far from the network that answers zero
        for weight in parts.denoiser.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    parts.objective.eval()
    pipeline = pipeline_of(parts)
    kind, settings = type(pipeline), parts.config.sample
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        pipeline = kind.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    model = RunModel(parts, settings, registry(), 0)
    mine = (draw(model, range(COUNT)) / 2 + 0.5).clamp(0, 1)
    latents = iter([model.latents(range(COUNT), k)["z"] for k in range(settings.steps + 1)])
    for module in (
        "diffusers.pipelines.ddpm.pipeline_ddpm",
        "diffusers.pipelines.ddim.pipeline_ddim",
        "diffusers.schedulers.scheduling_ddpm",
        "noisereg.exchange.pipeline",
        "noisereg.exchange.scheduler",
    ):
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *a, **k: next(latents))
    other = pipeline(batch_size=COUNT, num_inference_steps=settings.steps, output_type="pt").images
    return mine, other


@pytest.fixture(scope="module")
def material():
    with composition.material() as folder:
        yield composition.Bench(), {f.name: f for f in [*composition.features(folder), *MORE]}


UNSEEN = ("bits/dim", "the power", "antithetic", "a schedule", "export", "nothing")
"""Features that leave the network and its sampling as they are."""
NAMES = [f.name for f in [*composition.features(Path()), *MORE] if not f.name.startswith(UNSEEN)]
COLUMNS = [("ddpm", "white", "none"), ("iadb", "blue-tv", "isotropy")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("column", COLUMNS, ids=" · ".join)
def test_an_exported_run_gives_its_own_samples_again_or_the_reason_why_not(
    material, monkeypatch, name, column
):
    bench, features = material
    feature = features[name]
    sections = layer(composition.UNET, feature.sections)
    # Under the linear schedule ε divides by a(1) = 0.006: samples are mostly black and white.
    process = {"target": "v"} if column[0] == "ddpm" else {}
    params = {**feature.params, "process": process | feature.params.get("process", {})}
    alone = dataclasses.replace(feature, sections=sections, params=params, use=())
    seen = []

    def again(parts):
        seen.append(exported(parts, monkeypatch))

    reason = bench.attempt(dataclasses.replace(alone, use=(again,)), *column)
    if reason is None or (reason and bench.attempt(alone, *column)):
        pytest.skip("cannot be sampled either")
    if name in REFUSED:
        assert reason.startswith(REFUSED[name])
        assert "\n" not in reason
        return
    assert reason == ""
    ((mine, other),) = seen
    assert mine.std() > 0.05
    eps = name == "ε as the target"
    assert eps or ((mine > 0) & (mine < 1)).float().mean() > 0.3  # not all clamped
    # diffusers' own tables are float32 and its start is z.
    assert (mine - other).abs().max() < (3e-3 if eps else 1e-4)
