"""What a search occupies: GPUs, cores and slots, decided before anything starts."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from okddip_search.errors import UserError
from okddip_search.settings import ResourceSettings


@dataclass(frozen=True)
class Allotment:
    """How the machine (or cluster) is shared out.

    Attributes:
        cpus: Cores that the search may use.
        gpus: GPUs that it may use.
        cpus_per_trial: Cores of one trial; also its number of threads, so that trials × threads
            never exceed the cores.
        gpus_per_trial: GPUs of one trial; below 1, several trials share one.
        slots: Trials at a time.
    """

    cpus: int
    gpus: int
    cpus_per_trial: float
    gpus_per_trial: float
    slots: int

    @property
    def words(self) -> str:
        """Say it in one line."""
        return (
            f"{self.slots} trials at a time on {self.cpus} cores and {self.gpus} GPUs; each has "
            f"{self.cpus_per_trial:g} cores ({self.threads_per_trial} threads) and "
            f"{self.gpus_per_trial:g} GPUs"
        )

    @property
    def threads_per_trial(self) -> int:
        """Threads of one trial, at least 1."""
        return max(1, int(self.cpus_per_trial))


def count_cpus() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_gpus() -> int:
    """Return how many NVIDIA GPUs this process sees, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        driver = Path("/proc/driver/nvidia/gpus")
        return len(list(driver.iterdir())) if driver.is_dir() else 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def allot(settings: ResourceSettings, *, cpus: int, gpus: int, asked_gpus: int | None) -> Allotment:
    """Share out what there is.

    Args:
        settings: Of the space; null values are decided here.
        cpus: Cores there are.
        gpus: GPUs there are.
        asked_gpus: ``--gpus``: how many of them to use; None: all, 0: run on the CPU.

    Raises:
        UserError: More is asked for than there is, or not even one trial fits.
    """
    if asked_gpus is not None and asked_gpus > gpus:
        raise UserError(
            f"--gpus {asked_gpus}: there are only {gpus} GPUs here",
            f"Use --gpus {gpus}." if gpus else "Use --gpus 0 to run on the CPU.",
        )
    gpus = gpus if asked_gpus is None else asked_gpus
    gpus_per_trial = _gpus_per_trial(settings, gpus)
    slots = _gpu_slots(gpus, gpus_per_trial) if gpus else cpus
    cpus_per_trial = settings.cpus_per_trial or float(max(1, cpus // max(1, slots)) if gpus else 1)
    slots = min(slots, int(cpus / cpus_per_trial))
    if slots < 1:
        raise UserError(
            f"no trial fits: each needs {cpus_per_trial:g} CPU cores and {gpus_per_trial:g} GPUs, "
            f"there are {cpus} and {gpus}",
            "Lower resources.cpus_per_trial or resources.gpus_per_trial in the space.",
        )
    return Allotment(
        cpus, gpus, cpus_per_trial, gpus_per_trial, min(slots, settings.max_concurrent or slots)
    )


def _gpus_per_trial(settings: ResourceSettings, gpus: int) -> float:
    if gpus == 0:
        return 0.0
    asked = 1.0 if settings.gpus_per_trial is None else settings.gpus_per_trial
    if asked > gpus:
        raise UserError(
            f"a trial needs {asked:g} GPUs, there are {gpus}", "Use fewer --gpus-per-trial."
        )
    return asked


def _gpu_slots(gpus: int, per_trial: float) -> int:
    if per_trial == 0:  # such trials run beside the GPUs: the cores are the limit
        return 10**6
    if per_trial < 1:
        return gpus * int(1 / per_trial + 1e-9)
    return gpus // int(per_trial)
