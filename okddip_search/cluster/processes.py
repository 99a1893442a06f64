"""Processes, looked at through psutil: the same on Linux and macOS."""

from contextlib import suppress

import psutil

CLOCKS_DIFFER_S = 60.0
"""A file's time may come from another machine's clock, and clocks are set."""


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs: one that has only to be reaped does not.

    The start time distinguishes it from a later process with the same number.
    """
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def began_before(number: int, moment: float) -> bool:
    """Return whether a process of this number lives that did not begin after a moment.

    Args:
        number: Of the process.
        moment: In seconds since the epoch.
    """
    try:
        process = psutil.Process(number)
        return is_alive(process) and process.create_time() <= moment + CLOCKS_DIFFER_S
    except (psutil.Error, ValueError):  # there is none; or it is no number of a process
        return False


def is_named(process: psutil.Process, text: str) -> bool:
    """Return whether a process's command line contains a text."""
    with suppress(psutil.Error):
        return any(text in argument for argument in process.cmdline())
    return False


def all_named(text: str) -> set[psutil.Process]:
    """Return all processes of this machine whose command line contains a text."""
    return {process for process in psutil.process_iter() if is_named(process, text)}


def family_named(ancestor: psutil.Process, text: str) -> set[psutil.Process]:
    """Return the descendants whose command line contains a text, and all that are below these."""
    found: dict[int, psutil.Process] = {}
    with suppress(psutil.Error):  # the ancestor has ended
        for process in ancestor.children(recursive=True):  # each comes after its parent
            with suppress(psutil.Error):
                if process.ppid() in found or is_named(process, text):
                    found[process.pid] = process
    return set(found.values())
