"""Shared by all tests: one thread (two slow cores run two workers), a cache and a registry of
their own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

pytest_plugins = ["sweep_fixtures"]


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the user's cache, plugins or environment."""
    for name in (
        "NOISEREG_PLUGINS",
        "NOISEREG_BLOCK",
        "NOISEREG_ALLOW",
        "NOISEREG_NO_PLUGINS",
        "NOISEREG_STRICT",
        "NOISEREG_TRUSTED",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Factors are computed once a session, not once a test; no test reads the user's settings."""
    os.environ["NOISEREG_CONFIG"] = str(tmp_path_factory.mktemp("config"))
    os.environ["NOISEREG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
