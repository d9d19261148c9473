"""The results pages: each table is what its JSON file gives, and every cell and seed that a page
claims is in the file.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import noisereg
from noisereg.plugins.registry import registry
from noisereg.runs import rescaling
from noisereg.sweeps.grid import Sweep
from noisereg.tables.formats import read_json
from noisereg.tables.table import Table

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", RESULTS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


def test_pages_agree_with_their_files(make: ModuleType) -> None:
    for path in make.PAGES:
        text = path.read_text(encoding="utf-8")
        assert make.page(text) == text, (
            f"{path.name} is not what its files give: python docs/results/make.py"
        )
    shown = sum(len(make.BLOCK.findall(path.read_text(encoding="utf-8"))) for path in make.PAGES)
    used = {
        name
        for p in make.PAGES
        for name in RESULTS.glob("*.json")
        if name.name in p.read_text(encoding="utf-8")
    }
    assert shown > 0
    assert used == set(RESULTS.glob("*.json"))  # no file that no page shows


def test_a_changed_number_is_noticed(make: ModuleType) -> None:
    blocks = 0
    for path in make.PAGES:
        text = path.read_text(encoding="utf-8")
        for block in make.BLOCK.finditer(text):
            digits = list(re.finditer(r"\d(?= [±/] )", block[0]))
            at = block.start() + digits[0].start()
            wrong = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
            assert make.page(wrong) == text != wrong
            blocks += 1
            break  # a page's first: each call makes all blocks anew
    assert blocks >= 4


@pytest.mark.parametrize(
    ("mean", "half", "verdict", "holds"),
    [
        (-5.0, 2.0, "agrees", False),
        (-9.0, 2.0, "agrees", True),
        (+5.0, 2.0, "contradicts", False),
        (-1.0, 2.0, "undecided", False),
        (-5.0, 6.0, "undecided", True),
    ],
)
def test_a_cell_by_its_interval_and_the_papers_sign(
    make: ModuleType, mean: float, half: float, verdict: str, holds: bool
) -> None:
    cell = make.Change(mean, half, paper=-10.0, weight=0.3, p=1.0)
    assert (cell.verdict, cell.holds_paper) == (verdict, holds)


def test_counts_say_what_holms_correction_leaves(make: ModuleType) -> None:
    """Of sixteen p the k-th smallest is multiplied by 17 − k."""
    own = [0.001, 0.0033, 0.004, 0.03, *[0.5] * 12]
    signs = [-5.0, +5.0, -5.0, -5.0, *[-1.0] * 12]
    column = {
        cell: make.Change(mean, 2.0, paper=-10.0, weight=0.3, p=p)
        for cell, mean, p in zip(make.CELLS, signs, own, strict=True)
    }
    assert make.tally(column) == "3 (1) / 12 / 1 (1)"  # .001 · 16, .0033 · 15, .004 · 14 = .056
    assert make.plain_tally(column, ["precision", "density"]) == "2 / 6 / 0"


def test_a_law_has_each_cell_once(make: ModuleType) -> None:
    every = [make.at(t, "isotropy", 0.3, None) for t in read_json(RESULTS / "table1.json")]
    assert set(make.changes(every)) == set(make.CELLS)
    for wrong in (every[:3], [*every, every[0]]):
        with pytest.raises(SystemExit, match="each once"):
            make.changes(wrong)


def test_headings_call_a_law_by_its_letter(make: ModuleType) -> None:
    heading = re.compile(r"^#+ ([A-Z](?:-\w+)?): (.*)$", re.MULTILINE)
    shown = []
    for name in ("iso-diffusion.md", "iso-diffusion-runs.md"):
        text = (RESULTS / name).read_text(encoding="utf-8")
        found = heading.findall(text)
        assert len(found) > 5
        assert all(make.LAWS[letter].name == law for letter, law in found)
        for block in re.finditer(r"<!-- against the paper: ([A-Z](?:-\w+)?) -->", text):
            assert heading.findall(text[: block.start()])[-1][0] == block[1]
            shown.append(block[1])
    assert shown == list(make.LAWS)


def test_the_factor_of_any_weight_makes_the_mean_power_that_of_the_noise(tmp_path: Path) -> None:
    factors = runpy.run_path(str(RESULTS / "factors.py"))
    folder = noisereg.sweep(
        out=tmp_path / "S",
        data="swiss-roll:version=1,n=200",
        denoiser="dense:widths=16",
        process="ddpm",
        train={"steps": 30, "batch_size": 64},
        runtime={"device": "cpu"},
    )
    (found,) = factors["of_sweeps"]([folder]).values()
    sweep = Sweep.open(folder)
    parts = noisereg.load(sweep.path_of(sweep.cells[0])).load()
    power = float(rescaling.measure(parts, registry()).power.mean())
    assert found["any λ"]["0"] == pytest.approx(power**-0.5, abs=1e-5)
    assert 1 < found["mean over all t, λ 0.1"]["0"] < found["λ 0.3"]["0"] < found["any λ"]["0"]
    assert found["bins, λ 0.3"]["0"] > found["λ 0.3"]["0"]
    assert factors["table"]({"a set": found}).count(f"{power**-0.5:.3f}") == 1


CLAIMED = {
    "table1.json": {"tables": 4, "rows": 4, "seeds": {(0, 1, 2, 3, 4, 5, 6)}},
    "table1-pick.json": {"tables": 4, "rows": 3, "seeds": {(7, 8, 9)}},
    "table1-minibatch.json": {"tables": 4, "rows": 5, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-minibatch-pick.json": {"tables": 4, "rows": 3, "seeds": {(5, 6, 7, 8, 9)}},
    "table1-bins.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k-bins.json": {"tables": 4, "rows": 6, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-control.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-v2-minibatch.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-v2-79k-bins.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-v2-79k-1000.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-v2-79k-bins-1000.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k-bins-1000.json": {"tables": 4, "rows": 4, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k-minibatch-1000.json": {"tables": 4, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k-constant.json": {"tables": 4, "rows": 5, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-v2-79k.json": {"tables": 4, "rows": 5, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-v2.json": {"tables": 4, "rows": 4, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k-control.json": {"tables": 4, "rows": 5, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k.json": {"tables": 3, "rows": 4, "seeds": {(0, 1, 2, 3, 4)}},
    "table1-79k-minibatch.json": {"tables": 4, "rows": 6, "seeds": {(0, 1, 2, 3, 4)}},
    "swiss-roll.json": {"tables": 1, "rows": 4, "seeds": {(0, 1, 2, 3, 4)}},
    "digits-eta0.json": {"tables": 4, "rows": 40, "seeds": {(0, 1, 2, 3, 4)}},
    "digits-eta1.json": {"tables": 4, "rows": 40, "seeds": {(0, 1, 2, 3, 4)}},
    "digits-control.json": {"tables": 3, "rows": 3, "seeds": {(0, 1, 2, 3, 4)}},
    "blue-noise.json": {"tables": 1, "rows": 33, "seeds": {(0, 1, 2, 3, 4)}},
    "blue-noise-whiten.json": {"tables": 1, "rows": 15, "seeds": {(0, 1, 2, 3, 4)}},
}


def test_every_file_is_claimed() -> None:
    assert set(CLAIMED) == {path.name for path in RESULTS.glob("*.json")}


@pytest.mark.parametrize("name", CLAIMED)
def test_every_cell_and_seed_is_there(name: str) -> None:
    tables = read_json(RESULTS / name)
    claimed = CLAIMED[name]
    assert len(tables) == claimed["tables"]
    for table in tables:
        assert len(table.rows) == claimed["rows"]
        assert {tuple(row.seeds) for row in table.rows} == claimed["seeds"]
        # No run is unfinished, failed or left out; that counts differ is said of the metric.
        assert [line for line in table.remarks if not line.startswith("prdc: ")] == []
        check_numbers(table)


def check_numbers(table: Table) -> None:
    """Every number of every seed is finite, every mean is its seeds' mean, and no source lies on
    somebody's machine.
    """
    for row in table.rows:
        assert set(row.estimates) == set(table.metrics)
        for cell in row.estimates.values():
            assert list(cell.values) == [str(seed) for seed in row.seeds]
            assert np.isfinite(list(cell.values.values())).all()
            assert cell.mean == pytest.approx(np.mean(list(cell.values.values())))
        assert not any(Path(m.source).is_absolute() for m in row.measurements)
