"""What a notebook offers: objects in place of names, callbacks, pictures, and the two notebooks in
docs/, executed."""

import ast
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import noisereg
from noisereg.api import Component, Noise
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import reset
from noisereg.runs import reporter as reporters

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs/notebooks").glob("*.ipynb"))
FAST = {
    "train": {"steps": 4, "batch_size": 8, "log_every": 2},
    "sample": {"steps": 2},
    "runtime": {"device": "cpu"},
}


class Net(nn.Module):
    """(x_t, t) → ε̂ of 8×8 grey images."""

    def __init__(self, channels=1):
        super().__init__()
        self.layer = nn.Conv2d(2, channels, 3, padding=1)

    def forward(self, x, t):
        return self.layer(torch.cat([x, t.reshape(-1, 1, 1, 1).expand_as(x)], 1))


@pytest.fixture(autouse=True)
def _forgets():
    yield
    reset()


def test_a_tensor_is_data_and_a_module_is_a_denoiser(tmp_path):
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    run = noisereg.train(data=x, denoiser=net, out=tmp_path / "run", **FAST)
    assert run.sample(3).shape == (3, 1, 8, 8)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not torch.equal(run.net.net.layer.weight, net.layer.weight)  # a copy was trained
    (row,) = run.evaluate(["fd"], num=20)
    assert row["metrics"]["fd-pixels"]["mean"] > 0

    reset()  # another session
    with pytest.raises(NoiseregError, match="register it again"):
        noisereg.load(run.path).sample(2)
    again = noisereg.load(run.path, denoiser=Net())
    assert torch.equal(again.sample(3), run.sample(3))
    longer = FAST | {"train": FAST["train"] | {"steps": 6}}
    resumed = noisereg.train(data=x, denoiser=Net(), out=run.path, resume=True, **longer)
    assert resumed.status["step"] == 6


def test_a_mapping_is_not_a_configuration():
    with pytest.raises(NoiseregError, match=r"config is a dict; .* train\(\*\*config\)"):
        noisereg.train({"data": "digits"})


def test_a_network_with_other_channels_is_refused_before_training(tmp_path):
    with pytest.raises(NoiseregError, match=r"Net gives \(1, 8, 8\) for a sample .*\(2, 8, 8\)"):
        noisereg.train(denoiser=Net(), noise="blue-tv", out=tmp_path / "run", **FAST)
    assert not (tmp_path / "run/config.yaml").exists()


X = torch.zeros(4, 1, 8, 8)


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, i):
        return np.full((8, 8, 3), 8 * i, np.uint8), i % 3


def test_a_torch_dataset_is_data_with_its_labels(tmp_path):
    run = noisereg.train(
        data=Pairs(), task="class", denoiser="mlp:width=8", out=tmp_path / "run", **FAST
    )
    assert run.shape == (3, 8, 8)
    assert run.task.classes == 3
    points = torch.utils.data.TensorDataset(torch.randn(20, 2), torch.zeros(20))
    points = noisereg.train(data=points, denoiser="mlp:width=8", out=tmp_path / "points", **FAST)
    assert points.shape == (2,)
    alone = torch.utils.data.TensorDataset(torch.randn(20, 2))
    assert noisereg.train(
        data=alone, denoiser="mlp:width=8", out=tmp_path / "alone", **FAST
    ).shape == (2,)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (7, "int is no data set"),
        ([], "empty"),
        ((torch.zeros(4, 1, 8, 8), torch.tensor([0.7, 1.7, 2.7, 0.7])), "expected whole numbers"),
        ((X, torch.tensor([0.0, 1.0, 2.0, float("nan")])), "labels such as nan; expected whole"),
        (torch.arange(64).reshape(4, 1, 4, 4), "int64"),
        (X.numpy()[:0], "data"),
        ([X[0], X[1, :, :4], X[2]], r"its samples differ in shape, \(1, 4, 8\) and \(1, 8, 8\)"),
        ([{"x": 1}], "its items are dict; expected tensors or arrays"),
        (Path("some") / "where", "data is a path; expected its text: data='some"),
    ],
)
def test_what_is_no_data_is_refused_and_nothing_is_kept(data, said, tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEREG_CACHE", str(tmp_path))
    with pytest.raises(NoiseregError, match=said) as caught:
        noisereg.train(data=data)
    assert ".npz" not in str(caught.value)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_data_set_of_pictures_is_data(tmp_path):
    pictures = [Image.fromarray(np.full((8, 8), k, np.uint8)) for k in range(20)]
    run = noisereg.train(data=pictures, denoiser="mlp:width=8", out=tmp_path / "run", **FAST)
    assert run.shape == (1, 8, 8)


def test_data_of_16_bits_are_data(tmp_path):
    run = noisereg.train(
        data=torch.rand(20, 2).bfloat16(), denoiser="mlp:width=8", out=tmp_path / "run", **FAST
    )
    assert run.shape == (2,)


def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(NoiseregError, match="callback is a int; expected a function"):
        noisereg.train(callback=3, out=tmp_path / "run", data="digits", **FAST)
    assert not (tmp_path / "run").exists()


def test_a_callback_is_told_and_can_stop_a_run(tmp_path):
    told = []

    def callback(step, metrics):
        told.append((step, metrics["loss"] > 0))
        return step >= 4

    options = FAST | {"train": FAST["train"] | {"steps": 100}, "denoiser": "mlp:width=8"}
    run = noisereg.train(callback=callback, out=tmp_path / "run", **options)
    assert told[:2] == [(2, True), (4, True)]
    assert run.status["status"] == "stopped"
    assert 4 <= run.status["step"] < 10


def test_history_and_what_a_notebook_shows(tmp_path):
    run = noisereg.train(denoiser="mlp:width=8", out=tmp_path / "run", **FAST)
    assert [line["step"] for line in run.history()] == [2, 4]
    assert run._repr_png_() == (run.path / "samples/000004.png").read_bytes()
    html = run._repr_html_()
    assert "finished at step 4 of 4" in html
    assert 'src="data:image/png;base64,' in html
    assert isinstance(noisereg.load(run.path), noisereg.Run)
    rows = run.evaluate("fd", num=20)
    assert "<th>fd-pixels ↓</th>" in rows._repr_html_()
    with pytest.raises(NoiseregError, match="to=onnx: expected diffusers"):
        run.export(tmp_path / "exported", to="onnx")


def test_a_sweep_of_registered_components(tmp_path):
    class Loud(Noise):
        def color(self, latents, t):
            return 2**0.5 * latents["z"]

        def mean_square(self, t):
            return torch.full_like(t, 2.0)

    noisereg.register(Component(name="loud", impl=Loud))
    options = FAST | {"denoiser": "mlp:width=8"}
    folder = noisereg.sweep(
        noise=["white", "loud"], reg="none", seeds=2, out=tmp_path / "S", **options
    )
    rows = noisereg.evaluate([folder], "fd", num=20)
    assert [row["label"] for row in rows] == ["white", "session/loud"]
    assert (
        noisereg.sweep(noise=["white", "loud"], reg="none", seeds=2, out=tmp_path / "S", **options)
        == folder
    )


def test_progress_in_a_notebook(monkeypatch):
    assert type(reporters.usual_reporter()) is reporters.Reporter
    shell = type("ZMQInteractiveShell", (), {})()
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    seen = []

    class Bar:
        def __init__(self, total, initial, desc, leave):
            self.n, self.total = initial, total
            seen.append((desc, total, initial))

        def set_postfix(self, values, refresh):
            seen.append(values)

        def update(self, by):
            self.n += by
            seen.append(self.n)

        def close(self):
            seen.append("closed")

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    told = reporters.usual_reporter()
    told.begin("train", 100, 40)
    told.advance(50, {"loss": 0.25, "lr": 1e-3, "eval/fd-pixels": 3.0})
    told.end()
    assert seen == [
        ("train", 100, 40),
        {"loss": "0.25", "fd-pixels": "3"},
        50,
        "closed",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Cell by cell in one namespace, without a kernel; what a cell shows is asked for too."""
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = 0
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"]))
        last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, path.name, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), path.name, "eval"), space)
            show = getattr(value, "_repr_html_", None) or getattr(value, "_repr_png_", None)
            shown += bool(show and show())
    assert shown >= 2


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["is-it-luck", "your-own-noise"]
