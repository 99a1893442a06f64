"""The processes below a process, as Linux tells them; elsewhere there are none to be seen."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def children(process: int) -> list[int]:
    """Return the numbers of a process's children."""
    found = []
    for listing in Path("/proc", str(process), "task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in listing.read_text().split()]
    return found


def descendants(process: int) -> list[int]:
    """Return the numbers of a process's children, of theirs, and so on."""
    found = children(process)
    for child in found:  # grows meanwhile
        found += children(child)
    return found


def kill_descendants() -> None:
    """Kill all that this process has begun, Ray's agents too, which would live for a minute."""
    for process in descendants(os.getpid()):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
