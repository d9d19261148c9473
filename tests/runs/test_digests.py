"""A fixed seed gives the weights and samples that it gave when the digests were committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from digests import CASES, FILE, digest, environment  # isort: skip

KNOWN = json.loads(FILE.read_text())


@pytest.mark.parametrize(("process", "noise"), CASES)
def test_a_fixed_seed_gives_the_committed_weights(
    process: str, noise: str, tmp_path: Path
) -> None:
    found = digest(process, noise, tmp_path / "run")
    case = f"{process} {noise}"
    if environment() in KNOWN:
        assert found == KNOWN[environment()][case]
    for known in KNOWN.values():  # on another machine, to what rounding can do in 20 steps
        assert found["loss"] == pytest.approx(known[case]["loss"], rel=1e-4)
        assert found["isotropy"] == pytest.approx(known[case]["isotropy"], rel=1e-3, abs=1e-6)
