"""Processes below a process: found whole, and told from others."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from okddip_search.cluster.processes import began, children, descendants, names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
FAMILY = """
import subprocess
shell = ["sh", "-c", "sleep 60 & echo $!; wait"]
child = subprocess.Popen(shell, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
child.wait()
"""


@pytest.fixture
def family():
    """Yield a process and the numbers of its child and its grandchild."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True,
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


def test_a_process_is_told_by_its_command_line_and_the_time_it_began(family):
    parent, child, grandchild = family
    assert names(child, "sleep 60 & echo") and not names(child, "sleep 61")
    assert int(began(parent.pid)) <= int(began(child)) <= int(began(grandchild))
    os.kill(child, signal.SIGKILL)
    parent.wait()
    assert not began(child) and began(grandchild)
    assert began(parent.pid) == ""


def test_a_process_that_is_gone_has_nothing():
    gone = 2**22 + 1
    assert children(gone) == descendants(gone) == []
    assert not began(gone) and not names(gone, "")
