"""Files that are written whole or not at all, by one writer at a time."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainer.errors import TrainerError


class LockedError(TrainerError, RuntimeError):
    """Another process holds the lock."""


def expanded(path: str) -> Path:
    """Return a path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced.

    Unknown users and variables stay as written, and so does a path that is there as written.
    """
    if os.path.exists(path):
        return Path(path)
    return Path(os.path.expanduser(os.path.expandvars(path)))  # Path.expanduser fails on ~nobody


def is_disk_full(error: OSError) -> bool:
    """Say whether a file could not be written because the disk, or the user's quota, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file so that a reader, a crash or a power cut sees the old or the new one whole."""
    temporary = path.with_name(f".{path.name}.tmp")  # one writer at a time
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
        replace_durably(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half of it would fill the disk
        raise


def replace_durably(temporary: Path, path: Path) -> None:
    """Give a finished file its name; after a power cut the name has all of it, or the old file.

    Args:
        temporary: In the folder of ``path``, closed.
        path: Its final name.
    """
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk; ``fsync`` of a file does not promise that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by a person."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON: damaged, or nested beyond measure.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


def append_line(path: Path, line: str) -> None:
    """Append a line to a log and wait until it is on disk.

    Nothing is ever taken away: a last line that a crash cut off is ended, and the new one follows.
    """
    is_new = not path.exists()
    with open(path, "a+b") as file:
        torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
        file.write((b"\n" if torn else b"") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def append_json(path: Path, value: Any) -> None:
    """Append a record to a log of JSON lines and wait until it is on disk."""
    append_line(path, json.dumps(value))


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line number (from 1) and value of every record of a log; nothing if there is no log.

    Lines that a crash cut off, which are no JSON, are skipped.
    """
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        with contextlib.suppress(ValueError, RecursionError):
            yield number, json.loads(line)


@contextlib.contextmanager
def exclusive_lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold an advisory lock (flock); the kernel releases it however the process ends.

    Args:
        path: The lock file. It stays, and names the process that held it last.
        wait_s: How long to wait for another holder, possibly ``math.inf``.

    Raises:
        LockedError: Another process holds it.
    """
    # A soft lock, filelock's way out where there is no flock, would survive a kill -9.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=-1 if wait_s == math.inf else wait_s, poll_interval=0.2)
    except Timeout:
        holder = path.read_text(errors="replace").strip()
        raise LockedError(f"{path} is held by process {holder}") from None
    try:
        with contextlib.suppress(OSError):  # a full disk has no room for the number
            path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
