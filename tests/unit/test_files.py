"""Locks that end with their process, and logs that a crash leaves half a line in."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.io.files import (
    LockedError,
    append_json,
    append_line,
    exclusive_lock,
    read_json_lines,
)

HOLDER = """
import os, sys, time
from pathlib import Path
from trainer.io.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    decoder = os.fork()  # images are decoded by forks, which outlive a killed run by seconds
    if decoder == 0:
        print(os.getpid(), flush=True)
    time.sleep(600)
"""
EARLIER = """
import fcntl, os, sys, time
with open(sys.argv[1], "a+b", buffering=0) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def process(code: str, lock: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run code that holds a lock; yield the process and the line that it prints."""
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def test_a_held_lock_names_its_holder_and_ends_with_a_kill(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with process(HOLDER, lock) as (holder, decoder):
        try:
            for _ in range(2):  # trying it does not erase the number
                with pytest.raises(LockedError, match=f"is held by process {holder.pid}$"):
                    with exclusive_lock(lock):
                        pass
            assert lock.read_text() == str(holder.pid)
            holder.kill()
            holder.wait()
            with exclusive_lock(lock):  # at once, though its decoder is still there
                os.kill(int(decoder), 0)
                assert lock.read_text() == str(os.getpid())
        finally:
            os.kill(int(decoder), signal.SIGKILL)


def test_an_earlier_version_s_driver_and_this_one_exclude_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with process(EARLIER, lock) as (holder, _):
        with pytest.raises(LockedError, match=f"is held by process {holder.pid}$"):
            with exclusive_lock(lock):
                pass
    with exclusive_lock(lock), open(lock, "a+b") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_is_waited_for_as_long_as_asked_for(tmp_path: Path) -> None:
    lock, let_go = tmp_path / "lock", threading.Event()

    def hold() -> None:
        with exclusive_lock(lock):
            held.set()
            let_go.wait(60)

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    started = time.monotonic()
    with pytest.raises(LockedError), exclusive_lock(lock, wait_s=0.5):
        pass
    assert time.monotonic() - started >= 0.5
    threading.Timer(0.3, let_go.set).start()
    with exclusive_lock(lock, wait_s=float("inf")):
        assert let_go.is_set()
    thread.join()


def test_a_log_reads_back_all_but_torn_lines_and_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert list(read_json_lines(log)) == []
    append_json(log, {"a": 1})
    append_line(log, json.dumps("ä"))
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"b": ')  # a crash
    append_json(log, [3])
    log.write_bytes(log.read_bytes() + b"\0\0\n" + b"[" * 100_000)  # a power cut, and nonsense
    assert list(read_json_lines(log)) == [(1, {"a": 1}), (2, "ä"), (4, [3])]
    assert log.read_bytes().startswith(whole + b'{"b": \n[3]\n')
