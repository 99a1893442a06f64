"""Ray, private on this machine or a cluster that is there already: up, shared out, down."""

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import ray
from ray.exceptions import AuthenticationError

from okddip_search.cluster.ray_private import (
    asking_nobody,
    on_loopback,
    private_folder,
    quoting,
    raylet_watched,
    shut_down,
)
from okddip_search.cluster.reaper import reaped
from okddip_search.cluster.resources import Allocation, Node, allocate, this_machine
from okddip_search.cluster.signals import STOP_SIGNALS, StopSwitch
from okddip_search.errors import UserError
from okddip_search.space.settings import ResourceSettings
from trainer.io.files import LockedError, exclusive_lock

PREFIX = "okddip-"
OWNER = "owner"
"""In Ray's folder: a file that its driver holds locked as long as it lives."""
STALE_AFTER_S = 60.0
ANSWER_EVERY_S = 1.0
SAID_AFTER_S = 8.0
GIVEN_UP_AFTER_S = 60.0
TOKEN = (
    "Set RAY_AUTH_TOKEN here to the token of the cluster's head node: its RAY_AUTH_TOKEN, or else "
    "the content of its ~/.ray/auth_token."
)
KEPT = "Everything reported so far is kept; resume with --resume, or with the same confirm command."
ENDED = (
    "The command has ended: it was killed, or Ray's raylet died (killed, or the machine is out of "
    f"memory). {KEPT}"
)


@contextmanager
def ray_cluster(
    settings: ResourceSettings,
    gpus: int | None,
    address: str | None,
    terminal: IO[str],
    stop: StopSwitch,
) -> Iterator[list[Node]]:
    """Start a private Ray on this machine, or join the one at ``--address``.

    Yields the nodes and their resources; at least one trial fits on one of them.

    Args:
        settings: What a trial occupies.
        gpus: GPUs to use; None: all.
        address: Of a running cluster; None: this machine.
        terminal: Gets a line if this process or its Ray is killed.
        stop: Ends this process, and the private Ray, at a second signal.

    Raises:
        UserError: More is asked for than there is, or no cluster answers.
    """
    if address:
        _join(address, stop)
        nodes = [
            Node(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
            for node in ray.nodes()
            if node["Alive"]
        ]
        try:
            allocate(settings, nodes, asked_gpus=gpus)
            yield nodes
        finally:
            ray.shutdown()
        return
    here = this_machine(gpus)
    allocation = allocate(settings, [here], asked_gpus=gpus)
    # Ray's sockets live there, and their paths may have 107 bytes at most.
    place = "/tmp" if len(tempfile.gettempdir()) > 20 and os.path.isdir("/tmp") else None
    _remove_stale(Path(place or tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as short,
        exclusive_lock(Path(short, OWNER)),
        reaped(Path(short), ENDED, terminal) as has_told,
        stop.at_once(has_told),
    ):
        # In the environment of our processes alone: Ray's own file is readable by everybody.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with _signals_blocked(), on_loopback(), quoting(), asking_nobody():
            _start_ray(Path(short), allocation)
        try:
            with raylet_watched():
                yield [here]
        finally:
            shut_down()


def _join(address: str, stop: StopSwitch) -> None:
    """Connect to a running cluster.

    Raises:
        UserError: Nobody answers, or not to this token.
    """
    _wait_for_answer(address, stop)
    try:
        ray.init(address=address, log_to_driver=False)
    except AuthenticationError:
        raise UserError(
            f"--address {address}: the cluster asks for a token, and there is none here", TOKEN
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {address}: {error}", f"It answers: is it Ray, with this token? {TOKEN}"
        ) from None


def _wait_for_answer(address: str, stop: StopSwitch) -> None:
    """Wait for somebody to listen at HOST:PORT; Ray itself would try for minutes in silence.

    Raises:
        UserError: Nobody does.
    """
    found = re.fullmatch(r"(.+):(\d+)", address)
    if found is None or "//" in address:  # auto, and other addresses that Ray looks up
        return
    began_s, has_said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((found[1], int(found[2])), ANSWER_EVERY_S).close()
            return
        except (OSError, OverflowError) as error:
            reason = str(error)
        waited_s = time.monotonic() - began_s
        if waited_s > GIVEN_UP_AFTER_S:
            remedy = "Is the cluster up, and is this the address that ray start printed?"
            raise UserError(f"--address {address}: nobody answers ({reason})", remedy)
        if waited_s > SAID_AFTER_S and not has_said:
            has_said = True
            stop.say(f"nobody answers at {address} ({reason}); waiting for a minute")
        time.sleep(ANSWER_EVERY_S)
        stop.check()


def _start_ray(short: Path, allocation: Allocation) -> None:
    """Start a private Ray whose files lie in a folder of ours.

    Raises:
        UserError: Ray does not come up.
    """
    try:
        ray.init(
            address="local",
            num_cpus=allocation.cpus,
            num_gpus=allocation.gpus,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env=_runtime_env(),
            # Ray opens it to everybody, sockets and all; the folder around it is ours alone.
            _temp_dir=f"{short}/ray",
        )
    except Exception as error:  # Ray itself raises nothing more special, for a daemon that died
        raise UserError(f"Ray did not start: {error} {KEPT}") from None


def _runtime_env() -> dict[str, str] | None:
    """Have Ray quote the path of Python where a shell would divide it ("my project's/.venv").

    Ray 2.60 starts Tune's actors through ``bash -c`` and quotes all but this path; no actor would
    ever begin. Other workers, and paths of letters alone, need nothing.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _remove_stale(place: Path) -> None:
    """Remove Ray's folders of drivers that were killed: only our own, and not held by a driver."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError, LockedError):
            facts = folder.lstat()
            mine = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
            held_s = time.time() - (folder / OWNER).lstat().st_mtime  # a new one is not held yet
            if mine and held_s > STALE_AFTER_S:
                with exclusive_lock(folder / OWNER):
                    shutil.rmtree(folder, ignore_errors=True)


def new_scratch(home: Path, *, shared: bool) -> Path:
    """Make an empty folder for Tune, which unpickles what it finds in its folder.

    It is nobody else's (mode 0700). What killed drivers have left is removed.

    Args:
        home: Of the study.
        shared: Whether all nodes of a cluster have to see it: it is made in ``home``. If not, it is
            beside the private Ray's own files: a full disk of the study would be Tune's end.
    """
    for left in home.glob(".tune*"):
        shutil.rmtree(left, ignore_errors=True)
    place = home if shared else private_folder()
    return Path(tempfile.mkdtemp(prefix=".tune-", dir=place))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the stop signals for the processes started meanwhile; they inherit the mask.

    Batch systems, service managers and closing terminals signal a whole process group. Ray's
    daemons would die before the driver has stopped its trials; Ray blocks only SIGINT for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
