"""The ablation table's names, intervals and tests. Statistical bounds state their confidence."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.tables import formats
from noisereg.tables.ablation import build, join, rebuild
from noisereg.tables.latex import latex
from noisereg.tables.naming import spec_label, where
from noisereg.tables.significance import holm, noncentrality
from noisereg.tables.table import Measurement, Table, TablesFile
from noisereg.tables.versions import of_one_version

HIGHER = {"precision": "higher", "recall": "higher", "fid": "lower"}


def run(
    noise: str = "white",
    reg: str = "none",
    seed: int = 0,
    steps: int = 100,
    values: dict[str, object] | None = None,
    sampling: dict[str, object] | None = None,
    process: str = "ddpm",
    **numbers: float,
) -> Measurement:
    return Measurement(
        source=f"{noise}-{reg}-{seed}",
        numbers=numbers,
        components={
            "noise": [Spec.parse(noise)],
            "reg": [Spec.parse(r) for r in reg.split("+")] if reg != "none" else [],
            "pairing": [Spec(name="none")],
            "process": [Spec.parse(process)],
        },
        values={"train.steps": 300, **(values or {})},
        seed=seed,
        steps=steps,
        sampling=sampling or {},
    )


def table_of(
    rows: dict[str, Sequence[float]], metric: str = "precision", **options: object
) -> Table:
    """Rows ``noise|reg`` with one value a seed."""
    measurements = [
        run(*key.split("|"), seed=seed, **{metric: value})
        for key, values in rows.items()
        for seed, value in enumerate(values)
    ]
    return build(measurements, HIGHER, **options)  # type: ignore[arg-type]


def labels(table: Table) -> list[str]:
    return [row.label for row in table.rows]


# Names


def test_rows_are_named_by_what_differs() -> None:
    table = table_of(
        {
            "white|none": [1],
            "white|isotropy:weight=0.1": [1],
            "blue-tv|none": [1],
            "blue-tv|isotropy:weight=0.1": [1],
        }
    )
    assert labels(table) == [
        "white",
        "white · isotropy(weight=0.1)",
        "blue-tv",
        "blue-tv · isotropy(weight=0.1)",
    ]
    assert [row.baseline for row in table.rows] == [True, False, False, False]


def test_a_parameter_is_shown_where_uses_of_one_component_differ_in_it() -> None:
    table = table_of(
        {
            "blue-tv:gamma.tau=0.2,factor=cholesky|none": [1],
            "blue-tv:gamma.tau=1,factor=cholesky|none": [1],
        }
    )
    assert labels(table) == ["blue-tv(gamma.tau=0.2)", "blue-tv(gamma.tau=1)"]


def test_a_parameter_that_only_some_uses_have_is_left_out_where_others_tell_them_apart() -> None:
    linear, early = (
        "blue-tv:gamma.form=linear",
        "blue-tv:gamma.form=sigmoid,gamma.tau=0.2,gamma.s=0",
    )
    assert labels(table_of({f"{linear}|none": [1], f"{early}|none": [1]})) == [
        "blue-tv(gamma.form=linear)",
        "blue-tv(gamma.form=sigmoid)",
    ]
    resolved = Spec(name="blue-tv", params={"gamma": {"form": "linear", "tau": None}})
    assert spec_label(resolved, {"gamma.form", "gamma.tau"}) == "blue-tv(gamma.form=linear)"
    late = early.replace("0.2", "1")
    assert labels(
        table_of({f"{linear}|none": [1], f"{early}|none": [1], f"{late}|none": [1]})
    ) == [
        "blue-tv(gamma.form=linear)",
        "blue-tv(gamma.form=sigmoid, gamma.tau=0.2)",
        "blue-tv(gamma.form=sigmoid, gamma.tau=1)",
    ]


def test_other_keys_that_differ_are_shown_and_columns_can_be_chosen() -> None:
    runs = [
        run("white", "none", values={"train.batch_size": 64}, precision=1),
        run("white", "none", values={"train.batch_size": 128}, precision=1),
        run("blue", "a+b:weight=2", values={"train.batch_size": 128}, precision=1),
    ]
    assert labels(build(runs, HIGHER)) == [
        "white · batch_size=64",
        "white · batch_size=128",
        "blue · a + b(weight=2) · batch_size=128",
    ]
    chosen = build(runs, HIGHER, columns=["noise"])
    assert labels(chosen) == ["white", "white (2)", "blue"]
    assert any("train.batch_size (64, 128)" in note and "reg" in note for note in chosen.notes)
    with pytest.raises(NoiseregError, match=r"columns nois: no such key; did you mean 'noise'\?"):
        build(runs, HIGHER, columns=["nois"])


def test_differences_in_sampling_are_said_under_the_table() -> None:
    runs = [run("white", sampling={"eta": 1.0}, fid=1), run("blue", sampling={"eta": 0.0}, fid=2)]
    assert (
        "rows differ in more than their names show: sample.eta (1, 0)" in build(runs, HIGHER).notes
    )


def test_labels_rename_rows() -> None:
    rows = {"white|none": [1], "white|isotropy:weight=0.1": [1]}
    table = table_of(
        rows, labels=["DDPM:noise=white,reg=none", "Iso-Diffusion:reg=isotropy:weight=0.1"]
    )
    assert labels(table) == ["DDPM", "Iso-Diffusion"]
    with pytest.raises(NoiseregError, match="label=nothing: expected TEXT:KEY=VALUE"):
        table_of(rows, labels=["nothing"])


def test_two_runs_of_one_configuration_and_seed_are_refused() -> None:
    with pytest.raises(NoiseregError, match="one configuration with one seed"):
        build([run(precision=1), run(precision=2)], HIGHER)


# The baseline


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("noise=white,reg=none", "white"),
        ("noise=blue,reg=isotropy", "blue · isotropy(weight=0.1)"),
        ("noise=blue,reg.weight=0.10", "blue · isotropy(weight=0.1)"),
        ("blue", "blue"),
    ],
)
def test_a_baseline_is_matched_by_keys_or_by_name(baseline: str, expected: str) -> None:
    rows = {"white|none": [1], "blue|none": [1], "blue|isotropy:weight=0.1": [1]}
    table = table_of(rows, baseline=baseline)
    assert [row.label for row in table.rows if row.baseline] == [expected]


def test_a_baseline_that_fits_no_row_or_several_names_them() -> None:
    rows = {"white|none": [1], "white|isotropy:weight=0.1": [1], "blue|none": [1]}
    with pytest.raises(
        NoiseregError,
        match=r"noise=red matches no row; .*: white; white · isotropy\(weight=0\.1\); blue$",
    ):
        table_of(rows, baseline="noise=red")
    with pytest.raises(
        NoiseregError, match=r"noise=white matches several rows .* add a key in which they differ"
    ):
        table_of(rows, baseline="noise=white")


def test_without_a_plain_row_there_is_no_baseline_and_it_is_said() -> None:
    table = table_of({"white|a:weight=1": [1], "white|b:weight=1": [2]})
    assert not any(row.baseline for row in table.rows)
    assert any("no baseline" in note for note in table.notes)


def test_each_number_of_sampling_steps_has_its_own_baseline() -> None:
    runs = [
        run(noise, steps=steps, fid=fid)
        for noise, steps, fid in [
            ("white", 10, 4),
            ("blue", 10, 2),
            ("white", 50, 3),
            ("blue", 50, 3),
        ]
    ]
    table = build(runs, HIGHER, baseline="noise=white")
    changes = {(r.label, r.first.steps): r.estimates["fid"].comparison for r in table.rows}
    assert changes["blue", 10].change_percent == -50
    assert changes["blue", 50].verdict == "identical"
    assert changes["white", 10] is None


# Intervals and tests


def test_the_interval_is_students() -> None:
    values = [0.91, 0.94, 0.96, 0.93]
    cell = table_of({"white|none": values}).rows[0].estimates["precision"]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (cell.mean - cell.half_width, cell.mean + cell.half_width) == pytest.approx(
        (low, high), rel=1e-12
    )


def test_two_seeds_show_both_values_and_no_test() -> None:
    table = table_of({"white|none": [0.5, 0.6], "blue|none": [0.7, 0.8]})
    cell = table.rows[1].estimates["precision"]
    assert cell.half_width is None
    assert cell.comparison.verdict == "too few seeds"
    assert cell.comparison.p is None
    assert ".700 / .800" in formats.terminal(table)
    assert any("too few seeds" in note for note in table.notes)


def test_the_p_value_is_scipys_paired_t_test_and_the_change_is_of_shared_seeds() -> None:
    rng = np.random.default_rng(0)
    base, row = rng.normal(1, 0.1, 5), rng.normal(1.1, 0.1, 6)
    table = table_of({"white|none": base, "blue|none": row})
    c = table.rows[1].estimates["precision"].comparison
    assert c.p == pytest.approx(stats.ttest_rel(row[:5], base).pvalue, rel=1e-9)
    assert (c.n, c.paired) == (5, True)
    assert c.change_percent == pytest.approx(100 * (row[:5].mean() / base.mean() - 1))


def test_rows_that_share_no_seed_are_compared_by_welchs_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.1, 4), rng.normal(1.1, 0.3, 3)
    runs = [run("white", seed=s, fid=v) for s, v in enumerate(a)] + [
        run("blue", seed=9 + s, fid=v) for s, v in enumerate(b)
    ]
    table = build(runs, HIGHER)
    c = table.rows[1].estimates["fid"].comparison
    assert c.p == pytest.approx(stats.ttest_ind(b, a, equal_var=False).pvalue, rel=1e-9)
    assert (c.n, c.paired) == (3, False)
    assert any("Welch" in note for note in table.notes)


def test_holms_adjusted_p_values() -> None:
    """The step-down of Holm 1979 on his kind of example, worked by hand."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]


def test_zero_variance_is_said_to_be_identical_or_constant() -> None:
    table = table_of(
        {"white|none": [0.3, 0.5, 0.4], "blue|none": [0.3, 0.5, 0.4], "red|none": [0.4, 0.6, 0.5]}
    )
    same, shifted = (row.estimates["precision"].comparison for row in table.rows[1:])
    assert (same.verdict, same.p) == ("identical", None)
    assert (shifted.verdict, shifted.p) == ("constant", None)
    text = formats.terminal(table)
    assert "identical" in text
    assert "=" in text
    assert "*" not in text


def test_the_mark_is_there_only_where_the_corrected_test_supports_it_and_says_the_direction() -> (
    None
):
    base = np.array([1.0, 1.1, 0.9, 1.05, 0.95])
    jitter = np.array([0.01, -0.01, 0.005, 0, -0.005])
    rows = {
        "white|none": base,
        "blue|none": base - 0.5 + jitter,
        "red|none": base + 0.5 + jitter,
        "pink|none": base + 50 * jitter,
    }
    table = table_of(rows, metric="fid")
    verdicts = [row.estimates["fid"].comparison.verdict for row in table.rows[1:]]
    assert verdicts == ["better", "worse", "none"]  # lower is better
    shown = [line.cells[0].change for line in formats.layout(table).lines]
    assert [text.endswith("*") for text in shown] == [False, True, True, False]
    assert any(
        note.startswith("* a difference that is significant at 5 %: 3 paired t tests")
        for note in table.notes
    )


def test_the_power_is_that_of_the_noncentral_t_distribution() -> None:
    """P(|t'| > c) with t' = (z + δ)/√(χ²/ν), integrated over χ² by itself; for Welch's degrees of
    freedom, which are no whole number, and for the small α of a large table too.
    """
    for freedom, family in ((2, 1), (2, 180), (4, 12), (4.7, 1), (9, 2000)):
        delta = noncentrality(freedom, family)
        critical = stats.t.isf(0.05 / (2 * family), freedom)

        def beyond(q: float, c: float = critical, d: float = delta, v: float = freedom) -> float:
            scale = np.sqrt(stats.chi2.isf(q, v) / v)
            return float(stats.norm.sf(c * scale - d) + stats.norm.cdf(-c * scale - d))

        assert integrate.quad(beyond, 0, 1, limit=200)[0] == pytest.approx(0.8, abs=1e-4)


def test_the_difference_that_is_named_is_found_in_80_percent_of_cases() -> None:
    """2,000 draws of 4 paired differences of that size: 80 % ± 3 % are significant (99.9 %)."""
    rng = np.random.default_rng(0)
    d = noncentrality(3, 1) / 2 + rng.normal(size=(2000, 4))  # the standard error is 1/√4
    rejected = stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05
    assert abs(rejected.mean() - 0.8) < 0.03


def test_the_table_names_the_difference_from_its_own_spread_and_number_of_tests() -> None:
    base, row = np.array([1.0, 1.1, 0.9]), np.array([1.02, 1.09, 0.96])
    rows = {"white|none": base, "blue|none": row, "red|none": base + (row - base) * [3, 3, -3]}
    table = table_of(rows)
    error = stats.sem(row - base)
    c = table.rows[1].estimates["precision"].comparison
    assert c.found_with_power == pytest.approx(noncentrality(2, 2) * error)
    (note,) = [n for n in table.notes if "80 %" in n]
    low, high = (r.estimates["precision"].comparison.found_with_power for r in table.rows[1:])
    assert note.startswith("with 3 seeds a true difference of this size is found in 80 % of cases")
    assert note.endswith(f"precision {low:.2g} to {high:.2g}")


def rejections(draw: Callable[[np.random.Generator], Table], tables: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(tables):
        table = draw(rng)
        marks = [
            c.comparison.verdict for r in table.rows for c in r.estimates.values() if c.comparison
        ]
        found += any(verdict in ("better", "worse") for verdict in marks)
    return found / tables


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_test_is_calibrated_on_null_tables(seeds: int) -> None:
    """1,000 tables whose two rows differ in nothing: 5 % ± 1.8 % reject (99.2 % of a binomial with
    p = .05).
    """

    def null(rng: np.random.Generator) -> Table:
        # a part that a seed gives both rows, and one of each row's own
        common = rng.normal(0, 1, seeds)
        return table_of(
            {k: common + rng.normal(0.8, 0.1, seeds) for k in ("white|none", "blue|none")}
        )

    assert abs(rejections(null, 1000, seed=seeds) - 0.05) <= 0.018


def test_disjoint_seeds_are_calibrated_too() -> None:
    """The same for rows that share no seed (Welch, 5 seeds each)."""

    def null(rng: np.random.Generator) -> Table:
        runs = [
            run(n, seed=s + o, fid=rng.normal(9, 1))
            for n, o in (("white", 0), ("blue", 5))
            for s in range(5)
        ]
        return build(runs, HIGHER)

    assert abs(rejections(null, 1000, seed=1) - 0.05) <= 0.018


def test_holm_keeps_a_whole_table_at_five_percent() -> None:
    """Three rows against a baseline by two numbers, six tests: at least one rejects in at most 5 %
    + 2.6 % of tables.
    """

    def null(rng: np.random.Generator) -> Table:
        runs = [
            run(noise, seed=s, precision=rng.normal(), recall=rng.normal())
            for noise in ("white", "blue", "red", "pink")
            for s in range(5)
        ]
        return build(runs, HIGHER)

    assert 0.02 <= rejections(null, 500) <= 0.076


def test_a_shift_of_two_standard_deviations_is_found_with_five_seeds() -> None:
    """Of the paired differences; the power is 91 %, and 200 tables put it above 80 % with all but
    certainty.
    """

    def shifted(rng: np.random.Generator) -> Table:
        base = rng.normal(0, 1, 5)
        return table_of({"white|none": base, "blue|none": base + rng.normal(2, 1, 5)})

    assert rejections(shifted, 200) > 0.80


# Picking


def lambdas(rng: np.random.Generator, seeds: int, gains: Sequence[float]) -> Table:
    rows = {"white|none": rng.normal(0, 1, seeds)} | {
        f"white|isotropy:weight={w}": rng.normal(gain, 1, seeds)
        for w, gain in zip((0.01, 0.1, 0.3, 1.0), gains, strict=True)
    }
    return table_of(rows, pick="precision")


def test_a_strength_picked_on_half_the_seeds_is_reported_on_the_rest() -> None:
    table = lambdas(np.random.default_rng(0), 7, (0, 9, 0, 0))
    assert labels(table) == ["white", "white · isotropy(weight=0.1)"]
    picked = table.rows[1]
    assert picked.picked_on == (0, 1, 2)
    assert (
        picked.seeds == table.rows[0].seeds == [3, 4, 5, 6]
    )  # the baseline stands beside it on the same
    assert picked.estimates["precision"].comparison.n == 4
    assert [c["picked"] for c in table.candidates] == [False, True, False, False]
    assert any(
        "picked on seeds 0, 1, 2 and is reported on 3, 4, 5, 6" in note for note in table.notes
    )


def picked(table: Table) -> dict[str, tuple[list[int], bool, int]]:
    """By row: its seeds, whether it is paired with the baseline, and over how many."""
    found = {}
    for row in table.rows:
        comparison = row.estimates["precision"].comparison
        paired = (comparison.paired, comparison.n) if comparison else (True, 0)
        found[row.label] = (row.seeds, *paired)
    return found


def strengths(rows: dict[str, Sequence[int]], **options: object) -> Table:
    """Rows ``reg`` with numbers at these seeds, of white noise, precision picked."""
    rng = np.random.default_rng(0)
    return build(
        [
            run("white", reg, s, precision=rng.normal())
            for reg, seeds in rows.items()
            for s in seeds
        ],
        HIGHER,
        pick="precision",
        **options,  # type: ignore[arg-type]
    )


def test_two_strengths_of_one_label_are_two_to_pick_from() -> None:
    table = table_of(
        {
            "white|none": [0, 0.1, 0.2, 0.1, 0, 0.3],
            "white|a:weight=1": [1, 1, 1.1, 1, 1, 1.2],
            "white|a:weight=2": [9, 9.1, 9, 9, 9, 9],
        },
        pick="precision",
        labels=["Iso:reg=a:weight=1", "Iso:reg=a:weight=2"],
    )
    assert [c["mean"] for c in table.candidates] == pytest.approx([3.1 / 3, 27.1 / 3])
    assert [c["picked"] for c in table.candidates] == [False, True]
    (_, best) = table.rows
    assert best.first.components["reg"][0].params == {"weight": "2"}


@pytest.mark.parametrize(
    ("none", "a", "b", "reported"),
    [
        (range(9), range(6), range(3, 9), {"a": [3, 4, 5], "b": [6, 7, 8]}),
        (range(8), range(4), range(8), {"a": [2, 3], "b": [4, 5, 6, 7]}),
        (range(8), range(4), range(6), {"a": [2, 3], "b": [3, 4, 5]}),
    ],
)
def test_a_baseline_keeps_the_seeds_on_which_a_picked_row_is_reported(
    none: Sequence[int], a: Sequence[int], b: Sequence[int], reported: dict[str, list[int]]
) -> None:
    rows = {"none": none}
    rows |= {f"a:weight={w}": a for w in (1, 2)} | {f"b:weight={w}": b for w in (1, 2)}
    found = picked(strengths(rows))
    for name, seeds in reported.items():
        (own,) = (v for k, v in found.items() if f"{name}(" in k)
        assert own == (seeds, True, len(seeds))


def test_each_section_of_a_picked_table_keeps_its_own_seeds() -> None:
    rng = np.random.default_rng(0)
    runs = [
        run("white", reg, s, steps, precision=rng.normal())
        for steps, seeds in ((10, range(4)), (50, range(2, 8)))
        for reg in ("none", "a:weight=1", "a:weight=2")
        for s in seeds
    ]
    table = build(runs, HIGHER, pick="precision")
    assert [row.seeds for row in table.rows if row.baseline] == [[2, 3], [5, 6, 7]]


def test_a_strength_that_diverged_is_said_and_its_kin_counts_as_picked() -> None:
    runs = [run("white", "none", s, precision=s) for s in range(6)]
    runs += [run("white", "a:weight=1", s, precision=2.0 * s) for s in range(6)]
    runs += [run("white", "a:weight=2", s, precision=9.0) for s in range(5)]
    runs += [replace(run("white", "a:weight=2", 5), diverged="inf at step 3")]
    table = build(runs, HIGHER, pick="precision")
    assert [row.seeds for row in table.rows] == [[3, 4, 5], [3, 4, 5]]
    assert table.rows[1].picked_on == (0, 1, 2)
    assert [c.get("diverged", "") for c in table.candidates] == ["", "inf at step 3"]
    (said,) = (note for note in table.notes if "not picked" in note)
    assert "a(weight=2) diverged (seed 5): inf at step 3" in said


def test_picking_does_not_flatter() -> None:
    """600 tables of four strengths that do nothing: the picked one is significant in 5 % ± 2.7 %
    (99.8 %).
    """
    rate = rejections(lambda rng: lambdas(rng, 8, (0, 0, 0, 0)), 600)
    assert abs(rate - 0.05) <= 0.027


def test_picking_needs_strengths_and_seeds() -> None:
    with pytest.raises(
        NoiseregError, match="no two rows differ in a regularizer's parameters alone"
    ):
        table_of({"white|none": [1, 2], "blue|none": [1, 2]}, pick="precision")
    with pytest.raises(NoiseregError, match=r"share 1 seed; expected at least 2"):
        table_of({"white|a:weight=1": [1], "white|a:weight=2": [1]}, pick="precision")
    with pytest.raises(
        NoiseregError, match=r"pick=precisio: no such number; .* did you mean 'precision'\?"
    ):
        table_of({"white|none": [1]}, pick="precisio")


def test_several_strengths_without_picking_are_warned_of() -> None:
    table = table_of(
        {"white|none": [1, 2, 3], "white|a:weight=1": [1, 2, 4], "white|a:weight=2": [1, 2, 5]}
    )
    assert any("--pick METRIC" in note for note in table.notes)


# Formats


@pytest.fixture
def example() -> Table:
    rng = np.random.default_rng(0)
    runs = [
        run(noise, reg, seed=s, precision=0.9 + 0.01 * rng.normal(), fid=12 + rng.normal())
        for noise in ("white", "blue-tv")
        for reg in ("none", "isotropy:weight=0.1")
        for s in range(3)
    ]
    table = build(runs, HIGHER)
    table.context = ["digits", "ddpm", "3 seeds", "100 steps, η 1"]
    return table


def test_the_terminal_table_reads_as_in_the_examples(example: Table) -> None:
    lines = formats.terminal(example).splitlines()
    assert lines[0] == "digits · ddpm · 3 seeds · 100 steps, η 1"
    assert lines[1].split() == ["precision", "↑", "fid", "↓"]
    assert lines[2].startswith("white ")
    assert "±" in lines[2]
    assert "%" not in lines[2]
    assert lines[5].startswith("blue-tv · isotropy(weight=0.1)")
    assert lines[5].count("%") == 2
    assert lines[6] == "mean ± half the 95 % interval (Student) over seeds"
    assert not any("\x1b" in line for line in lines)


def test_colour_marks_only_what_is_significant() -> None:
    base = np.array([1.0, 1.1, 0.9, 1.05, 0.95])
    rows = {
        "white|none": base,
        "blue|none": base + 1 + 0.01 * np.arange(5),
        "red|none": base + 0.3 * np.arange(-2, 3),
    }
    text = formats.terminal(table_of(rows), color=True)
    assert "\x1b[32m" in text.splitlines()[2]
    assert "\x1b[3" not in text.splitlines()[3]


def test_every_format_shows_the_same_numbers(example: Table) -> None:
    shape = formats.layout(example)
    md = formats.markdown(example)
    for line in shape.lines:
        for cell in line.cells:
            assert cell.value in md
    assert md.count("\n| ") == 5
    assert md.splitlines()[2] == "| | precision ↑ | fid ↓ |"

    (data,) = json.loads(formats.json_text([example]))["tables"]
    assert [row["label"] for row in data["rows"]] == labels(example)
    lines = list(csv.DictReader(io.StringIO(formats.csv_text([example]))))
    assert len(lines) == 8
    for line in lines:
        row = next(r for r in data["rows"] if r["label"] == line["row"])
        number = row["metrics"][line["metric"]]
        assert float(line["mean"]) == number["mean"]
        assert line["values"] == " ".join(f"{k}={v!r}" for k, v in number["values"].items())
        assert (line["p_holm"] or None) == (
            str(number["comparison"]["p_holm"]) if "comparison" in number else None
        )


def test_names_cannot_break_a_format() -> None:
    nasty = r"a|b_<script>&%$#{}~^\ *"
    table = build([Measurement(nasty, {"fid": 1.0}, name=nasty)], HIGHER)
    assert r"a\|b\_\<script\>" in formats.markdown(table)
    row = next(line for line in latex(table).splitlines() if line.startswith("a"))
    assert row.replace(r"\allowbreak{}", "").startswith(
        r"a\textbar{}b\_\textless{}script\textgreater{}\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}"
    )
    assert json.loads(formats.json_text([table]))["tables"][0]["rows"][0]["label"] == nasty
    assert nasty in formats.terminal(table)


def test_numbers_without_a_zero_before_the_point() -> None:
    assert [formats.decimal(x, 3) for x in (0.938, 1.18, -0.02, -0.0001, 12.5, 0)] == [
        ".938",
        "1.180",
        "−.020",
        ".000",
        "12.500",
        ".000",
    ]


# Tables that are read again


def again(table: Table) -> Table:
    return TablesFile.model_validate_json(formats.json_text([table])).tables[0].table()


def test_a_table_that_is_read_keeps_its_baseline_labels_and_columns() -> None:
    runs = [
        run(n, seed=s, reg=r, precision=k + s)
        for k, n in enumerate(("white", "blue"))
        for r in ("none", "isotropy")
        for s in range(3)
    ]
    made = build(
        runs,
        {"precision": "higher"},
        baseline="noise=blue,reg=none",
        labels=("X:noise=white,reg=none",),
        columns=("reg", "noise"),
    )
    read = rebuild(again(made))
    assert read is not None
    assert [(row.label, row.baseline) for row in read.rows] == [
        (row.label, row.baseline) for row in made.rows
    ]
    assert formats.markdown(read) == formats.markdown(made)
    other = rebuild(again(made), columns=("noise", "reg"), baseline="noise=white,reg=none")
    assert other is not None
    assert [(row.label, row.baseline) for row in other.rows][::3] == [
        ("X", True),
        ("blue · isotropy", False),
    ]
    part = rebuild(again(made), "noise=white")  # a label that is gone is not missed
    assert part is not None
    assert part.remarks == [
        "the baseline asked for, noise=blue,reg=none, is no row here; compared with X"
    ]
    assert [(row.label, row.baseline) for row in part.rows] == [
        ("X", True),
        ("isotropy · white", False),
    ]


def baselines(table: Table) -> list[str]:
    return [row.label for row in table.rows if row.baseline]


@pytest.mark.parametrize("by", ["blue", "B", "noise=blue"])
def test_a_baseline_stays_whatever_its_row_is_called_later(by: str) -> None:
    rows = {"white|none": [1, 2, 3], "blue|none": [2, 3.1, 4], "red|none": [3, 4.2, 5]}
    made = table_of(rows, baseline=by, labels=["B:noise=blue"] if by == "B" else [])
    name = "B" if by == "B" else "blue"
    for options in (
        {"keep": "process=ddpm"},
        {"columns": ["noise"]},
        {"columns": ["process", "noise"]},
    ):
        read = rebuild(again(made), **options)
        assert read is not None
        (base,) = (row for row in read.rows if row.baseline)
        assert base.first.components["noise"][0].name == "blue", options
        assert not read.remarks
        twice = rebuild(again(read), "process=ddpm")
        assert twice is not None
        assert baselines(twice) == [base.label]
    other = build([run("red", "isotropy", s, precision=s) for s in range(3)], HIGHER)
    for table in (made, other):
        table.provenance, table.context = {"reference": "r"}, ["digits", "3 seeds", "100 steps"]
    for tables in ([made, other], [other, made]):
        (joined,) = join(tables)
        assert baselines(joined) == [name]
    (gone,) = join([other])
    assert baselines(gone) == []
    left = rebuild(again(made), "noise=red")
    assert left is not None
    assert left.remarks == [f"the baseline asked for, {by}, is no row here; nothing is compared"]


def test_a_joined_table_says_how_the_samples_of_older_ones_differ() -> None:
    """Tables from before `clip`, `eps_scale` and `seed` were recorded have them at their
    defaults; a control's factor is in its name.
    """
    old = build([run(seed=s, precision=s, sampling={"eta": 1.0}) for s in range(3)], HIGHER)
    now = {"eta": 1.0, "eps_scale": 1.0, "clip": "none", "seed": 0}

    def notes(reg: str = "isotropy", **changed: object) -> list[str]:
        sampling = {k: v for k, v in {**now, **changed}.items() if v is not None}
        new = build(
            [run("white", reg, s, precision=s, sampling=sampling) for s in range(3)], HIGHER
        )
        for table in (old, new):
            table.provenance, table.context = {"reference": "r"}, ["digits"]
        (joined,) = join([old, new])
        return [note for note in joined.notes if "differ in more" in note]

    assert notes() == []
    assert notes("rescaled-isotropy", eps_scale=None) == []
    for key, value in (("eps_scale", 1.02), ("clip", "static"), ("seed", 100)):
        (said,) = notes(**{key: value})
        assert f"sample.{key} (" in said
        assert str(value) in said


def test_a_control_of_an_older_version_has_its_factor_in_its_name_alone() -> None:
    new = run("white", "isotropy", sampling={"eps_scale": 1.0, "clip": "none"})
    old = run("white", "rescaled-isotropy", sampling={"eta": 1.0})
    control, term = of_one_version([old, new])
    assert control.sampling == {"eta": 1.0, "clip": "none"}
    assert term.sampling == new.sampling


def test_a_row_with_a_term_is_no_baseline_beside_one_without() -> None:
    table = table_of({"white|isotropy": [1], "blue|none": [2], "blue|isotropy": [2]})
    assert baselines(table) == []
    assert any("no baseline" in note for note in table.notes)
    assert baselines(table_of({"white|isotropy": [1], "blue|isotropy": [2]})) == ["white"]


def test_a_baseline_without_numbers_is_not_said_to_be_none() -> None:
    runs = [run(seed=s, precision=s) for s in range(3)]
    runs += [replace(run("blue", seed=s), diverged="inf") for s in range(3)]
    (said,) = (n for n in build(runs, HIGHER, baseline="noise=blue").notes if "baseline" in n)
    assert said == "the baseline, blue, has no number that another row has"


def test_a_table_that_is_read_knows_what_differs_between_a_rows_runs() -> None:
    runs = [
        run("white", seed=s, precision=float(s), sampling={"checkpoint": 100 + s, "eta": 0.0})
        for s in range(3)
    ]
    runs = [replace(m, environment={"torch": f"2.{m.seed}", "device": "cpu"}) for m in runs]
    made = build(runs, {"precision": "higher"})
    read = rebuild(again(made), columns=("noise",))
    assert read is not None
    differing = "sample.checkpoint (100, 101, 102); torch (2.0, 2.1, 2.2)"
    assert (
        read.notes[0] == made.notes[0] == f"rows differ in more than their names show: {differing}"
    )
    assert [m.sampling for m in read.rows[0].measurements] == [m.sampling for m in runs]
    assert [m.environment for m in read.rows[0].measurements] == [m.environment for m in runs]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("reg=none,reg.weight=0.1", []),
        ("reg.weight=0.3,reg=isotropy", ["isotropy(weight=0.3)"]),
        ("noise=white,noise=blue", []),
        ("reg=isotropy:weight=0.1,noise=white", ["isotropy(weight=0.1)"]),
        ("noise=white,reg=isotropy:weight=0.1,warmup=5", []),
    ],
)
def test_all_conditions_hold(match: str, expected: list[str]) -> None:
    runs = [
        run("white", reg=reg, precision=1.0)
        for reg in ("none", "isotropy:weight=0.1", "isotropy:weight=0.3")
    ]
    assert [m.components["reg"][0].label() for m in where(runs, match)] == expected


def test_a_pick_says_where_its_seeds_do_not_tell_it_from_the_next_best() -> None:
    (said,) = (
        n for n in lambdas(np.random.default_rng(0), 7, (0, 9, 0, 0)).notes if "picked" in n
    )
    assert "not tell it" not in said  # nine standard deviations on three seeds
    close = lambdas(np.random.default_rng(1), 4, (0, 0, 0, 0))
    (said,) = (note for note in close.notes if "picked" in note)
    assert "2 seeds do not tell it from white · isotropy(weight=" in said


def test_runs_of_an_older_version_are_the_rows_that_they_would_be_today() -> None:
    """A key that the configuration, a component or the control had not yet is at its default; a
    parameter of an unknown component, and one that has no default, stay as they were.
    """
    horizonless = {"optim.schedule": "constant"}
    cosine = {"optim.schedule": "cosine"}
    of_today = "isotropy:weight=0.3,mean=batch"
    measured = [
        run(seed=0, reg="isotropy:weight=0.3", values=horizonless, fid=1.0),
        run(seed=1, reg=of_today, values={**horizonless, "optim.horizon": None}, fid=2.0),
        run(seed=0, reg="rescaled-isotropy:weight=0.3", values=cosine, fid=1.0),
        run(seed=1, reg="rescaled-" + of_today, values={**cosine, "optim.horizon": 300}, fid=2.0),
        run(seed=0, reg="somebodys:a=1", values={**horizonless, "train.times": "sample"}, fid=3.0),
        run(seed=1, reg="somebodys:a=1,b=2", values={**horizonless, "train.times": "batch"}),
        run(seed=0, noise="blue-tv", process="ddpm:schedule=linear", fid=1.0),
        run(seed=1, noise="blue-tv", process="ddpm:schedule=linear,variance=beta", fid=1.0),
    ]
    for m, text in zip(measured, ("folder:size=8", "folder:size=8,path=x"), strict=False):
        m.components["data"] = [Spec.parse(text)]  # type: ignore[index]
    found = of_one_version(measured)
    assert found[0].components.pop("data") == [Spec.parse("folder:size=8")]  # type: ignore
    found[1].components.pop("data")  # type: ignore[attr-defined]
    assert [m.key() for m in found[:2]] == [found[0].key()] * 2
    assert [m.key() for m in found[2:4]] == [found[2].key()] * 2
    assert found[0].values == {**measured[1].values, "train.times": "sample"}
    assert found[2].values["optim.horizon"] == 300
    assert [m.components["reg"] for m in found[4:6]] == [
        m.components["reg"] for m in measured[4:6]
    ]
    assert found[6].key() != found[7].key()  # the default is another
    params = found[6].components["process"][0].params
    assert params == {"schedule": "linear", "variance": "beta-tilde"}


def test_what_a_run_resolves_is_not_filled_in_and_the_order_of_parameters_is_no_difference() -> (
    None
):
    texts = ("ddpm:variance=beta", "ddpm:variance=beta,schedule=linear")
    found = of_one_version([run(seed=i, process=text) for i, text in enumerate(texts)])
    assert found[0].components["process"][0].params == {"variance": "beta"}
    rows = [
        run(noise="white", process="ddpm:schedule=linear,variance=beta", fid=1.0),
        run(noise="blue", process="ddpm:variance=beta,schedule=linear", fid=1.0),
    ]
    assert labels(build(rows, HIGHER)) == ["white", "blue"]


def test_what_rows_do_not_show_is_said_by_the_parameters_that_differ() -> None:
    """In whatever order they were recorded."""
    same = ["ddpm:schedule=linear,variance=beta", "ddpm:variance=beta,schedule=linear"]
    measured = [run(seed=i, process=text, fid=1.0) for i, text in enumerate(same)]
    table = build(measured, HIGHER)
    assert labels(table) == ["white"]
    assert not any("differ" in note for note in table.notes)
    other = run(seed=0, process="ddpm:variance=beta-tilde,schedule=linear", fid=1.0)
    table = build([*measured, other], HIGHER, columns=["noise"])
    (said,) = (note for note in table.notes if "differ" in note)
    assert said.endswith("show: process (ddpm(variance=beta), ddpm(variance=beta-tilde))")


def test_tables_are_joined_where_their_heads_are_the_same() -> None:
    """Labels and the baseline are kept from the first that asked; what is not finite is equal to
    itself; tables that say nothing of their samples, and picked ones, stay by themselves.
    """
    half = {"seed": 0, "precision": 0.5, "recall": float("nan")}
    plain = build([run(**half)], HIGHER, labels=["DDPM:reg=none"])
    other = build([run(**half), run(reg="isotropy", **half)], HIGHER, baseline="reg=isotropy")
    assert len(join([plain, other])) == 2
    for table, head in ((plain, "1 seed"), (other, "2 seeds")):
        table.provenance = {"reference": "r", "noisereg": "1", "samples": [{"source": head}]}
        table.context = ["digits", head, "100 steps, η 1"]
    (joined,) = join([plain, again(other)])
    assert labels(joined) == ["DDPM", "white · isotropy"]
    assert [row.baseline for row in joined.rows] == [False, True]
    assert joined.head == ["digits", "1 seed", "100 steps, η 1"]
    assert len(joined.provenance["samples"]) == 2
    fewer = build([run(steps=50, **half)], HIGHER)
    fewer.provenance, fewer.context = plain.provenance, ["digits", "1 seed", "50 steps, η 1"]
    (joined,) = join([plain, fewer])
    assert joined.head == ["digits", "1 seed", "50, 100 steps, η 1"]
    chosen = rebuild(other, "reg=isotropy")
    assert chosen is not None
    assert chosen.head[-1] == "where reg=isotropy"
    (joined,) = join([chosen, plain])
    assert joined.head == plain.head
    assert labels(joined) == ["white · isotropy", "DDPM"]
    (joined,) = join([chosen, chosen])
    assert joined.head == chosen.head
    others = rebuild(other, "reg=none")
    assert others is not None
    (joined,) = join([chosen, others])
    assert joined.head[-1] == "where reg=isotropy or reg=none"
    other.provenance["reference"] = "another"
    assert len(join([plain, other])) == 2
