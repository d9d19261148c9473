"""How much memory data may take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisereg.memory import GUESS, Peak, free_device_memory, free_host_memory

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A node with 8 GiB available, and this process in a job's control group."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n"
    )
    (tmp_path / "proc/self/cgroup").write_text("0::/slurm/job_7/step_0\n")
    (tmp_path / "sys/fs/cgroup/slurm/job_7/step_0").mkdir(parents=True)
    return tmp_path


def limit(group: Path, maximum: int, used: int, cache: int) -> None:
    (group / "memory.max").write_text(f"{maximum}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - cache}\ninactive_file {cache}\n")


def test_a_node_without_limits_has_what_is_available(system):
    assert free_host_memory(system) == 8 * GIB


def test_a_jobs_limit_counts_even_if_it_lies_on_a_group_further_up(system):
    limit(system / "sys/fs/cgroup/slurm/job_7", 4 * GIB, 3 * GIB, 1 * GIB)
    (system / "sys/fs/cgroup/slurm/job_7/step_0/memory.max").write_text("max\n")
    assert free_host_memory(system) == 2 * GIB  # the file cache gives way


def test_a_container_sees_its_own_group_as_the_root(system):
    (system / "proc/self/cgroup").write_text("0::/\n")
    limit(system / "sys/fs/cgroup", 1 * GIB, 0, 0)
    assert free_host_memory(system) == 1 * GIB


def test_ranks_of_one_node_share_it(system, monkeypatch):
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4, "RANK": 1, "LOCAL_RANK": 1,
                        "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    assert free_host_memory(system) == 2 * GIB


def test_a_system_that_does_not_say_still_gives_a_number(tmp_path):
    assert free_host_memory(tmp_path) >= min(GUESS, 2**28)


def test_only_a_gpu_has_memory_of_its_own():
    assert free_device_memory(torch.device("cpu")) == 0


def test_the_peak_is_that_of_the_tensors_alive():
    """Of x → 2x + 1 over and over: the old x, 2x and the new x; a view is its tensor's memory, and
    what is there before is not counted.
    """
    x = torch.zeros(1000)
    with Peak() as peak:
        for _ in range(5):
            x = (x * 2 + 1).view(10, 100).flatten()
    assert peak.most == 3 * 4000
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    taken = []
    for count in (1, 2, 4):
        images = torch.zeros(count, 3, 16, 16)
        with torch.inference_mode(), Peak() as peak:
            convolution(images)
        taken.append(peak.most)
    assert taken == [4 * 8 * 16 * 16 * count for count in (1, 2, 4)]
