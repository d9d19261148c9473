"""Each recipe of docs/own-loop.md runs as printed, but for its sizes."""

import re
from pathlib import Path

import pytest
import torch

import noisereg

PAGE = (Path(__file__).parent.parent / "docs/own-loop.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.M | re.S))
OPTIONAL = {
    "Lightning": "lightning",
    "denoising-diffusion-pytorch's U-Net": "denoising_diffusion_pytorch",
    "diffusers' `train_unconditional`, with accelerate": "accelerate",
}
SMALLER = {
    "sample_size=32": "sample_size=8, block_out_channels=(8,), layers_per_block=1, "
    "norm_num_groups=4, down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',)",
    "(3, 32, 32)": "(3, 8, 8)",
    "steps=50": "steps=2",
    "16,": "2,",
    "dim=64": "dim=8",
    "max_epochs=1": "max_epochs=1, accelerator='cpu', logger=False, "
    "enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False",
    "Accelerator(": "Accelerator(cpu=True, ",
}


def images(count=4, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def given():
    """What the page's blocks find there."""
    from noisereg.python import build

    x0, noise = images(), build("noise", "blue-tv", shape=(3, 8, 8))
    t = torch.full((4,), 0.5)
    eps = noise.draw(x0, t)
    return {
        "batches": [images(seed=k) for k in range(2)],
        "train_dataloader": torch.utils.data.DataLoader(images(8), batch_size=4),
        "training_images": x0,
        "x0": x0,
        "noise": noise,
        "t": t,
        "eps": eps,
        "x_t": 0.5 * x0 + 0.5 * eps,
    }


def executed(code, names):
    for old, new in SMALLER.items():
        code = code.replace(old, new)
    exec(compile(code, "docs/own-loop.md", "exec"), names)
    return names


def test_the_page_has_a_recipe_for_each():
    assert len(RECIPES) == PAGE.count("```python") == 7
    assert len([line for line in RECIPES["Plain PyTorch"].splitlines() if line.strip()]) <= 15
    for name in ("Only the noise", "Only the regularizer"):
        assert len(RECIPES[name].splitlines()) == 5


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains_and_samples(name, tmp_path, monkeypatch):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    monkeypatch.chdir(tmp_path)
    names = given()
    one = torch.nn.Conv2d(3, 3, 1)
    names["net"] = lambda x, t: one(x)
    if name == "From a run":
        small = {"train": {"steps": 1, "batch_size": 4}, "sample": {"steps": 1}}
        noisereg.train(noise="blue-tv", denoiser="mlp:width=8", out="runs/a", **small)
        names["x0"] = images()[:, :1]
    names = executed(RECIPES[name], names)
    if "loss" in names:
        assert names["loss"].isfinite()
    drawn = [names[k] for k in ("samples", "images", "sampled_images") if k in names]
    if name.startswith("Only"):
        assert names["eps"].shape == (4, 3, 8, 8)
        if name == "Only the regularizer":
            assert one.weight.grad.abs().max() > 0
    else:
        assert drawn[-1].shape[0] in (2, 4)
        assert drawn[-1].isfinite().all()
