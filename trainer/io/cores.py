"""The cores that this process may use: affinity, batch system, and quotas of control groups."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def available_cores() -> int:
    """Return how many cores this process may keep busy, at least 1.

    The least of its CPU affinity, what Slurm gave to the task (``SLURM_CPUS_PER_TASK``) and the
    quota of its control groups (``docker --cpus``), rounded down.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        cores = len(os.sched_getaffinity(0))
    with suppress(KeyError, ValueError):
        cores = min(cores, int(os.environ["SLURM_CPUS_PER_TASK"]))
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return how many cores the control groups of a process grant; None: no limit.

    A group's quota holds for all groups below it, so the least of a group and its parents counts.

    Args:
        proc: Folder of the process in ``/proc``.
    """
    quotas = [quota for folder in _groups(proc) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """Yield the folders of the groups that divide CPU time among processes, and their parents."""
    for mount in _lines(proc / "mountinfo"):  # proc(5): 32 31 0:29 ROOT POINT rw - TYPE cgroup cpu
        ours, _, theirs = mount.partition(" - ")
        root, point = ours.split()[3:5]
        kind, _, options = theirs.split()[:3]
        has_cpu = kind == "cgroup" and "cpu" in options.split(",")
        if not has_cpu and kind != "cgroup2":
            continue
        for line in _lines(proc / "cgroup"):  # cgroups(7): 1:cpu,cpuacct:PATH, or 0::PATH
            _, controllers, path = line.split(":", 2)
            if (controllers == "") if kind == "cgroup2" else "cpu" in controllers.split(","):
                inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
                yield from (Path(point, part) for part in (inside, *inside.parents))


def _quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError):  # version 2; "max" is no limit
        granted, period = (folder / "cpu.max").read_text().split()
        return int(granted) / int(period)
    with suppress(OSError, ValueError):  # version 1; -1 is no limit
        granted = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return int(granted) / int(period) if int(granted) > 0 else None
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # macOS
        return []
