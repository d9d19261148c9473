"""Whatever goes wrong is one line and an exit code; a traceback is for ``--debug``."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys

import pytest
import typer

from noisereg.cli import boundary, flags
from noisereg.cli.main import command, leaves, run
from noisereg.errors import NoiseregError


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which $N is noisereg."""
    return subprocess.run(
        ["bash", "-c", f"N='{sys.executable} -m noisereg'; {line}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture
def broken(monkeypatch):
    """``noisereg config schema`` with something else in its place."""

    def put(raised: BaseException) -> None:
        def fails(**_: object) -> None:
            raise raised

        leaf = next(each for each in leaves(command()) if each.name == "schema")
        monkeypatch.setattr(leaf, "callback", fails)

    return put


def torch_error() -> Exception:
    import torch

    try:
        torch.empty(2**60)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (NoiseregError("a: expected b"), 2, "a: expected b"),
        (NoiseregError("two\nlines"), 2, "two lines"),
        (NoiseregError("\x1b[31mred\x07"), 2, r"\x1b[31mred\x07"),
        (NoiseregError("x" * 9000), 2, "xxx … xxx"),
        (FileNotFoundError(2, "No such file or directory", "/a/b"), 2, "/a/b: no such file"),
        (OSError(28, "No space left on device"), 2, "no space left on device; make room"),
        (PermissionError(13, "Permission denied", "x"), 2, "expected a place that you may use"),
        (MemoryError(), 2, "not enough memory; expected a smaller batch_size"),
        (
            UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogate"),
            2,
            "cannot be written as utf-8",
        ),
        (ImportError("libx.so: failed to map", name="x._C"), 2, "x cannot be loaded: libx.so"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (SystemExit(0), 2, "called sys.exit(0); a plugin raises an exception instead"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero ("),
        (RecursionError("maximum"), 1, "a fault of noisereg's own or of a plugin"),
        (ValueError(), 1, "ValueError: no reason was given"),
    ],
)
def test_every_error_is_one_line_with_its_exit_code(broken, capsys, raised, code, said):
    broken(raised)
    assert run(["config", "schema"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("noisereg: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert len(err) < 2100


def test_torch_out_of_memory_says_how_much_was_asked_for(broken, capsys):
    broken(torch_error())
    assert run(["config", "schema"]) == 2
    assert "not enough memory (for " in capsys.readouterr().err


@pytest.mark.parametrize("place", ["first", "last", "variable"])
def test_the_traceback_is_shown_where_it_is_asked_for(broken, capsys, monkeypatch, place):
    broken(NoiseregError("a: expected b"))
    arguments = ["config", "schema"]
    if place == "variable":
        monkeypatch.setenv("NOISEREG_DEBUG", "1")
    else:
        arguments.insert(0 if place == "first" else 2, "--debug")
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "noisereg: error: a: expected b"
    assert os.environ.get("NOISEREG_DEBUG") == ("1" if place == "variable" else None)


def test_a_group_alone_prints_its_help(capsys):
    for arguments in ([], ["plugins"], ["noise"], ["config"]):
        assert run(arguments) == 0
        out, err = capsys.readouterr()
        assert out.startswith("Usage: noisereg")
        assert "Commands:" in out
        assert err == ""


def test_the_short_flags(capsys):
    for arguments in (["-h"], ["train", "-h"], ["noise", "build", "-h"]):
        assert run(arguments) == 0
        assert capsys.readouterr().out.startswith("Usage: noisereg")
    assert run(["-V"]) == 0
    assert capsys.readouterr().out.startswith("noisereg ")


def test_quiet_leaves_the_results(capsys):
    arguments = ["train", "--dry-run", "--set", "runtime.device=cpu"]
    assert run(arguments) == 0
    loud = capsys.readouterr()
    assert "nothing written" in loud.err
    assert run([*arguments, "-q"]) == 0
    quiet = capsys.readouterr()
    assert quiet.out == loud.out
    assert "nothing written" not in quiet.err


# What stands between backticks in a message


def test_a_parameter_is_named_as_it_is_typed_here():
    error = NoiseregError("`num=0`: expected at least 1; give `eta=0` or `train.steps`")
    assert str(error) == "num=0: expected at least 1; give eta=0 or train.steps"
    by_name = {each.name: each for each in leaves(command())}
    for name, shown in (
        ("sample", "--num 0: expected at least 1; give --eta 0 or train.steps"),
        ("train", "num=0: expected at least 1; give eta=0 or --steps"),
        ("export", "num=0: expected at least 1; give eta=0 or train.steps"),
    ):
        flags.run_as(by_name[name])
        assert flags.flagged(error.message) == shown
    flags.run_as(by_name["train"])
    for text, shown in (
        ("`resume=True` and `metrics`", "--resume and metrics"),
        ("`noise.gamma.tau=0.2`", "--set noise.gamma.tau=0.2"),
        ("`optim.lr`", "--set optim.lr"),
        ("`batch_size=3`", "--batch-size 3"),
        ("`no such thing`", "no such thing"),
        ("a lone ` backtick", "a lone  backtick"),
    ):
        assert flags.flagged(text) == shown
    flags.run_as(by_name["eval"])
    assert flags.flagged("`metrics=prdc`, `features`, `labels`") == (
        "--metric prdc, --features, --label"
    )
    flags.run_as(None)
    assert flags.flagged("`num=0`") == "num=0"


def test_a_message_inside_another_keeps_its_parameters():
    inner = NoiseregError("`num=0`: expected at least 1")
    assert NoiseregError(f"run: {inner}").message == "run: `num=0`: expected at least 1"
    assert str(NoiseregError(f"run: {inner}")) == "run: num=0: expected at least 1"


def test_every_option_of_every_command_is_in_its_table():
    for leaf in leaves(command()):
        table = flags.flags_of(leaf)
        for option in leaf.params:
            for text in option.opts:
                if text.startswith("--"):
                    assert table[option.name.rstrip("_")][0] in option.opts, (leaf.name, text)


# Paths


@pytest.mark.parametrize(
    "arguments",
    [
        ["noise", "build", "--out", "hf://datasets/x"],
        ["sample", "run", "--out", "s3://bucket/grid.png"],
    ],
)
def test_what_is_no_run_cannot_be_remote(capsys, arguments):
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert "only runs, sweeps, data and tables may be in remote storage" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~nobodyatall/run", "there is no home folder of 'nobodyatall'"),
        ("n" * 300, "has a name of 300 bytes; expected at most 200 a name"),
        ("n/" * 2100, "is a path of too many bytes"),
        ("a\0b", "holds a null character"),
        ("\udcff", "is not UTF-8; expected a name in UTF-8"),
    ],
)
def test_a_path_that_cannot_be_one_is_refused_and_leaves_nothing(
    capsys, tmp_path, monkeypatch, path, said
):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["train", "--out", path],
        ["sweep", "--noise", "white", "--out", path],
        ["sample", path],
        ["eval", path],
        ["export", path, "--out", "x"],
        ["noise", "build", "--out", path],
    ):
        assert run(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert said in err, arguments
        assert err.count("\n") == 1
        assert out == ""
    assert not any(tmp_path.iterdir())


def test_a_home_is_expanded(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["sample", "~/none"]) == 2
    assert f"{tmp_path}/none is not there" in capsys.readouterr().err


# Output


def test_characters_that_an_encoding_lacks_have_stand_ins():
    for encoding, shown in (
        ("ascii", r"eps x * eta <= \u4e2d"),
        ("latin-1", r"eps × · eta <= \u4e2d"),
    ):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, errors="noisereg")
        stream.write("ε × · η ≤ 中")
        stream.flush()
        assert raw.getvalue().decode(encoding) == shown


def test_a_list_in_an_encoding_that_lacks_its_characters():
    done = shell("$N plugins list --no-plugins", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "eps" in done.stdout


def test_a_full_or_closed_output():
    full = shell("$N config schema >/dev/full")
    assert full.returncode == 2
    assert full.stderr.splitlines() == [
        "noisereg: error: the output, or a file: no space left on device; make room, then type "
        "the "
        "same command again"
    ]
    closed = shell("$N train --help >&- 2>&-; echo $?; $N config schema >&-; echo $?")
    assert (closed.stdout, closed.stderr) == ("0\n0\n", "")


def test_a_reader_that_has_gone():
    done = shell("set -o pipefail; $N config schema | true; echo $?")
    assert done.stdout == "141\n"
    assert done.stderr == ""


def test_a_memory_limit_that_torch_does_not_fit_in():
    done = shell("ulimit -v 900000; $N config show")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("noisereg: error: torch cannot be loaded: ")


def test_streams_that_are_closed_do_not_end_in_a_file(tmp_path):
    """A file that is opened first would take number 1, and what a library prints ends in it."""
    code = (
        "from noisereg.cli.boundary import open_streams; import os, sys; open_streams(); "
        f"file = open({str(tmp_path / 'f')!r}, 'w'); os.write(1, b'printed'); file.close()"
    )
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" >&-'])
    assert done.returncode == 0
    assert (tmp_path / "f").read_text() == ""


def test_a_stream_that_cannot_be_written_stops_no_message(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "full")

    monkeypatch.setattr(sys, "stderr", Full())
    with contextlib.redirect_stdout(io.StringIO()):
        assert run(["sample", "nowhere"]) == 2
    assert boundary.fail("x", 2) == 2
