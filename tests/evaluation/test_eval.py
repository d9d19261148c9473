"""``noisereg eval``: what a user types and sees."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import ranks

import noisereg
from noisereg import terminal
from noisereg.api import Context
from noisereg.cli.main import run
from noisereg.data import read_split
from noisereg.datasets import ImageParams
from noisereg.datasets.digits import Digits
from noisereg.evaluation import samples as sampling
from noisereg.evaluation.samples import Drawing, draw_samples, plan, read_samples
from noisereg.metrics.fidelity import frechet_distance
from noisereg.metrics.prdc import manifolds
from noisereg.plugins.registry import registry
from noisereg.regularizers.temperature import whitened
from noisereg.report import pictures
from noisereg.runs import rescaling
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.sweeps.grid import Sweep

Capture = pytest.CaptureFixture[str]


def call(capsys: Capture, *arguments: object) -> str:
    """What is printed to stdout."""
    capsys.readouterr()
    code = run(["eval", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def mistake(capsys: Capture, *arguments: object) -> str:
    """The one line of a user's mistake."""
    capsys.readouterr()
    code = run(["eval", *map(str, arguments)])
    out, err = capsys.readouterr()
    lines = [
        line for line in err.splitlines() if not line.startswith(("note:", "sample ", "measure "))
    ]
    assert (code, out) == (2, "")
    assert len(lines) == 1, err
    return lines[0].removeprefix("noisereg: error: ")


def table_of(text: str) -> dict[str, Any]:
    """The one table of what --format json prints."""
    (table,) = json.loads(text)["tables"]
    return table


def pngs(folder: Path, count: int, mode: str = "L", side: int = 8) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(count):
        pixels = rng.integers(0, 256, (side, side, 3) if mode == "RGB" else (side, side), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:03d}.png")
    return folder


# Tables of a sweep


def test_a_sweep_gives_the_ablation_table_in_every_format(
    capsys: Capture, sweep: Sweep, tmp_path: Path
) -> None:
    arguments = [sweep.path, "--num", 200, "--metric", "prdc", "--metric", "fd"]
    md = call(capsys, *arguments, "--format", "markdown")
    assert md.startswith(
        "digits · ddpm · 3 seeds · 200 samples against 1,617 of train · pixels · prdc k 5 · 4 "
        "steps, η 1, EMA"
    )
    rows = [line for line in md.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in rows[1:]] == [
        "white",
        "white · isotropy(weight=0.1)",
        "blue-tv",
        "blue-tv · isotropy(weight=0.1)",
    ]
    assert all(line.count("±") == 5 for line in rows[1:])
    assert [line.count("%") + line.count("identical") for line in rows[1:]] == [0, 5, 5, 5]
    assert "Holm" in md

    data = table_of(call(capsys, *arguments, "--format", "json"))
    assert len(data["rows"]) == 4
    assert set(data["better"]) == {"precision", "density", "recall", "coverage", "fd-pixels"}
    for line, row in zip(rows[1:], data["rows"], strict=True):
        cell = row["metrics"]["fd-pixels"]
        assert np.mean(list(cell["values"].values())) == pytest.approx(cell["mean"])
        shown = float(re.search(r"([\d.]+) ± ([\d.]+)[^|]*\|$", line).group(1))
        assert shown == pytest.approx(cell["mean"], abs=0.06)
    extractor = data["provenance"]["metrics"][0]
    assert (extractor["features"], extractor["params"]) == (
        "pixels",
        {"k": 5, "backend": "blocked"},
    )
    drawn = data["provenance"]["samples"][0]
    assert {"n", "sha256", "steps", "eta", "weights", "seed", "checkpoint"} <= drawn.keys()

    lines = list(csv.DictReader(io.StringIO(call(capsys, *arguments, "--format", "csv"))))
    assert len(lines) == 20
    assert r"\toprule" in call(capsys, *arguments, "--format", "latex")
    call(capsys, *arguments, "--out", tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text() == md


def test_python_gives_the_rows(sweep: Sweep, capsys: Capture) -> None:
    rows = noisereg.evaluate(
        [sweep.path], metrics=["prdc"], num=200, baseline="noise=blue-tv,reg=none"
    )
    assert [row["label"] for row in rows if row["baseline"]] == ["blue-tv"]
    assert rows[0]["settings"]["noise"][0]["name"] == "white"
    shown = table_of(call(capsys, sweep.path, "--num", 200, "--format", "json"))["rows"]
    assert [r["metrics"]["precision"]["mean"] for r in rows] == [
        r["metrics"]["precision"]["mean"] for r in shown
    ]
    with pytest.raises(
        noisereg.NoiseregError, match=r"no option 'feature'; did you mean 'features'\?"
    ):
        noisereg.evaluate([sweep.path], feature="pixels")


def test_numbers_are_those_of_the_samples_and_the_reference(sweep: Sweep, capsys: Capture) -> None:
    """prdc of the very samples that Run.sample gives against the training set, by hand."""
    one = sweep.path_of(sweep.cells[0])
    found = table_of(call(capsys, one, "--num", 50, "--format", "json"))["rows"][0]["metrics"]
    x = noisereg.load(one).sample(50, seed=0)
    real = read_split(Digits(ImageParams(), Context()), "train")
    expected = manifolds(real.flatten(1), x.flatten(1), 5).numbers()
    assert {name: cell["mean"] for name, cell in found.items()} == pytest.approx(
        expected, abs=1e-9
    )


def test_held_out_and_fresh_references(
    sweep: Sweep, capsys: Capture, tmp_path: Path, make_sweep: Any
) -> None:
    held = call(capsys, sweep.path_of(sweep.cells[0]), "--reference", "heldout")
    assert "180 samples against 180 of heldout" in held  # --num is the reference's size
    assert "has no generator of fresh samples" in mistake(
        capsys, sweep.path_of(sweep.cells[0]), "--reference", "fresh"
    )
    points = make_sweep(tmp_path / "P", {}, {"data": "swiss-roll:n=300", "denoiser": "dense"})
    fresh = call(capsys, points.path, "--reference", "fresh", "--num", 250)
    assert "swiss-roll · ddpm · 1 seed · 250 samples against 250 of fresh" in fresh
    assert "expected train, heldout or fresh; did you mean 'train'?" in mistake(
        capsys, points.path, "--reference", "trian"
    )


# Caches


@pytest.fixture
def own(sweep: Sweep, tmp_path: Path) -> Path:
    """A run of the sweep, copied, with empty caches."""
    path = tmp_path / "run"
    shutil.copytree(sweep.path_of(sweep.cells[0]), path, ignore=shutil.ignore_patterns("eval"))
    return path


def test_samples_are_drawn_once_and_extended(
    own: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SHARD", 20)
    drawn: list[int] = []
    draw = sampling.draw

    def counting(model, indices, *rest):  # type: ignore[no-untyped-def]
        drawn.extend(indices)
        return draw(model, indices, *rest)

    monkeypatch.setattr(sampling, "draw", counting)
    call(capsys, own, "--num", 50)
    assert sorted(drawn) == list(range(50))
    drawn.clear()
    call(capsys, own, "--num", 50, "--metric", "prdc", "--metric", "fd", "--metric", "pr")
    assert drawn == []
    call(capsys, own, "--num", 70)
    assert sorted(drawn) == list(range(50, 70))
    drawn.clear()
    call(capsys, own, "--num", 30)
    assert drawn == []
    call(capsys, own, "--num", 30, "--steps", 5)
    call(capsys, own, "--num", 30, "--raw-weights")
    call(capsys, own, "--num", 30, "--seed", 1)
    call(capsys, own, "--num", 30, "--checkpoint", 6)
    assert sorted(drawn) == sorted(4 * list(range(30)))


def test_extended_samples_are_those_of_one_draw(
    own: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SHARD", 20)
    call(capsys, own, "--num", 33)
    call(capsys, own, "--num", 47)
    held = read_samples(plan(noisereg.load(own), Runtime.start(RuntimeConfig())), 47)
    assert torch.equal(held, noisereg.load(own).sample(47, seed=0))


def test_a_damaged_cache_is_made_anew_and_said(own: Path, capsys: Capture) -> None:
    """One bit of the samples, or of a number, changes nothing that is shown."""
    first = call(capsys, own, "--num", 40)
    for what in ("samples", "metrics"):
        (stored,) = (own / "eval" / what).iterdir()
        whole = stored.read_bytes()
        stored.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        if what == "samples":  # a number that is there is not measured again
            shutil.rmtree(own / "eval" / "metrics")
        assert run(["eval", str(own), "--num", "40"]) == 0
        out, err = capsys.readouterr()
        assert out == first
        assert f"{stored} is damaged and is computed again" in err
        assert stored.read_bytes() == whole


def _draw(path: Path, start: Any) -> None:
    torch.set_num_threads(1)
    runtime = Runtime.start(RuntimeConfig(device="cpu"))
    planned = plan(noisereg.load(path), runtime)
    start.wait()
    draw_samples([Drawing(planned, 400, runtime)], runtime, Reporter())


@pytest.mark.parametrize("time", range(3))
@pytest.mark.parametrize("there", [0, 150])
def test_two_evaluations_of_one_run_at_once_draw_its_samples_once(
    own: Path, monkeypatch: pytest.MonkeyPatch, there: int, time: int
) -> None:
    monkeypatch.setattr(sampling, "SHARD", 100)
    runtime = Runtime.start(RuntimeConfig(device="cpu"))
    planned = plan(noisereg.load(own), runtime)
    if there:
        draw_samples([Drawing(planned, there, runtime)], runtime, Reporter())
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    processes = [context.Process(target=_draw, args=(own, start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    held = read_samples(planned, 400)
    assert len(held.flatten(1).unique(dim=0)) == 400
    assert torch.equal(held, noisereg.load(own).sample(400, seed=0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives away")
def test_what_cannot_be_kept_beside_the_run_is_kept_in_the_users_cache(
    own: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISEREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(terminal, "_said", set())
    first = call(capsys, own, "--num", 40)
    shutil.rmtree(own / "eval")
    (own / "eval").mkdir()
    os.chown(own / "eval", os.geteuid() + 1, -1)
    assert run(["eval", str(own), "--num", "40"]) == 0
    out, err = capsys.readouterr()
    assert out == first
    assert err.count("what is measured is kept in") == 1
    assert list((own / "eval").iterdir()) == []
    assert list((tmp_path / "cache" / "eval" / "samples").iterdir()) != []


def test_an_interrupted_evaluation_goes_on(
    own: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SHARD", 20)
    draw, left = sampling.draw, [2]
    drawn: list[int] = []

    def failing(model, indices, *rest):  # type: ignore[no-untyped-def]
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        drawn.extend(indices)
        return draw(model, indices, *rest)

    monkeypatch.setattr(sampling, "draw", failing)
    assert run(["eval", str(own), "--num", "60"]) == 130
    left[0] = 9
    call(capsys, own, "--num", 60)
    assert sorted(drawn) == list(range(60))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process with a GPU cannot be forked")
def test_ranks_share_the_work_and_agree(own: Path, capsys: Capture, tmp_path: Path) -> None:
    typed = ["eval", str(own), "--num", "1100", "--format", "json"]
    alone = call(capsys, *typed[1:])
    shutil.rmtree(own / "eval")
    ranks(2, tmp_path / "said", run, typed)
    said = (tmp_path / "said").read_text()
    theirs = table_of(said[said.index("{") :])
    mine = table_of(alone)
    for name, cell in mine["rows"][0]["metrics"].items():
        assert theirs["rows"][0]["metrics"][name]["mean"] == pytest.approx(cell["mean"], abs=2e-3)


# Several numbers of steps, settings


def test_several_numbers_of_steps_make_sections(sweep: Sweep, capsys: Capture) -> None:
    found = call(capsys, sweep.path, "--num", 60, "--steps", "2,6")
    assert "2, 6 steps" in found.splitlines()[0]
    assert [line for line in found.splitlines() if "sampling steps" in line] == [
        "2 sampling steps",
        "6 sampling steps",
    ]
    assert len(re.findall(r"^blue-tv · isotropy", found, re.MULTILINE)) == 2
    assert "expected numbers of steps above 0" in mistake(capsys, sweep.path, "--steps", "10,x")


def test_settings_of_the_sampler_are_said(sweep: Sweep, capsys: Capture) -> None:
    found = call(
        capsys,
        sweep.path_of(sweep.cells[0]),
        "--num",
        40,
        "--solver",
        "heun",
        "--steps",
        3,
        "--raw-weights",
    )
    assert "3 steps, η 0, heun, raw" in found
    found = call(
        capsys, sweep.path_of(sweep.cells[0]), "--num", 40, "--grid", "logsnr", "--steps", 3
    )
    assert "3 steps, η 1, logsnr grid, EMA" in found
    assert "0 ≤ eta ≤ 1" in mistake(capsys, sweep.path_of(sweep.cells[0]), "--eta", 2)


# Several tables


def test_samples_are_told_apart_by_seed_and_by_what_draws_them(
    sweep: Sweep, capsys: Capture
) -> None:
    """A solver whose revision is raised gives other samples, and so has another key."""
    text = call(capsys, sweep.path, "--num", 120, "--seed", 5, "--format", "json")
    (table,) = json.loads(text)["tables"]
    assert table["shared"]["sampling"]["seed"] == 5
    loaded = noisereg.load(sweep.path_of(sweep.cells[0]))
    key = plan(loaded, Runtime.start(RuntimeConfig())).key["sampled by"]
    solver = loaded.config.sample.solver.name
    entry = registry().find("solver", solver)
    assert key["solver"] == [entry.qualified, entry.component.revision]
    assert key.keys() == {"solver", "grid"}


def tables(text: str) -> list[str]:
    """The context lines of the tables that a terminal shows."""
    return [line for line in text.splitlines() if re.search(r"samples against [\d,]+ of", line)]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which files there are, not what is in them: that is report/'s."""
    for form in ("pdf", "png"):
        monkeypatch.setattr(pictures, form, lambda figure, salt: b"")


def test_each_data_set_has_a_table(
    tmp_path: Path, capsys: Capture, make_sweep: Any, undrawn: None
) -> None:
    grid = {
        "axes": {"data": ["swiss-roll:n=300", "central-banana:n=300"]},
        "reg": ["none", "isotropy"],
    }
    points = make_sweep(tmp_path / "P", grid, {"denoiser": "dense"})
    arguments = [points.path, "--num", 50]
    found = call(capsys, *arguments, "--pictures", tmp_path / "pictures")
    assert [line.split(" · ")[0] for line in tables(found)] == ["swiss-roll", "central-banana"]
    rows = re.findall(r"^(white.*?)  ", found, re.MULTILINE)
    assert rows == 2 * ["white", "white · isotropy(weight=0.1)"]
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {"swiss-roll", "central-banana"}
    versions = make_sweep(
        tmp_path / "V",
        {"axes": {"data": ["swiss-roll:n=300,version=1", "swiss-roll:n=300,version=2"]}},
    )
    found = call(capsys, versions.path, "--num", 50, "--pictures", tmp_path / "versions")
    assert [line.split(" · ")[0] for line in tables(found)] == [
        "swiss-roll(version=1)",
        "swiss-roll(version=2)",
    ]
    assert {p.name for p in (tmp_path / "versions").iterdir()} == {
        "swiss-roll-version=1",
        "swiss-roll-version=2",
    }
    both = json.loads(call(capsys, *arguments, "--format", "json"))["tables"]
    alone = [
        p
        for cell, p in zip(points.cells, map(points.path_of, points.cells), strict=True)
        if "banana" in cell.name
    ]
    assert (
        table_of(call(capsys, *alone, "--num", 50, "--format", "json"))["rows"] == both[1]["rows"]
    )
    page = tmp_path / "r.html"
    call(capsys, *arguments, "--out", page)
    used = re.findall(r'\bid="([^"]+)"', page.read_text())
    assert len(used) == len(set(used))
    assert page.read_text().count("<h1>") == 2
    pngs(tmp_path / "images", 9)
    assert "does not say which of the runs' data sets it belongs to" in mistake(
        capsys, points.path, tmp_path / "images", "--num", 9
    )


def test_data_that_give_the_same_real_samples_share_a_table(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    mixed = make_sweep(tmp_path / "mixed", {"axes": {"data.flip": [False, True]}})
    found = call(capsys, mixed.path, "--num", 40)
    assert len(tables(found)) == 1
    assert "white · digits(flip=true)" in found


def test_processes_and_etas_can_have_tables_of_their_own(
    tmp_path: Path, capsys: Capture, make_sweep: Any, undrawn: None
) -> None:
    swept = make_sweep(
        tmp_path / "S", {"process": ["ddpm", "iadb"], "noise": ["white", "blue-tv"]}
    )
    found = call(capsys, swept.path, "--num", 40, "--by", "process", "--eta", "0,1")
    assert [re.search(r"· (ddpm|iadb) ·.*(η [01])", line).groups() for line in tables(found)] == [
        ("ddpm", "η 0"),
        ("ddpm", "η 1"),
        ("iadb", "η 0"),
        ("iadb", "η 1"),
    ]
    assert re.findall(r"^(\S+) .*", found.replace("mean", ""), re.MULTILINE).count("blue-tv") == 4
    assert len(tables(call(capsys, swept.path, "--num", 40, "--by", "noise"))) == 2
    pngs(tmp_path / "images", 40)
    beside = call(capsys, swept.path, tmp_path / "images", "--num", 40, "--by", "process")
    assert len(tables(beside)) == 2
    assert (
        beside.count(str(tmp_path / "images")) == 2
    )  # a folder stands beside the runs of every table
    call(
        capsys,
        swept.path,
        "--num",
        40,
        "--by",
        "process",
        "--eta",
        "0,1",
        "--pictures",
        tmp_path / "p",
    )
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        f"digits_{process}_eta-{eta}" for process in ("ddpm", "iadb") for eta in (0, 1)
    }
    measured = sorted(swept.path.glob("cells/*/eval/*/*"))
    for options in (["--by", "proces"], ["--effects", "noise,proces"], ["--columns", "proces"]):
        said = mistake(capsys, swept.path, "--num", 41, *options)
        assert f"{options[0]} proces: no such key; did you mean 'process'?" in said
    (tmp_path / "file").touch()
    assert "file is a file; expected a folder" in mistake(
        capsys, swept.path, "--num", 41, "--pictures", tmp_path / "file"
    )
    assert (
        sorted(swept.path.glob("cells/*/eval/*/*")) == measured
    )  # nothing was sampled or measured before
    assert "--eta 0,x: expected numbers" in mistake(capsys, swept.path, "--eta", "0,x")


def test_a_part_of_a_sweep(sweep: Sweep, capsys: Capture, tmp_path: Path) -> None:
    arguments = [sweep.path, "--num", 40]
    part = table_of(call(capsys, *arguments, "--where", "noise=blue-tv", "--format", "json"))
    assert [row["label"] for row in part["rows"]] == ["blue-tv", "blue-tv · isotropy(weight=0.1)"]
    assert [len(row["seeds"]) for row in part["rows"]] == [3, 3]
    stored = tmp_path / "t.json"
    call(capsys, *arguments, "--steps", "2,4", "--out", stored)
    shown = call(capsys, stored, "--where", "noise=blue-tv,sample.steps=4")
    assert "· 4 steps, η 1, EMA · where noise=blue-tv,sample.steps=4" in shown.splitlines()[0]
    assert len(re.findall(r"^blue-tv", shown, re.MULTILINE)) == 2
    for source in (stored, sweep.path):
        assert "--where noise: expected KEY=VALUE" in mistake(capsys, source, "--where", "noise")
        assert "nois: no such key; did you mean 'noise'?" in mistake(
            capsys, source, "--where", "nois=white"
        )
    assert "--where noise=blue: no row of" in mistake(capsys, stored, "--where", "noise=blue")
    for flag in ("--where", "--by", "--effects", "--columns", "--pick"):
        assert f"{flag} is empty" in mistake(capsys, sweep.path, flag, "")
    assert "--where noise=blue: none of the 12 runs has it" in mistake(
        capsys, sweep.path, "--where", "noise=blue"
    )
    assert "--where sample.eta=1: runs are sampled as" in mistake(
        capsys, sweep.path, "--where", "sample.eta=1"
    )


# Tables that were measured before


def test_a_stored_table_shows_the_same_in_every_format(
    sweep: Sweep, capsys: Capture, tmp_path: Path
) -> None:
    arguments = [sweep.path, "--num", 60, "--steps", "2,4"]
    stored = tmp_path / "table.json"
    call(capsys, *arguments, "--out", stored)
    for form in ("table", "markdown", "csv", "latex", "json"):
        assert call(capsys, stored, "--format", form) == call(
            capsys, *arguments, "--format", form
        ), form
    for options in (
        ["--baseline", "noise=blue-tv,reg=none"],
        ["--columns", "reg,noise.factor"],
        ["--label", "DDPM:noise=white,reg=none"],
        ["--effects", "noise,reg"],
    ):
        assert call(capsys, stored, *options) == call(capsys, *arguments, *options), options


@pytest.mark.parametrize(
    ("options", "name"), [(["--steps", "2,4"], "steps"), (["--effects", "noise,reg"], "effects")]
)
def test_a_stored_table_draws_its_numbers(
    sweep: Sweep, capsys: Capture, tmp_path: Path, options: list[str], name: str
) -> None:
    """As the runs' pictures of them, byte for byte."""
    call(
        capsys,
        sweep.path,
        "--num",
        60,
        *options,
        "--pictures",
        tmp_path / "a",
        "--out",
        tmp_path / "table.json",
    )
    call(capsys, tmp_path / "table.json", "--pictures", tmp_path / "b")
    forms = {f"{name}.svg", f"{name}.png", f"{name}.pdf"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == forms
    fewer = tmp_path / "fewer.json"
    call(capsys, sweep.path, "--num", 50, *options, "--out", fewer)
    call(capsys, tmp_path / "table.json", fewer, "--pictures", tmp_path / "c")
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"digits", "digits-2"}
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_a_stored_table_is_picked_from_as_the_runs_are(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    grid = {"reg": ["none", "isotropy:weight=0.1", "isotropy:weight=0.3"], "seeds": 4}
    swept = make_sweep(tmp_path / "S", grid)
    call(capsys, swept.path, "--num", 40, "--out", tmp_path / "t.json")
    picking = ["--pick", "density", "--pick-on", "1,3"]
    found = call(capsys, tmp_path / "t.json", *picking)
    assert found == call(capsys, swept.path, "--num", 40, *picking)
    assert re.search(r"was picked on seeds 1, 3 and is reported on 0, 2", found)
    call(capsys, tmp_path / "t.json", *picking, "--out", tmp_path / "picked.json")
    assert call(capsys, tmp_path / "picked.json") == found
    assert "a table of rows that were picked holds no other rows" in mistake(
        capsys, tmp_path / "picked.json", "--columns", "reg"
    )
    kin = "share the seeds 0, 1, 2, 3; expected some of these, and others left"
    assert kin in mistake(capsys, tmp_path / "t.json", "--pick", "density", "--pick-on", "1,7")
    assert kin in mistake(capsys, tmp_path / "t.json", "--pick", "density", "--pick-on", "0,1,2,3")
    assert "give --pick NUMBER too" in mistake(capsys, tmp_path / "t.json", "--pick-on", "1")


def test_tables_of_parts_show_what_all_runs_would(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    swept = make_sweep(tmp_path / "S", {"reg": ["none", "isotropy:weight=0.1"], "seeds": 3})
    parts = [tmp_path / "plain.json", tmp_path / "with.json"]
    plain, other = (
        sorted(p for p in (swept.path / "cells").glob(f"{name}*_s?")) for name in ("none", "iso")
    )
    call(capsys, *plain, "--num", 40, "--steps", "2,4", "--out", parts[0])
    # A run of the first stands in the second too: once in what is shown.
    call(capsys, plain[0], *other, "--num", 40, "--steps", "2,4", "--out", parts[1])
    every = call(capsys, *plain, *other, "--num", 40, "--steps", "2,4", "--baseline", "reg=none")
    assert call(capsys, *parts, "--baseline", "reg=none") == every
    call(capsys, *parts, "--baseline", "reg=none", "--out", tmp_path / "joined.json")
    assert call(capsys, tmp_path / "joined.json") == every
    (table,) = json.loads((tmp_path / "joined.json").read_text())["tables"]
    assert len(table["provenance"]["samples"]) == 12

    # A file from before there was a key says what its default says.
    older = json.loads(parts[0].read_text())
    assert older["tables"][0]["shared"]["settings"].pop("draws") == "host"
    (tmp_path / "older.json").write_text(json.dumps(older))
    shown = call(capsys, tmp_path / "older.json", parts[1], "--baseline", "reg=none")
    assert "draws=" not in shown
    rows = [line for line in shown.splitlines() if "±" in line]
    assert rows == [line for line in every.splitlines() if "±" in line]

    # Other numbers of samples are another table; other numbers of one run, a mistake.
    call(capsys, *plain, "--num", 50, "--steps", "2,4", "--out", tmp_path / "more.json")
    apart = call(capsys, parts[0], tmp_path / "more.json")
    assert "40 samples against" in apart
    assert "50 samples against" in apart
    changed = json.loads(parts[1].read_text())
    for row in changed["tables"][0]["rows"]:
        for estimate in row["metrics"].values():
            estimate["values"] = {seed: v + 1 for seed, v in estimate["values"].items()}
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    assert "and their numbers differ; show the tables one at a time" in mistake(
        capsys, parts[0], tmp_path / "changed.json"
    )


def test_mistakes_about_stored_tables_are_one_line(
    sweep: Sweep, capsys: Capture, tmp_path: Path
) -> None:
    stored = tmp_path / "t.json"
    call(capsys, sweep.path, "--num", 40, "--out", stored)
    assert "--metric is for measuring" in mistake(capsys, stored, "--metric", "fd")
    assert "holds numbers alone, and neither several" in mistake(
        capsys, stored, "--pictures", tmp_path / "p"
    )
    assert not (tmp_path / "p").exists()
    assert "cannot stand beside a table that is finished" in mistake(capsys, stored, sweep.path)
    assert "needs the runs for its pictures" in mistake(capsys, stored, "--format", "html")
    assert "no-table.json cannot be read: no such file" in mistake(
        capsys, tmp_path / "no-table.json"
    )
    whole = json.loads(stored.read_text())
    damaged = []
    for key, value in (
        ("steps", "x"),
        ("metrics", {"precision": {"values": {}, "mean": 1, "half_width": "x"}}),
    ):
        table = {**whole["tables"][0], "rows": [{**whole["tables"][0]["rows"][0], key: value}]}
        damaged.append(json.dumps({"tables": [table]}))
    damaged += [
        json.dumps({"tables": [{**whole["tables"][0], **part}]})
        for part in ({"rows": []}, {"better": {}})
    ]
    (tmp_path / "broken.json").write_text("{")
    assert "broken.json, line 1: expecting" in mistake(capsys, tmp_path / "broken.json")
    for text in (
        "[]",
        '{"tables": [{}]}',
        '{"tables": 1}',
        '{"tables": []}',
        '{"rows": []}',
        *damaged,
    ):
        (tmp_path / "broken.json").write_text(text)
        said = mistake(capsys, tmp_path / "broken.json")
        expected = "broken.json, line 1" if text == "{" else "broken.json holds no tables"
        assert expected in said, text


# Folders and files from elsewhere


def test_a_folder_of_pngs_that_noisereg_did_not_make(tmp_path: Path, capsys: Capture) -> None:
    folder = pngs(tmp_path / "images", 120)
    arguments = [
        folder,
        "--data",
        "digits",
        "--metric",
        "prdc",
        "--metric",
        "fd",
        "--features",
        "pixels",
    ]
    found = table_of(call(capsys, *arguments, "--format", "json"))["rows"][0]
    x = torch.stack(
        [torch.from_numpy(np.array(Image.open(p))).flatten() for p in sorted(folder.iterdir())]
    )
    real = read_split(Digits(ImageParams(), Context()), "train").flatten(1)
    expected = manifolds(real, x, 5).numbers()
    expected["fd-pixels"] = frechet_distance(x.double() / 127.5 - 1, real.double() / 127.5 - 1)
    assert {name: cell["mean"] for name, cell in found["metrics"].items()} == pytest.approx(
        expected, rel=1e-5
    )
    assert found["label"] == str(folder)
    assert not list(folder.glob("eval*"))  # folders' caches are the user's


def test_copies_are_of_the_data_that_are_given(tmp_path: Path, capsys: Capture) -> None:
    """Two data sets with one held-out split: a number of the first is not read for the second."""
    for name, seed in (("A", 1), ("B", 2)):
        pngs(tmp_path / name / "test", 8)
        train = tmp_path / name / "train"
        train.mkdir()
        rng = np.random.default_rng(seed)
        for k in range(12):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(train / f"{k:03d}.png")
    asked = ["--reference", "heldout", "--metric", "memorisation", "--format", "json"]
    for data, share in (("A", 1.0), ("B", 0.0)):
        found = call(
            capsys, tmp_path / "A" / "train", "--data", f"folder:path={tmp_path / data}", *asked
        )
        assert table_of(found)["rows"][0]["metrics"]["memorised"]["mean"] == share


def test_an_npz_of_noisereg_sample(sweep: Sweep, tmp_path: Path, capsys: Capture) -> None:
    path = sweep.path_of(sweep.cells[0])
    assert run(["sample", str(path), "--num", "60", "--out", str(tmp_path / "x.npz")]) == 0
    table = table_of(call(capsys, tmp_path / "x.npz", path, "--num", 60, "--format", "json"))[
        "rows"
    ]
    values = [row["metrics"]["precision"]["mean"] for row in table]
    assert values[0] == values[1]


def test_mistakes_about_folders_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    small, colour, few = (
        pngs(tmp_path / "small", 9, side=7),
        pngs(tmp_path / "colour", 9, mode="RGB"),
        pngs(tmp_path / "few", 5),
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    assert "000.png is 7×7 and digits is 8×8" in mistake(capsys, small, "--data", "digits")
    assert "000.png is of mode RGB and digits has 1 channel; expected mode L" in mistake(
        capsys, colour, "--data", "digits"
    )
    assert "empty is empty; expected a run, a sweep or a folder of images" in mistake(
        capsys, tmp_path / "empty", "--data", "digits"
    )
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    line = mistake(capsys, tmp_path / "runs")
    assert f"runs is neither a run nor a sweep, and holds 2: {tmp_path / 'runs/one'}, " in line
    assert "few is given twice" in mistake(capsys, few, few, "--data", "digits")
    assert "--out t.xyz: expected a file that ends in one of .txt, .md" in mistake(
        capsys, few, "--data", "digits", "--out", "t.xyz"
    )
    assert "a.png cannot be read" in mistake(capsys, tmp_path / "broken", "--data", "digits")
    assert "k=5 needs more than 5 samples and the generated set has 5" in mistake(
        capsys, few, "--data", "digits"
    )
    assert "few does not say what its images should look like; give --data" in mistake(capsys, few)
    assert "is not there" in mistake(capsys, tmp_path / "nowhere")
    exif = Image.Exif()
    exif[274] = 6  # turned by its tag
    Image.new("L", (8, 6)).save(pngs(tmp_path / "turned", 9) / "003.jpg", exif=exif)
    assert "003.jpg is 6×8 and digits is 8×8" in mistake(
        capsys, tmp_path / "turned", "--data", "digits"
    )
    assert "has 5 samples and --num asks for 6" in mistake(
        capsys, few, "--data", "digits", "--num", 6
    )


# Metrics, features and plugins


def test_spaces_that_need_no_download(sweep: Sweep, capsys: Capture) -> None:
    path = sweep.path_of(sweep.cells[0])
    learnt = table_of(
        call(
            capsys,
            path,
            "--num",
            80,
            "--features",
            "classifier:steps=60,width=8",
            "--metric",
            "fd",
            "--format",
            "json",
        )
    )
    assert list(learnt["rows"][0]["metrics"]) == ["fd-classifier"]
    assert re.search(
        r"classifier: \d+\.\d % of 180 held-out images right", "\n".join(learnt["remarks"])
    )
    random = table_of(
        call(
            capsys,
            path,
            "--num",
            40,
            "--features",
            "random-vgg16",
            "--reference",
            "heldout",
            "--metric",
            "kd:subset_size=20",
            "--format",
            "json",
        )
    )
    assert list(random["rows"][0]["metrics"]) == ["kd-random-vgg16"]
    assert "sha256:" in random["provenance"]["metrics"][0]["extractor"]


def test_mistakes_about_metrics_are_one_line(
    sweep: Sweep, capsys: Capture, tmp_path: Path
) -> None:
    path = sweep.path_of(sweep.cells[0])
    assert "no metric is called 'prcd'; did you mean 'prdc'?" in mistake(
        capsys, path, "--metric", "prcd"
    )
    assert "prdc has no parameter 'kk'; did you mean 'k'?" in mistake(
        capsys, path, "--metric", "prdc:kk=3"
    )
    assert "no feature space is called 'pixel'; did you mean 'pixels'?" in mistake(
        capsys, path, "--features", "pixel"
    )
    (tmp_path / "w.pth").write_text("no weights")
    assert "holds no weights" in mistake(
        capsys, path, "--num", 20, "--metric", "fid", "--inception-weights", tmp_path / "w.pth"
    )
    assert "psnr compares each output with its own right answer" in mistake(
        capsys, path, "--num", 20, "--metric", "psnr"
    )


PLUGIN = """
from noisereg.api import Component, Metric, hookimpl

class Brightness(Metric):
    better = {"brightness": "lower"}

    def __init__(self, params, ctx):
        pass

    def compute(self, samples, reference, features):
        return {"brightness": abs(features(samples).float().mean() - features(reference).float().mean()).item()}

    def notes(self):
        return ["brightness: a note of its own"]

@hookimpl
def noisereg_metrics():
    yield Component(name="brightness", impl=Brightness)
"""


def test_a_third_partys_metric(sweep: Sweep, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "bright.py").write_text(PLUGIN)
    found = call(
        capsys,
        sweep.path,
        "--num",
        40,
        "--plugin",
        tmp_path / "bright.py",
        "--metric",
        "brightness",
    )
    assert "brightness ↓" in found
    assert "brightness: a note of its own" in found


# Rows


def test_labels_baselines_columns_and_picking(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    grid = {"reg": ["none", "isotropy:weight=0.1", "isotropy:weight=0.3"], "seeds": 4}
    swept = make_sweep(tmp_path / "S", grid)
    found = call(
        capsys,
        swept.path,
        "--num",
        40,
        "--pick",
        "density",
        "--label",
        "DDPM:reg=none",
        "--columns",
        "reg",
        "--baseline",
        "reg=none",
    )
    assert re.search(r"^DDPM ", found, re.MULTILINE)
    assert re.search(
        r"isotropy\(weight=0\.\d\) was picked on seeds 0, 1 and is reported on 2, 3", found
    )
    assert "matches no row" in mistake(capsys, swept.path, "--num", 40, "--baseline", "noise=blue")
    assert "matches several rows" in mistake(
        capsys, swept.path, "--num", 40, "--baseline", "reg.mean=batch"
    )


def test_unfinished_cells_are_left_out_and_said(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    swept = make_sweep(tmp_path / "S", {"noise": ["white", "blue-tv"]})
    shutil.rmtree(swept.path_of(swept.cells[1]))
    assert "1 of 2 cells of" in call(capsys, swept.path, "--num", 40)
    shutil.rmtree(swept.path_of(swept.cells[0]))
    assert "none of the sweep's 2 cells is finished" in mistake(capsys, swept.path)


def test_mistakes_about_runs_are_one_line(
    sweep: Sweep, tmp_path: Path, capsys: Capture, own: Path, make_sweep: Any
) -> None:
    assert "one configuration with one seed" in mistake(
        capsys, own, sweep.path_of(sweep.cells[0]), "--num", 40
    )
    shutil.rmtree(own / "checkpoints")
    assert "has no whole checkpoint" in mistake(capsys, own)
    assert "--format htm: expected one of" in mistake(capsys, own, "--format", "htm")
    assert "--num 0: expected at least 1" in mistake(capsys, own, "--num", 0)


def test_paired_outputs_are_measured_against_their_own_answers(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    base = {"task": "superres:factor=2", "denoiser": "mlp:width=16,blocks=1"}
    swept = make_sweep(tmp_path / "S", {"noise": ["white", "blue-tv"]}, base)
    arguments = [swept.path, "--metric", "psnr", "--metric", "ssim", "--reference", "heldout"]
    found = table_of(call(capsys, *arguments, "--format", "json"))
    assert set(found["rows"][0]["metrics"]) == {"psnr", "ssim"}
    assert 0 < found["rows"][0]["metrics"]["psnr"]["mean"] < 40
    assert found["shared"]["sampling"]["condition"].startswith("heldout ")
    assert any("ssim: images of 8 pixels" in remark for remark in found["remarks"])
    assert "25 samples against 25 of heldout" in call(capsys, *arguments, "--num", 25)
    assert (
        "--num 181: psnr compares each sample with its own right answer, and heldout has 180"
        in mistake(capsys, *arguments, "--num", 181)
    )


# Controls and grids


def test_a_rescaled_row_stands_where_a_regularizer_would_and_costs_no_training(
    capsys: Capture, sweep: Sweep
) -> None:
    asked = [*sweep.path.glob("cells/*_s0"), "--num", 60, "--steps", "2", "--format", "json"]
    asked += ["--rescaled", "isotropy:weight=0.1", "--rescaled", "1.1", "--metric", "fd"]
    table = table_of(call(capsys, *asked))
    rows = {row["label"]: row for row in table["rows"]}
    assert sorted(rows) == [
        "blue-tv",
        "blue-tv · isotropy(weight=0.1)",
        "blue-tv · rescaled(factor=1.1)",
        "blue-tv · rescaled-isotropy(weight=0.1)",
        "white",
        "white · isotropy(weight=0.1)",
        "white · rescaled(factor=1.1)",
        "white · rescaled-isotropy(weight=0.1)",
    ]
    means = [row["metrics"]["fd-pixels"]["mean"] for row in rows.values()]
    assert len(set(means)) == len(means)
    effects = table_of(call(capsys, *asked, "--effects", "noise,reg"))
    labels = [row["label"] for row in effects["rows"]]
    assert "rescaled-isotropy(weight=0.1), with white" in labels
    assert "blue-tv × rescaled(factor=1.1)" in labels


def test_the_power_by_direction_is_the_whitened_power_and_of_white_noise_the_plain_one(
    sweep: Sweep,
) -> None:
    """By two control variates, one for each direction and one for all: within 2 % at all times."""
    cells = sweep.path.glob("cells/*none*_s0")
    runs = {run.config.noise.name: run for run in map(noisereg.load, cells)}
    for name in ("white", "blue-tv"):
        model = runs[name].model(eps_scale="isotropy:weight=0.1,space=whitened")
        found = rescaling.measure(model.parts, registry())
        assert found.means is not None

        def of_all(eps: torch.Tensor, k: int, found: Any = found, model: Any = model) -> Any:
            t = torch.full((len(eps),), float(found.t[k]), dtype=torch.float64)
            total, count = model.noise.whitened_power(eps, t)
            return (total / count)[:, None]

        at_once = found.means(of_all, torch.ones(len(found.t), 1, dtype=torch.float64))[:, 0]
        by_direction = whitened(found).power.sum(1)
        assert torch.allclose(by_direction, at_once, rtol=0.02, atol=0)
        if name == "white":
            assert torch.allclose(by_direction, found.power, rtol=0.02, atol=0)
            plain = runs[name].model(eps_scale="isotropy:weight=0.1")
            eps = torch.ones(4, 1, 8, 8, dtype=torch.float64)
            t = torch.tensor([0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
            assert plain.eps_scale is not None
            assert model.eps_scale is not None
            assert torch.allclose(plain.eps_scale(eps, t), model.eps_scale(eps, t), rtol=1e-3)


def test_the_run_itself_is_measured_for_its_scale_and_one_with_a_term_is_refused(
    capsys: Capture, sweep: Sweep
) -> None:
    plain, with_term = (
        noisereg.load(next(sweep.path.glob(f"cells/white_{reg}*_s0")))
        for reg in ("none", "isotropy")
    )
    model = plain.model(eps_scale="isotropy:weight=0.1")
    assert model.eps_scale is not None
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    s = model.eps_scale(torch.ones(2, 1, 8, 8).double(), t)
    assert s.min() > 1.001
    raw = plain.model()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eps, own = model.predict(x, t).eps_hat, raw.predict(x, t).eps_hat
    assert torch.allclose(eps, s.float() * own, rtol=1e-5)
    said = mistake(capsys, with_term.path, "--num", 60, "--eps-scale", "isotropy")
    assert "this run was trained with isotropy" in said
    said = mistake(capsys, with_term.path, "--num", 60, "--rescaled", "isotropy")
    assert "beside each run without a regularizer, and there is none" in said


def test_each_of_several_grids_makes_a_table_that_names_it(capsys: Capture, sweep: Sweep) -> None:
    run_path = next(sweep.path.glob("cells/white_none*_s0"))
    asked = [run_path, "--num", 60, "--steps", "3", "--metric", "fd", "--format", "json"]
    tables = json.loads(call(capsys, *asked, "--grid", "uniform", "--grid", "logsnr"))["tables"]
    assert [table["context"][-1] for table in tables] == [
        f"3 steps, η 1, {grid} grid, EMA" for grid in ("uniform", "logsnr")
    ]
    first, second = (table["rows"][0]["metrics"]["fd-pixels"]["mean"] for table in tables)
    assert first != second


def test_clipping_changes_what_is_drawn_and_is_kept_apart(capsys: Capture, sweep: Sweep) -> None:
    run_path = next(sweep.path.glob("cells/white_none*_s0"))
    asked = [run_path, "--num", 60, "--steps", "3", "--metric", "fd", "--format", "json"]
    found = {
        clip: table_of(call(capsys, *asked, "--clip", clip))["rows"][0]
        for clip in ("none", "static", "dynamic:percentile=0.5")
    }
    assert len({row["metrics"]["fd-pixels"]["mean"] for row in found.values()}) == 3
