"""The shipped configurations: each loads by its name, does what its head comment says, and trains
in small.

Found by what is in ``configs/``: a new file is tested without a word here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torchvision_files import accept_any_checksum, write_all

from noisereg.api import Context
from noisereg.cli import main
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import Config, complete, config_folder, config_names, read_config
from noisereg.sweeps.grid import Cell, make_cells, read_grid

CONFIGS = Path(__file__).parent.parent / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
PAPERS = {"blue-noise": ["2402.04930"], "iso-diffusion": ["2403.16790"]}
"""What a folder's files are about; every other file is about both papers."""
PHOTOGRAPHS = (
    "folder",
    "flowers102",
    "oxford-pets",
    "celeba",
    "cifar10",
    "cifar100",
    "fashion-mnist",
    "mnist",
)


def comment(name: str) -> str:
    """A file's head comment, without the ``# ``."""
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line[2:] for line in lines[:end])


def commands(name: str) -> list[list[str]]:
    """The commands of the comment, in words; what stands to the right of one, after a gap,
    explains it.
    """
    joined = re.sub(r"\\\n *", "", comment(name))
    lines = [
        re.sub(r" {6,}.*", "", line.strip())
        for line in joined.splitlines()
        if line.startswith("  noisereg ")
    ]
    return [shlex.split(line)[1:] for line in lines]


def cells_of(name: str) -> list[Cell]:
    """What ``noisereg sweep --config NAME`` would train; a file without a grid is one cell."""
    values = read_config(name)
    return make_cells(values, read_grid(values.pop("sweep", None)))


def is_sweep(name: str) -> bool:
    return "sweep" in read_config(name)


# What a file says


def test_the_names_are_those_that_config_takes() -> None:
    assert config_folder().resolve() == CONFIGS.resolve()
    assert config_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_head_comment_names_the_paper_and_says_what_is_ours(name: str) -> None:
    said = comment(name)
    for paper in PAPERS.get(name.partition("/")[0], ["2402.04930", "2403.16790"]):
        assert f"arXiv {paper}" in said or re.search(rf"arXiv [\d., ]+{re.escape(paper)}", said)
    assert re.search(r"\bours\b|as in the paper|not as there", said, re.I)
    if "/" in name and not name.startswith("combined/"):
        first = said.partition("\n")[0]
        assert re.search(r"Table \d|Figure \d|the ablation of|rectified mapping", first), first


@pytest.mark.parametrize("name", NAMES)
def test_the_comments_numbers_are_the_files(name: str) -> None:
    """How many runs, and the steps that so many epochs are."""
    said, cells = comment(name), cells_of(name)
    for runs in re.findall(r"(\d+) runs\b", said)[:1]:
        assert int(runs) == len(cells)
    counted = re.findall(
        r"^([\d,]+) epochs × ([\d,]+) images / ([\d,]+) a batch = ([\d,]+) steps\.$", said, re.M
    )
    for epochs, images, batch, steps in (
        [int(n.replace(",", "")) for n in found] for found in counted
    ):
        assert abs(epochs * images / batch - steps) <= 0.5
        assert {(c.config.train.steps, c.config.train.batch_size) for c in cells} == {
            (steps, batch)
        }
    assert counted or " epochs ×" not in said


@pytest.mark.parametrize("name", NAMES)
def test_the_comments_commands_are_noiseregs_and_name_the_file(name: str) -> None:
    application = typer.main.get_command(main.app)
    found = commands(name)
    trains = [words for words in found if words[0] in ("train", "sweep")]
    assert trains
    assert all(words[0] == ("sweep" if is_sweep(name) else "train") for words in trains)
    assert all(words[words.index("--config") + 1] == name for words in trains)
    for command, *words in found:
        application.commands[command].make_context(command, list(words))  # type: ignore[attr-defined]  # a usage error


# At full size


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_every_cell_is_one(name: str) -> None:
    for cell in cells_of(name):
        complete(cell.config, registry())


def shape_of(config: Config) -> tuple[int, int, int]:
    """Of an image, from the parameters alone."""
    entry = registry().find("dataset", config.data.name)
    channels, side = getattr(entry.implementation(), "native", (3, 0))
    side = int(config.data.params.get("size") or side)
    return channels, side, side


@pytest.mark.parametrize(
    "name", [n for n in NAMES if cells_of(n)[0].config.denoiser.name == "unet"]
)
def test_the_networks_are_as_large_as_the_comment_says(name: str) -> None:
    """Built without memory, on the meta device."""
    config = cells_of(name)[0].config
    with torch.device("meta"):
        network = registry().build(
            "denoiser", "unet", config.denoiser.params, Context(shape=shape_of(config))
        )
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    if stated := re.search(r"\(([\d.]+) M\s+parameters\)", comment(name)):
        assert f"{millions:.1f}" == stated[1]
    elif not name.startswith("combined/"):
        assert re.search(r"as the\s+comment of blue-noise/", comment(name))


# In small, on stand-ins


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """torchvision's sets and a folder of photographs, a few images each."""
    root = tmp_path_factory.mktemp("data")
    write_all(root)
    (root / "photos").mkdir()
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{k}.png")
    with pytest.MonkeyPatch.context() as patch:
        accept_any_checksum(patch)
        yield root


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def in_small(name: str, words: list[str], root: Path) -> list[str]:
    """``words`` with the stand-ins for data, images of 16×16, a tiny network and two steps of
    four.
    """
    values = read_config(name)
    data, denoiser = (
        Spec.model_validate(option(words, f"--{section}") or values.get(section, default)).name
        for section, default in (("data", "digits"), ("denoiser", "auto"))
    )
    words = [
        word.replace("path=DIR", f"path={root / 'photos'}").replace("root=DIR", f"root={root}")
        for word in words
    ]
    sets = ["runtime.device=cpu", "sample.steps=2"]
    if data in PHOTOGRAPHS:
        sets += [
            "data.size=16",
            f"data.path={root / 'photos'}" if data == "folder" else f"data.root={root}",
        ]
    if denoiser == "unet":
        sets += ["denoiser.channels=[8, 8]", "denoiser.layers=1", "denoiser.attention=[1]"]
    for flag in ("--steps", "--batch-size"):  # a flag stands once
        if flag in words:
            place = words.index(flag)
            words = [*words[:place], *words[place + 2 :]]
    return [
        *words,
        "--steps",
        "2",
        "--batch-size",
        "4",
        *(word for s in sets for word in ("--set", s)),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_comments_commands_build_what_they_train(
    name: str, stand_ins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them, by ``--dry-run``."""
    for words in commands(name):
        if words[0] not in ("train", "sweep"):
            continue
        words[words.index("--out") + 1] = str(tmp_path / "S")
        assert main.run([*in_small(name, words, stand_ins), "--dry-run"]) == 0, (
            capsys.readouterr().err
        )
        said = capsys.readouterr()
        assert "nothing written" in said.out + said.err
    assert list(tmp_path.iterdir()) == []


def varied(cell: Cell) -> set[str]:
    """The components that a cell is made of, and its other values."""
    config = cell.config
    one = {
        f"{section} {getattr(config, section).label()}"
        for section in ("data", "noise", "pairing", "process", "task")
    }
    return one | {f"reg {'+'.join(spec.label() for spec in config.reg)}"}


def covering(cells: list[Cell]) -> list[Cell]:
    """Few cells in which every value of every axis is trained at least once."""
    chosen: list[Cell] = []
    left = set().union(*(varied(cell) for cell in cells))
    while left:
        chosen.append(max(cells, key=lambda cell: len(varied(cell) & left)))
        left -= varied(chosen[-1])
    return chosen


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(
    name: str, stand_ins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "S"
    if not is_sweep(name):
        assert (
            main.run(in_small(name, ["train", "--config", name, "--out", str(out)], stand_ins))
            == 0
        )
        runs = [out]
    else:
        words = ["sweep", "--config", name, "--out", str(out), "--seeds", "1", "--print-commands"]
        assert main.run(in_small(name, words, stand_ins)) == 0, capsys.readouterr().err
        printed = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
        cells = cells_of(name)[: len(printed)]
        runs = [out / "cells" / cell.name for cell in covering(cells)]
        for run in runs:
            (command,) = (
                words for words in printed if words[words.index("--out") + 1] == str(run)
            )
            assert main.run(command) == 0, capsys.readouterr().err
    for run in runs:
        assert json.loads((run / "status.json").read_text())["status"] == "finished"
        assert (run / "samples" / "000002.png").is_file()
