"""Shared by all tests: one thread (two slow cores run two workers), a cache and a registry of
their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

pytest_plugins = ["sweep_fixtures"]


KEPT = ("NOISEREG_CONFIG", "NOISEREG_CACHE", "NOISEREG_FUZZ", "NOISEREG_KILLS", "NOISEREG_ROUNDS")


@pytest.fixture(autouse=True)
def _own_world() -> Iterator[None]:
    """No test reads the user's environment, or what a command run in this process has set in it."""
    _forget()
    yield
    _forget()  # a fixture of the next module is made before that module's first test


def _forget() -> None:
    for name in [n for n in os.environ if n.startswith("NOISEREG_") and n not in KEPT]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Factors are computed once a session, not once a test; no test reads the user's settings."""
    os.environ["NOISEREG_CONFIG"] = str(tmp_path_factory.mktemp("config"))
    os.environ["NOISEREG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
