"""The README's code runs: its Python line by line, and its commands as they are printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import noisereg
from noisereg.cli.main import run

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SHORT = {"steps": 3, "batch_size": 8}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_of_the_readme(tmp_path, monkeypatch):
    """As printed, but for the number of steps."""
    monkeypatch.chdir(tmp_path)
    from noisereg import python

    real = python.train
    monkeypatch.setattr(
        python, "train", lambda **given: real(train=SHORT, sample={"steps": 2}, **given)
    )
    _, code = blocks("python")
    names: dict = {}
    for statement in re.sub(r"\n\n+", "\n", code).strip().splitlines():
        exec(statement, names)
    assert names["images"].shape == (64, 1, 8, 8)
    assert names["images"].dtype == torch.uint8
    z = {"z": torch.randn(2, 3, 64, 64)}
    assert names["noise"].color(z, torch.tensor([0.0, 1.0], dtype=torch.float64)).shape == (
        2,
        3,
        64,
        64,
    )


def test_the_own_loop_of_the_readme():
    """As printed, around a smaller network."""
    code, _ = blocks("python")
    assert len(code.splitlines()) <= 8
    small = "norm_num_groups=4, block_out_channels=(8,), layers_per_block=1, "
    small += "down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',), "
    code = code.replace("UNet2DModel(", f"UNet2DModel({small}").replace("64", "8")
    names: dict = {"images": torch.zeros(2, 3, 8, 8)}
    exec(code.replace("16, steps=50", "2, steps=2"), names)
    assert names["samples"].shape == (2, 3, 8, 8)
    assert set(names["parts"]) >= {"mse", "mse_heads", "isotropy"}


def commands():
    lines = [
        line.split("  #")[0].strip() for block in blocks("console") for line in block.splitlines()
    ]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ noisereg")]


def test_the_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    """In order, in one folder; training is cut to two steps, a sweep to one seed (each of its cells
    is a process that imports torch), and ./photos is six small pictures.
    """
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for k in range(6):
        Image.fromarray(
            np.random.default_rng(k).integers(0, 255, (70, 80, 3), dtype=np.uint8)
        ).save(f"photos/{k}.jpg")
    ran = commands()
    assert len(ran) >= 4
    for line in ran:
        arguments = shlex.split(line)[1:]
        if arguments[0] in ("train", "sweep") and "--help" not in arguments:
            arguments += ["--steps", "2", "--set", "sample.steps=1", "--set", "train.batch_size=2"]
        if "--seeds" in arguments:
            arguments[arguments.index("--seeds") + 1] = "1"
        assert run(arguments) == 0, line
    capsys.readouterr()
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.parametrize("name", sorted(noisereg.__all__))
def test_what_noisereg_offers_is_there(name):
    assert getattr(noisereg, name) is not None


def test_registering_a_component_in_a_notebook():
    from noisereg.api import Component, Noise
    from noisereg.plugins.registry import reset

    class Loud(Noise):
        def color(self, latents, t):
            return 2 * latents["z"]

        def mean_square(self, t):
            return torch.full_like(t, 4.0)

    try:
        noisereg.register(Component(name="loud", impl=Loud))
        noise = noisereg.build("noise", "loud", shape=(1, 2, 2))
        assert noise.mean_square(torch.zeros(1)).item() == 4
    finally:
        reset()
    with pytest.raises(noisereg.NoiseregError, match="loud"):
        noisereg.build("noise", "loud", shape=(1, 2, 2))
