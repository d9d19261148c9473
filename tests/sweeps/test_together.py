"""``noisereg sweep --together``: cells trained as one network are what each is by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from noisereg.api import (
    Component,
    Context,
    Denoiser,
    Params,
    Regularizer,
    RegularizerParams,
    TrainStep,
)
from noisereg.cli.main import run
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry, registry
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.runs.stack import Stack
from noisereg.runs.stacked_linear import StackedLinear
from noisereg.runs.stopping import Interrupted
from noisereg.runs.together import Asked, train_together
from noisereg.runs.train import train
from noisereg.sweeps.grid import Cell, Sweep, make_cells, read_grid
from noisereg.sweeps.resolve import Resolved, resolve
from noisereg.sweeps.together import Together, groups
from noisereg.sweeps.training import Tally

Capture = pytest.CaptureFixture[str]
BASE: dict[str, Any] = {
    "data": "swiss-roll:n=100",
    "denoiser": "dense:widths=16,embedding=8",
    "train": {"steps": 12, "batch_size": 8, "log_every": 3, "checkpoint_every": 4},
    "sample": {"steps": 2, "num": 2},
    "runtime": {"device": "cpu"},
}
GRID = {
    "reg": ["isotropy:weight=0.1", "isotropy:weight=0.3,schedule=cosine"],
    "axes": {"data": ["swiss-roll:n=100", "central-banana:n=90"], "optim.lr": [1e-3, 3e-3]},
}
FLAGS = [
    *("--set", "train.log_every=3", "--set", "sample.steps=2", "--set", "runtime.device=cpu"),
    *("--denoiser", "dense:widths=16,embedding=8", "--batch-size", "8"),
]


def cells_of(grid: dict[str, Any], base: dict[str, Any] | None = None) -> Resolved:
    cells = make_cells(BASE | (base or {}), read_grid(grid))
    return resolve(cells, registry(), Runtime.start(RuntimeConfig(device="cpu")))


def together(cells: list[Cell], folder: Path, known: Registry | None = None) -> list[Asked]:
    asked = [Asked(cell.config, folder / cell.name) for cell in cells]
    train_together(asked, known or registry(), Reporter())
    return asked


def alone(cell: Cell, folder: Path, known: Registry | None = None) -> None:
    train(cell.config, folder / cell.name, True, known or registry(), Reporter())


def assert_same(one: Path, other: Path, step: int = 12, atol: float = 1e-5) -> None:
    """Weights, averages, optimiser and lines: sums were taken in another order, no more."""
    a, b = (folder / "checkpoints" / f"{step:06d}" for folder in (one, other))
    for name in ("model", "ema"):
        mine, own = (load_file(folder / f"{name}.safetensors") for folder in (a, b))
        assert mine.keys() == own.keys()
        for key in own:
            assert torch.allclose(mine[key], own[key], atol=atol, rtol=0), (one.name, name, key)
    mine, own = (torch.load(folder / "optimizer.pt", weights_only=True) for folder in (a, b))
    assert mine["param_groups"] == own["param_groups"]
    assert mine["state"].keys() == own["state"].keys()
    for number, state in own["state"].items():
        for key, value in state.items():
            assert mine["state"][number][key].dtype == value.dtype
            assert torch.allclose(mine["state"][number][key], value, atol=atol, rtol=1e-3)
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, other)
    ]
    assert len(lines[0]) == len(lines[1])
    for line, wanted in zip(*lines, strict=True):
        line.pop("images_per_second"), wanted.pop("images_per_second")
        assert line == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_each_cell_is_what_it_is_by_itself(tmp_path: Path) -> None:
    """Over seeds, data, rates, weights of a regularizer and its schedule, with clipped
    gradients.
    """
    cells = cells_of(GRID, {"train": {**BASE["train"], "checkpoint_every": 12}}).cells
    assert all(one.error is None for one in together(cells, tmp_path / "one"))
    for cell in (cells[1], cells[6]):
        alone(cell, tmp_path / "other")
        assert_same(tmp_path / "one" / cell.name, tmp_path / "other" / cell.name)
        assert (tmp_path / "one" / cell.name / "samples" / "000012.png").is_file()


@pytest.mark.parametrize(
    "base",
    [
        {"process": "ddpm:variance=learned", "denoiser": "mlp:width=8,blocks=1", "data": "digits"},
        {"noise": "blue-tv:factor=spectral", "denoiser": "mlp:width=8,blocks=1", "data": "digits"},
        {"task": "class", "denoiser": "mlp:width=8,blocks=1", "data": "digits"},
        {"train": {**BASE["train"], "times": "batch", "accumulate": 2, "clip": None}},
        {"reg": ["isotropy:mean=timestep-bin", "isotropy:mean=sample"], "pairing": "greedy"},
        {"optim": {"name": "adam", "schedule": "cosine"}, "ema": {"decay": 0.9}},
    ],
    ids=["heads", "noise", "class", "times", "terms", "optim"],
)
def test_whatever_the_components_are(base: dict[str, Any], tmp_path: Path) -> None:
    cells = cells_of({"seeds": 2}, base).cells
    together(cells, tmp_path / "one")
    alone(cells[1], tmp_path / "other")
    assert_same(tmp_path / "one" / cells[1].name, tmp_path / "other" / cells[1].name, atol=1e-4)


def test_a_killed_group_goes_on_and_so_does_one_cell_of_it_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in step 10 of 12, after the checkpoint of 8, which one cell has lost: it catches up
    from 4 before the others go on. Then one cell goes on to 16 as a run of its own.
    """
    cells = cells_of({"seeds": 3, "reg": ["isotropy"]}).cells
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    together(cells, whole)
    take_step, sizes = Stack.take_step, []

    def dying(stack: Stack, step: int, batches: Any) -> None:
        if step == 9:
            raise KeyboardInterrupt
        take_step(stack, step, batches)

    monkeypatch.setattr(Stack, "take_step", dying)
    with pytest.raises(KeyboardInterrupt):
        together(cells, killed)
    lost = killed / cells[2].name / "checkpoints" / "000008"
    for path in sorted(lost.iterdir()):
        path.unlink()
    lost.rmdir()

    def counted(stack: Stack, step: int, batches: Any) -> None:
        sizes.append((step, stack.count))
        take_step(stack, step, batches)

    monkeypatch.setattr(Stack, "take_step", counted)
    together(cells, killed)
    assert sizes == [(step, 1 if step < 8 else 3) for step in range(4, 12)]
    for cell in cells:
        assert_same(killed / cell.name, whole / cell.name)
    longer = cells_of(
        {"seeds": 3, "reg": ["isotropy"]}, {"train": {**BASE["train"], "steps": 16}}
    ).cells
    alone(longer[1], killed)
    together(longer, whole)
    assert_same(killed / cells[1].name, whole / cells[1].name, 16)


def test_a_signal_saves_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of({"seeds": 2}).cells

    class Gone(Reporter):
        """Nobody reads any more from step 5 on."""

        gone = False

    reporter = Gone()
    take_step = Stack.take_step

    def leaving(stack: Stack, step: int, batches: Any) -> None:
        take_step(stack, step, batches)
        reporter.gone = step == 4

    monkeypatch.setattr(Stack, "take_step", leaving)
    asked = [Asked(cell.config, tmp_path / cell.name) for cell in cells]
    with pytest.raises(Interrupted):
        train_together(asked, registry(), reporter)
    for cell in cells:
        status = json.loads((tmp_path / cell.name / "status.json").read_text())
        assert (status["status"], status["step"]) == ("stopped", 5)


def test_a_cell_that_diverges_ends_alone(tmp_path: Path) -> None:
    """The others go on without it, and are what they would have been."""
    resolved = cells_of({"axes": {"optim.lr": [1e-3, 3e38]}, "seeds": 2})
    sweep = Sweep(tmp_path / "S", resolved.cells)
    (tmp_path / "S" / "cells").mkdir(parents=True)
    tally: Tally = Together(sweep, groups(resolved, 8), registry(), Reporter()).run(sweep.cells)
    names = [cell.name for cell in sweep.cells]
    assert [cell.name for cell in tally.finished] == [names[0], names[2]]
    assert sorted(tally.diverged) == sorted(tally.failed) == sorted([names[1], names[3]])
    assert "is not finite" in tally.failed[names[1]]
    assert "noisereg: error: the loss is not finite" in sweep.log_of(sweep.cells[1]).read_text()
    assert sweep.state(sweep.cells[1]) == "diverged before its first checkpoint"
    alone(sweep.cells[0], tmp_path)
    assert_same(tmp_path / "S" / "cells" / names[0], tmp_path / names[0])


class Hidden(Regularizer):
    """A term that looks at a number and draws others: not for vmap, yet the same in each cell."""

    def __init__(self, params: RegularizerParams, ctx: Context) -> None:
        pass

    def __call__(self, s: TrainStep) -> torch.Tensor:
        factor = 1.0 if s.eps_hat.mean().item() > 0 else 2.0
        return factor * s.mean((s.eps_hat * torch.rand_like(s.eps_hat)).flatten(1).sum(1)) ** 2


def test_a_term_that_cannot_be_vectorised_is_called_cell_by_cell(tmp_path: Path) -> None:
    known = registry()
    known.register(Component("hidden", Hidden, RegularizerParams), "regularizer")
    cells = cells_of({"reg": ["hidden:weight=0.1", "hidden:weight=1"]}).cells
    together(cells, tmp_path / "one", known)
    alone(cells[1], tmp_path / "other", known)
    assert_same(tmp_path / "one" / cells[1].name, tmp_path / "other" / cells[1].name)


def test_a_term_that_cannot_be_vectorised_is_not_when_a_cell_has_ended_either(
    tmp_path: Path,
) -> None:
    known = registry()
    if not any(entry.name == "hidden" for entry in known.entries("regularizer")):
        known.register(Component("hidden", Hidden, RegularizerParams), "regularizer")
    cells = cells_of({"reg": ["hidden:weight=0.1"], "axes": {"train.steps": [4, 12]}}).cells
    asked = together(cells, tmp_path / "one", known)
    assert [one.error for one in asked] == [None, None]
    alone(cells[1], tmp_path / "other", known)
    assert_same(tmp_path / "one" / cells[1].name, tmp_path / "other" / cells[1].name)


class Idle(Denoiser, nn.Module):
    """A network with a weight that it does not use."""

    default_lr = 1e-3

    def __init__(self, params: Params, ctx: Context) -> None:
        nn.Module.__init__(self)
        self.params = params
        self.idle = nn.Linear(3, 3)
        self.used = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        return self.used(x)


def test_a_weight_that_is_not_used_stays_as_it_is(tmp_path: Path) -> None:
    """Also when the cells have been interrupted, with what the optimiser knows of the others."""
    known = registry()
    known.register(Component("idle", Idle), "denoiser")
    cells = cells_of({"seeds": 2}, {"denoiser": "idle"}).cells
    short = cells_of(
        {"seeds": 2}, {"denoiser": "idle", "train": {**BASE["train"], "steps": 4}}
    ).cells
    assert all(one.error is None for one in together(short, tmp_path / "one", known))
    assert all(one.error is None for one in together(cells, tmp_path / "one", known))
    alone(cells[1], tmp_path / "other", known)
    assert_same(tmp_path / "one" / cells[1].name, tmp_path / "other" / cells[1].name)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"denoiser": "mlp:width=8,dropout=0.1", "data": "digits"}, "drops units at random"),
        (
            {"noise": "blue-tv:gamma.learn=true", "denoiser": "mlp:width=8", "data": "digits"},
            "learns beside the network",
        ),
        ({"runtime": {"device": "cpu", "compile": True}}, "runtime.compile"),
    ],
)
def test_what_cannot_train_together_is_refused_and_nothing_written(
    base: dict[str, Any], said: str, tmp_path: Path
) -> None:
    cells = cells_of({"seeds": 2}, base).cells
    with pytest.raises(NoiseregError, match=said):
        together(cells, tmp_path / "S")
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_component_that_differs_unseen_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second cell's noise is louder, as one fitted to other data may be."""
    cells = cells_of({"seeds": 2}).cells
    built: list[Any] = []

    def louder(noise: Any, parts: Any, runtime: Any) -> None:
        built.append(noise)
        color, scale = type(noise).color, float(len(built))
        noise.color = lambda latents, t: scale * color(noise, latents, t)

    monkeypatch.setattr("noisereg.runs.train.fit_noise", louder)
    with pytest.raises(NoiseregError, match=r"seed1|_s1 is not the same trained together"):
        together(cells, tmp_path / "S")
    assert not list(tmp_path.rglob("config.yaml"))


class Projected(Idle):
    """A network with a fixed projection that is drawn with its weights."""

    def __init__(self, params: Params, ctx: Context) -> None:
        super().__init__(params, ctx)
        self.register_buffer("projection", torch.randn(2, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        return self.used(x @ self.projection)


def test_a_component_that_differs_is_found_out_where_a_cell_joins_later(tmp_path: Path) -> None:
    known = registry()
    known.register(Component("projected", Projected), "denoiser")
    base = {"denoiser": "projected"}
    cells = cells_of({"seeds": 2}, base).cells
    shorter = {**BASE["train"], "steps": 4}
    alone(cells_of({"seeds": 2}, {**base, "train": shorter}).cells[1], tmp_path / "S", known)
    with pytest.raises(NoiseregError, match=r"_s1 is not the same trained together"):
        together(cells, tmp_path / "S", known)
    assert not (tmp_path / "S" / cells[0].name / "config.yaml").exists()


def test_what_a_component_asks_at_other_times_is_told_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one t a minibatch, of which the network is told once, too."""
    loss, seen = Stack.loss, []

    def asking(stack: Stack, batch: Any, step: int) -> Any:
        found = loss(stack, batch, step)
        times = torch.rand_like(batch.t)
        size = len(times) // stack.count
        with torch.no_grad():
            own = [
                cell.parts.objective.net(
                    *(v[k * size : (k + 1) * size] for v in (batch.x0, times))
                )
                for k, cell in enumerate(stack.cells)
            ]
            seen.append((stack.net(batch.x0, times), torch.cat(own)))
        return found

    monkeypatch.setattr(Stack, "loss", asking)
    train = {**BASE["train"], "times": "batch", "steps": 2}
    together(cells_of({"seeds": 2}, {"train": train}).cells, tmp_path)
    assert len(seen) >= 2
    for found, own in seen:
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)


def test_a_stacked_linear_layer_is_each_ones_own() -> None:
    """Output and gradients; that of the weights is in the weights' order."""
    torch.manual_seed(0)
    x, w, b = torch.randn(3, 5, 4), torch.randn(3, 6, 4), torch.randn(3, 6)
    given = [v.requires_grad_() for v in (x, w, b)]

    def layer(*of: torch.Tensor) -> torch.Tensor:
        return functional.linear(*of)

    plain = torch.stack([layer(x[k], w[k], b[k]) for k in range(3)])
    with StackedLinear():
        stacked = torch.vmap(layer)(*given)
        without_bias = torch.vmap(layer)(x, w)
        assert torch.equal(layer(x, w[0]), functional.linear(x, w[0]))  # of three axes, as it is
    torch.testing.assert_close(stacked, plain)
    torch.testing.assert_close(without_bias, plain - b[:, None])
    wanted = torch.autograd.grad(plain.square().sum(), given)
    found = torch.autograd.grad(stacked.square().sum(), given)
    torch.testing.assert_close(found, wanted)
    assert found[1].is_contiguous()


def test_a_stacked_linear_layer_is_as_precise_as_one_alone() -> None:
    x, w, b = torch.randn(3, 5, 4), torch.randn(3, 6, 4), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        alone = functional.linear(x[0], w[0], b[0])
        with StackedLinear():
            stacked = torch.vmap(functional.linear)(x, w, b)
    assert stacked.dtype == alone.dtype == torch.bfloat16
    torch.testing.assert_close(stacked[0], alone, rtol=0.02, atol=0.02)


def test_groups_hold_what_differs_in_numbers_alone() -> None:
    resolved = cells_of(
        {
            "reg": ["none", "isotropy:weight=0.1", "isotropy:weight=1", "isotropy:mean=sample"],
            "axes": {"data": ["swiss-roll:n=100", "digits"], "train.times": ["sample", "batch"]},
            "seeds": 2,
        },
        {"denoiser": "auto"},
    )
    found = [[cell.name for cell in group] for group in groups(resolved, 6)]
    assert sorted(name for group in found for name in group) == sorted(
        cell.name for cell in resolved.cells
    )
    assert max(map(len, found)) == 4
    kinds = ("digits", "none", "mean=sample", "times=batch")
    for group in found:
        assert len({tuple(kind in n for kind in kinds) for n in group}) == 1
    # of one kind, the first group has all cells of the first seed
    assert found[0] == [n for n in found[0] if n.endswith("_s0")] + [
        n for n in found[0] if n.endswith("_s1")
    ]


def test_the_command_gives_the_table_of_separate_runs(capsys: Capture, tmp_path: Path) -> None:
    grid = ["--data", "swiss-roll:n=100", "--reg", "none", "--reg", "isotropy", "--seeds", "2"]
    arguments = ["sweep", *grid, "--steps", "6", *FLAGS, "--out", str(tmp_path / "S")]
    assert run([*arguments, "--together", "4", "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if line.startswith("together")] == [
        "together: 2: none_s0, none_s1",
        "together: 2: isotropy_s0, isotropy_s1",
    ]
    assert run([*arguments, "--together", "4"]) == 0
    assert "4 of 4 cells finished" in capsys.readouterr().out
    sweep = Sweep.open(tmp_path / "S")
    for cell in sweep.cells:
        alone(cell, tmp_path / "T")
    tables = []
    for folders in ([tmp_path / "S"], sorted((tmp_path / "T").iterdir())):
        code = run(
            ["eval", *map(str, folders), "--metric", "fd", "--num", "40", "--format", "json"]
        )
        assert code == 0
        (table,) = json.loads(capsys.readouterr().out)["tables"]
        tables.append(
            {
                (row["label"], name, seed): value
                for row in table["rows"]
                for name, number in row["metrics"].items()
                for seed, value in number["values"].items()
            }
        )
    assert len(tables[0]) == 4
    assert tables[0] == pytest.approx(tables[1], rel=1e-4)
    assert run([*arguments, "--together", "4", "--jobs", "2"]) == 2
    assert "goes without --jobs" in capsys.readouterr().err


def test_a_mistake_is_one_line_before_anything_is_trained(capsys: Capture, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "S"), "--together", "4"]
    arguments = ["sweep", "--denoiser", "mlp:width=8,dropout=0.5", "--seeds", "2", *out]
    for more in ([], ["--dry-run"]):
        assert run([*arguments, "--set", "runtime.device=cpu", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("noisereg: error: --together: cell run_s0: denoiser mlp drops")
    assert not (tmp_path / "S").exists()
