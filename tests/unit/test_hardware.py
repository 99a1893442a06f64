"""What the machine gives a process that trains."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from trainer.engine.hardware import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        large = torch.zeros(10 * 2**20)  # 40 MiB
        small = [torch.zeros(2 * 2**20) for _ in range(8)]
        del large, small
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_delivered = faults()
assert keep_freed_memory()
faults()  # the first round takes the memory
print(as_delivered, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_without_asking_the_system():
    printed = subprocess.check_output([sys.executable, "-c", FAULTS], text=True)
    as_delivered, kept = map(int, printed.split())
    assert kept < as_delivered / 20
