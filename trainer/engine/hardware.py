"""The machine's capabilities: device, precision, cores."""

import ctypes
import os
import platform
from pathlib import Path

import torch

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's <malloc.h>


def keep_freed_memory() -> bool:
    """Have glibc's ``malloc`` keep what this process frees, for its next allocation.

    A step frees and allocates the same large tensors again and again. As delivered, ``malloc``
    returns the freed end of its heap, and all above 32 MiB, to the system, which then has to hand
    out zeroed pages again (``mallopt(3)``: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD).

    Returns:
        Whether that could be set; False where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)])


def resolve_device(config: TrainConfig) -> torch.device:
    """Return the device of a run.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([(("device",), "'cuda' was asked for, but torch sees no CUDA device")])
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``.

    Raises:
        ConfigError: bf16 was asked for where it is emulated: it would be several times slower.
    """
    if config.precision == "fp32":
        return "fp32"
    if has_bf16(device):
        return "bf16"
    if config.precision == "bf16":
        text = f"'bf16' was asked for, but {device.type} here has no bf16 instructions; use 'auto'"
        raise ConfigError([(("precision",), text)])
    return "fp32"


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 matrices itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo("flags", "Features").split()))


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def device_memory_gib(device: torch.device) -> float:
    """Return the memory of a GPU; 0 for the CPU."""
    on_gpu = device.type == "cuda"
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if on_gpu else 0.0


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> str:
    """Return the first such value of Linux's /proc/cpuinfo, or an empty string elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")
