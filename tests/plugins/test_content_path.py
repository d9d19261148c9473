"""Which parameters of a component are files that a run records by their content."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Literal

import pytest

from noisereg.api import ContentPath, Field, Params
from noisereg.errors import NoiseregError
from noisereg.runs.resolve import _contents


class Files(Params):
    bare: ContentPath
    perhaps: ContentPath | None = None
    told: ContentPath | None = Field(None, description="of what")
    other: Path | None = None
    mode: Literal["content", "style"] = "content"


def test_each_form_of_the_type_is_recorded_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    given = dict.fromkeys(("bare", "perhaps", "told", "other"), str(file)) | {"mode": "content"}
    digest = sha256(b"x").hexdigest()
    assert _contents(Files, given) == {"bare": digest, "perhaps": digest, "told": digest}
    assert _contents(Files, {**given, "perhaps": None}) == {"bare": digest, "told": digest}


def test_a_folder_is_its_files_but_for_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "in" / "b").write_bytes(b"2")
    given = {"bare": str(tmp_path)}
    before = _contents(Files, given)
    (tmp_path / ".DS_Store").write_bytes(b"3")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c").write_bytes(b"4")
    assert _contents(Files, given) == before
    for change in (
        lambda: (tmp_path / "in" / "b").write_bytes(b"22"),
        lambda: (tmp_path / "in" / "b").rename(tmp_path / "b"),
        lambda: (tmp_path / "d").write_bytes(b""),
    ):
        change()
        now = _contents(Files, given)
        assert now != before
        before = now


def test_a_file_that_is_gone_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(NoiseregError, match="gone cannot be read"):
        _contents(Files, {"bare": str(tmp_path / "gone")})
