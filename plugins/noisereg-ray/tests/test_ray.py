"""The conformance kit on a cluster of this machine; skipped without ray."""

import pytest

ray = pytest.importorskip("ray")

from noisereg.api import NoiseregError  # noqa: E402
from noisereg.testing import Subject, checks, conformance  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all of the checks: starting it takes seconds."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


test_ray = conformance("launcher", "noisereg-ray/ray:workers=3")


def test_no_check_is_passed_over_and_no_cluster_is_a_line(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    launcher = Subject.find("launcher", "noisereg-ray/ray:address=127.0.0.1:1").build()

    def refuse(**given):
        raise ConnectionError("nothing listens\nthere")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(NoiseregError, match="no Ray cluster: nothing listens there; start one"):
        launcher.open(None, None)
    assert len(checks("launcher")) > 4
