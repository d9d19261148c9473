"""Effects and their interaction: by hand, their intervals' coverage, and what cannot be asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.tables import formats
from noisereg.tables.ablation import build
from noisereg.tables.effects import effects
from noisereg.tables.table import Measurement, Table


def measured(
    values: dict[tuple[str, str], list[float]],
    steps: int = 10,
    process: str = "ddpm",
    pairing: str = "none",
) -> list[Measurement]:
    return [
        Measurement(
            source=f"{noise}-{reg}-{seed}-{steps}",
            numbers={"precision": value},
            components={
                "noise": [Spec.parse(noise)],
                "reg": [] if reg == "none" else [Spec.parse(reg)],
                "process": [Spec.parse(process)],
                "pairing": [Spec.parse(pairing)],
            },
            seed=seed,
            steps=steps,
        )
        for (noise, reg), row in values.items()
        for seed, value in enumerate(row)
    ]


def table(values: dict[tuple[str, str], list[float]], **options: object) -> Table:
    return build(measured(values), {"precision": "higher"}, **options)  # type: ignore[arg-type]


FACTORIAL = {
    ("white", "none"): [1.0, 2.0, 3.0],
    ("white", "isotropy"): [1.5, 2.4, 3.6],
    ("blue", "none"): [1.1, 2.3, 3.2],
    ("blue", "isotropy"): [2.0, 3.0, 4.0],
}


def test_effects_by_hand() -> None:
    found = effects(table(FACTORIAL), ["noise", "reg"])
    values = {row.label: list(row.estimates["precision"].values.values()) for row in found.rows}
    assert list(values) == ["blue", "isotropy, with white", "blue × isotropy"]
    assert values["blue"] == pytest.approx([0.1, 0.3, 0.2])
    assert values["isotropy, with white"] == pytest.approx([0.5, 0.4, 0.6])
    assert values["blue × isotropy"] == pytest.approx([0.4, 0.3, 0.2])
    cell = found.rows[2].estimates["precision"]
    assert cell.mean == pytest.approx(0.3)
    assert cell.half_width == pytest.approx(
        4.302653 * 0.1 / np.sqrt(3), rel=1e-6
    )  # Student's t with 2 degrees
    # p of t = .3/(.1/√3), two-sided; the largest of three keeps its value under Holm's correction
    assert cell.comparison is not None
    assert cell.comparison.p == pytest.approx(0.03510, rel=1e-3)
    assert (
        found.rows[1].estimates["precision"].comparison.verdict == "better"
    )  # p = .0131, three times that is .039
    assert found.rows[1].estimates["precision"].comparison.p_holm == pytest.approx(
        0.0394, abs=2e-4
    )
    text = formats.markdown(found)
    assert "| isotropy, with white | +.50 ± .25\\* |" in text
    assert "effects of noise and reg" in text
    assert "3 paired t tests with Holm's correction" in text


def test_each_section_has_its_own_and_other_rows_are_left_out() -> None:
    runs = measured(FACTORIAL) + measured(FACTORIAL, steps=50)
    runs += measured({("white", "none"): [5.0, 5.0, 5.0]}, pairing="greedy")
    both = build(runs, {"precision": "higher"}, baseline="noise=white,reg=none,pairing=none")
    found = effects(both, ["noise", "reg"])
    assert [row.first.steps for row in found.rows] == 3 * [10] + 3 * [50]
    assert "1 row that differs in something else left out" in found.notes


def test_a_cell_that_is_missing_leaves_out_what_needs_it() -> None:
    values = {k: v for k, v in FACTORIAL.items() if k != ("blue", "isotropy")}
    assert [row.label for row in effects(table(values), ["noise", "reg"]).rows] == [
        "blue",
        "isotropy, with white",
    ]
    short = {**FACTORIAL, ("blue", "isotropy"): [2.0]}
    cell = effects(table(short), ["noise", "reg"]).rows[2].estimates["precision"]
    assert list(cell.values) == ["0"]
    assert cell.half_width is None
    assert (
        "on fewer seeds than the others: blue × isotropy"
        in effects(table(short), ["noise", "reg"]).notes
    )


def test_rounding_is_no_effect() -> None:
    """Numbers of three decimals whose interaction is exactly zero: sums of their floats are
    not.
    """
    rng = np.random.default_rng(0)
    a, up, over = (np.round(rng.uniform(0.1, 0.9, 5), 3) for _ in range(3))
    y = {
        ("white", "none"): list(a),
        ("white", "isotropy"): list(np.round(a + up, 3)),
        ("blue", "none"): list(np.round(a + over, 3)),
        ("blue", "isotropy"): list(np.round(a + up + over, 3)),
    }
    cell = effects(table(y), ["noise", "reg"]).rows[2].estimates["precision"]
    assert any(v != 0 for v in cell.values.values())
    assert max(map(abs, cell.values.values())) < 1e-15
    assert cell.comparison is not None
    assert cell.comparison.verdict == "identical"


def test_a_constant_effect_has_its_sign_explained() -> None:
    y = {("white", "none"): [1.0, 2.0, 3.0], ("blue", "none"): [1.5, 2.5, 3.5]}
    found = effects(table(y), ["noise", "reg"])
    assert "+.500 ± .000=" in formats.markdown(found)
    assert "= the same at every seed: nothing to test against" in found.notes


def test_cells_that_were_sampled_differently_are_said() -> None:
    runs = measured(FACTORIAL)
    runs = [
        replace(m, sampling={"grid": "logsnr" if "blue" in m.source else "uniform"}) for m in runs
    ]
    found = effects(build(runs, {"precision": "higher"}), ["noise", "reg"])
    assert (
        found.notes[0]
        == "rows differ in more than their names show: sample.grid (uniform, logsnr)"
    )


def test_folders_of_images_and_lone_rows_are_left_out() -> None:
    runs = measured(FACTORIAL) + measured({("white", "none"): [1.0]}, steps=99)
    runs.append(Measurement("pngs", {"precision": 0.5}, name="pngs"))
    found = effects(build(runs, {"precision": "higher"}), ["noise", "reg"])
    assert [row.label for row in found.rows] == ["blue", "isotropy, with white", "blue × isotropy"]
    assert "2 rows that differ in something else left out" in found.notes


@pytest.mark.parametrize("far", [1e13, np.inf])
def test_a_number_at_a_seed_that_is_not_shared_is_no_rounding(far: float) -> None:
    values = {("white", "none"): [1.0, 2.0, 3.0], ("blue", "none"): [1.5, 2.4, 3.6]}
    runs = measured(values)
    runs.append(replace(runs[0], seed=9, numbers={"precision": far}))
    cell = effects(build(runs, {"precision": "higher"}), ["noise", "reg"]).rows[0]
    comparison = cell.estimates["precision"].comparison
    assert comparison is not None
    assert comparison.verdict == "better"
    assert comparison.p == pytest.approx(0.0131, abs=1e-4)  # t = .5/(.1/√3), 2 degrees


def test_a_cell_that_diverged_and_a_number_that_is_not_finite_are_said() -> None:
    runs = measured({("white", "none"): [1.0, 2.0, 3.0], ("red", "none"): [1.0, np.nan, 3.0]})
    blue = measured({("blue", "none"): [0.0, 0.0, 0.0]})
    runs += [replace(m, numbers={}, diverged="inf") for m in blue]
    notes = effects(build(runs, {"precision": "higher"}), ["noise", "reg"]).notes
    assert "blue diverged (seed 0, seed 1, seed 2): inf" in notes
    assert "numbers that are not finite have no interval and no test" in notes
    assert not any("±" in note for note in notes)


@pytest.mark.parametrize(("count", "said"), [(10, ""), (11, "of 11 intervals about 1 would")])
def test_luck_is_spoken_of_where_an_interval_is_to_be_expected_by_it(
    count: int, said: str
) -> None:
    values = {("white", "none"): [1.0, 2.0, 3.0]}
    values |= {(f"n{k}", "none"): [1.5, 2.4, 3.6 + k] for k in range(count)}
    (note,) = (n for n in effects(table(values), ["noise", "reg"]).notes if "±" in n)
    assert said in note
    assert ("luck" in note) == bool(said)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """600 simulated interactions of known size with what a seed does to all cells alike: the 95
    % interval holds the truth in 95 % ± 2.7 % (three standard errors of a binomial)."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        seed = 10 * rng.normal(size=5)
        y = {k: list(seed + rng.normal(size=5)) for k in FACTORIAL}
        y["blue", "isotropy"] = [v + 0.7 for v in y["blue", "isotropy"]]
        cell = effects(table(y), ["noise", "reg"]).rows[2].estimates["precision"]
        assert cell.half_width is not None
        held += abs(cell.mean - 0.7) <= cell.half_width
    assert abs(held / 600 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 600)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(
        NoiseregError, match="effects=noise: expected two factors, such as noise,reg"
    ):
        effects(table(FACTORIAL), ["noise"])
    with pytest.raises(NoiseregError, match="effects nois: no such key; did you mean 'noise'"):
        effects(table(FACTORIAL), ["nois", "reg"])
    with pytest.raises(NoiseregError, match="no row differs from the baseline in these alone"):
        effects(table(FACTORIAL), ["process", "pairing"])
    with pytest.raises(NoiseregError, match=r"noise.jitter is a part of a factor; expected noise"):
        effects(table(FACTORIAL), ["noise.jitter", "reg"])
    with pytest.raises(NoiseregError, match="holds effects already"):
        effects(effects(table(FACTORIAL), ["noise", "reg"]), ["noise", "reg"])
    two = {("white", "none"): [1.0], ("blue", "none"): [1.0]}
    runs = measured(two) + measured(two, process="iadb")
    with pytest.raises(NoiseregError, match="effects needs a baseline"):
        effects(build(runs, {"precision": "higher"}), ["noise", "reg"])
