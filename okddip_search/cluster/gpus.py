"""GPUs as torch counts them, and why it cannot use those that are there.

Only torch knows what it can use, and it takes seconds to load. So it is asked in a process of its
own (``python -m okddip_search.cluster.gpus``), and only where something points to a GPU.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from functools import cache
from typing import NamedTuple

from okddip_search.errors import UserError

DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")
"""NVIDIA's driver, that of its Jetson boards, Windows' driver in WSL 2, AMD's driver."""
LEAST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""Major version of CUDA to the oldest Linux driver that runs it.

Source: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""
ANSWER_S = 120.0


class Gpu(NamedTuple):
    """A GPU as NVIDIA's driver lists it."""

    name: str
    driver: str


class TorchView(NamedTuple):
    """Torch's answer about the GPUs of this machine.

    Attributes:
        version: Of torch.
        cuda: Version of CUDA that this torch was built for; empty: it was built for none.
        gpus: How many it sees.
        reason: Why it cannot use them, in torch's own words; empty: it can, or there are none.
    """

    version: str
    cuda: str
    gpus: int
    reason: str


def count_gpus() -> int:
    """Return how many GPUs trials can use, of those that CUDA_VISIBLE_DEVICES leaves visible.

    A MIG slice that is named there counts as one: a process sees a single slice, so that torch
    itself would say 1, but every trial is given its own.

    Raises:
        UserError: The driver lists a GPU that torch cannot use, or one is named that is not there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else named_gpus(visible)
    if named == []:
        return 0
    listed, _ = ask_driver()
    found = 0
    if listed or any(map(os.path.exists, DEVICES)):
        view = ask_torch(visible)
        if listed and view.reason:
            raise _unusable(listed, view)
        slices = sum(name.startswith("MIG-") for name in named or ())
        found = max(view.gpus, slices) if view.gpus else 0
    if named and found < len(named):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={visible} names {len(named)} GPUs, and {found} are there",
            "Name those that nvidia-smi -L lists, unset CUDA_VISIBLE_DEVICES, or give --gpus 0 to "
            "run on the CPU.",
        )
    return found


def named_gpus(visible: str) -> list[str]:
    """Return the entries of CUDA_VISIBLE_DEVICES as CUDA reads it: up to the first invalid one.

    An entry is a number, or begins as the UUID of a GPU or of a MIG slice; -1 is invalid.
    """
    entries = (entry.strip() for entry in visible.split(","))
    return list(itertools.takewhile(re.compile(r"\d|GPU-|MIG-").match, entries))


def ask_driver() -> tuple[list[Gpu], str]:
    """Return the GPUs that NVIDIA's driver lists, or none and why it does not answer."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi: {type(error).__name__}"
    if listing.returncode != 0:
        return [], " ".join((listing.stdout + listing.stderr).split())
    rows = (line.rpartition(",") for line in listing.stdout.splitlines() if line.strip())
    return [Gpu(name.strip(), driver.strip()) for name, _, driver in rows], ""


@cache
def ask_torch(visible: str | None) -> TorchView:
    """Have a process of its own load torch and say what it sees.

    Args:
        visible: CUDA_VISIBLE_DEVICES, on which the answer depends.
    """
    command = [sys.executable, "-m", "okddip_search.cluster.gpus"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
        return TorchView(**json.loads(answer.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return TorchView("", "", 0, f"it did not answer within {ANSWER_S:.0f} s")
    except (IndexError, ValueError):
        last = (answer.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return TorchView("", "", 0, last)


def _unusable(listed: list[Gpu], view: TorchView) -> UserError:
    gpu = listed[0]
    others = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return UserError(
        f"there is a GPU here ({gpu.name}{others}), but torch {view.version} cannot use it: "
        f"{view.reason}",
        f"{_remedy(gpu, view)}, or give --gpus 0 to run on the CPU.",
    )


def _remedy(gpu: Gpu, view: TorchView) -> str:
    if not view.cuda:
        return "Install a CUDA build of torch (https://pytorch.org/get-started/locally)"
    least = LEAST_DRIVER.get(int(view.cuda.partition(".")[0]))
    if least and _numbers(gpu.driver) < _numbers(least):
        return (
            f"Update the NVIDIA driver: it is {gpu.driver}, and CUDA {view.cuda}, for which this "
            f"torch was built, needs {least} or later"
        )
    if "compute capability" in view.reason or "CUDA capability" in view.reason:
        return (
            "Install a build of torch that supports it, leave it out of CUDA_VISIBLE_DEVICES if "
            "there are others"
        )
    return f"See to the NVIDIA driver ({gpu.driver}) and CUDA_VISIBLE_DEVICES"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _look() -> TorchView:
    """Load torch; a reason is the first sentence of its error, or the first line of a warning."""
    import torch

    reason, count = "", 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            count = torch.cuda.device_count()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split(". ")[0]
    for line in (str(warning.message).strip() for warning in warned):
        if not reason and ("compute capability" in line or "CUDA capability" in line):
            reason = line.splitlines()[0]
    return TorchView(torch.__version__, torch.version.cuda or "", count, " ".join(reason.split()))


if __name__ == "__main__":
    print(json.dumps(_look()._asdict()))
