"""Cores count as batch system and control groups grant them, not as the machine has them."""

import os
from pathlib import Path

import pytest

from okddip_search.cluster.resources import allocate, this_machine
from okddip_search.space.settings import ResourceSettings
from trainer.io import cores
from trainer.io.cores import available_cores, cpu_quota

V2 = "30 23 0:26 / {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:29 {root} {point} rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture
def grant(tmp_path):
    """Write what /proc and /sys/fs/cgroup hold of a process, and return its folder in /proc."""

    def write(mount, membership, files, root="/"):
        point, proc = tmp_path / "cgroup", tmp_path / "proc"
        for name, text in files.items():
            (point / name).parent.mkdir(parents=True, exist_ok=True)
            (point / name).write_text(text)
        proc.mkdir()
        (proc / "mountinfo").write_text(
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mount.format(point=point, root=root) + "\n"
        )
        (proc / "cgroup").write_text(membership + "\n")
        return proc

    return write


@pytest.mark.parametrize(
    ("mount", "membership", "files", "root", "quota"),
    [
        pytest.param(V2, "0::/", {"cpu.max": "50000 100000\n"}, "/", 0.5, id="v2, --cpus=0.5"),
        pytest.param(V2, "0::/", {"cpu.max": "max 100000\n"}, "/", None, id="v2, no limit"),
        pytest.param(V2, "0::/job/step", {"job/step/cpu.max": "max 100000",
                     "job/cpu.max": "300000 100000"}, "/", 3.0, id="v2, the parent's"),
        pytest.param(V1, "4:cpu,cpuacct:/docker/1a", {"cpu.cfs_quota_us": "150000",
                     "cpu.cfs_period_us": "100000"}, "/docker/1a", 1.5, id="v1, in a container"),
        pytest.param(V1, "4:cpu,cpuacct:/docker/1a", {"docker/1a/cpu.cfs_quota_us": "150000",
                     "docker/1a/cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "-1",
                     "cpu.cfs_period_us": "100000"}, "/", 3.0, id="v1, on the host"),
        pytest.param(V1, "4:memory:/x", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "1"}, "/",
                     None, id="v1, no limit"),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_of_a_group_and_its_parents(
    grant, mount, membership, files, root, quota
):
    assert cpu_quota(grant(mount, membership, files, root)) == quota


def test_without_control_groups_there_is_no_quota():
    assert cpu_quota(Path("/nonexistent")) is None


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return monkeypatch


def test_half_a_core_is_one_trial_with_one_thread(two_cores):
    assert available_cores() == 2
    two_cores.setattr(cores, "cpu_quota", lambda: 0.5)
    shared = allocate(ResourceSettings(), [this_machine(0)], asked_gpus=0)
    assert (shared.cpus, shared.slots, shared.threads_per_trial) == (1, 1, 1)


@pytest.mark.parametrize(("given", "count"), [("1", 1), ("16", 2), ("", 2), ("4(x2)", 2)])
def test_slurms_share_of_a_task_counts(two_cores, given, count):
    two_cores.setenv("SLURM_CPUS_PER_TASK", given)
    assert available_cores() == count
