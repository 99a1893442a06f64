"""Processes below a process: found whole, and ended."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from okddip_search.processes import children, descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
FAMILY = """
import subprocess, sys
shell = ["sh", "-c", "sleep 60 & echo $!; wait"]
child = subprocess.Popen(shell, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
if sys.stdin.readline() == "kill\\n":
    from okddip_search.processes import kill_descendants
    kill_descendants()
child.wait()
"""


@pytest.fixture
def family():
    """Yield a process and the numbers of its child and its grandchild."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with parent:
        yield parent, *map(int, parent.stdout.readline().split())
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_children_and_their_children_are_found(family):
    parent, child, grandchild = family
    assert children(parent.pid) == [child]
    assert descendants(parent.pid) == [child, grandchild]


def test_all_of_them_are_killed_and_the_killer_lives(family):
    parent, child, grandchild = family
    parent.communicate("kill\n", timeout=30)
    assert parent.returncode == 0
    deadline = time.monotonic() + 10
    while descendants(child) or children(grandchild) or alive(child) or alive(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process):
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def test_a_process_that_is_gone_has_none(family):
    assert children(2**22 + 1) == descendants(2**22 + 1) == []
