"""Ends what is left of a private Ray when its driver has ended, however that came about.

It is a process of its own: a driver that is killed does nothing more, and Ray kills a driver if
its raylet dies while the two are connecting. Ray's agents and its starting workers would notice
after a minute.
"""

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from okddip_search.cluster.processes import all_named, family_named, is_alive

LOOK_S = 0.25
"""A process that has just begun still names its folder; soon Ray gives it a title instead."""
LEFT = b"left"
"""Sent by a driver that has shut its Ray down (or tried to) and keeps running."""
TOLD = b"told"
"""Sent by a driver that is about to end and has said why on its terminal."""
MOST_BUSY = 0.02
"""Share of a core that looking may take, on a machine with thousands of processes."""
ROUNDS = 20
"""Times it looks again for processes that were just beginning."""


@contextmanager
def reaped(folder: Path, last_words: str, terminal: IO[str]) -> Iterator[Callable[[], None]]:
    """Have the processes of a Ray killed at the end of the block, or of this process.

    Yields a function for a process that is about to end and has said why: no last words then.

    Args:
        folder: Of that Ray alone; its daemons name it in their command lines. It is removed where
            this process has ended first.
        last_words: A line for the user, where this process has ended before the block has.
        terminal: Where the user reads; it has a descriptor.
    """
    command = [sys.executable, "-m", "okddip_search.cluster.reaper", str(folder), last_words]
    # In a session of its own: a signal to the driver's process group must not end it.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as reaper:

        def has_told() -> None:
            with suppress(OSError, ValueError):  # it was killed itself, or has been left already
                assert reaper.stdin is not None
                os.write(reaper.stdin.fileno(), TOLD)

        try:
            yield has_told
        finally:
            with suppress(OSError):  # it was killed itself
                reaper.communicate(LEFT)


def watch(folder: str, last_words: str) -> None:
    """Wait for the end of the parent process, or a word from it, and then end its Ray."""
    driver = os.getppid()
    seen = _rays_of(driver, folder)
    look_s = LOOK_S
    # A process that the driver has forked may hold the other end of the pipe: so both are asked.
    while os.getppid() == driver and not select.select([sys.stdin], [], [], look_s)[0]:
        began_s = time.monotonic()
        seen |= _rays_of(driver, folder)
        look_s = max(LOOK_S, (time.monotonic() - began_s) / MOST_BUSY)
    said = os.read(0, len(LEFT)) if select.select([sys.stdin], [], [], 0)[0] else b""
    seen |= _rays_of(driver, folder)
    for _ in range(ROUNDS):
        left = {process for process in seen if is_alive(process)}
        left |= {p for p in all_named(folder) if p.pid not in (os.getpid(), driver)}
        if not left:
            break
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    if said != LEFT:
        shutil.rmtree(folder, ignore_errors=True)
    if not said:
        with suppress(OSError):  # the terminal may have been closed
            print(last_words, flush=True)


def _rays_of(driver: int, folder: str) -> set[psutil.Process]:
    """Return the driver's daemons and all processes below them."""
    try:
        family = family_named(psutil.Process(driver), folder)
    except psutil.Error:  # the driver has ended
        return set()
    return {process for process in family if process.pid != os.getpid()}


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])
