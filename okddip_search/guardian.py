"""Ends what is left of a private Ray when its driver has ended, however that came about.

It is a process of its own: a driver that is killed does nothing more, and Ray itself ends one whose
raylet dies while they meet. Ray's agents and its starting workers would notice after a minute.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from okddip_search.processes import children, descendants

LOOK_S = 0.25
"""A process that has just begun still names its folder; soon Ray gives it a title instead."""
LEFT = b"left"
"""What a driver says that has ended its Ray, or tried to, and lives on."""
ROUNDS = 20
"""So often it looks again for processes that were just beginning."""


@contextmanager
def guarded(folder: Path, last_words: str, terminal: IO[str]) -> Iterator[None]:
    """Have the processes of a Ray killed at the end of the block, or of this process.

    Args:
        folder: Of that Ray alone; its daemons name it in their command lines. It is removed where
            this process has ended first.
        last_words: A line for the user, where this process has ended before the block has.
        terminal: Where the user reads; it has a descriptor.
    """
    command = [sys.executable, "-m", "okddip_search.guardian", str(folder), last_words]
    # In a session of its own: what ends the driver's process group must not end it, too.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as guardian:
        try:
            yield
        finally:
            with suppress(OSError):  # it was killed itself
                guardian.communicate(LEFT)


def watch(folder: str, last_words: str) -> None:
    """Wait for the end of the parent process, or a word from it, and then end its Ray."""
    driver = os.getppid()
    seen: dict[int, str] = {}
    # A process that the driver has forked may hold the other end of the pipe: so both are asked.
    while os.getppid() == driver and not select.select([sys.stdin], [], [], LOOK_S)[0]:
        seen.update(_rays_of(driver, folder))
    is_alive = bool(select.select([sys.stdin], [], [], 0)[0]) and os.read(0, len(LEFT)) == LEFT
    seen.update(_rays_of(driver, folder))
    for _ in range(ROUNDS):
        left = {pid: began for pid, began in seen.items() if _began(pid) == began}
        left.update((pid, _began(pid)) for pid in _naming(folder, driver))
        if not left:
            break
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    if not is_alive:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the terminal may have been closed
            print(last_words, flush=True)


def _rays_of(driver: int, folder: str) -> dict[int, str]:
    """Return the driver's daemons and all below them: number and time of beginning."""
    daemons = [child for child in children(driver) if _names(child, folder)]
    daemons = [daemon for daemon in daemons if daemon != os.getpid()]
    below = [process for daemon in daemons for process in descendants(daemon)]
    return {pid: _began(pid) for pid in (*daemons, *below)}


def _naming(folder: str, driver: int) -> list[int]:
    numbers = {int(entry.name) for entry in Path("/proc").glob("[0-9]*")} - {os.getpid(), driver}
    return [pid for pid in numbers if _names(pid, folder)]


def _names(pid: int, folder: str) -> bool:
    with suppress(OSError):
        return os.fsencode(folder) in Path("/proc", str(pid), "cmdline").read_bytes()
    return False


def _began(pid: int) -> str:
    """Return when a process began, in ticks since the machine's start; empty if it has ended."""
    with suppress(OSError):
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])
