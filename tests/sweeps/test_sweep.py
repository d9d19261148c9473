"""``noisereg sweep``: the grid, its folder, and what survives a kill."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_packages import LOUDER

import noisereg
from noisereg.api import Launcher
from noisereg.cli.main import run
from noisereg.cli.progress import ConsoleReporter
from noisereg.errors import NoiseregError
from noisereg.launchers.forks import Forks
from noisereg.launchers.local import Local, visible_gpus
from noisereg.ownership import lock_of_children, share
from noisereg.plugins.registry import registry, reset
from noisereg.reading import read_yaml
from noisereg.runs.checkpoint_files import CONTENTS, make_state, name_of
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.sweeps.grid import (
    MEMBERS,
    Grid,
    Sweep,
    check_continues,
    make_cells,
    parse_axes,
    read_grid,
    taking_part,
    write,
)
from noisereg.sweeps.resolve import resolve
from noisereg.sweeps.training import SweepTraining

Capture = pytest.CaptureFixture[str]
FAST = [
    *("--denoiser", "mlp:width=16,blocks=1", "--batch-size", "32"),
    *(
        "--set",
        "sample.steps=4",
        "--set",
        "runtime.device=cpu",
        "--set",
        "train.checkpoint_every=5",
    ),
]


def call(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["sweep", *map(str, arguments)])
    return code, *capsys.readouterr()


def mistake(capsys: Capture, *arguments: object) -> str:
    code, out, err = call(capsys, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("note:")]
    assert (code, out) == (2, "")
    assert len(lines) == 1, err
    return lines[0].removeprefix("noisereg: error: ")


def names(grid: dict[str, Any], base: dict[str, Any] | None = None) -> list[str]:
    return [cell.name for cell in make_cells(base or {}, read_grid(grid))]


def test_a_number_below_0_keeps_its_sign_in_a_name() -> None:
    exponents = {"noise": ["power-law"], "axes": {"noise.exponent": [-0.5, 0.5]}}
    assert names(exponents) == [
        "power-law_exponent=-0.5_s0",
        "power-law_exponent=0.5_s0",
    ]
    lists = {"axes": {"denoiser.channels": [[8, 16], [16, 32]]}}  # a bracket is no sign
    assert names(lists, {"denoiser": "unet"}) == ["channels=8-16_s0", "channels=16-32_s0"]


def finish(folder: Path, step: int = 4000) -> None:
    """What tells a sweep that a cell is trained: a status, and a checkpoint that is whole."""
    checkpoint = folder / "checkpoints" / name_of(step)
    checkpoint.mkdir(parents=True)
    contents = dict.fromkeys(CONTENTS, b"weights")
    files = {**contents, "state.json": json.dumps(make_state("a run", step, contents)).encode()}
    for name, data in files.items():
        (checkpoint / name).write_bytes(data)
    (folder / "environment.json").write_text('{"run": "a run"}')
    (folder / "config.yaml").touch()
    (folder / "status.json").write_text(json.dumps({"status": "finished", "step": step}))


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# The grid


def test_cells_are_the_product_of_the_axes_with_seeds_outermost() -> None:
    cells = make_cells(
        {"seed": 5},
        read_grid({"noise": ["white", "blue"], "reg": ["none", "isotropy"], "seeds": 2}),
    )
    assert [cell.name for cell in cells] == [
        f"{noise}_{reg}_s{seed}"
        for seed in (5, 6)
        for noise in ("white", "blue")
        for reg in ("none", "isotropy")
    ]
    assert [cell.config.seed for cell in cells] == [5] * 4 + [6] * 4
    assert cells[1].config.reg[0].name == "isotropy"
    assert cells[0].config.reg == []
    assert cells[0].combination == cells[4].combination


def test_a_plus_joins_regularizers_and_is_not_mistaken_in_a_number() -> None:
    (cell,) = make_cells({}, Grid(reg=["isotropy:weight=1e+1+isotropy:mean=sample"]))
    assert [(s.name, s.params) for s in cell.config.reg] == [
        ("isotropy", {"weight": "1e+1"}),
        ("isotropy", {"mean": "sample"}),
    ]


def test_any_key_is_an_axis() -> None:
    axes = parse_axes(["train.batch_size=64", "train.batch_size=128", "optim.lr=1e-3"])
    assert axes == {"train.batch_size": [64, 128], "optim.lr": [0.001]}
    cells = make_cells({}, Grid(axes=axes))
    assert [cell.name for cell in cells] == [
        "batch_size=64_lr=0.001_s0",
        "batch_size=128_lr=0.001_s0",
    ]
    assert [cell.config.train.batch_size for cell in cells] == [64, 128]
    with pytest.raises(NoiseregError, match="noise has a flag of its own: noise=blue"):
        parse_axes(["noise=blue"])
    with pytest.raises(NoiseregError, match="expected KEY=VALUE"):
        parse_axes(["train.batch_size"])


def test_names_of_cells_are_names_of_files() -> None:
    (name,) = names(
        {"noise": ["blue-tv:gamma.tau=0.2,factor=spectral"], "reg": ["../../x:path=/a b"]}
    )
    assert "/" not in name
    assert " " not in name
    (name,) = names({"noise": ["blue:" + ",".join(f"key{k}={k}" for k in range(50))]})
    assert len(name) < 80


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(NoiseregError, match="two cells of the sweep are the same"):
        names({"noise": ["white", "white"]})


# Autos


def test_each_auto_is_resolved_once_to_what_the_most_demanding_cell_needs() -> None:
    """Static blue needs zero terminal SNR, target v and a logsnr grid; in a sweep
    white gets them too.
    """
    runtime = Runtime.start(RuntimeConfig())
    alone = resolve(make_cells({}, Grid(noise=["white"])), registry(), runtime)
    assert alone.cells[0].config.process.params["target"] == "eps"
    assert alone.notes == []
    both = resolve(make_cells({}, Grid(noise=["white", "blue"])), registry(), runtime)
    for cell in both.cells:
        assert cell.config.process.params["target"] == "v"
        assert cell.config.process.params["zero_terminal_snr"] is True
        assert cell.config.sample.grid.name == "logsnr"
        assert cell.config.sample.eta == 1
    assert any("zero_terminal_snr true" in note and "target v" in note for note in both.notes)
    assert "auto: sample.grid logsnr in all cells" in both.notes


def test_a_pairing_in_one_cell_takes_eta_from_all() -> None:
    cells = make_cells({}, Grid(pairing=["none", "greedy"]))
    resolved = resolve(cells, registry(), Runtime.start(RuntimeConfig()))
    assert [cell.config.sample.eta for cell in resolved.cells] == [0, 0]
    assert "auto: sample.eta 0 in all cells" in resolved.notes


def test_what_was_asked_for_explicitly_stays() -> None:
    base = {"sample": {"eta": 0.5, "grid": "uniform"}}
    cells = make_cells(base, Grid(noise=["white", "blue-tv"], process=["ddpm:target=x0", "iadb"]))
    resolved = resolve(cells, registry(), Runtime.start(RuntimeConfig()))
    assert {(cell.config.sample.eta, cell.config.sample.grid.name) for cell in resolved.cells} == {
        (0.5, "uniform")
    }
    assert {cell.config.process.params.get("target") for cell in resolved.cells} == {"x0", None}


def test_a_combination_that_cannot_work_is_refused_before_any_is_trained(
    capsys: Capture, tmp_path: Path
) -> None:
    found = mistake(
        capsys,
        "--data",
        "swiss-roll",
        "--noise",
        "white",
        "--noise",
        "blue",
        "--out",
        tmp_path / "S",
    )
    assert found.startswith("cell blue_s0: ")
    assert not (tmp_path / "S").exists()


# The folder


def test_a_sweep_goes_on_with_more_seeds_or_steps_and_with_nothing_else(tmp_path: Path) -> None:
    runtime = Runtime.start(RuntimeConfig())

    def cells(base: dict[str, Any], grid: dict[str, Any]) -> list[Any]:
        return resolve(make_cells(base, read_grid(grid)), registry(), runtime).cells

    grid = {"noise": ["white"], "seeds": 2}
    write(tmp_path / "S", {}, read_grid(grid), cells({}, grid))
    check_continues(tmp_path / "S", cells({}, grid | {"seeds": 3}))
    check_continues(tmp_path / "S", cells({"train": {"steps": 9999}}, grid))
    run = tmp_path / "S/cells/white_s0"
    run.mkdir()
    (run / "config.yaml").touch()
    (run / "status.json").write_text('{"status": "stopped", "step": 50, "steps": 4000}')
    check_continues(tmp_path / "S", cells({"train": {"steps": 50}}, grid))
    said = r"in white_s0, train.steps was 4,000 and is now 49, and it is trained to step 50"
    with pytest.raises(NoiseregError, match=said):
        check_continues(tmp_path / "S", cells({"train": {"steps": 49}}, grid))
    with pytest.raises(
        NoiseregError, match="was started with a cell white_s1 that this command has not"
    ):
        check_continues(tmp_path / "S", cells({}, grid | {"seeds": 1}))
    with pytest.raises(
        NoiseregError, match=r"in white_s0, train.batch_size was 128 and is now 64"
    ):
        check_continues(tmp_path / "S", cells({"train": {"batch_size": 64}}, grid))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(NoiseregError, match="is not empty and holds no sweep"):
        check_continues(tmp_path / "full", [])


def test_its_file_repeats_the_sweep(tmp_path: Path) -> None:
    grid = read_grid(
        {"noise": ["white", "blue-tv"], "axes": {"train.batch_size": [32, 64]}, "seeds": 2}
    )
    base = {"seed": 3, "train": {"steps": 7}}
    cells = resolve(make_cells(base, grid), registry(), Runtime.start(RuntimeConfig())).cells
    write(tmp_path, base, grid, cells)
    values = read_yaml(tmp_path / "sweep.yaml")
    again = make_cells(
        {k: v for k, v in values.items() if k != "sweep"}, read_grid(values["sweep"])
    )
    assert [cell.name for cell in again] == [cell.name for cell in cells]
    assert resolve(again, registry(), Runtime.start(RuntimeConfig())).cells == cells
    assert Sweep.open(tmp_path).cells == cells


# The command


def test_dry_run_lists_cells_with_times_and_writes_nothing(
    capsys: Capture, tmp_path: Path
) -> None:
    arguments = [
        "--noise",
        "white",
        "--noise",
        "blue-tv",
        "--seeds",
        2,
        "--steps",
        50,
        *FAST,
        "--out",
        tmp_path / "S",
    ]
    code, out, _ = call(capsys, *arguments, "--dry-run")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["0", "white_s0"],
        ["1", "blue-tv_s0"],
        ["2", "white_s1"],
        ["3", "blue-tv_s1"],
    ]
    assert all("about" in line and "not started" in line for line in lines[:4])
    assert lines[4].startswith("4 cells, 4 to train: about ")
    assert not (tmp_path / "S").exists()
    assert (
        call(capsys, *arguments[:-2], "--dry-run")[1].splitlines()[3].endswith("not started")
    )  # without --out too
    assert (
        call(capsys, *arguments[:-2])[2]
        == "noisereg: error: no --out; expected the sweep's folder, such as --out sweeps/a\n"
    )
    listed = json.loads(call(capsys, *arguments, "--dry-run", "--json")[1])
    assert listed["seconds"] == pytest.approx(sum(cell["seconds"] for cell in listed["cells"]))


def test_a_step_is_timed_anew_where_pairing_or_regularizer_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[str] = []

    def seconds(parts: Any, runtime: Runtime) -> float:
        timed.append(f"{parts.config.pairing.name} {len(parts.config.reg)}")
        return 1.0

    monkeypatch.setattr("noisereg.sweeps.resolve.seconds_per_step", seconds)
    grid = Grid(
        noise=["white", "blue-tv"], reg=["none", "isotropy"], pairing=["none", "optimal"], seeds=2
    )
    resolve(make_cells({}, grid), registry(), Runtime.start(RuntimeConfig()), estimate=True)
    assert sorted(timed) == ["none 0", "none 1", "optimal 0", "optimal 1"]


def test_printed_commands_train_the_cells(capsys: Capture, tmp_path: Path) -> None:
    arguments = [
        "--noise",
        "white",
        "--reg",
        "isotropy",
        "--steps",
        4,
        *FAST,
        "--out",
        tmp_path / "S",
    ]
    code, out, _ = call(capsys, *arguments, "--print-commands")
    (line,) = out.splitlines()
    program, *command = shlex.split(line)
    assert (code, program) == (0, "noisereg")
    assert run(command) == 0
    sweep = Sweep.open(tmp_path / "S")
    assert [sweep.state(cell) for cell in sweep.cells] == ["finished"]
    assert noisereg.load(tmp_path / "S" / "cells" / "white_isotropy_s0").config.train.steps == 4


def test_a_yaml_file_holds_a_sweep_and_flags_go_before_it(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "sweep:\n  noise: [white, {name: blue-tv, factor: spectral}]\n  reg: [none, "
        "'isotropy:weight=0.1']\n  seeds: 2\n"
        "train: {steps: 20}\nseed: 7\n"
    )
    arguments = [
        "--config",
        tmp_path / "my.yaml",
        *FAST,
        "--out",
        tmp_path / "S",
        "--dry-run",
        "--json",
    ]
    listed = json.loads(call(capsys, *arguments)[1])["cells"]
    assert len(listed) == 8
    assert listed[3]["name"] == "blue-tv-factor=spectral_isotropy-weight=0.1_s7"
    listed = json.loads(call(capsys, *arguments, "--reg", "none", "--seeds", 1, "--seed", 1)[1])[
        "cells"
    ]
    assert [cell["name"] for cell in listed] == [
        "white_none_s1",
        "blue-tv-factor=spectral_none_s1",
    ]
    (tmp_path / "my.yaml").write_text("sweep: {noises: [white]}\n")
    assert "no key 'noises'; did you mean 'noise'?" in mistake(capsys, *arguments)


def test_a_flag_replaces_the_axis_of_its_key_in_the_file(capsys: Capture, tmp_path: Path) -> None:
    """Not one of them is ignored: ``--data`` beside a file whose sweep runs over data trains on
    that data alone.
    """
    (tmp_path / "my.yaml").write_text(
        "sweep: {axes: {data: [swiss-roll, central-banana], train.batch_size: [8, 16]}}\ntrain: "
        "{steps: 2}\n"
    )
    arguments = ["--config", tmp_path / "my.yaml", "--out", tmp_path / "S", "--dry-run", "--json"]

    def listed(*more: str) -> list[str]:
        code, out, err = call(capsys, *arguments, *more)
        assert code == 0, err
        return [cell["name"] for cell in json.loads(out)["cells"]]

    assert len(listed()) == 4
    assert listed("--data", "moon-circles:n=100") == ["batch_size=8_s0", "batch_size=16_s0"]
    assert listed("--batch-size", "4") == ["data=swiss-roll_s0", "data=central-banana_s0"]
    assert listed("--axis", "data=moon-circles", "--batch-size", "4") == ["data=moon-circles_s0"]
    both = mistake(capsys, *arguments, "--data", "moon-circles", "--axis", "data=swiss-roll")
    assert "--axis data=… and the flag of data" in both
    for assignment in ("data=moon-circles", "data.n=100", "train.batch_size=4"):
        assert f"--set {assignment.partition('=')[0]} would change an axis" in mistake(
            capsys, *arguments, "--set", assignment
        )


def test_mistakes_are_one_line(capsys: Capture, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "S"]
    assert "no noise is called 'whit'; did you mean 'white'?" in mistake(
        capsys, "--noise", "whit", *out
    )
    assert "--cell 3: the sweep has cells 0 to 1" in mistake(
        capsys, "--seeds", 2, "--cell", 3, *out
    )
    assert "would change an axis of the sweep" in mistake(
        capsys, "--noise", "blue", "--set", "noise.jitter=1", *out
    )
    assert "no such section; did you mean 'train'?" in mistake(
        capsys, "--axis", "trian.steps=1", *out
    )
    assert "seeds: expected at least 1, not 0" in mistake(capsys, "--seeds", 0, *out)
    assert "seed is no axis: --seeds N trains" in mistake(capsys, "--axis", "seed=1", *out)
    with pytest.raises(NoiseregError, match="seed is no axis"):
        read_grid({"axes": {"seed": [1, 2]}})
    assert not (tmp_path / "S").exists()


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"train.batch_size": []}, "train.batch_size has no value"),
        ({"optim": [{"lr": 1e-3}, {"lr": 2e-3}]}, ""),
    ],
)
def test_axes_of_nothing_and_of_mappings(axes: dict[str, Any], said: str) -> None:
    if said:
        with pytest.raises(NoiseregError, match=said):
            read_grid({"axes": axes})
        return
    cells = make_cells({}, read_grid({"axes": axes}))
    assert [cell.config.optim.lr for cell in cells] == [1e-3, 2e-3]


def test_where_the_file_system_cannot_lock_a_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("noisereg.ownership.fcntl.flock", refuse)
    with lock_of_children(tmp_path / ".a.lock") as lock:  # type: ignore[union-attr]
        share(lock)
    monkeypatch.setattr(
        "noisereg.ownership.fcntl.flock",
        lambda file, how: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")),
    )
    with pytest.raises(NoiseregError, match="cannot be a lock: Input/output error"):
        lock_of_children(tmp_path / ".a.lock")


def test_a_launcher_of_other_machines_holds_no_lock_open(tmp_path: Path) -> None:
    """A queue takes all cells at once, and a process has 1,024 open files."""

    class Elsewhere(Launcher):
        here = False
        jobs = None

        def start(self, jobs: Any) -> Any:
            self.open_files = len(os.listdir("/proc/self/fd"))
            raise NoiseregError("seen")

    grid = read_grid({"seeds": 40})
    sweep = write(tmp_path / "S", {}, grid, make_cells({}, grid))
    launcher = Elsewhere()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoiseregError, match="seen"):
        SweepTraining(sweep, launcher, Reporter()).run(sweep.cells)
    assert launcher.open_files < before + 20


def test_jobs_that_run_are_stopped_where_another_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    class Job:
        def begin(self, environment: Any = None) -> Any:
            if begun:
                raise OSError("no more processes")
            begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
            return begun[0]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    local = Local()
    local.open(tmp_path, 2)
    with pytest.raises(OSError, match="no more processes"):
        local.start([Job(), Job()])  # type: ignore[list-item]
    assert begun[0].poll() is not None


PLUGIN = """
import os
import torch
from noisereg.api import Component, Regularizer, RegularizerParams, hookimpl

class Trap(Regularizer):
    def __init__(self, params, ctx):
        pass

    def __call__(self, s):
        if not os.environ.get("DISARMED"):
            raise RuntimeError("the trap of step %d" % s.step)
        return s.eps_hat.mean() * 0

@hookimpl
def noisereg_regularizers():
    yield Component(name="trap", impl=Trap, params=RegularizerParams)
"""


def test_a_cell_that_fails_is_reported_the_others_are_trained_and_it_is_tried_again(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text(PLUGIN)
    arguments = [
        *("--plugin", tmp_path / "trap.py", "--reg", "trap", "--reg", "none"),
        *("--steps", 6, *FAST, "--jobs", 2, "--out", tmp_path / "S"),
    ]
    code, out, err = call(capsys, *arguments)
    assert code == 1
    assert "1 of 2 cells finished" in out
    assert "__call__ raised RuntimeError: the trap of step 0 in step 1" in out
    assert "trap_s0.log" in out
    finished = (tmp_path / "S" / "cells" / "none_s0" / "status.json").stat().st_mtime_ns
    monkeypatch.setenv("DISARMED", "1")
    code, out, err = call(capsys, *arguments)
    assert (code, err.count("finished in")) == (0, 1)
    assert "2 of 2 cells finished" in out
    assert (tmp_path / "S" / "cells" / "none_s0" / "status.json").stat().st_mtime_ns == finished


def test_a_sweep_killed_midway_ends_with_the_table_of_one_that_ran_through(
    capsys: Capture, tmp_path: Path, make_sweep: Any
) -> None:
    """kill −9 of the sweep and of the run that it was training; the same command goes on with
    both.
    """
    arguments = [
        "--noise",
        "white",
        "--noise",
        "blue-tv",
        "--steps",
        "60",
        *FAST,
        "--out",
        str(tmp_path / "killed"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "noisereg", "sweep", *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = tmp_path / "killed" / "cells" / "white_s0" / "checkpoints"
    wait_for(lambda: first.is_dir() and any(p.name.isdigit() for p in first.iterdir()))
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout
    process.kill()
    process.wait()
    sweep = Sweep.open(tmp_path / "killed")
    assert (
        lock_of_children(sweep.lock_of(sweep.cells[0])) is None
    )  # the run has outlived its sweep and keeps its lock
    for child in children.split():
        os.kill(int(child), signal.SIGKILL)
    assert sweep.state(sweep.cells[0]).startswith("running, step")
    assert sweep.state(sweep.cells[1]) == "not started"

    code, _, err = call(capsys, *arguments)
    assert code == 0, err
    base = {
        "denoiser": "mlp:width=16,blocks=1",
        "train": {"steps": 60, "batch_size": 32, "checkpoint_every": 5},
        "sample": {"steps": 4},
    }
    through = make_sweep(tmp_path / "through", {"noise": ["white", "blue-tv"]}, base)

    def rows(path: Path) -> list[dict[str, Any]]:
        found = noisereg.evaluate([path], metrics=["prdc", "fd"], num=100)
        return [{k: v for k, v in row.items() if k != "sources"} for row in found]

    assert rows(tmp_path / "killed") == rows(through.path)


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in listed.split()]


def holder(lock: Path, processes: list[int]) -> int:
    """The only one of some processes that has a file open."""
    (found,) = [
        process
        for process in processes
        if any(os.readlink(fd) == str(lock) for fd in Path(f"/proc/{process}/fd").iterdir())
    ]
    return found


def test_a_sweep_killed_alone_leaves_its_cell_in_training_and_waits_for_it_when_typed_again(
    capsys: Capture, tmp_path: Path, make_sweep: Any
) -> None:
    """The cell's process is held where it is until the second command has passed it over."""
    out = tmp_path / "killed"
    typed = ["--noise", "white", "--noise", "blue-tv", "--steps", "60", *FAST, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "noisereg", "sweep", *typed],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = out / "cells" / "white_s0" / "checkpoints"
    wait_for(lambda: first.is_dir() and any(p.name.isdigit() for p in first.iterdir()))
    child = holder(out / "cells" / ".white_s0.lock", children_of(process.pid))
    os.kill(child, signal.SIGSTOP)
    process.kill()
    process.wait()

    def let_go() -> None:
        wait_for((out / "cells" / "blue-tv_s0.log").exists)
        os.kill(child, signal.SIGCONT)

    thread = threading.Thread(target=let_go)
    thread.start()
    code, _, err = call(capsys, *typed)
    thread.join()
    assert code == 0, err
    assert "white_s0 is being trained by another process; waiting for it" in err
    assert "going on from" not in (out / "cells" / "white_s0.log").read_text()
    base = {
        "denoiser": "mlp:width=16,blocks=1",
        "train": {"steps": 60, "batch_size": 32, "checkpoint_every": 5},
        "sample": {"steps": 4},
    }
    through = make_sweep(tmp_path / "through", {"noise": ["white", "blue-tv"]}, base)
    for cell in through.cells:
        for name in CONTENTS:
            file = Path("cells") / cell.name / "checkpoints" / name_of(60) / name
            assert (out / file).read_bytes() == (through.path / file).read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "another"])
def test_a_finished_cell_counts_only_while_its_checkpoint_is_whole(
    name: str, damage: str, tmp_path: Path
) -> None:
    grid = Grid(noise=["white"], seeds=2)
    sweep = write(tmp_path / "S", {}, grid, make_cells({}, grid))
    for cell in sweep.cells:
        finish(sweep.path_of(cell))
        assert sweep.state(cell) == "finished"
    folder = sweep.path_of(sweep.cells[0]) / "checkpoints/004000"
    data = (folder / name).read_bytes()
    spoilt = {
        "flip": bytes([data[0] ^ 1]) + data[1:],
        "cut": data[:3],
        "empty": b"",
        "another": b"another",
    }
    (folder / name).write_bytes(spoilt[damage])
    assert re.fullmatch(
        rf"its checkpoint of step 4,000 is damaged: checkpoints/004000: {name} is damaged .*",
        sweep.state(sweep.cells[0]),
    )
    assert sweep.state(sweep.cells[1]) == "finished"


def test_a_cell_that_diverges_is_one_line_of_the_report_and_the_others_go_on(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes are stand-ins: one diverges, one is finished."""

    class Process:
        def __init__(self, command: Sequence[str]) -> None:
            out = Path(command[command.index("--out") + 1])
            self.returncode = 2 if "lr=3e+38" in out.name else 0
            finish(out, 6)
            if self.returncode:
                status = {"status": "failed", "step": 5, "error": "the loss…", "diverged": True}
                (out / "status.json").write_text(json.dumps(status))

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(Forks, "begin", lambda forks, job: Process(job.command))
    code, out, err = call(
        capsys,
        *("--data", "swiss-roll:n=200", "--axis", "optim.lr=1e-3", "--axis", "optim.lr=3e38"),
        *("--steps", 6, *FAST, "--out", tmp_path / "S"),
    )
    assert code == 1, err
    assert "1 of 2 cells finished" in out
    assert sum("diverged: lr=3e+38_s0: " in line for line in out.splitlines()) == 1
    sweep = Sweep.open(tmp_path / "S")
    assert [sweep.state(cell) for cell in sweep.cells] == [
        "finished",
        "diverged, with a checkpoint of step 5 of 6",
    ]


def test_a_cell_in_training_elsewhere_is_waited_for_and_not_trained_twice(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the cell's lock, and finishes it after half a second."""
    cells = make_cells({}, Grid(noise=["white"]))
    sweep = write(tmp_path / "S", {}, Grid(noise=["white"]), cells)
    held = lock_of_children(sweep.lock_of(cells[0]))
    assert held is not None

    def let_go() -> None:
        finish(sweep.path_of(cells[0]))
        held.close()

    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is started
    timer = threading.Timer(0.5, let_go)
    timer.start()
    tally = SweepTraining(sweep, Local(), ConsoleReporter(), jobs=1).run(cells)
    timer.join()
    assert (tally.finished, tally.failed) == (cells, {})
    assert (
        capsys.readouterr().err.count(
            "white_s0 is being trained by another process; waiting for it"
        )
        == 1
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left_is_guessed_from_what_is_done_now(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """Three of ten were done before; one took 100 s: six more take 600, however long ago the last
    one ended.
    """
    clock = [0.0]
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    reporter = ConsoleReporter()
    reporter.begin("sweep", 10, 3)
    clock[0] = 100.0
    reporter.advance(4)
    if terminal:
        assert reporter._bar.tasks[0].fields["left"] == "10 min 00 s left"
    else:
        assert said.getvalue() == "sweep 4/10  10 min 00 s left\n"
    reporter.end()


def test_what_was_finished_before_does_not_count_as_done_in_no_time(tmp_path: Path) -> None:
    """The time left is guessed from what is trained now."""
    grid = Grid(noise=["white"], seeds=2)
    sweep = write(tmp_path / "S", {}, grid, make_cells({}, grid))
    for cell in sweep.cells:
        finish(sweep.path_of(cell))
    begun: list[tuple[str, int, int]] = []

    class Recorder(Reporter):
        def begin(self, what: str, total: int, done: int = 0) -> None:
            begun.append((what, total, done))

        def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
            raise AssertionError("nothing was trained")

    SweepTraining(sweep, Local(), Recorder(), jobs=1).run(sweep.cells)
    assert begun == [("sweep", 2, 2)]


def test_runs_at_once_see_one_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at once on two visible GPUs; the processes are stand-ins that end when all three have
    started.
    """
    grid = Grid(noise=["white"], seeds=3)
    sweep = write(tmp_path / "S", {}, grid, make_cells({}, grid))
    started: list[dict[str, str]] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
            started.append(env)
            self.out = Path(command[command.index("--out") + 1])

        def poll(self) -> int | None:
            if len(started) < 3:
                return None
            if not self.out.exists():
                finish(self.out)
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    local = Local()
    local.open(tmp_path, 3)
    outcome = SweepTraining(sweep, local, ConsoleReporter(), jobs=3).run(sweep.cells)
    assert len(outcome.finished) == 3
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["4", "7", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-8f")
    assert visible_gpus() == ["2", "GPU-8f"]


@pytest.mark.parametrize(
    ("named", "count", "seen"),
    [
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
        ("1,-1,0", 1, ["1"]),
        ("0,9", 1, ["0"]),
        (" 1, 0", 2, ["1", "0"]),
    ],
)
def test_the_gpus_are_those_that_cuda_takes(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, seen: list[str]
) -> None:
    """CUDA takes names up to the first that is no GPU."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == seen


def test_a_signal_stops_the_cells_with_their_checkpoints_written(
    capsys: Capture, tmp_path: Path
) -> None:
    first = tmp_path / "S" / "cells" / "white_s0" / "checkpoints"

    def ask() -> None:
        wait_for(lambda: first.is_dir() and any(p.name.isdigit() for p in first.iterdir()))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    code, _, err = call(
        capsys, "--noise", "white", "--steps", 100_000, *FAST, "--out", tmp_path / "S"
    )
    thread.join()
    assert code == 128 + signal.SIGTERM
    assert "The same command goes on" in err
    sweep = Sweep.open(tmp_path / "S")
    assert sweep.state(sweep.cells[0]).startswith("stopped, step")


def test_a_sweep_of_several_jobs_runs_in_a_thread(tmp_path: Path) -> None:
    """Where no signal can be listened to."""
    small: dict[str, Any] = {
        "denoiser": "mlp:width=16,blocks=1",
        "train": {"steps": 2, "batch_size": 32},
        "sample": {"steps": 2},
        "runtime": {"device": "cpu"},
    }
    with ThreadPoolExecutor(1) as pool:
        folder = pool.submit(noisereg.sweep, out=tmp_path / "S", noise=["white"], jobs=2, **small)
    sweep = Sweep.open(folder.result())
    assert [sweep.state(cell) for cell in sweep.cells] == ["finished"]


def test_while_a_sweep_is_at_work_its_definition_stays_and_the_same_command_shares_the_cells(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the sweep at work stands in for it; where nothing is left to train, the second
    command starts nothing.
    """
    out = tmp_path / "S"
    typed = ("--noise", "white", *FAST, "--out", out)
    assert call(capsys, *typed, "--steps", 40, "--print-commands")[0] == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    finish(out / "cells/white_s0", 40)
    at_work = lock_of_children(out / MEMBERS, shared=True)
    assert at_work is not None
    monkeypatch.setattr(subprocess, "Popen", None)
    code, said, err = call(capsys, *typed, "--steps", 40)
    assert (code, "1 of 1 cells finished" in said) == (0, True), err
    for other in (["--steps", 60], ["--steps", 40, "--seeds", 2], ["--steps", 60, "--cell", 0]):
        code, _, err = call(capsys, *typed, *other)
        assert code == 2
        assert "another noisereg sweep is at work in" in err
    assert all(p.read_bytes() == data for p, data in before.items())
    at_work.close()
    assert call(capsys, *typed, "--steps", 60, "--print-commands")[0] == 0
    assert Sweep.open(out).cells[0].config.train.steps == 60


def test_a_cell_keeps_the_definition_though_its_sweep_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cell's process inherits: its own lock and the sweep's."""
    inherited: list[str] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], pass_fds: list[int], **_: Any) -> None:
            inherited.extend(Path(os.readlink(f"/proc/self/fd/{fd}")).name for fd in pass_fds)
            finish(Path(command[command.index("--out") + 1]))

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(subprocess, "Popen", Process)
    grid = Grid(noise=["white"])
    with taking_part(tmp_path, {}, grid, make_cells({}, grid)) as (sweep, lock):
        SweepTraining(sweep, Local(), ConsoleReporter(), membership=lock, jobs=1).run(sweep.cells)
    assert inherited == [".white_s0.lock", MEMBERS]


def test_a_sweep_killed_before_it_was_defined_starts_anew(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "S"
    typed = ("--noise", "white", *FAST, "--steps", 40, "--print-commands", "--out", out)
    (out / "cells").mkdir(parents=True)
    (out / ".lock").touch()
    for name in (".sweep.yaml.4242", "cells/white_s0.yaml", "cells/.white_s0.yaml.4242"):
        (out / name).write_text("half")
    assert call(capsys, *typed)[0] == 0
    assert Sweep.open(out).cells[0].config.train.steps == 40
    assert [p.name for p in out.rglob("*.4242")] == []
    (out / "sweep.yaml").unlink()
    (out / "cells/notes.txt").touch()
    code, _, err = call(capsys, *typed)
    assert (code, "is not empty and holds no sweep" in err) == (2, True)


def test_a_sweep_takes_no_second_version_of_a_plugin_into_a_row(
    capsys: Capture, tmp_path: Path
) -> None:
    file, out = tmp_path / "louder.py", tmp_path / "S"
    file.write_text(LOUDER.format(scale=1.0))
    typed = ("--plugin", file, "--noise", "louder", "--noise", "white", "--process", "iadb")
    assert call(capsys, *typed, *FAST, "--steps", 2, "--out", out)[0] == 0
    file.write_text(LOUDER.format(scale=1.5))
    reset()
    code, _, err = call(capsys, *typed, *FAST, "--steps", 2, "--seeds", 2, "--out", out)
    assert code == 2
    assert "file/louder is of" in err
    assert "which has changed since (SHA-256" in err
    assert len([p for p in (out / "cells").iterdir() if p.is_dir()]) == 2
    reset()


LISTENER = """
from noisereg.api import Component, Logger, Params, hookimpl

class Listener(Logger):
    def __init__(self, params, ctx):
        self.version = {version}

@hookimpl
def noisereg_loggers():
    yield Component(name="listener", impl=Listener, params=Params)
"""


def test_an_edited_logger_which_makes_no_numbers_is_no_second_version(
    capsys: Capture, tmp_path: Path
) -> None:
    file, out = tmp_path / "listener.py", tmp_path / "S"
    typed = ("--plugin", file, "--noise", "white", "--log", "listener", *FAST, "--steps", 2)
    for version, seeds in ((1, 1), (2, 2)):
        file.write_text(LISTENER.format(version=version))
        reset()
        code, _, err = call(capsys, *typed, "--seeds", seeds, "--out", out)
        assert code == 0, err
    reset()
