import pytest


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """One cache folder for all tests here, so that a factor is computed once."""
    folder = tmp_path_factory.getbasetemp() / "noisereg-cache"
    monkeypatch.setenv("NOISEREG_CACHE", str(folder))
