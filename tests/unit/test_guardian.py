"""However a driver ends, what is left of its Ray is ended; nobody else is."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
# A daemon that names the folder, a child of it that does not, and a process that is none of Ray's.
DRIVER = """
import subprocess, sys, time
from pathlib import Path
from okddip_search.guardian import guarded

folder = Path(sys.argv[1])
with guarded(folder, "last words", sys.stdout):
    tree = ["sh", "-c", "sleep 60 & echo $!; sleep 61; true", str(folder)]
    daemon = subprocess.Popen(tree, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen(["sleep", "62"], stdout=subprocess.DEVNULL)
    print(daemon.pid, daemon.stdout.readline().strip(), other.pid, flush=True)
    time.sleep(1)
    print("seen", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
other.kill()
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    if alive(other):
        os.kill(other, signal.SIGKILL)


def test_the_ray_of_a_killed_driver_is_ended_and_its_folder_removed(driver):
    process, rays, other, folder = driver
    assert all(map(alive, rays))
    process.kill()
    wait_for(lambda: not any(map(alive, rays)))
    wait_for(lambda: not folder.exists())
    assert alive(other)
    assert process.communicate()[0] == "last words\n"


def test_a_driver_that_leaves_its_ray_goes_on_without_it(driver):
    process, rays, other, folder = driver
    process.stdin.write("leave\n")
    process.stdin.flush()
    assert process.stdout.readline() == "left\n"
    assert not any(map(alive, rays))
    assert alive(other)
    assert folder.exists()  # its own to remove
    assert process.communicate("end\n", timeout=20)[0] == ""  # no last words
    assert process.returncode == 0


def test_a_daemon_whose_parent_died_before_is_ended_too(driver):
    process, (daemon, child), _, _ = driver
    os.kill(daemon, signal.SIGKILL)
    time.sleep(0.5)
    assert alive(child)
    process.kill()
    wait_for(lambda: not alive(child))
