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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from okddip_search.cluster.processes import began, children, descendants, names

LOOK_S = 0.25
"""A process that has just begun still names its folder; soon Ray gives it a title instead."""
LEFT = b"left"
"""What a driver says that has ended its Ray, or tried to, and lives on."""
TOLD = b"told"
"""What a driver says that ends now, and has told the user why."""
ROUNDS = 20
"""So often it looks again for processes that were just beginning."""


@contextmanager
def reaped(folder: Path, last_words: str, terminal: IO[str]) -> Iterator[Callable[[], None]]:
    """Have the processes of a Ray killed at the end of the block, or of this process.

    What it yields is for a process that ends at once and has told the user: no last words then.

    Args:
        folder: Of that Ray alone; its daemons name it in their command lines. It is removed where
            this process has ended first.
        last_words: A line for the user, where this process has ended before the block has.
        terminal: Where the user reads; it has a descriptor.
    """
    command = [sys.executable, "-m", "okddip_search.cluster.reaper", str(folder), last_words]
    # In a session of its own: what ends the driver's process group must not end it, too.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as guardian:

        def has_told() -> None:
            with suppress(OSError, ValueError):  # it was killed itself, or has been left already
                assert guardian.stdin is not None
                os.write(guardian.stdin.fileno(), TOLD)

        try:
            yield has_told
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
    said = os.read(0, len(LEFT)) if select.select([sys.stdin], [], [], 0)[0] else b""
    seen.update(_rays_of(driver, folder))
    for _ in range(ROUNDS):
        left = {pid for pid, since in seen.items() if since and began(pid) == since}
        left |= _naming(folder, driver)
        if not left:
            break
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    if said != LEFT:
        shutil.rmtree(folder, ignore_errors=True)
    if not said:
        with suppress(OSError):  # the terminal may have been closed
            print(last_words, flush=True)


def _rays_of(driver: int, folder: str) -> dict[int, str]:
    """Return the driver's daemons and all below them: number and time of beginning."""
    daemons = [child for child in children(driver) if names(child, folder)]
    daemons = [daemon for daemon in daemons if daemon != os.getpid()]
    below = [process for daemon in daemons for process in descendants(daemon)]
    return {pid: began(pid) for pid in (*daemons, *below)}


def _naming(folder: str, driver: int) -> set[int]:
    numbers = {int(entry.name) for entry in Path("/proc").glob("[0-9]*")} - {os.getpid(), driver}
    return {pid for pid in numbers if names(pid, folder)}


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])
