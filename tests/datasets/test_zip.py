"""A .zip of images is read in memory, and not trusted."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import FolderParams, tree
from noisereg.datasets.folder import Folder
from noisereg.errors import NoiseregError


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, format="PNG")
    return buffer.getvalue()


def zipped(path: Path, members: dict[str, bytes], method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def edm(path: Path, count: int = 20) -> Path:
    """As EDM's dataset_tool.py makes it: stored PNGs, shards of folders, dataset.json."""
    names = [f"{k // 10:05}/img{k:08}.png" for k in range(count)]
    members = {name: picture(10 * k) for k, name in enumerate(names)}
    labels = [[name, k % 3] for k, name in enumerate(names)]
    return zipped(path, members | {"dataset.json": json.dumps({"labels": labels}).encode()})


def build(path: Path, **params) -> Folder:
    return Folder(FolderParams(path=path, **params), Context())


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_an_edm_archive_is_read_with_its_labels(tmp_path, memory):
    dataset = build(edm(tmp_path / "x.ZIP"), memory=memory)
    assert (dataset.shape, dataset.classes) == ((1, 4, 4), 3)
    assert len(dataset.train) + len(dataset.heldout) == 20
    batch = dataset.train.batch(torch.arange(len(dataset.train)))
    for x, label in zip(batch.x, batch.labels, strict=True):
        assert int(label) == round(float((x[0, 0, 0] + 1) * 127.5)) // 10 % 3
    assert list(tmp_path.iterdir()) == [tmp_path / "x.ZIP"]  # nothing was unpacked


def test_it_is_the_same_data_as_its_folder(tmp_path):
    path = edm(tmp_path / "x.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "x")
    archived, folder = build(path), build(tmp_path / "x")
    assert archived.fingerprint() == folder.fingerprint()
    everything = torch.arange(len(folder.train))
    assert torch.equal(archived.train.batch(everything).x, folder.train.batch(everything).x)


def test_folders_in_it_are_classes_and_other_files_are_counted(tmp_path):
    members = {"cat/a.png": picture(1), "dog/b.png": picture(2), "readme.txt": b"hello"}
    hidden = {"__MACOSX/cat/._a.png": b"?", ".DS_Store": b"?"}
    dataset = build(zipped(tmp_path / "x.zip", members | hidden))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.notes[0] == "1 file left out, not known as images: 1 .txt"


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/etc/up.png", "C:/up.png"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    path = zipped(tmp_path / "x.zip", {"a.png": picture(1), name: picture(2)})
    with pytest.raises(NoiseregError, match="is a name that leads out of the archive"):
        build(path)


def test_a_backslash_is_no_folder(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a_.._up.png": picture(1)})
    path.write_bytes(path.read_bytes().replace(b"a_.._up.png", b"a\\..\\up.png"))
    with pytest.raises(NoiseregError, match="leads out"):
        build(path)


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(NoiseregError, match=r"'a.png' is a link"):
        build(tmp_path / "x.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", picture(1))
        archive.writestr("a.png", picture(2))
    with pytest.raises(NoiseregError, match=r"'a.png' is in it twice"):
        build(tmp_path / "x.zip")


def central(data: bytes, at: int, value: int, form: str) -> bytes:
    """The archive with a field of its first central directory entry changed."""
    start = data.index(b"PK\1\2") + at
    return data[:start] + struct.pack(form, value) + data[start + struct.calcsize(form) :]


def test_an_encrypted_file_is_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.png": picture(1)})
    path.write_bytes(central(path.read_bytes(), 8, 1, "<H"))
    with pytest.raises(NoiseregError, match=r"'a.png' is encrypted"):
        build(path)


def test_a_bomb_is_refused_from_its_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "LARGEST", 2**20)
    path = zipped(tmp_path / "x.zip", {"a.png": bytes(2**20 + 1)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(NoiseregError, match=r"'a.png' claims 1,048,577 bytes, and 1,048,576 are"):
        build(path)
    path = zipped(tmp_path / "x.zip", {"a.png": picture(1)})
    path.write_bytes(central(path.read_bytes(), 24, 2**20, "<I"))
    with pytest.raises(NoiseregError, match=r"claims to hold 1,048,576: it is not read"):
        build(path)


def test_a_file_that_lies_about_its_size_or_is_damaged_is_named(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.png": picture(1), "b.png": picture(2)})
    data = path.read_bytes()
    path.write_bytes(central(data, 24, 30, "<I"))
    with pytest.raises(NoiseregError, match=r"x.zip/a.png cannot be read as an image"):
        build(path)
    middle = data.index(b"IDAT") + 6
    path.write_bytes(data[:middle] + b"\xff" + data[middle + 1 :])
    with pytest.raises(NoiseregError, match=r"x.zip/a.png cannot be read as an image \(Bad CRC"):
        build(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and then nothing", b"no archive"])
def test_what_is_no_archive_is_said(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(NoiseregError, match=r"x.zip cannot be read as a .zip \(.*\); repair it"):
        build(tmp_path / "x.zip")


def test_an_archive_without_images_is_said(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.heic": b"?"})
    with pytest.raises(NoiseregError, match=r"no images in .*x.zip \(1 file left out.*1 \.heic"):
        build(path)
