"""However a driver ends, what is left of its Ray is ended; nobody else is."""

import os
import signal
import subprocess
import sys
import time

import pytest
from search_helpers import wait_until

from okddip_search.cluster.processes import began

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
# A daemon that names the folder, a child of it that does not, and a process that is none of Ray's.
DRIVER = """
import os, subprocess, sys, time
from pathlib import Path
from okddip_search.cluster.reaper import reaped

folder = Path(sys.argv[1])
with reaped(folder, "last words", sys.stdout) as has_told:
    tree = ["sh", "-c", "sleep 60 & echo $!; sleep 61; true", str(folder)]
    daemon = subprocess.Popen(tree, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen(["sleep", "62"], stdout=subprocess.DEVNULL)
    print(daemon.pid, daemon.stdout.readline().strip(), other.pid, flush=True)
    time.sleep(1)
    print("seen", flush=True)
    if sys.stdin.readline() == "end at once\\n":
        has_told()
        os._exit(130)
print("left", flush=True)
sys.stdin.readline()
other.kill()
"""


@pytest.fixture
def driver(tmp_path):
    """Yield a driver, its Ray's two processes, another child of it, and Ray's folder."""
    folder = tmp_path / "okddip-ray"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    daemon, child, other = map(int, process.stdout.readline().split())
    assert process.stdout.readline() == "seen\n"
    yield process, (daemon, child), other, folder
    process.kill()
    process.communicate()
    if began(other):
        os.kill(other, signal.SIGKILL)


def test_the_ray_of_a_killed_driver_is_ended_and_its_folder_removed(driver):
    process, rays, other, folder = driver
    assert all(map(began, rays))
    process.kill()
    wait_until(lambda: not any(map(began, rays)))
    wait_until(lambda: not folder.exists())
    assert began(other)
    assert process.communicate()[0] == "last words\n"


def test_a_driver_that_leaves_its_ray_goes_on_without_it(driver):
    process, rays, other, folder = driver
    process.stdin.write("leave\n")
    process.stdin.flush()
    assert process.stdout.readline() == "left\n"
    assert not any(map(began, rays))
    assert began(other)
    assert folder.exists()  # its own to remove
    assert process.communicate("end\n", timeout=20)[0] == ""  # no last words
    assert process.returncode == 0


def test_the_ray_of_a_driver_that_has_told_the_user_is_ended_without_a_word(driver):
    process, rays, other, folder = driver
    assert process.communicate("end at once\n", timeout=20)[0] == ""
    assert process.returncode == 130
    assert not any(map(began, rays)) and not folder.exists()
    assert began(other)


def test_a_daemon_whose_parent_died_before_is_ended_too(driver):
    process, (daemon, child), _, _ = driver
    os.kill(daemon, signal.SIGKILL)
    time.sleep(0.5)
    assert began(child)
    process.kill()
    wait_until(lambda: not began(child))
