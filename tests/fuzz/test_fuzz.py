"""Whatever is typed or stands in a file: one line and exit code 2, or the command's result.

Two thousand examples in the suite, always the same ones; ``make fuzz`` tries 50,000 others and
prints its seed. What fails is kept here as an ``@example``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import assignments, command_lines, damaged, plain, specs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from noisereg.cli.main import run
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import KINDS, Kind, registry
from noisereg.plugins.spec import Spec
from noisereg.reading import parse_json, parse_yaml, write_yaml
from noisereg.runs.config import Config

pytestmark = pytest.mark.timeout(6 * 3600)  # `make fuzz` takes as long as its number asks
NUMBER = int(os.environ.get("NOISEREG_FUZZ", "0"))
SECONDS = 20
"""Of computing; longer is a hang. On a clock six times as many, for a machine that is busy."""
SMALL = ["--denoiser", "mlp:width=4,blocks=1", "--set", "runtime.device=cpu"]


def fuzz(in_the_suite: int):
    """The settings of a test with so many examples: few in the suite where each takes long."""
    return settings(
        max_examples=NUMBER // 6 + 1 if NUMBER else in_the_suite,
        derandomize=not NUMBER,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory):
    """A folder of its own to stand in, and no network."""

    def refused(*_: object) -> None:
        raise OSError("there is no network in this test")

    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        os.chdir(tmp_path_factory.mktemp("fuzz"))
        yield
        os.chdir(before)


def obeys(*arguments: str) -> int:
    """Run a command line in an empty folder and look at what it did; its exit code."""
    here = Path.cwd()
    before = sorted(here.iterdir())
    out, err = io.StringIO(), io.StringIO()
    began, computing = time.monotonic(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    said = err.getvalue()
    assert time.process_time() - computing < SECONDS, "a hang"
    assert time.monotonic() - began < 6 * SECONDS, "a hang"
    assert code in (0, 2), (code, said)
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("noisereg: error: ")]
    assert len(errors) == (code == 2), said
    assert not any(word in "".join(errors) for word in LEAKS), said
    if code:
        assert said.splitlines()[-1] == errors[0], said
        assert sorted(here.iterdir()) == before, "a refused command left something"
    for made in set(here.iterdir()) - set(before):
        _remove(made)
    return code


@contextlib.contextmanager
def one_line_or_none() -> Iterator[None]:
    """What is inside succeeds, or says in one line what it did not."""
    said = ""
    try:
        yield
    except NoiseregError as error:
        said = str(error)
    assert "\n" not in said
    assert not any(word in said for word in LEAKS), said


LEAKS = ("<class", "instance of Spec", "literal[", "function-", "Error(", "errno")
"""Words of pydantic's and Python's own that say nothing to a user."""


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@fuzz(1100)
@given(specs(), st.sampled_from(KINDS))
@example("blue-tv:gamma.learn.gamma.learn=1", "noise")
@example("blue-tv:{" + '"a":{' * 5000, "noise")
@example("blue-tv:" + "gamma." * 5000 + "=1", "noise")
@example("s3://bucket/run", "dataset")
@example(":", "noise")
def test_specs_are_read_or_refused(text: str, kind: Kind) -> None:
    found = registry()
    with one_line_or_none():
        spec = Spec.parse(text)
        found.params(found.find(kind, spec.name), spec.params)


@fuzz(10)
@given(specs(), st.sampled_from(["noise", "reg", "pairing", "process", "task", "data"]))
@example("folder:path=\x00", "data")
def test_runs_of_any_spec(text: str, section: str) -> None:
    obeys("config", "show", f"--set={section}={json.dumps(text)}", "--set", "runtime.device=cpu",
          "--set", "denoiser=mlp:width=4,blocks=1")  # fmt: skip


@fuzz(80)
@given(st.lists(assignments(), min_size=1, max_size=2))
@example(["optim.betas=[1,1]"])
@example(["seed=" + "9" * 5000])
@example(["train.steps=!!int x"])
@example(["reg=[[[[" + "[" * 2000])
@example(["reg=", "reg.0.weight="])
@example(["reg=isotropy", "reg.²=1"])
def test_assignments(given_: list[str]) -> None:
    sets = [word for text in given_ for word in ("--set", text)]
    obeys("config", "show", *sets, "--set", "runtime.device=cpu")


@fuzz(60)
@given(command_lines())
@example(["train", "--dry-run", "--out", "s3://bucket/run"])
@example(["sweep", "--noise", "white", "--seeds", "1000000", "--dry-run"])
@example(["sample", "~nobodyatall/run"])
@example(["eval", "\ud800"])
@example(["noise", "show", "white", "--size", "99999999999"])
def test_command_lines(words: list[str]) -> None:
    obeys(*words)


CONFIG = write_yaml(Config(noise=Spec(name="blue-tv")).dump()).encode()


@fuzz(30)
@given(damaged(CONFIG))
@example(b"\xff")
@example(b"")
@example(b"noise: !!bool maybe")
def test_configuration_files(contents: bytes) -> None:
    Path("c.yaml").write_bytes(contents)
    try:
        obeys("config", "show", "--config", "c.yaml", "--set", "runtime.device=cpu",
              "--set", "denoiser=mlp:width=4,blocks=1")  # fmt: skip
    finally:
        Path("c.yaml").unlink()


@fuzz(720)
@given(plain)
@example([[[[[[]]]]]])
def test_any_json_is_read_alike_as_json_and_as_yaml_or_refused(value: object) -> None:
    text = json.dumps({"value": value})
    as_json = None
    with one_line_or_none():
        as_json = parse_json(text, "x")
    with one_line_or_none():  # YAML allows fewer characters
        as_yaml = parse_yaml(text, "x")
        if as_json is not None and "NaN" not in text and "Infinity" not in text:  # words in YAML
            assert as_yaml == as_json
