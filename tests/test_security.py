"""docs/security.md: each promise names a test that is there; and the promises that have no
other.
"""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from noisereg import folders
from noisereg.cli.main import run
from noisereg.folders import cache_dir

ROOT = Path(__file__).parents[1]


def test_every_promise_names_a_test_that_is_there():
    page = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).exists()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert all(re.search(r"\| `tests/[^|]*` \|$", row) for row in rows)


def test_a_cache_that_others_may_write_is_not_used(tmp_path, monkeypatch, capsys):
    named = tmp_path / "cache"
    monkeypatch.setenv("NOISEREG_CACHE", str(named))
    assert cache_dir() == named  # not there yet: made by this user
    named.mkdir(mode=0o755)
    assert cache_dir() == named
    named.chmod(0o777)
    other = cache_dir()
    assert other != named
    assert other == cache_dir()
    assert (other.stat().st_mode & 0o077) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"the cache folder {named} is not used: every user may write into it" in said[0]
    named.chmod(0o755)
    assert cache_dir() == named


def test_a_picture_that_unfolds_to_too_many_pixels_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.new("L", (50, 50)).save(folder / f"{number:02d}.png")
    out = tmp_path / "run"
    code = run(["train", "--data", str(folder), "--steps", "1", "--out", str(out)])
    err = capsys.readouterr().err
    assert code == 2
    assert re.search(r"\d\d\.png has too many pixels", err)
    assert not out.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system knows no owners")
def test_a_folder_of_another_user_is_told(tmp_path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, -1)
    else:
        monkeypatch.setattr(folders.os, "geteuid", lambda: os.getuid() + 1)
    assert folders.not_the_users(tmp_path) == "it belongs to another user"
    monkeypatch.setenv("NOISEREG_CACHE", str(tmp_path))
    assert cache_dir() != tmp_path
