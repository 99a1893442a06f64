"""The facts about a machine that a bug report needs, without names of users, hosts or folders."""

import locale
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from okddip_search.cluster.gpus import ask_driver
from trainer.io.cores import available_cores, cpu_quota

PACKAGES = ("torchvision", "ray", "optuna", "mlflow", "numpy", "pydantic", "onnx")
GIB = 2**30


def describe_machine() -> Iterator[tuple[str, str]]:
    """Yield the name and the description of each fact."""
    yield "okddip-search", version("okddip-search")
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}"
    yield "system", platform.platform()
    yield from _torch()
    yield "driver", _nvidia_driver()
    yield from ((package, _version(package)) for package in PACKAGES)
    yield "cores", _cores()
    yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"
    yield "disk", f"{_free('.')} here, {_free(tempfile.gettempdir())} for temporary files"
    yield "start method", multiprocessing.get_start_method()
    yield "locale", f"{locale.setlocale(locale.LC_CTYPE)}, output in {sys.stdout.encoding}"


def _torch() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except Exception as error:  # a broken installation can be what the bug report is about
        yield "torch", f"{_version('torch')}, import failed: {error}"
        return
    cuda, rocm = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU only"
    yield "torch", f"{torch.__version__} ({build})"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield "GPUs", ", ".join(gpus) or "none that torch can use"


def _nvidia_driver() -> str:
    gpus, reason = ask_driver()
    return "; ".join(f"{gpu.driver}, {gpu.name}" for gpu in gpus) or f"unknown: {reason}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cores() -> str:
    quota = cpu_quota()
    granted = "none" if quota is None else f"{quota:g}"
    return f"{available_cores()} of {os.cpu_count()}, quota {granted}"


def _free(folder: str) -> str:
    return f"{shutil.disk_usage(folder).free / GIB:.0f} GiB free"
