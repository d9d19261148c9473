"""What a shell offers on TAB."""

import os
import subprocess
import sys

import pytest

from noisereg.cli.completion import BY_OPTION, offered
from noisereg.cli.main import command, leaves


@pytest.mark.parametrize(
    ("kind", "begun", "there"),
    [
        ("noise", "blue", ["blue", "blue-tv"]),
        ("noise", "blue-tv:gamma.t", ["blue-tv:gamma.tau="]),
        ("noise", "blue-tv:factor=spectral,gamma.t", ["blue-tv:factor=spectral,gamma.tau="]),
        ("metric", "memo", ["memorisation"]),
        ("noise", "nothing:", []),
        ("regularizer", "zzz", []),
    ],
)
def test_names_and_parameters(kind, begun, there):
    assert offered(kind, begun) == there


def test_every_option_that_names_a_component_offers_them():
    found = {
        (leaf.name, option.name)
        for leaf in leaves(command())
        for option in leaf.params
        if getattr(option, "_custom_shell_complete", None) is not None
    }
    assert {("train", name) for name in ("noise", "reg", "data", "denoiser", "log")} <= found
    assert {("eval", "metric"), ("eval", "features"), ("sample", "solver")} <= found
    assert {name for _, name in found} <= set(BY_OPTION)


def test_a_shell_is_answered_without_torch():
    code = (
        "import sys, atexit; from noisereg.cli.main import run; "
        "atexit.register(lambda: print('torch' in sys.modules)); run([])"
    )
    asked = {"COMP_WORDS": "noisereg train --noise blue-", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked | {"_NOISEREG_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["blue-tv", "False"], done.stderr
