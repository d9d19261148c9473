"""The HTML report and its pictures: self-contained, escaped, and looked at in a browser where
there is one.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noisereg.cli.main import run
from noisereg.report import pictures
from noisereg.report.report import Picture, write_pictures
from noisereg.sweeps.grid import Sweep

Capture = pytest.CaptureFixture[str]
CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))),
    None,
)


class Page(HTMLParser):
    """What a browser would find: tags, their attributes, and the text outside styles."""

    VOID = ("meta", "img", "br", "link", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def report(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    out = folder / "report.html"
    arguments = [
        "eval",
        str(sweep.path),
        "--num",
        "120",
        "--metric",
        "prdc",
        "--metric",
        "fd",
        "--effects",
        "noise,reg",
    ]
    assert (
        run(
            [
                *arguments,
                "--format",
                "html",
                "--out",
                str(out),
                "--pictures",
                str(folder / "pictures"),
            ]
        )
        == 0
    )
    return out


@pytest.mark.parametrize("solver", ["ddim:eta=1", "dpmpp-2m"])
def test_samples_between_latents_are_drawn_by_any_solver_that_can(
    sweep: Sweep, tmp_path: Path, solver: str
) -> None:
    """At η 0, where a sample depends on its first latents alone."""
    out = tmp_path / "report.html"
    given = ["eval", str(sweep.path_of(sweep.cells[0])), "--num", "20", "--metric", "fd"]
    code = run([*given, "--solver", solver, "--format", "html", "--out", str(out)])
    assert code == 0
    assert "Between two latents" in Page(out.read_text()).text


def test_it_is_one_file_that_needs_no_network_and_runs_no_script(report: Path) -> None:
    page = Page(report.read_text())
    assert not page.open  # every element is closed
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith(("data:", "#")), (tag, value)
    assert not re.search(r"url\((?!#)", report.read_text())
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_ids_are_unique_and_references_resolve(report: Path) -> None:
    """Several SVGs in one page share its ids: a clip path must be its own picture's."""
    text = report.read_text()
    used = re.findall(r'\bid="([^"]+)"', text)
    assert len(used) == len(set(used))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(used)


def test_what_the_numbers_were_computed_from_is_said_once(report: Path) -> None:
    text = " ".join(Page(report.read_text()).text.split())
    assert text.count("n 120 · against train · pixels · seeds 0, 1, 2") == 1
    assert "sha256" in text
    for title in (
        "Samples",
        "Training",
        "Power of the predicted noise",
        "Isotropy of x_t (Iso-Diffusion, Figure 2)",
        "Spectra of the noises",
        "Effects of noise and reg",
        "Differences to the baseline, and interactions (×)",
        "blue-tv × isotropy(weight=0.1)",
    ):
        assert title in text
    assert "rises to 1 only where E‖x0‖² ≤ n" in text
    shown = json.loads(
        re.search(r"<pre>(.*?)</pre>", report.read_text(), re.DOTALL)
        .group(1)
        .replace("&#34;", '"')
    )
    assert len(shown["rows"]) == 4


def test_pictures_are_files_too(report: Path) -> None:
    folder = report.parent / "pictures"
    names = sorted(p.name for p in folder.iterdir())
    svgs = [
        "curves.svg",
        "effects.svg",
        "isotropy.svg",
        "power.svg",
        "spectra.svg",
        "training.svg",
    ]
    assert [n for n in names if n.endswith(".svg")] == svgs
    assert [n for n in names if n.endswith(".pdf")] == [n.replace("svg", "pdf") for n in svgs]
    assert len([n for n in names if n.startswith("samples-") and n.endswith(".png")]) == 5
    for path in folder.glob("*.svg"):
        ET.parse(path)  # well-formed by itself
    for path in folder.glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF-")
    for path in folder.glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_points_show_where_samples_fall_and_strengths_and_steps_their_curves(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    grid = {"reg": ["none", "isotropy:weight=0.1", "isotropy:weight=0.3"]}
    swept = make_sweep(tmp_path / "S", grid, {"data": "swiss-roll:n=400", "denoiser": "dense"})
    arguments = ["eval", str(swept.path), "--num", "100", "--steps", "2,4"]
    assert run([*arguments, "--format", "html", "--out", str(tmp_path / "r.html")]) == 0
    text = Page((tmp_path / "r.html").read_text()).text
    for title in (
        "Where samples fall (Iso-Diffusion, Figures 4 to 6)",
        "Numbers against the strength",
        "Numbers against sampling steps",
    ):
        assert title in text
    assert "Spectra" not in text  # points have none


NASTY = "<script>alert(1)</script>&\"'$x^2$"


def test_every_name_is_escaped(tmp_path: Path, capsys: Capture, sweep: Sweep) -> None:
    own = tmp_path / "run"
    shutil.copytree(sweep.path_of(sweep.cells[0]), own)
    label = NASTY.replace(":", "")
    arguments = [
        "eval",
        str(own),
        "--num",
        "40",
        "--label",
        f"{label}:noise=white",
        "--out",
        str(tmp_path / "r.html"),
    ]
    assert run(arguments) == 0
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    page = Page(text)
    assert page.text.count(label) >= 3  # the table, the samples, the legends: as it was typed


def test_a_name_with_dollars_is_no_formula() -> None:
    drawn = pictures.svg(pictures.training({"$x^2$": [{"loss": [(1, 1), (2, 2)]}]}), "t")
    assert "$x^2$" in drawn


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look with")
def test_it_reads_well_in_a_browser(report: Path, tmp_path: Path) -> None:
    """Screenshots, wide, narrow and dark: the page's own colours, something to read, nothing
    pushed past the edge.
    """

    def look(name: str, width: int, *flags: str) -> np.ndarray:
        out = tmp_path / f"{name}.png"
        command = [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        size = f"--window-size={width},2400"
        subprocess.run(
            [*command, profile, *flags, size, f"--screenshot={out}", report.as_uri()],
            check=True,
            capture_output=True,
            timeout=90,
        )
        return np.asarray(Image.open(out).convert("L")).astype(float)

    # The second flag keeps Chromium from inverting the page by itself: what is seen is the page's
    # own dark style.
    dark = ["--force-dark-mode", "--enable-features=WebContentsForceDark:inversion_method/none"]
    for name, width, flags, paper in (
        ("wide", 1300, [], 255),
        ("narrow", 500, [], 255),
        ("dark", 1300, dark, 21),
    ):
        seen = look(name, width, *flags)
        assert abs(np.median(seen) - paper) < 3, name
        ink = np.abs(seen - paper) > 60
        assert 0.01 < ink.mean() < 0.5, name
        margin = 6
        assert not ink[:, -margin:].any(), name  # the page is no wider than the window
        assert not ink[:, :margin].any(), name
        assert ink[:200].any(), name


def test_a_learned_gamma_has_its_curve_and_its_parameters_over_training(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    swept = make_sweep(tmp_path / "S", {"noise": ["white", "blue-tv:gamma.learn=true"]})
    arguments = [
        "eval",
        str(swept.path),
        "--num",
        "20",
        "--format",
        "html",
        "--out",
        str(tmp_path / "r.html"),
    ]
    assert run([*arguments, "--pictures", str(tmp_path / "pictures")]) == 0
    text = Page((tmp_path / "r.html").read_text()).text
    assert "Curves of the noises" in text
    assert "γ(t) (solid), γ(t) before training (dashed)" in text
    assert (tmp_path / "pictures" / "curves.svg").is_file()
    training = (tmp_path / "pictures" / "training.svg").read_text()
    for name in ("gamma/s", "gamma/e", "gamma/tau"):
        assert name in training


def test_differences_draw_each_interval() -> None:
    lines = {"5 steps": {"A": {"precision": (0.2, 0.1)}, "B": {"precision": (-0.1, None)}}}
    figure = pictures.differences(["A", "B"], [("precision", "precision")], lines)
    (bars,) = figure.axes[0].containers
    assert [segment[:, 0].tolist() for segment in bars[2][0].get_segments()] == [
        pytest.approx([0.1, 0.3]),
        pytest.approx([-0.1, -0.1]),
    ]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["A", "B"]


def test_pictures_with_error_bars_share_no_id() -> None:
    line = {"white": [(1.0, {"precision": (0.2, 0.1)}), (2.0, {"precision": (0.3, 0.1)})]}
    drawn = [
        pictures.svg(pictures.numbers_over("x", [("precision", "precision")], line, salt=s), s)
        for s in ("a", "b")
    ]
    first, second = (set(re.findall(r'\bid="([^"]+)"', text)) for text in drawn)
    assert first
    assert not first & second


def names_in(legend: Any) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def test_a_legend_names_the_lines_of_every_panel_and_is_not_cut() -> None:
    long = "blue-tv(factor=spectral, gamma.form=linear) · isotropy(weight=0.1, space=whitened)"
    panels = [("a", "a"), ("b", "b")]
    lines = {
        "white": [(1.0, {"a": (0.2, None), "b": (0.1, None)})],
        **{f"{long} {k}": [(1.0, {"b": (0.3, None)})] for k in range(8)},
    }
    figure = pictures.numbers_over("x", panels, lines)
    (legend,) = figure.legends
    assert [name.replace("\n", " ") for name in names_in(legend)] == list(lines)
    figure.canvas.draw()
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= page.y1


def test_numbers_of_an_axis_do_not_touch() -> None:
    strengths = [0.01, 0.1, 0.11, 0.12, 0.3, 1.0]
    lines = {"white": [(x, {"a": (0.2, None)}) for x in strengths]}
    figure = pictures.numbers_over("x", [("a", "a")], lines)
    figure.canvas.draw()
    labels = [one for one in figure.axes[0].get_xticklabels() if one.get_text()]
    assert [one.get_text() for one in labels] == ["0.01", "0.1", "0.3", "1"]
    boxes = [one.get_window_extent() for one in labels]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert len(figure.axes[0].get_xticks()) == len(strengths)


def test_a_logged_line_is_seen_though_it_is_one_point_or_below_0() -> None:
    rows = {"white": [{"loss": [(5, 1.0)], "g": [(5, -3.0), (10, 90.0)]}]}
    loss, g = pictures.training(rows).axes
    assert loss.lines[0].get_marker() == "o"
    assert g.get_yscale() == "linear"


def test_points_beyond_the_window_are_counted() -> None:
    points = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, -9.0]])
    figure = pictures.scatter(points, np.array([-1.0, -1.0]), np.array([1.0, 1.0]), "s")
    assert figure.axes[0].get_title() == "2 of 3 outside"


def test_pictures_of_two_rows_have_two_files(tmp_path: Path) -> None:
    images = [("白", b"1"), ("蓝", b"2"), ("a b", b"3"), ("a-b", b"4")]
    table = SimpleNamespace(name="digits")
    write_pictures([(table, [Picture("samples", "", "", images=images)])], tmp_path)  # type: ignore[list-item]
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"1", b"2", b"3", b"4"]


def test_seeds_are_a_band_around_their_mean() -> None:
    seeds = [{"loss": [(1, 1.0), (2, 4.0)]}, {"loss": [(1, 3.0), (2, 5.0), (3, 9.0)]}]
    figure = pictures.training({"white": seeds})
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 2], [2, 4.5]]  # where both are
    (band,) = figure.axes[0].collections
    low, high = (
        [min(v) if k == 0 else max(v) for x in (1, 2) for v in [[y for a, y in path if a == x]]]
        for k, path in enumerate([band.get_paths()[0].vertices] * 2)
    )
    assert (low, high) == ([1, 4], [3, 5])
    alone = pictures.training({"white": seeds[:1]})
    assert not alone.axes[0].collections


def test_a_noises_own_curves_are_drawn_whatever_they_are() -> None:
    t = [0.0, 1.0]
    rows = {"loud": [(t, {"volume": [1.0, 2.0], "pitch": [3.0, 4.0]})]}
    figure = pictures.own_curves(rows)
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--"]
    assert figure.axes[0].get_ylabel() == "volume, pitch"
