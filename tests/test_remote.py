"""Runs in a store: whatever happens between two uploads, it holds whole checkpoints, and a run that
was killed and goes on from it has the bytes of a local one.
"""

import hashlib
import json
import os
import posixpath
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

fsspec = pytest.importorskip("fsspec")

from noisereg import python as noisereg  # noqa: E402
from noisereg import remote  # noqa: E402
from noisereg.api import Launcher  # noqa: E402
from noisereg.cli.main import run as command  # noqa: E402
from noisereg.errors import NoiseregError  # noqa: E402
from noisereg.ownership import lock_of_children  # noqa: E402
from noisereg.paths import address  # noqa: E402
from noisereg.runs.checkpoint_files import state_of  # noqa: E402
from noisereg.runs.reporter import Reporter  # noqa: E402
from noisereg.sweeps.training import check_place  # noqa: E402

RUN = {
    "denoiser": "mlp:width=16,blocks=1",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 2, "num": 16},
    "train": {"steps": 6, "batch_size": 8, "log_every": 1, "checkpoint_every": 2},
}
BYTES = ("model.safetensors", "ema.safetensors", "optimizer.pt")


class Killed(BaseException):
    """The process ends here: nothing that would tidy up is run."""


@pytest.fixture(scope="session")
def emulator():
    """An object store of this process, and what its clients are told by the environment."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    yield told | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    server.stop()


@pytest.fixture
def bucket(emulator, monkeypatch):
    for name, value in emulator.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    # An earlier test may have left a client without credentials, which every address would get.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.mkdir(name)
    return name


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path / 'store'}/run"
        return
    if request.param == "s3":
        yield f"s3://{request.getfixturevalue('bucket')}/runs/a"
        return
    yield f"memory://{tmp_path.name}/run"
    store = fsspec.filesystem("memory")
    if store.exists(f"/{tmp_path.name}"):
        store.rm(f"/{tmp_path.name}", recursive=True)


def stored(url):
    store, root = fsspec.core.url_to_fs(url)
    store.invalidate_cache()
    return {p.removeprefix(root).lstrip("/"): store.cat_file(p) for p in store.find(root)}


def another_machine():
    """Its cache is empty."""
    for folder in list(remote._copies):
        shutil.rmtree(folder.parent, ignore_errors=True)
    remote._copies.clear()


def killed_at(monkeypatch, count):
    """After so many files of a store, one of which is then not written."""
    put, done = remote._put, []

    def limited(store, path, target):
        if len(done) == count:
            raise Killed
        done.append(target)
        put(store, path, target)

    monkeypatch.setattr(remote, "_put", limited)


@pytest.mark.parametrize("files", [9, 15])
def test_a_run_killed_while_it_uploads_goes_on_and_has_the_bytes_of_a_local_one(
    url, files, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        killed_at(patched, files)
        with pytest.raises(Killed):
            noisereg.train(out=url, **RUN)
    for name in stored(url):  # what is there is whole
        if name.endswith("state.json"):
            assert {f"{Path(name).parent}/{each}" for each in BYTES} <= set(stored(url))
    another_machine()
    noisereg.train(out=url, resume=True, **RUN)
    another_machine()
    local = noisereg.train(out=tmp_path / "local", **RUN)
    run = noisereg.load(url)
    assert (run.sample(4, seed=1) == local.sample(4, seed=1)).all()
    files = stored(url)
    assert json.loads(files["status.json"])["status"] == "finished"
    for name in BYTES:
        path = f"checkpoints/000006/{name}"
        assert files[path] == (local.path / path).read_bytes()
    rows = [noisereg.evaluate([p], num=16) for p in (url, local.path)]
    numbers = [row["metrics"] for (row,) in rows]
    assert numbers[0] == numbers[1]
    assert "density" in numbers[0]
    assert not [name for name in files if Path(name).name.startswith(".")]


def test_weights_left_by_an_upload_that_was_cut_off_are_not_taken_for_ours(url):
    """Of the same size, as on a GPU, where a step done again has other weights."""
    run = noisereg.train(out=url, **RUN)
    store, root = fsspec.core.url_to_fs(url)
    for checkpoint, state in (("000004", b"{}"), ("000006", None)):
        path = f"{root}/checkpoints/{checkpoint}"
        for name in BYTES:
            store.pipe_file(f"{path}/{name}", b"x" * store.size(f"{path}/{name}"))
        if state is None:
            store.rm_file(f"{path}/state.json")
        else:
            store.pipe_file(f"{path}/state.json", state)
    remote.upload(run.path)
    files = stored(url)
    for path in (run.path / "checkpoints").rglob("*"):
        if path.is_file():
            assert files[path.relative_to(run.path).as_posix()] == path.read_bytes(), path


def test_a_checkpoint_that_is_pruned_leaves_the_store_too(url):
    noisereg.train(out=url, **{**RUN, "train": {**RUN["train"], "keep_last": 1}})
    kept = {Path(name).parts[1] for name in stored(url) if name.startswith("checkpoints/0")}
    assert kept == {"000006"}


def test_a_checkpoint_is_not_pruned_in_the_store_before_the_next_is_there(url, monkeypatch):
    """With one kept, a network that ends between the two must leave one of them."""
    put = remote._put

    def cut(store, path, target):
        if "000004" in target:
            raise Killed
        put(store, path, target)

    monkeypatch.setattr(remote, "_put", cut)
    with pytest.raises(Killed):
        noisereg.train(out=url, **{**RUN, "train": {**RUN["train"], "keep_last": 1}})
    monkeypatch.undo()
    another_machine()
    assert noisereg.load(url).checkpoint().step == 2


def test_an_upload_removes_nothing_that_training_has_not_written(url):
    folder = noisereg.train(out=url, **RUN).path
    others = ("eval/samples.json", "table.md", "notes/a.txt")
    for name in others:
        remote.write_file(f"{url}/{name}", b"another's")
    remote.upload(folder)
    assert all(stored(url)[name] == b"another's" for name in others)
    assert "table.md" in {p.name for p in noisereg.load(url).path.iterdir()}
    assert not (noisereg.load(url).path / "eval/samples.json").exists()


@pytest.mark.parametrize("call", ["info", "ls"])
def test_a_store_that_cannot_be_reached_is_not_an_empty_one(tmp_path, monkeypatch, call):
    """fsspec's `exists` and `find` of most stores take any failure for nothing."""
    url = f"file://{tmp_path / 'store'}/run"
    run = noisereg.train(out=url, **RUN)
    there = sorted(p.name for p in run.path.rglob("*"))

    def broken(self, path, **options):
        raise OSError("the connection is lost")

    monkeypatch.setattr(fsspec.get_filesystem_class("file"), call, broken)
    with pytest.raises(NoiseregError, match="the connection is lost"):
        noisereg.load(url)
    monkeypatch.undo()
    assert sorted(p.name for p in run.path.rglob("*")) == there


@pytest.mark.parametrize("left", [b"", b'{"owner": "x', b"[]"])
def test_records_of_the_cache_that_were_cut_are_written_anew(tmp_path, left):
    url = f"file://{tmp_path / 'store'}"
    folder = noisereg.train(out=f"{url}/run", **RUN).path
    folder.with_name(f".{folder.name}{remote.OWNER}").write_bytes(left)
    more = {**RUN, "train": {**RUN["train"], "steps": 8}}
    assert noisereg.train(out=f"{url}/run", resume=True, **more).checkpoint().step == 8
    remote.write_file(f"{url}/a.txt", b"some")
    place = remote.fetched(f"{url}/a.txt")
    (place.parent / ".fetched.json").write_bytes(left)
    assert remote.fetched(f"{url}/a.txt").read_bytes() == b"some"


def test_an_owner_gives_signs_of_life_while_it_still_fetches(tmp_path, monkeypatch):
    url = f"file://{tmp_path / 'store'}/run"
    folder = noisereg.train(out=url, **RUN).path
    store, root = fsspec.core.url_to_fs(url)
    download, beats = remote._download, []

    def slow(*arguments):
        for _ in range(200):
            beats.append(remote._owner(store, f"{root}/{remote.OWNER}").get("beat", 0))
            if beats[-1]:
                break
            time.sleep(0.05)
        download(*arguments)

    monkeypatch.setattr(remote, "BEAT", 0.05)
    monkeypatch.setattr(remote, "_download", slow)
    with remote.claimed(folder, lambda text: None):
        pass
    assert beats[-1] > 0
    assert remote._owner(store, f"{root}/{remote.OWNER}") == {}


def test_what_the_store_does_not_have_is_dropped_from_the_working_copy(url):
    run = noisereg.train(out=url, **RUN)
    store, root = fsspec.core.url_to_fs(url)
    store.rm(f"{root}/checkpoints/000006/state.json")
    again = noisereg.load(url)
    assert again.path == run.path
    assert not (again.path / "checkpoints/000006").exists()
    assert again.checkpoint().step == 4


@pytest.mark.parametrize("how", ["sample", "resume"])
def test_a_damaged_file_of_the_working_copy_is_fetched_again(url, how):
    """Of the same size; the store's, which is whole, is neither passed over nor removed."""
    noisereg.train(out=url, **RUN)
    copy = remote.working_copy(url)
    steps = sorted(p.name for p in (copy / "checkpoints").iterdir() if p.is_dir())
    whole = {}
    for step in steps:
        file = copy / "checkpoints" / step / "ema.safetensors"
        whole[file] = file.read_bytes()
        file.write_bytes(whole[file][:-1] + bytes([whole[file][-1] ^ 1]))
    if how == "sample":
        assert noisereg.load(url).checkpoint().step == 6
        assert {file: file.read_bytes() for file in whole} == whole
    else:
        longer = {**RUN, "train": {**RUN["train"], "steps": 7}}
        went_on = noisereg.train(out=url, resume=True, **longer)
        assert [line["step"] for line in went_on.history()] == [1, 2, 3, 4, 5, 6, 7]
        last = copy / "checkpoints" / steps[-1] / "ema.safetensors"
        assert last.read_bytes() == whole[last]


def test_what_a_killed_download_left_does_no_harm(url):
    """A file that is half-written, and then another checkpoint of the same step in the store."""
    noisereg.train(out=url, **RUN)
    folder = remote.working_copy(url) / "checkpoints/000006"
    (folder / ".model.safetensors.4242").write_bytes(b"half")
    store, root = fsspec.core.url_to_fs(f"{url}/checkpoints/000006")
    theirs = {posixpath.basename(n): store.cat_file(n) for n in store.ls(root, detail=False)}
    weights = theirs["model.safetensors"]
    theirs["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    state = json.loads(theirs["state.json"])
    digest = hashlib.sha256(theirs["model.safetensors"]).hexdigest()
    digests = {**state["sha256"], "model.safetensors": digest}
    theirs["state.json"] = json.dumps(state_of(state["run"], state["step"], digests)).encode()
    for name, content in theirs.items():
        store.pipe_file(f"{root}/{name}", content)
    assert noisereg.load(url).checkpoint().sha256["model.safetensors"] == digest
    assert {name: (folder / name).read_bytes() for name in theirs} == theirs
    assert not (folder / ".model.safetensors.4242").exists()


def test_an_upload_that_fails_is_said_and_made_up_for(url, monkeypatch):
    said, put, failures = [], remote._put, [OSError("the network is down")]

    def flaky(store, path, target):
        if target.endswith("000002/model.safetensors") and failures:
            raise failures.pop()
        put(store, path, target)

    class Reading(Reporter):
        def note(self, text):
            said.append(text)

    monkeypatch.setattr(remote, "_put", flaky)
    noisereg.train(out=url, reporter=Reading(), **RUN)
    assert any("the network is down; uploaded with the next checkpoint" in text for text in said)
    whole = {f"checkpoints/{step}/{name}" for step in ("000004", "000006") for name in BYTES}
    assert whole <= set(stored(url))


def test_a_new_run_starts_from_one_in_a_store(url, tmp_path):
    parent = noisereg.train(out=url, **RUN)
    another_machine()
    given = {**RUN, "train": {**RUN["train"], "steps": 1}, "optim": {"lr": 1e-30}}
    run = noisereg.train(out=tmp_path / "new", parent=f"{url}@4", **given)
    # With both strokes, and not the working copy.
    assert noisereg.load(run.path).config.dump()["parent"]["path"] == url
    weights = noisereg.load(url).checkpoint(4).weights(ema=False)
    new = run.checkpoint().weights(ema=False)
    assert all((weights[k] - v).abs().max() < 1e-9 for k, v in new.items())
    assert parent.path != run.path


def test_a_network_may_come_from_a_run_in_a_store(url, tmp_path):
    small = {**RUN, "denoiser": "unet:channels=4,8,attention=[]"}
    noisereg.train(out=url, **{**small, "train": {"steps": 1, "batch_size": 8}})
    another_machine()
    sets = [f"{k}.{n}={v}" for k in ("train", "runtime") for n, v in RUN[k].items()]
    line = ["train", "--init", url, "--noise", "blue-tv", "--out", str(tmp_path / "new")]
    for each in [*sets, "train.steps=1", "sample.steps=1"]:
        line += ["--set", each]
    assert command(line) == 0
    new, old = noisereg.load(tmp_path / "new"), noisereg.load(url)
    assert new.config.dump()["init"]["path"] == url
    assert new.config.denoiser == old.config.denoiser


def test_a_folder_cannot_send_itself_anywhere(tmp_path):
    """Only what this process was given as an address is uploaded."""
    remote._copies.clear()
    (tmp_path / "status.json").write_text("{}")
    remote.upload(tmp_path)
    assert remote._copies == {}


@pytest.mark.parametrize("text", ["s3://bucket/a/run", "s3:/bucket/a/run", "s3://bucket/a/run/"])
def test_an_address_survives_being_a_path(text):
    assert address(text) == "s3://bucket/a/run"
    assert address("file:/a/run") == address("file:///a/run") == "file:///a/run"


def test_the_command_line_takes_addresses_of_runs(tmp_path, capsys):
    url = f"file://{tmp_path}/store/run"
    fast = ["--denoiser", "mlp:width=16,blocks=1", "--batch-size", "8", "--steps", "2"]
    sets = ["--set", "sample.steps=1", "--set", "sample.num=4", "--set", "runtime.device=cpu"]
    assert command(["train", "--out", url, *fast, *sets]) == 0
    assert (tmp_path / "store/run/checkpoints/000002/state.json").is_file()
    assert f"noisereg sample {url}" in capsys.readouterr().out  # what to type next
    assert command(["sample", url, "--num", "4", "--out", str(tmp_path / "grid.png")]) == 0
    assert (tmp_path / "grid.png").is_file()
    capsys.readouterr()
    assert command(["sample", url, "--out", "s3://bucket/grid.png"]) == 2
    assert (
        "only runs, sweeps, data and tables may be in remote storage (s3)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("text", ["nosuch://a/b", "memory://empty/run"])
def test_what_is_not_there_is_a_line(text):
    with pytest.raises(NoiseregError) as caught:
        noisereg.load(text)
    assert "\n" not in str(caught.value)


# Data and tables


def put(url, folder):
    """A folder of this machine at an address."""
    for path in folder.rglob("*"):
        if path.is_file():
            remote.write_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture
def pictures(tmp_path):
    """A folder of 20 images in two classes, a .zip and a .tar of it, an .npz of their pixels."""
    folder = tmp_path / "data/pictures"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    for k, each in enumerate(pixels):
        path = folder / ("cat", "dog")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    shutil.make_archive(str(folder), "zip", folder)
    shutil.make_archive(str(folder), "tar", folder)
    np.savez(folder.with_suffix(".npz"), samples=pixels)
    return folder.parent


@pytest.mark.parametrize("name", ["pictures", "pictures.zip", "pictures.npz", "pictures.tar"])
def test_a_run_on_data_in_a_store_is_the_run_on_a_copy_here(url, name, pictures, tmp_path):
    put(url, pictures)
    runs = [
        noisereg.train(out=tmp_path / f"run{k}", data=f"{place}/{name}", **RUN)
        for k, place in enumerate((url, pictures))
    ]
    there, here = (run.checkpoint().weights() for run in runs)
    assert all((there[key] == value).all() for key, value in here.items())
    records = [json.loads((run.path / "environment.json").read_text())["data"] for run in runs]
    assert records[0] == records[1]
    assert runs[0].config.dump()["data"]["path"] == f"{url}/{name}"
    again = noisereg.load(runs[0].path)  # what config.yaml says is an address again
    assert noisereg.evaluate([again.path], num=8, reference="train")


def test_what_is_fetched_is_fetched_again_once_it_has_changed(url, pictures, monkeypatch):
    put(url, pictures)
    fetched, fetch = [], remote._fetch

    def counting(store, wanted):
        fetched.append(sorted(path.name for path in wanted.values()))
        fetch(store, wanted)

    monkeypatch.setattr(remote, "_fetch", counting)
    place = remote.fetched(f"{url}/pictures")
    assert len(fetched[-1]) == 20
    assert remote.fetched(f"{url}/pictures") == place
    assert fetched[-1] == []
    remote.write_file(f"{url}/pictures/cat/0.png", b"another size")
    store, root = fsspec.core.url_to_fs(url)
    store.rm_file(f"{root}/pictures/dog/1.png")
    remote.fetched(f"{url}/pictures")
    assert fetched[-1] == ["0.png"]
    assert (place / "cat/0.png").read_bytes() == b"another size"
    assert not (place / "dog/1.png").exists()

    def cut(store, wanted):
        raise OSError("the network is down")

    remote.write_file(f"{url}/pictures/cat/0.png", b"once more, and cut off")
    monkeypatch.setattr(remote, "_fetch", cut)
    with pytest.raises(NoiseregError, match="the network is down"):
        remote.fetched(f"{url}/pictures")
    monkeypatch.setattr(remote, "_fetch", counting)
    remote.fetched(f"{url}/pictures")
    assert fetched[-1] == ["0.png"]


def test_data_that_are_not_there_and_what_cannot_be_at_an_address_are_a_line(url, tmp_path):
    for data, said in (
        (f"{url}/nothing", "nothing is there"),
        ("cifar10:root=s3://bucket/data", "an address; expected a folder of this machine"),
    ):
        with pytest.raises(NoiseregError, match=said) as caught:
            noisereg.train(out=tmp_path / "run", data=data, **RUN)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_tables_are_written_to_a_store_and_shown_from_it(url, tmp_path, capsys):
    run = str(noisereg.train(out=tmp_path / "run", **RUN).path)
    line = ["eval", run, "--num", "16", "--out"]
    assert command([*line, f"{url}/t.json"]) == 0
    assert capsys.readouterr().out == f"{url}/t.json\n"
    assert command([*line, str(tmp_path / "t.json")]) == 0
    assert stored(url)["t.json"] == (tmp_path / "t.json").read_bytes()
    capsys.readouterr()
    shown = []
    for place in (f"{url}/t.json", str(tmp_path / "t.json")):
        assert command(["eval", place, "--format", "csv"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "density" in shown[0]
    assert command(["eval", run, "--num", "16", "--pictures", f"{url}/pictures"]) == 2
    assert "may be in remote storage" in capsys.readouterr().err


# Two machines


class Reading(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def owner(url):
    return stored(url).get(remote.OWNER)


def test_a_run_that_another_machine_trains_is_refused(url, monkeypatch):
    """The first is alive: its sign of life changes while the second looks."""
    monkeypatch.setattr(remote, "BEAT", 0.05)
    there = remote.working_copy(url)
    with remote.claimed(there, print):
        first = json.loads(owner(url))["owner"]
        another_machine()
        with pytest.raises(NoiseregError, match="is being trained by") as caught:
            noisereg.train(out=url, **RUN)
        assert "\n" not in str(caught.value)
        assert json.loads(owner(url))["owner"] == first
    assert owner(url) is None
    assert "config.yaml" not in stored(url)
    noisereg.train(out=url, **RUN)
    assert owner(url) is None


def test_a_machine_that_gives_no_sign_of_life_is_taken_over_and_stops(url, monkeypatch):
    """It was only asleep: once it uploads again it finds that it has lost the run."""
    monkeypatch.setattr(remote, "SILENT", 0.3)
    monkeypatch.setattr(remote, "BEAT", 1000.0)
    heard, upload, other = Reading(), remote.upload, []

    def asleep(folder):
        upload(folder)
        if not other and (folder / "checkpoints/000002").exists():
            copies = dict(remote._copies)
            remote._copies.clear()
            given = {**RUN, "train": {**RUN["train"], "steps": 4}}
            other.append(True)
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("NOISEREG_CACHE", str(folder.parent / "elsewhere"))
                noisereg.train(out=url, resume=True, reporter=heard, **given)
            remote._copies |= copies

    monkeypatch.setattr(remote, "upload", asleep)
    with pytest.raises(remote.Lost, match="taken over by another machine"):
        noisereg.train(out=url, **RUN)
    assert any("no sign of life" in text for text in heard.said)
    files = stored(url)
    assert json.loads(files["status.json"]) == {"status": "finished", "step": 4, "steps": 4}
    assert not any("000006" in name for name in files)


def test_of_two_that_begin_at_once_one_is_the_owner(url):
    store, root = fsspec.core.url_to_fs(url)
    taken = [remote._create(store, b"{}", f"{root}/{remote.OWNER}") for _ in range(2)]
    assert taken == [True, False]


def test_a_run_killed_here_goes_on_here_at_once(url, monkeypatch):
    monkeypatch.setattr(remote, "SILENT", 1e9)
    run = noisereg.train(out=url, **RUN)
    place = run.path.with_name(f".{run.path.name}{remote.OWNER}")
    left = b'{"owner": "killed"}'  # as it leaves them: in the store and here
    place.write_bytes(left)
    remote.write_file(f"{url}/{remote.OWNER}", left)
    noisereg.train(out=url, resume=True, **RUN)
    assert owner(url) is None


# Sweeps

GRID = {"noise": ["white", "blue-tv"], "seeds": 2}


def test_a_sweep_in_a_store_goes_on_on_another_machine_and_has_the_table_of_a_local_one(
    url, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        killed_at(patched, 30)  # in the second or third of four cells
        with pytest.raises(Killed):
            noisereg.sweep(out=url, **GRID, **RUN)
    done = [n for n in stored(url) if n.endswith("000006/state.json")]
    assert 0 < len(done) < 4
    another_machine()
    noisereg.sweep(out=url, **GRID, **RUN)
    local = noisereg.sweep(out=tmp_path / "local", **GRID, **RUN)
    another_machine()
    tables = [noisereg.evaluate([place], num=16) for place in (url, local)]
    assert len(tables[0]) == 2
    assert [row["metrics"] for row in tables[0]] == [row["metrics"] for row in tables[1]]
    files = stored(url)
    for cell in (local / "cells").iterdir():
        if cell.is_dir():
            for name in BYTES:
                path = f"checkpoints/000006/{name}"
                assert files[f"cells/{cell.name}/{path}"] == (cell / path).read_bytes()
    assert files["sweep.yaml"] == (local / "sweep.yaml").read_bytes()
    assert not any(Path(name).name.startswith(".") for name in files)


def test_a_sweeps_own_processes_upload_their_cells(bucket, tmp_path, capsys):
    url = f"s3://{bucket}/sweep"
    line = ["sweep", "--out", url, "--noise", "white", "--seeds", "2", "--steps", "2"]
    line += ["--denoiser", "mlp:width=16,blocks=1", "--batch-size", "8"]
    line += ["--set", "runtime.device=cpu", "--set", "sample.steps=2"]
    assert command(line) == 0
    assert f"2 of 2 cells finished · {url}" in capsys.readouterr().out
    files = stored(url)
    for cell in ("white_s0", "white_s1"):
        assert json.loads(files[f"cells/{cell}/status.json"])["status"] == "finished"
        assert f"cells/{cell}/checkpoints/000002/state.json" in files
        assert b"denoiser" in files[f"cells/{cell}.log"]
    another_machine()
    assert command(["eval", url, "--num", "8"]) == 0
    capsys.readouterr()
    assert command([*line, "--print-commands"]) == 2
    assert "expected one, or the sweep without --print-commands" in capsys.readouterr().err


def test_a_sweep_in_training_is_left_alone_by_who_only_looks(url):
    """Its cells hold locks of their own; what they have not uploaded yet must not be dropped."""
    folder = remote.working_copy(url)
    (folder / "cells/a_s0").mkdir(parents=True)
    fresh = folder / "cells/a_s0/config.yaml"
    fresh.write_text("{}")
    with lock_of_children(folder / "cells/.a_s0.lock"):
        remote.working_copy(url)
        assert fresh.exists()
    remote.working_copy(url)
    assert not fresh.exists()


def test_machines_that_do_not_see_the_working_copy_are_refused(url):
    class Elsewhere(Launcher):
        here = False

    with pytest.raises(NoiseregError, match="launcher far trains on other machines"):
        check_place(remote.working_copy(url), Elsewhere(), "far")


# An object store


def test_an_upload_in_parts_that_is_cut_off_leaves_no_file_and_so_no_checkpoint(
    bucket, tmp_path, monkeypatch
):
    """Large files go to s3:// in parts; a kill between two of them leaves parts, and no object."""
    url, put = f"s3://{bucket}/run", remote._put

    def cut(store, path, target):
        if not target.endswith("000004/model.safetensors"):
            put(store, path, target)
            return
        name, _, key = target.partition("/")
        begun = store.call_s3("create_multipart_upload", Bucket=name, Key=key)["UploadId"]
        half = path.read_bytes()[: path.stat().st_size // 2]
        part = {"Bucket": name, "Key": key, "UploadId": begun, "PartNumber": 1, "Body": half}
        store.call_s3("upload_part", **part)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(remote, "_put", cut)
        with pytest.raises(Killed):
            noisereg.train(out=url, **RUN)
    assert not any("000004/model" in name for name in stored(url))
    another_machine()
    assert noisereg.load(url).checkpoint().step == 2
    noisereg.train(out=url, resume=True, **RUN)
    local = noisereg.train(out=tmp_path / "local", **RUN)
    for name in BYTES:
        path = f"checkpoints/000006/{name}"
        assert stored(url)[path] == (local.path / path).read_bytes()


def test_a_bucket_that_is_not_there_is_not_made(bucket, tmp_path):
    with pytest.raises(NoiseregError, match="bucket does not exist") as caught:
        noisereg.train(out=f"s3://no-{bucket}/run", **RUN)
    assert "\n" not in str(caught.value)
    store = fsspec.filesystem("s3")
    assert not store.exists(f"no-{bucket}")


def test_a_process_killed_by_9_is_gone_on_with_on_another_machine(bucket, tmp_path, monkeypatch):
    """A command at s3://, the kill whenever it comes; then the same command with an empty cache."""
    url = f"s3://{bucket}/run"
    line = [sys.executable, "-m", "noisereg", "train", "--out", url, "--resume", "--steps", "200"]
    line += ["--denoiser", "mlp:width=16,blocks=1", "--batch-size", "8"]
    for key in ("runtime.device=cpu", "sample.steps=2", "train.checkpoint_every=10"):
        line += ["--set", key]
    environment = {**os.environ, "NOISEREG_CACHE": str(tmp_path / "first")}
    process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    while not any(name.endswith("state.json") for name in store.find(url)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    monkeypatch.setattr(remote, "SILENT", 0.5)
    given = {**RUN, "train": {"steps": 200, "batch_size": 8, "checkpoint_every": 10}}
    noisereg.train(out=url, resume=True, **given)
    local = noisereg.train(out=tmp_path / "local", **given)
    for name in BYTES:
        path = f"checkpoints/000200/{name}"
        assert stored(url)[path] == (local.path / path).read_bytes()
