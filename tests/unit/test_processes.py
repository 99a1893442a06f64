"""Processes below a process: found whole, and told from others."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from search_helpers import wait_until

import okddip_search
from okddip_search.cluster.processes import (
    CLOCKS_DIFFER_S,
    all_named,
    began_before,
    family_named,
    is_alive,
)

FAMILY = """
import subprocess
shell = ["sh", "-c", "sleep 60 & echo $!; wait"]
child = subprocess.Popen(shell, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
child.wait()
"""


@pytest.fixture
def family():
    """Yield the numbers of a process, its child and its grandchild."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with parent:
        yield parent.pid, *map(int, parent.stdout.readline().split())
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_what_is_below_a_named_process_is_found_and_nothing_else(family):
    parent, child, grandchild = map(psutil.Process, family)
    ours = psutil.Process()
    assert family_named(ours, "sleep 60 & echo") >= {child, grandchild}
    assert family_named(child, "sleep") == {grandchild}
    assert family_named(parent, "sleep 61") == set()
    assert child in all_named("sleep 60 & echo") and ours not in all_named("sleep 60 & echo")


def test_a_killed_process_is_no_longer_alive_nor_one_that_waits_to_be_reaped(family):
    parent, child, grandchild = map(psutil.Process, family)
    assert all(map(is_alive, (parent, child, grandchild)))
    child.kill()
    wait_until(lambda: not is_alive(parent))  # a zombie: its parent, this test, has not waited
    assert psutil.pid_exists(parent.pid)
    assert not is_alive(child) and is_alive(grandchild)


def test_a_number_that_was_given_again_is_not_the_process_that_had_it():
    now = time.time()
    assert began_before(os.getpid(), now)
    assert not began_before(os.getpid(), now - 2 * CLOCKS_DIFFER_S - process_age_s())


def process_age_s():
    return time.time() - psutil.Process().create_time()


@pytest.mark.parametrize("number", [2**22 + 1, -1, 2**80])
def test_a_number_of_no_process_is_not_alive(number):
    assert not began_before(number, time.time())


def test_the_process_table_is_read_by_psutil_alone():
    package = Path(okddip_search.__file__).parent
    readers = [path for path in package.rglob("*.py") if "/proc" in path.read_text()]
    assert not readers
