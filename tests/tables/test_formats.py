"""How tables look: digits by number, widths, escapes, what diverged or is not finite, and files
that are damaged or were changed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.tables import formats
from noisereg.tables.ablation import build, rebuild
from noisereg.tables.effects import effects
from noisereg.tables.latex import COLUMN, GAP, SIZES, _columns, _fit, latex, latex_text
from noisereg.tables.table import Measurement, Table

PDFLATEX = shutil.which("pdflatex")


def run(noise: str, seed: int | None = 0, reg: str = "none", **others: object) -> Measurement:
    numbers = {k: v for k, v in others.items() if isinstance(v, float)}
    return Measurement(
        source=f"runs/{noise}-{reg}-{seed}",
        numbers=numbers,
        components={
            "noise": [Spec.parse(noise)],
            "reg": [] if reg == "none" else [Spec.parse(reg)],
        },
        seed=seed,
        steps=50,
        **{k: v for k, v in others.items() if k not in numbers},  # type: ignore[arg-type]
    )


def table_of(rows: dict[str, Sequence[float]], metric: str = "fd", **options: object) -> Table:
    runs = [
        run(noise, seed, **{metric: float(value)})
        for noise, values in rows.items()
        for seed, value in enumerate(values)
    ]
    return build(runs, {metric: "lower"}, **options)  # type: ignore[arg-type]


def column(table: Table) -> list[str]:
    return [line.cells[0].value for line in formats.layout(table).lines]


METRICS = ("precision", "density", "recall", "coverage")


@pytest.fixture
def paper() -> Table:
    """Four numbers, four rows, five seeds: what a paper has."""
    rng = np.random.default_rng(0)
    runs = [
        run(noise, seed, reg, **{m: float(0.6 + 0.03 * rng.normal()) for m in METRICS})
        for noise in ("white", "blue-tv")
        for reg in ("none", "isotropy:weight=0.1")
        for seed in range(5)
    ]
    table = build(runs, dict.fromkeys(METRICS, "higher"))
    table.context = ["digits_v2", "ddpm", "5 seeds", "1,617 samples against 1,617 of train", "η 1"]
    table.name = "digits_ddpm"
    table.remarks = ["sweeps/a/cells/blue-tv_none_s4 is stopped at step 10 of 300"]
    return table


# Digits


def test_a_small_number_beside_a_large_one_keeps_its_digits() -> None:
    """500 points N(0, I) and the same × 100, in every format."""
    table = table_of({"small": [0.4346], "large": [4346.0]})
    assert column(table) == [".435", "4346"]
    assert "| small | .435 |" in formats.markdown(table)
    assert re.search(r"small\S* & 0\.435 ", latex(table))
    wide = table_of({"small": [0.4346, 0.4361, 0.4339], "large": [4346.0, 4361.0, 4339.0]})
    assert column(wide) == [".4349 ± .0028", "4349 ± 28"]


@pytest.mark.parametrize(
    ("number", "half", "shown"),
    [
        (0.93812, 0.0642, (".938", ".064", 0)),
        (0.93812, 0.0996, (".94", ".10", 0)),  # rounds up into the next place
        (60.0312, 1.23, ("60.0", "1.2", 0)),
        (60031.2, 1234.0, ("60031", "1234", 0)),
        (0.5, 3.21, (".5", "3.2", 0)),
        (0.9, 2.1e-9, (".900000", "2.1e-09", 0)),
        (0.9, 1e-17, (".900", "", 0)),  # rounding is no interval
        (3.21e-7, 4.2e-8, ("3.21", ".42", -7)),
        (1.2345e8, 2.1e6, ("1.234", ".021", 8)),
        (0.0434, None, (".0434", "", 0)),
        (1.18, None, ("1.180", "", 0)),
        (14.4, None, ("14.40", "", 0)),
        (-0.02, None, ("−.0200", "", 0)),
        (0.0, None, (".000", "", 0)),
        (5e-5, None, ("5.000", "", -5)),
    ],
)
def test_digits_by_number_and_interval(
    number: float, half: float | None, shown: tuple[str, str, int]
) -> None:
    found = formats.digits(number, half)
    assert (found.number, found.half_width, found.exponent) == shown


def test_the_shown_interval_is_the_interval() -> None:
    """Over 2,000 numbers of all sizes: read back, both are right to the interval's second
    digit.
    """
    rng = np.random.default_rng(0)
    for _ in range(2000):
        half = 10.0 ** rng.uniform(-9, 9)
        x = float(rng.normal() * half * 10.0 ** rng.uniform(0, 3))
        shown = formats.digits(x, half)
        scale = 10.0**shown.exponent
        seen, width = (
            float(text.replace("−", "-")) * scale for text in (shown.number, shown.half_width)
        )
        assert abs(width - half) <= 0.051 * half
        assert abs(seen - x) <= 0.051 * half


# What is not finite, and what diverged


def test_numbers_that_are_not_finite_are_shown_and_warn_of_nothing() -> None:
    bad = [math.inf, 1.0, 2.0, 3.0, math.nan]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = table_of({"white": [1.0, 2.0, 3.0, 4.0, 5.0], "blue": bad, "red": [math.inf] * 5})
        text = formats.terminal(table)
        found = effects_of_two(bad)
    assert column(table) == ["3.0 ± 2.0", "nan", "inf"]
    assert "numbers that are not finite have no mean, no change and no test" in text
    assert "inf %" not in text
    assert "nan %" not in text
    for row in table.rows[1:]:
        comparison = row.estimates["fd"].comparison
        assert comparison is not None
        assert (comparison.verdict, comparison.p, comparison.change_percent) == (
            "not finite",
            None,
            None,
        )
    assert column(found)[-1] == "nan"
    few = table_of({"white": [math.inf, 0.5]})
    assert column(few) == ["inf / .500"]


def effects_of_two(values: Sequence[float]) -> Table:
    cells = {
        ("white", "none"): [1.0, 2.0, 3.0, 4.0, 5.0],
        ("white", "isotropy"): [1.5, 2.5, 3.5, 4.0, 5.5],
        ("blue", "none"): [1.5, 2.0, 3.5, 4.5, 5.5],
        ("blue", "isotropy"): values,
    }
    runs = [
        run(noise, seed, reg, fd=float(v))
        for (noise, reg), row in cells.items()
        for seed, v in enumerate(row)
    ]
    return effects(build(runs, {"fd": "lower"}), ["noise", "reg"])


def test_numbers_beyond_a_floats_range_end_no_table() -> None:
    huge = [1e200, -1e200, 1.5e300, 2e300, 1e308]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = table_of({"white": [1e-300] * 4 + [2e-300], "blue": huge})
        assert "inf %" not in formats.markdown(table)


def test_infinities_survive_the_file(tmp_path: Path) -> None:
    table = table_of({"white": [math.inf, -math.inf, math.nan, 1.5]})
    table.provenance = {"clip": math.inf}
    (tmp_path / "t.json").write_text(formats.json_text([table]))
    values = json.loads((tmp_path / "t.json").read_text())["tables"][0]["rows"][0]["metrics"]["fd"]
    assert list(values["values"].values()) == ["Infinity", "-Infinity", "NaN", 1.5]
    (again,) = formats.read_json(tmp_path / "t.json")
    assert again.remarks == []
    assert list(again.rows[0].estimates["fd"].values.values()) == pytest.approx(
        [math.inf, -math.inf, math.nan, 1.5], nan_ok=True
    )
    assert formats.markdown(again) == formats.markdown(table)


def test_a_run_that_diverged_is_a_row_marked_as_such(tmp_path: Path) -> None:
    why = "the loss is nan at step 40"
    runs = [run("white", s, fd=float(s)) for s in range(3)]
    runs += [run("blue", s, diverged=why) for s in range(3)]
    runs += [run("red", 0, fd=1.0), run("red", 1, fd=1.5), run("red", 2, diverged=why)]
    table = build(runs, {"fd": "lower"})
    for shown in (table, stored(table, tmp_path)):
        assert column(shown) == ["1.0 ± 2.5", "diverged", "1.000 / 1.500"]
        labels = [line.label for line in formats.layout(shown).lines]
        assert labels == ["white", "blue (3 of 3 diverged)", "red (1 of 3 diverged)"]
        assert f"blue diverged (seed 0, seed 1, seed 2): {why}" in shown.notes
        assert (
            f"red diverged (seed 2): {why}; its numbers are over the 2 that did not" in shown.notes
        )
        lines = list(csv.DictReader(io.StringIO(formats.csv_text([shown]))))
        assert [(line["row"], line["n"], line["verdict"]) for line in lines][1] == (
            "blue",
            "0",
            "diverged",
        )
        assert "{diverged}" in latex(shown)


def test_a_strength_that_diverged_is_not_picked() -> None:
    runs = [run("white", s, fd=5.0 + s % 2) for s in range(4)]
    for weight, level in ((0.1, 4.0), (0.3, 3.0)):
        runs += [run("white", s, f"isotropy:weight={weight}", fd=level + s) for s in range(4)]
    runs += [run("white", s, "isotropy:weight=9", fd=0.0) for s in range(3)]
    runs += [run("white", 3, "isotropy:weight=9", diverged="inf")]
    table = build(runs, {"fd": "lower"}, pick="fd")
    assert [row.label for row in table.rows] == ["white", "white · isotropy(weight=0.3)"]


def test_a_change_from_zero_has_no_percentage_and_keeps_its_mark() -> None:
    runs = [run("white", s, fd=0.0) for s in range(3)]
    runs += [run("blue", s, fd=x) for s, x in enumerate((0.5, 0.6, 0.55))]
    runs += [run("red", s, fd=0.5) for s in range(3)]
    text = formats.markdown(build(runs, {"fd": "lower"}))
    assert "| blue | .55 ± .12 (—\\*) |" in text
    assert "| red | .500 ± .000 (—=) |" in text


def test_a_files_innermost_lists_and_mappings_are_a_line_each() -> None:
    runs = [run("white", s, fd=0.1 * s) for s in range(5)]
    table = build(runs, {"fd": "lower"})
    table.remarks = ["a [text] with {brackets},\nand a line break"]
    text = formats.json_text([table])
    assert '"values": {"0": 0.0, "1": 0.1, "2": 0.2, ' in text
    assert json.loads(text)["tables"][0]["remarks"] == table.remarks


# The head


def test_the_head_of_a_picked_table_has_the_seeds_that_are_reported() -> None:
    runs = [run("white", s, fd=5.0 + s) for s in range(7)]
    for weight in (0.1, 0.3):
        runs += [run("white", s, f"isotropy:weight={weight}", fd=weight * s) for s in range(7)]
    table = build(runs, {"fd": "lower"})
    table.context = ["digits", "7 seeds", "50 steps"]
    picked = rebuild(table, pick="fd", pick_on=[5, 6])
    assert picked is not None
    head = "digits · 5 seeds (picked on 2 others) · 50 steps"
    assert formats.terminal(picked).splitlines()[0] == head
    assert formats.markdown(picked).splitlines()[0] == head
    assert formats.terminal(table).splitlines()[0] == "digits · 7 seeds · 50 steps"


# Strengths


def test_a_strength_is_what_a_component_declares_to_be_one() -> None:
    def labelled(strengths: dict[str, list[str]]) -> str:
        spec = "smooth:amount=2,weight=0.1"
        return (
            build([run("white", 0, spec, fd=1.0, strengths=strengths)], {"fd": "lower"})
            .rows[0]
            .label
        )

    assert labelled({}) == "white · smooth(weight=0.1)"  # every regularizer's own
    assert labelled({"smooth": ["amount"]}) == "white · smooth(amount=2)"


# Widths


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminals_table_fits_and_breaks_no_number(paper: Table, width: int) -> None:
    text = formats.terminal(paper, width=width)
    assert max(map(len, text.splitlines())) <= width
    for line in formats.layout(paper).lines:
        for cell in line.cells:
            assert re.search(rf"{re.escape(cell.value)}(\s|$)", text)
            assert cell.change in text
    assert formats.terminal(paper).splitlines()[2].count("±") == 4  # a file is not folded


def latex_width(table: Table) -> float:
    """The widest line of the table in points, as it is counted."""
    shape = formats.layout(table)
    columns = _columns(shape)
    fit = _fit(shape, columns)
    digit = dict(SIZES)[fit.size]
    return max(
        fit.label + GAP + sum(columns[k].width * digit + 2 * GAP for k in block)
        for block in fit.blocks
    )


def test_the_latex_is_no_wider_than_a_column(paper: Table) -> None:
    assert latex_width(paper) <= COLUMN
    text = latex(paper)
    assert all(ord(c) < 128 for c in text)
    assert r"\begin{tabular}" in text
    assert text.count("S[table-format=1.3(2)]") == 4
    assert r"\label{tab:digits-ddpm}" in text
    assert r"\caption{digits\_v2 $\cdot$ ddpm" in text
    for line in formats.layout(paper).lines:
        for cell in line.cells:
            assert cell.digits is not None
            assert f"0{cell.digits.number} +- 0{cell.digits.half_width}" in text
            assert latex_text(cell.change) in text


@pytest.mark.skipif(PDFLATEX is None, reason="no TeX to compile with")
def test_the_latex_compiles_within_a_column(paper: Table, tmp_path: Path) -> None:
    """In two columns of 3.25 inches, with hostile names, effects, long notes and ten numbers."""
    nasty = Measurement("x", {"fd": 1e-9, "kd": math.inf}, name='é|b_<script>&%$#{}~^\\ *"日ε̂√')
    many = {f"fd-pixels-{k}": "lower" for k in range(10)}
    wide = [run("blue-tv", s, **dict.fromkeys(many, 10.0 * s + 3)) for s in range(4)]
    tables = [
        paper,
        effects(paper, ["noise", "reg"]),
        build([nasty], {"fd": "lower", "kd": "lower"}),
        build(wide, many),
        table_of({"white": [1.0, 2.0, 3.5], "blue": [1e5, 1e7, 1e9]}),
    ]
    body = "\n".join(map(latex, tables))
    (tmp_path / "t.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs, siunitx}\n"
        "\\setlength{\\textwidth}{6.875in}\\setlength{\\columnsep}{0.375in}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "t.log").read_text(errors="replace")


# Escapes


def test_a_cell_of_csv_is_no_formula() -> None:
    runs = [
        Measurement(name, {"fd": -1.5}, name=name)
        for name in ("=1+1", "+cmd", "-2", "@SUM(A1)", "plain")
    ]
    lines = list(csv.DictReader(io.StringIO(formats.csv_text([build(runs, {"fd": "lower"})]))))
    assert [line["row"] for line in lines] == ["'=1+1", "'+cmd", "'-2", "'@SUM(A1)", "plain"]
    assert {line["mean"] for line in lines} == {"-1.5"}  # numbers stay numbers
    assert {line["values"] for line in lines} == {"-1.5"}


def test_control_characters_of_a_name_reach_no_terminal() -> None:
    name = "a\x1b[31m\r\u202eb\nc"
    table = build([Measurement(name, {"fd": 1.0}, name=name)], {"fd": "lower"})
    table.remarks = [name]
    for form in ("table", "markdown", "csv", "latex"):
        assert not set("\x1b\r\u202e") & set(formats.text([table], form)), form
    assert r"a\x1b[31m \u202eb c" in formats.terminal(table)


# Files


def stored(table: Table, folder: Path) -> Table:
    (folder / "t.json").write_text(formats.json_text([table]))
    (again,) = formats.read_json(folder / "t.json")
    return again


def test_a_changed_number_is_said(paper: Table, tmp_path: Path) -> None:
    assert stored(paper, tmp_path).remarks == paper.remarks
    whole = json.loads((tmp_path / "t.json").read_text())
    rows = whole["tables"][0]["rows"]
    said = "t.json: white · isotropy(weight=0.1): changed after it was written"
    rows[1]["metrics"]["precision"]["mean"] += 1e-12
    (tmp_path / "t.json").write_text(json.dumps(whole))
    (read,) = formats.read_json(tmp_path / "t.json")
    assert [r for r in read.remarks if "changed" in r] == [f"{said} (it does not fit its digest)"]
    again = stored(rebuild(read, columns=["reg", "noise"]) or read, tmp_path)  # and is still said
    assert any(said in remark for remark in again.remarks)
    assert said.replace("=", "=") in formats.markdown(read).replace("\\", "")


def leaves(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in leaves(v, (*path, k))]
    if isinstance(value, list):
        return [p for k, v in enumerate(value) for p in leaves(v, (*path, k))]
    return [path]


def test_every_change_of_every_value_is_noticed(paper: Table, tmp_path: Path) -> None:
    text = formats.json_text([paper])
    places = leaves(json.loads(text))
    assert len(places) > 150
    for *way, last in places:
        whole = json.loads(text)
        inner = whole
        for key in way:
            inner = inner[key]  # type: ignore[index]
        old = inner[last]  # type: ignore[index]
        inner[last] = (  # type: ignore[index]
            not old if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else 7
        )
        (tmp_path / "t.json").write_text(json.dumps(whole))
        try:
            (read,) = formats.read_json(tmp_path / "t.json")
        except NoiseregError:
            continue
        assert any("changed after" in remark for remark in read.remarks), (*way, last)


def test_a_file_that_another_tool_wrote_anew_is_unchanged(paper: Table, tmp_path: Path) -> None:
    """Other order of keys, other blanks, 1 for 1.0."""
    whole = json.loads(formats.json_text([paper]))
    text = re.sub(r"(\d)\.0(?=[,}\s])", r"\1", json.dumps(whole, sort_keys=True))
    (tmp_path / "t.json").write_text(text)
    (read,) = formats.read_json(tmp_path / "t.json")
    assert read.remarks == paper.remarks


def test_an_old_file_without_digests_is_read_as_it_is(paper: Table, tmp_path: Path) -> None:
    whole = json.loads(formats.json_text([paper]))
    whole["tables"][0].pop("digest")
    for row in whole["tables"][0]["rows"]:
        row.pop("digest")
        for number in row["metrics"].values():
            if "comparison" in number:
                del number["comparison"]["found_with_power"]
                number["comparison"]["detectable"] = 0.1
    row["metrics"]["recall"]["mean"] = None
    (tmp_path / "t.json").write_text(json.dumps(whole))
    (read,) = formats.read_json(tmp_path / "t.json")
    assert read.remarks == paper.remarks
    assert math.isnan(read.rows[-1].estimates["recall"].mean)
    assert formats.layout(read).lines[0] == formats.layout(paper).lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"tables": [1' + "0" * 5000 + "]}", "a number of more than 4,300 digits"),
        ('{"tables": []}', "at least 1 item"),
        ('{"tables": [{"name": 3}]}', "tables.0.name: expected text, not 3"),
        ("\x01", "expecting value"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(NoiseregError, match=said) as caught:
        formats.read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
