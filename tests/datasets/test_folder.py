"""A folder of any images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from noisereg.api import Context
from noisereg.datasets import FolderParams, images
from noisereg.datasets.folder import Folder
from noisereg.datasets.splits import holdout_by_name
from noisereg.datasets.tree import open_tree
from noisereg.errors import NoiseregError


def save(
    path: Path, width: int = 8, height: int = 8, mode: str = "RGB", value: int | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.stem))
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if value is not None:
        array[:] = value
    Image.fromarray(array).convert(mode).save(path)


def build(path: Path, **params) -> Folder:
    return Folder(FolderParams(path=path, **params), Context())


def everything(dataset: Folder, split: str = "train") -> torch.Tensor:
    part = dataset.split(split)
    return part.batch(torch.arange(len(part))).x


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Twenty images of different sizes and kinds, at different depths."""
    for i in range(20):
        mode = ["RGB", "RGBA", "P", "L", "LA"][i % 5]
        save(tmp_path / f"a/{'deep/' * (i % 3)}{i:02}.png", width=20 + i, height=40 - i, mode=mode)
    return tmp_path


def test_images_at_any_depth_are_found_resized_and_a_tenth_held_out(mixed):
    dataset = build(mixed, size=16)
    assert dataset.shape == (3, 16, 16)
    assert dataset.summary == "15 images of 3×16×16 (5 held out), in memory"
    x = everything(dataset)
    assert x.shape == (15, 3, 16, 16)
    assert x.dtype == torch.float32
    assert x.min() >= -1
    assert x.max() <= 1


@pytest.mark.parametrize(("share", "held"), [(0, 0), (0.01, 1), (0.5, 4), (0.99, 7)])
def test_another_share_is_held_out(tmp_path, share, held):
    for k in range(8):
        Image.new("L", (4, 4), 10 * k).save(tmp_path / f"{k}.png")
    data = Folder(FolderParams(path=tmp_path, heldout=share), Context())
    assert (len(data.split("train")), len(data.split("heldout"))) == (8 - held, held)


def test_adding_one_image_moves_no_other(tmp_path):
    """The old draw, by number alone, kept 46 of 100."""
    names = [f"{k:04}.png" for k in range(1000)]
    before = set(np.array(names)[holdout_by_name(names)[1]])
    for new in ("0000a.png", "0500a.png", "zzz.png"):
        more = sorted([*names, new])
        assert set(np.array(more)[holdout_by_name(more)[1]]) - {new} == before
    assert 75 <= len(before) <= 125  # a tenth, ± 2.6 standard deviations


def test_which_images_are_held_out_is_for_good(tmp_path):
    names = [f"{k}.png" for k in range(40)]
    assert holdout_by_name(names)[1].tolist() == [0, 6, 8, 33]
    composed, apart = "caf\u00e9/1.png", "cafe\u0301/1.png"  # as Linux and as macOS store it
    for others in (names, names[:3]):
        assert holdout_by_name([*others, composed])[1].tolist() == (
            holdout_by_name([*others, apart])[1].tolist()
        )


def test_a_class_whose_name_no_configuration_can_hold_is_refused(tmp_path):
    for name in (b"caf\xe9", b"dog"):
        save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) / "0.png")
    with pytest.raises(NoiseregError, match=r"the class 'caf.*' is not UTF-8"):
        build(tmp_path)


@pytest.mark.parametrize("tag", ["x", 0, 9, 6])
def test_an_orientation_that_is_none_is_upright(tmp_path, tag):
    for k in range(2):
        exif: bytes | Image.Exif = Image.Exif()
        if isinstance(tag, int):
            exif[274] = tag  # type: ignore[index]
        else:  # as text, which Pillow would not write: one entry, ASCII, of two bytes
            exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0"
        Image.new("L", (12, 8)).save(tmp_path / f"{k}.jpg", exif=exif)
    assert build(tmp_path).shape == ((1, 12, 8) if tag == 6 else (1, 8, 12))


def test_streamed_batches_equal_resident_ones(mixed):
    resident, streamed = (
        build(mixed, size=16, memory="resident"),
        build(mixed, size=16, memory="stream"),
    )
    assert streamed.summary.endswith("streamed")
    for split in ("train", "heldout"):
        assert torch.equal(everything(resident, split), everything(streamed, split))
    order = torch.tensor([7, 3, 7])
    assert torch.equal(
        resident.split("train").batch(order).x, streamed.split("train").batch(order).x
    )


def test_what_does_not_fit_is_streamed_and_said(mixed, monkeypatch):
    monkeypatch.setattr(images, "free_host_memory", lambda: 20 * 3 * 16 * 16 * 2 - 1)
    assert build(mixed, size=16).summary.endswith("streamed (more than fits in memory)")
    assert build(mixed, size=15).summary.endswith("in memory")
    with pytest.raises(NoiseregError, match=r"memory=resident: .* type memory=auto"):
        build(mixed, size=16, memory="resident")


def test_images_of_one_size_need_no_size(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", width=12, height=10)
    assert build(tmp_path).shape == (3, 10, 12)


def test_images_of_different_sizes_need_a_size(tmp_path):
    save(tmp_path / "a.png", width=12, height=10)
    save(tmp_path / "b.png", width=12, height=10)
    save(tmp_path / "c.png", width=9, height=10)
    with pytest.raises(NoiseregError, match=r"most are 12×10, .*c.png is 9×10\); type size=64"):
        build(tmp_path)


def test_grey_images_stay_grey_unless_colour_is_asked_for(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", mode="L")
    assert build(tmp_path).shape == (1, 8, 8)
    assert build(tmp_path, channels="3").shape == (3, 8, 8)
    save(tmp_path / "colour.png")
    assert build(tmp_path).shape == (3, 8, 8)
    assert build(tmp_path, channels="1").shape == (1, 8, 8)


def test_first_level_subfolders_are_classes(tmp_path):
    for i in range(10):
        save(tmp_path / f"cat/x/{i}.png", value=0)
        save(tmp_path / f"dog/{i}.png", value=255)
    for memory in ("resident", "stream"):
        dataset = build(tmp_path, memory=memory)
        assert dataset.classes == 2
        assert dataset.class_names == ("cat", "dog")
        batch = dataset.split("train").batch(torch.arange(len(dataset.split("train"))))
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == [0 if x.mean() < 0 else 1 for x in batch.x]


@pytest.mark.parametrize("files", [["cat/a.png", "b.png"], ["only/a.png", "only/deep/b.png"]])
def test_without_two_subfolders_for_every_image_there_are_no_classes(tmp_path, files):
    for file in files:
        save(tmp_path / file)
    dataset = build(tmp_path)
    assert dataset.classes == 0
    assert dataset.split("train").batch(torch.tensor([0])).labels is None


def test_hidden_files_and_other_files_are_passed_over_and_links_followed_once(tmp_path):
    save(tmp_path / "data/a.png")
    save(tmp_path / "data/.hidden.png")
    save(tmp_path / "data/.cache/b.png")
    save(tmp_path / "elsewhere/c.PNG")
    (tmp_path / "data/notes.txt").write_text("not an image")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    assert [f.name for f in open_tree(tmp_path / "data").files] == ["a.png", "link/c.PNG"]


def test_one_image_is_trained_on(tmp_path):
    save(tmp_path / "a.png")
    dataset = build(tmp_path)
    assert (len(dataset.split("train")), len(dataset.split("heldout"))) == (1, 0)


def test_flips_are_off_unless_asked_for(tmp_path):
    save(tmp_path / "a.png")
    assert build(tmp_path).flip is False
    assert build(tmp_path, flip="true").flip is True


def test_a_missing_folder(tmp_path):
    with pytest.raises(NoiseregError, match=r"there is no folder .*nowhere; expected path="):
        build(tmp_path / "nowhere")


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(
        NoiseregError, match=r"there are no images in .*; expected files that end in \.png"
    ):
        build(tmp_path)


def test_a_path_to_a_file(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(
        NoiseregError, match=r"a.png is a file; expected a folder of images, such as path="
    ):
        build(tmp_path / "a.png")


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_no_image_is_named_before_training(tmp_path, content, memory):
    save(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(
        NoiseregError, match=r"broken.jpg cannot be read as an image \(.*\); repair it"
    ) as caught:
        build(tmp_path, size=8, memory=memory)
    assert "\n" not in str(caught.value)


def test_an_image_cut_short_is_named(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", width=64, height=64)
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NoiseregError, match=r"2.png cannot be read as an image \(.*truncated.*\)"):
        build(tmp_path, memory="resident")
    dataset = build(
        tmp_path, size=32, memory="stream"
    )  # its header is whole: it is found out when it is needed
    with pytest.raises(NoiseregError, match=r"2.png cannot be read as an image"):
        [everything(dataset, split) for split in ("train", "heldout")]


@pytest.mark.parametrize("size", ["0", "-3", "4097", "big"])
def test_a_size_that_is_not_positive_or_too_large(size):
    with pytest.raises(ValidationError, match="size"):
        FolderParams(path="x", size=size)


def test_the_path_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FolderParams(path="~/cats").path == tmp_path / "cats"


def test_an_unknown_split(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(
        NoiseregError, match=r"no split is called 'trian'; expected .*; did you mean 'train'"
    ):
        build(tmp_path).split("trian")
