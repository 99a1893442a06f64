"""The processes below a process, as Linux tells them; elsewhere there are none to be seen."""

import os
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


def began(process: int) -> str:
    """Return when a process began, in ticks since the machine's start; empty if it has ended.

    With its number, this tells it from a later one.
    """
    with suppress(OSError):
        fields = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


def names(process: int, text: str) -> bool:
    """Return whether a process's command line contains a text."""
    with suppress(OSError):
        return os.fsencode(text) in Path("/proc", str(process), "cmdline").read_bytes()
    return False
