"""What somebody sends may be hostile: runs, sweeps and configurations whose code would leave a
proof if it were executed, whose links and names lead elsewhere, and whose text moves a terminal.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_packages import good

from noisereg.cli.main import run as command_line
from noisereg.errors import NoiseregError
from noisereg.inside import check_contents, inside
from noisereg.plugins import trust
from noisereg.plugins.registry import reset
from noisereg.reading import write_yaml
from noisereg.runs import checkpoint_files
from noisereg.runs.config import read_config
from noisereg.terminal import one_line, printable

FAST = ("--set", "runtime.device=cpu", "--batch-size", "8", "--steps", "1")


@pytest.fixture(autouse=True)
def _another_user(monkeypatch, tmp_path):
    """Who has run no plugin yet."""
    monkeypatch.setenv("NOISEREG_CONFIG", str(tmp_path / "settings"))
    yield
    reset()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_sweep):
    """A sweep of one finished cell, which has been evaluated."""
    sweep = make_sweep(tmp_path_factory.mktemp("sent") / "sweep", {"noise": ["white"]})
    out = sweep.path.parent / "t.json"
    assert command_line(["eval", str(sweep.path), "--num", "20", *METRIC, "--out", str(out)]) == 0
    return sweep


METRIC = ("--metric", "prdc:k=3", "--steps", "2")


@dataclass
class Received:
    """A folder that somebody sent: a run, a sweep with the same run as its cell, a configuration,
    all naming one plugin."""

    folder: Path
    proof: Path
    cell: str

    @property
    def sweep(self) -> Path:
        return self.folder / "sweep"

    @property
    def run(self) -> Path:
        return self.sweep / "cells" / self.cell

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    def evil(self, place: str) -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"open({str(self.proof)!r}, 'w').close()\n" + good("evil").replace("\n    ", "\n")
        )
        return path

    def name(self, source: str, sha256: str, noise: str = "white") -> None:
        """Have every file name the plugin."""
        record = [{"source": source, "sha256": sha256}]
        for file in (self.run / "config.yaml", self.sweep / "cells" / f"{self.cell}.yaml"):
            values = read_config(str(file)) | {"plugins": record, "noise": {"name": noise}}
            file.write_text(write_yaml(values))
        self.config.write_text(write_yaml({"plugins": record, "noise": {"name": noise}}))
        file = self.sweep / "sweep.yaml"
        file.write_text(write_yaml(read_config(str(file)) | {"plugins": record}))


@pytest.fixture
def received(finished, tmp_path, monkeypatch):
    folder = tmp_path / "received"
    shutil.copytree(finished.path, folder / "sweep")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return Received(folder, tmp_path / "proof", finished.cells[0].name)


def commands(received: Received) -> dict[str, list]:
    """All that reads what was sent."""
    new = received.folder.parent / "new"
    grid = ["--config", received.sweep / "sweep.yaml"]
    return {
        "sample": ["sample", received.run, "--num", 2, "--out", new / "x.npz"],
        "eval": ["eval", received.run, *METRIC],
        "eval of the sweep": ["eval", received.sweep, *METRIC],
        "export": ["export", received.run, "--to", "diffusers", "--out", new / "pipe"],
        "resume": ["train", "--resume", "--out", received.run, "--steps", 14],
        "train --config of the run": [
            *("train", "--config", received.run / "config.yaml", "--out", new / "run"),
        ],
        "train --config": ["train", "--config", received.config, *FAST, "--out", new / "run"],
        "dry run": ["train", "--config", received.config, "--dry-run"],
        "the cell's own command": [
            *("train", "--config", received.sweep / "cells" / f"{received.cell}.yaml"),
            *("--out", received.run, "--resume"),
        ],
        "config show": ["config", "show", "--config", received.config],
        "sweep --config": ["sweep", *grid, "--out", new / "sweep", "--print-commands"],
        "sweep goes on": ["sweep", *grid, "--out", received.sweep, "--seeds", 2],
    }


COMMANDS = (
    "sample", "eval", "eval of the sweep", "export", "resume", "train --config of the run",
    "train --config", "dry run", "the cell's own command", "config show", "sweep --config",
    "sweep goes on",
)  # fmt: skip

FORMS = {
    # where the code lies: how the files name it
    "relative": ("evil.py", "./evil.py"),
    "below home": ("evil.py", "~/evil.py"),
    "absolute": ("evil.py", "{folder}/evil.py"),
    "a link": ("evil.py", "{folder}/link.py"),
    "a module": ("evil.py", "evil"),
    "inside the run": ("sweep/cells/{cell}/evil.py", "{run}/evil.py"),
    "inside the run, relative": ("sweep/cells/{cell}/samples/evil.py", "{run}/samples/evil.py"),
    "beside the cells": ("sweep/cells/evil.py", "{folder}/sweep/cells/evil.py"),
    "a module of the run": ("sweep/evil.py", "sweep.evil"),
}


def call(capsys, arguments):
    reset()
    sys.modules.pop("evil", None)
    code = command_line([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("form", "with_hash"), [*((form, True) for form in FORMS), ("absolute", False)]
)
def test_nothing_that_a_file_names_is_executed(form, with_hash, received, capsys):
    place, source = FORMS[form]
    place = place.format(cell=received.cell)
    evil = received.evil(place)
    (received.folder / "link.py").symlink_to(evil)
    source = source.format(folder=received.folder, run=received.run, cell=received.cell)
    received.name(source, hashlib.sha256(evil.read_bytes()).hexdigest() if with_hash else "")
    before = snapshot(received.folder)
    assert set(commands(received)) == set(COMMANDS)
    for name, arguments in commands(received).items():
        code, _, err = call(capsys, arguments)
        assert not received.proof.exists(), f"{name} executed it"
        assert code == 2, f"{name}: {err}"
        assert len(err.splitlines()) == 1, err
        assert "plugin" in err
    assert snapshot(received.folder) == before
    assert not (received.folder.parent / "new").exists()


@pytest.mark.parametrize("gone", ["environment.json", "status.json", "config.yaml", "sweep.yaml"])
def test_nor_where_a_file_is_missing_that_would_tell_a_run(gone, received, capsys):
    evil = received.evil(f"sweep/cells/{received.cell}/evil.py")
    received.name(str(evil), hashlib.sha256(evil.read_bytes()).hexdigest())
    listed = commands(received)
    for file in (received.run / gone, received.sweep / gone):
        file.unlink(missing_ok=True)
    for name, arguments in listed.items():
        call(capsys, arguments)
        assert not received.proof.exists(), f"{name} executed it"


def test_no_plugins_means_none_and_the_message_says_which_was_left_out(received, capsys):
    evil = received.evil("evil.py")
    received.name(str(evil), hashlib.sha256(evil.read_bytes()).hexdigest(), "file/evil")
    call(capsys, ["plugins", "trust", evil])  # trusted even: --no-plugins is the user's word
    try:
        for name in ("sample", "eval", "train --config"):
            code, _, err = call(capsys, [*commands(received)[name], "--no-plugins"])
            assert not received.proof.exists(), f"{name} executed it"
            assert code == 2, f"{name}: {err}"
            assert f"it came with the plugin {evil}, and --no-plugins loads none" in err
    finally:
        os.environ.pop("NOISEREG_NO_PLUGINS", None)


def test_what_the_user_trusts_is_executed(received, capsys):
    """That the proof would be left: the tests above can fail."""
    evil = received.evil("evil.py")
    received.name(str(evil), "")
    assert call(capsys, ["plugins", "trust", evil])[0] == 0
    assert not received.proof.exists()
    assert call(capsys, commands(received)["dry run"])[0] == 0
    assert received.proof.exists()


def test_looking_at_a_received_folder_executes_nothing(received, capsys):
    for name in ("evil", "sitecustomize", "noisereg_plugin", "conftest", "torch", "numpy"):
        received.evil(f"{name}.py")
    received.evil("sweep/__init__.py")
    for arguments in (
        ["plugins", "list"],
        ["plugins", "show", "white"],
        ["noise", "show", "white", "--shape", "1,8,8"],
        ["--help"],
        ["train", "--noise", "blue-tv", "--help"],
    ):
        call(capsys, arguments)
        assert not received.proof.exists(), arguments


def test_a_child_process_imports_nothing_from_the_working_directory(received):
    received.evil("evil.py")
    code = [*trust.interpreter(), "-c", "import evil"]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env={"PATH": ""})
    assert "No module named 'evil'" in done.stderr
    assert not received.proof.exists()


def test_pickled_data_weights_and_spectra_are_not_unpickled(received, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(received.proof), "w"))

    folder, run = received.folder, received.run
    import numpy as np
    import torch

    evil = np.array([Evil()], dtype=object)
    np.save(folder / "evil.npy", evil, allow_pickle=True)
    np.savez(folder / "evil.npz", samples=evil, spectrum=evil, latents=evil)
    torch.save({"state": Evil()}, folder / "evil.pt")
    batch = folder / "cifar-10-batches-py"
    batch.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (batch / name).write_bytes(pickle.dumps(Evil()))
    step = run / "checkpoints/000012"  # with digests that are right: who sent it can make them
    contents = {name: (step / name).read_bytes() for name in checkpoint_files.CONTENTS}
    contents["optimizer.pt"] = (folder / "evil.pt").read_bytes()
    (step / "optimizer.pt").write_bytes(contents["optimizer.pt"])
    state = checkpoint_files.make_state(checkpoint_files.run_of(run), 12, contents)
    (step / "state.json").write_text(json.dumps(state))
    train = ["train", *FAST, "--out", folder.parent / "new"]
    for arguments in (
        ["train", "--resume", "--out", run, "--steps", 14],
        [*train, "--data", folder / "evil.npy"],
        [*train, "--data", folder / "evil.npz"],
        [*train, "--data", f"latents:path={folder / 'evil.npz'}"],
        [*train, "--data", f"cifar10:root={folder}"],
        [*train, "--noise", f"blue:spectrum={folder / 'evil.npz'}"],
        ["noise", "show", f"blue:spectrum={folder / 'evil.npz'}"],
        ["eval", run, folder / "evil.npz", *METRIC],
        ["eval", run, "--metric", "fid", "--inception-weights", folder / "evil.pt"],
    ):
        code, _, err = call(capsys, arguments)
        assert code == 2, (arguments, err)
        assert not received.proof.exists(), arguments
        assert "evil" in err or "optimizer.pt" in err or "cifar10 at" in err


# Links and names that lead elsewhere


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: links as links, files by content."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def elsewhere(tmp_path: Path, received: Received) -> Path:
    """The user's own: pictures in numbered folders, as ``prune`` would find them, and a run."""
    home = tmp_path / "photos"
    for number in range(1, 5):
        (home / f"{number:06d}").mkdir(parents=True)
        (home / f"{number:06d}" / "picture.png").write_bytes(b"mine")
    (home / "notes.txt").write_text("mine")
    shutil.copytree(received.run, home / "run")
    return home


def entries(run: Path) -> list[str]:
    """All that a finished and evaluated run consists of, found by listing it."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def test_a_link_in_the_place_of_any_part_of_a_run_leads_nowhere(received, tmp_path, capsys):
    """Each part in turn, also parts that are not there yet."""
    home = elsewhere(tmp_path, received)
    before = snapshot(home)
    parts = {*entries(received.run), ".lock", "tensorboard", "eval", "samples", "checkpoints"}
    top = sorted(p for p in parts if p.count("/") < 2)
    assert len(top) > 8
    for part in top:
        place, kept = received.run / part, tmp_path / "kept"
        there = place.exists()
        folder = place.is_dir() or not there
        if there:
            place.rename(kept)
        place.symlink_to(home if folder else home / "notes.txt", target_is_directory=folder)
        for name in ("resume", "eval", *(("sample", "export") if part == "eval" else ())):
            code, _, err = call(capsys, commands(received)[name])
            assert code == 2, (part, name, err)
            assert len(err.splitlines()) == 1, err
        place.unlink()
        if there:
            kept.rename(place)
    assert snapshot(home) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../../photos/run", "..", "/photos/run", "a/b", ".hidden", ""])
def test_a_cell_is_a_folder_of_its_sweep(name, received, tmp_path, capsys):
    home = elsewhere(tmp_path, received)
    before = snapshot(home)
    file = received.sweep / "sweep.yaml"
    values = read_config(str(file))
    values["sweep"]["cells"] = [name]
    file.write_text(write_yaml(values))
    for arguments in (
        ["eval", received.sweep, *METRIC],
        ["sweep", "--config", file, "--out", received.sweep],
        ["sweep", "--noise", "white", "--out", received.sweep, *FAST],
    ):
        code, _, err = call(capsys, arguments)
        assert code == 2, err
        # The last writes sweep.yaml anew, and reads the cells' own files.
        assert f"{name!r} is no cell's name" in err or "was started otherwise: in white_s0" in err
    assert snapshot(home) == before


@pytest.mark.parametrize(
    "part", ["cells", "cells/{}", "cells/{}.log", "cells/.{}.lock", "cells/{}.yaml"]
)
def test_links_in_a_sweep_lead_nowhere(part, received, tmp_path, capsys):
    home = elsewhere(tmp_path, received)
    before = snapshot(home)
    cell = received.cell
    place = received.sweep / part.format(cell)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(home if "." not in place.name[1:] else home / "notes.txt")
    for arguments in (
        ["eval", received.sweep, *METRIC],
        ["sweep", "--config", received.sweep / "sweep.yaml", "--out", received.sweep],
    ):
        code, _, err = call(capsys, arguments)
        assert code == 2, err
        assert "leads out of" in err
    assert snapshot(home) == before


def test_links_that_stay_inside_are_in_order_and_the_folder_itself_may_be_one(tmp_path):
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "samples/000001.png").touch()
    (run / "latest.png").symlink_to("samples/000001.png")
    (tmp_path / "link").symlink_to(run)
    check_contents(run)
    check_contents(tmp_path / "link")
    check_contents(tmp_path / "not there")
    assert inside(run / "latest.png", tmp_path / "link") == run / "latest.png"
    for number, target in enumerate(("loop0", "../../x", "/etc/passwd", "../run2/file")):
        link = run / f"loop{number}"
        link.symlink_to(target)
        with pytest.raises(NoiseregError, match=f"{link} is a link that leads out of"):
            check_contents(run)
        with pytest.raises(NoiseregError, match="leads out of"):
            inside(link, run)
        link.unlink()


def test_pruning_and_saving_refuse_a_folder_that_leads_elsewhere(received, tmp_path):
    home = elsewhere(tmp_path, received)
    before = snapshot(home)
    (received.folder / "checkpoints").symlink_to(home)
    with pytest.raises(NoiseregError, match="leads out of"):
        checkpoint_files.prune(received.folder / "checkpoints", 1, None, set())
    assert snapshot(home) == before


# Text that moves a terminal

EVIL = "\x1b]0;title\x07\x1b[31mred\x9b2J\x08\x7f\r\u202e"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_every_character_that_a_terminal_obeys_is_written_out():
    everything = "".join(map(chr, (*range(0x100), 0x202E, 0x2066, 0xFEFF, 0xDC80)))
    shown = printable(everything)
    assert not OBEYED.search(shown)
    shown.encode()
    assert json.loads(f'"{printable(EVIL, json=True)}"') == EVIL
    assert printable("é ε\tβ\n·") == "é ε\tβ\n·"
    assert one_line(f"a\n{EVIL}") == ("a \\x1b]0;title\\x07\\x1b[31mred\\x9b2J\\x08\\x7f \\u202e")


def test_text_of_files_does_not_move_the_terminal(received, capsys):
    """In a run's own name, and in every text of a configuration and of a run's files."""
    folder = received.folder / f"named {EVIL.replace('/', '')}"
    shutil.copytree(received.run, folder)
    for file, values in (
        ("status.json", {"error": EVIL, "status": "stopped"}),
        ("environment.json", {"noisereg": EVIL, "device": EVIL}),
    ):
        known = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(known | values))
    bad = received.folder / "bad.yaml"
    text = json.dumps(EVIL)
    for section in ("noise", "data", "plugins", "optim", text):
        for value in (text, f"{{name: {text}}}", f"{{{text}: 1}}", f"[{text}]"):
            bad.write_text(f"{section}: {value}\n")
            for arguments in (["train", "--dry-run"], ["config", "show"]):
                _, out, err = call(capsys, [*arguments, "--config", bad])
                assert not OBEYED.search(out + err), (section, value, out + err)
    for arguments in (
        ["eval", folder, *METRIC, "--num", 20],
        ["eval", folder, *METRIC, "--num", 20, "--format", "markdown"],
        ["sample", folder, "--num", 1, "--out", received.folder / "a.npz"],
        ["sample", folder, "--num", 1, "--checkpoint", 7, "--out", received.folder / "a.npz"],
    ):
        _, out, err = call(capsys, arguments)
        assert not OBEYED.search(out + err), (arguments, out + err)


def test_a_stored_table_does_not_move_the_terminal(finished, capsys, tmp_path):
    table = (finished.path.parent / "t.json").read_text()
    label = json.loads(table)["tables"][0]["rows"][0]["label"]
    file = tmp_path / "t.json"
    file.write_text(table.replace(json.dumps(label), json.dumps(label + EVIL)))
    for form in ("table", "markdown", "csv", "latex", "json"):
        code, out, err = call(capsys, ["eval", file, "--format", form])
        if code == 0:
            assert "31mred" in out
        assert not OBEYED.search(out + err), (form, out + err)
