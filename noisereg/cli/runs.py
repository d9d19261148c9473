"""``noisereg runs``: what is in a folder of runs, how two of them differ, and removing some.
Imports no torch.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from noisereg.cli.options import Json
from noisereg.cli.plugins import print_table
from noisereg.errors import NoiseregError
from noisereg.ownership import owned
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import flatten
from noisereg.reading import short
from noisereg.runs.config import LISTS, SECTION_KIND, Config, read_complete
from noisereg.runs.records import read_status

app = typer.Typer(
    help="Runs: which there are, how two differ, and removing some.", no_args_is_help=True
)
FINAL = 65536
"""Bytes at the end of metrics.jsonl, in which its last line is."""


def read_run(path: Path) -> Config:
    """
    Raises:
        NoiseregError: if the folder holds no run.
    """
    if not (path / "config.yaml").is_file():
        raise NoiseregError(f"{path} holds no run (no config.yaml); expected a run's folder")
    return read_complete(path / "config.yaml")


def last_metrics(path: Path) -> dict[str, float]:
    """The last whole line of a run's metrics.jsonl; empty where there is none."""
    try:
        with (path / "metrics.jsonl").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - FINAL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        if isinstance(values, dict):
            return {k: v for k, v in values.items() if isinstance(v, int | float)}
    return {}


def settings(config: Config) -> dict[str, str]:
    """Each key of a configuration and its value as text, with components by name and parameter."""
    return {key: "null" if v is None else str(v) for key, v in flatten(config.dump()).items()}


def describe(folder: Path) -> list[dict[str, Any]]:
    """The runs in a folder and below: path, status, step, what differs among them, last
    metrics.
    """
    folders = sorted(file.parent for file in folder.rglob("config.yaml") if not file.is_symlink())
    rows: list[dict[str, Any]] = []
    for path in folders:
        row: dict[str, Any] = {"run": str(path), "status": "unknown", "step": None, "steps": None}
        try:
            config = read_run(path)
            row |= {"steps": config.train.steps, "settings": settings(config)}
            status = read_status(path)
            row |= {"status": status.status, "step": status.step}
        except NoiseregError as error:
            row["problem"] = str(error)
        rows.append(row | {"metrics": last_metrics(path)})
    known = [row["settings"] for row in rows if "settings" in row]
    differing = {key for each in known for key in each if len({one.get(key) for one in known}) > 1}
    for row in rows:
        row["settings"] = {k: v for k, v in row.get("settings", {}).items() if k in differing}
    return rows


def told(every: Sequence[Mapping[str, str]]) -> list[str]:
    """Of each run's settings what differs, in a line: of a component its name, and of its
    parameters those that are not as it has them by itself or in which runs with the same component
    differ.
    """
    values: dict[tuple[str, str | None], set[str | None]] = {}
    for own in every:
        for key, value in own.items():
            values.setdefault((key, component_of(key, own)), set()).add(value)
    usual_of = functools.cache(usual)
    lines = []
    for own in every:
        parts = []
        for key, value in own.items():
            section, name = parted(key)
            component = component_of(key, own)
            if section == "plugins":
                if name.endswith("sha256"):
                    parts.append(f"{key}={value[:8]}…")
            elif component is not None and name == "name":
                parts.append(f"{section}={value}")
            elif (
                component is None
                or len(values[key, component]) > 1
                or usual_of(section, component).get(name) != value
            ):
                parts.append(f"{key}={value}")
        lines.append(" ".join(parts))
    return lines


def component_of(key: str, own: Mapping[str, str]) -> str | None:
    """The name of the component that a setting is of; optim's ``name`` is none."""
    section, _ = parted(key)
    return own.get(f"{section}.name") if section.partition(".")[0] in SECTION_KIND else None


def parted(key: str) -> tuple[str, str]:
    """The section of a setting, which has a number where it is one of a list, and its name."""
    section, _, name = key.partition(".")
    if section in LISTS and name:
        number, _, name = name.partition(".")
        section = f"{section}.{number}"
    return section, name


def usual(section: str, name: str) -> dict[str, str]:
    """The parameters that a component of a section of the configuration has by itself, as
    :func:`settings` gives them; none for one that is not installed.
    """
    try:
        kind = SECTION_KIND[section.partition(".")[0]]
        fields = registry().find(kind, name).component.params.model_fields
    except NoiseregError:
        return {}
    values = {n: f.get_default(call_default_factory=True) for n, f in fields.items()}
    plain = {n: v.model_dump() if isinstance(v, BaseModel) else v for n, v in values.items()}
    return {key: "null" if v is None else str(v) for key, v in flatten(plain).items()}


@app.command("list")
def list_(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to look; also below it.")
    ] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Every run with its status, its step, the settings that differ, and its last metrics."""
    if not folder.is_dir():
        raise NoiseregError(f"there is no folder {folder}; expected one that holds runs")
    rows = describe(folder)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"no runs in {folder}")
        return
    table = [["run", "status", "step", "loss", "what differs"]]
    for row, line in zip(rows, told([row["settings"] for row in rows]), strict=True):
        step = "-" if row["step"] is None else f"{row['step']:,} of {row['steps']:,}"
        loss = row["metrics"].get("loss")
        differs = row.get("problem") or line
        table.append(
            [row["run"], row["status"], step, "-" if loss is None else f"{loss:.4g}", differs]
        )
    print_table(table)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    as_json: Json = False,
) -> None:
    """The settings in which two runs differ."""
    one, other = settings(read_run(first)), settings(read_run(second))
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if as_json:
        print(json.dumps({key: [one.get(key), other.get(key)] for key in keys}, indent=1))
    elif keys:
        rows = [[key, one.get(key, "-"), other.get(key, "-")] for key in keys]
        print_table([["setting", str(first), str(second)], *rows])
    else:
        print("no setting differs")


@app.command()
def rm(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove run folders with all that is in them, after asking.

    A run that is in training is left, and so is what is no run.
    """
    for path in runs:
        read_run(path)
        if path.is_symlink():
            raise NoiseregError(f"{path} is a link; expected the run's own folder")
    if not yes:
        if not sys.stdin or not sys.stdin.isatty():
            raise NoiseregError("there is no terminal to ask on; give `yes=True` to remove them")
        listed = ", ".join(short(str(path)) for path in runs)
        if not typer.confirm(f"Remove {listed}, with checkpoints, samples and numbers?"):
            print("nothing removed")
            return
    for path in runs:
        with owned(path, instead="stop its training first"):
            shutil.rmtree(path)
        print(f"removed {path}")
