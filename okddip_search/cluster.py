"""Ray, private on this machine or a cluster that is there already: up, shared out, down."""

import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import ray
from ray._private.node import Node as RayNode
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from okddip_search.errors import UserError
from okddip_search.guardian import guarded
from okddip_search.placement import Wait
from okddip_search.resources import Allotment, Node, allot, count_cpus, count_gpus
from okddip_search.space.settings import ResourceSettings
from okddip_search.stopping import StopSwitch
from trainer.io.files import LockedError, exclusive_lock

T = TypeVar("T")

PREFIX = "okddip-"
OWNER = "owner"
"""In Ray's folder: a file that its driver holds locked as long as it lives."""
STALE_AFTER_S = 60.0
RAYLET_LOOK_S = 0.5
KEPT = "All that was reported is kept; go on with --resume, or with the same confirm command."
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

    What it yields is what the machines have, of which at least one trial fits on one.

    Args:
        settings: What a trial occupies.
        gpus: GPUs to use; None: all.
        address: Of a running cluster; None: this machine.
        terminal: Where the user is told, should this process or its Ray be killed.
        stop: Ends this process at a second signal; the private Ray is ended then, too.

    Raises:
        UserError: More is asked for than there is, or no cluster answers.
    """
    if address:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--address {address}: {error}") from None
        nodes = [
            Node(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
            for node in ray.nodes()
            if node["Alive"]
        ]
        try:
            allot(settings, nodes, asked_gpus=gpus)
            yield nodes
        finally:
            ray.shutdown()
        return
    here = Node(count_cpus(), count_gpus())
    allotment = allot(settings, [here], asked_gpus=gpus)  # a mistake is told at once
    # Ray's sockets live there, and their paths may have 107 bytes at most.
    place = "/tmp" if len(tempfile.gettempdir()) > 20 and os.path.isdir("/tmp") else None
    _remove_stale(Path(place or tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as short,
        exclusive_lock(Path(short, OWNER)),
        guarded(Path(short), ENDED, terminal) as has_told,
        stop.at_once(has_told),
    ):
        # In the environment of our processes alone: Ray's own file is readable by everybody.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with _signals_blocked(), _on_loopback(), _asking_nobody():
            _start_ray(Path(short), allotment)
        try:
            with _raylet_watched():
                yield [here]
        finally:
            _shut_down()


def _start_ray(short: Path, allotment: Allotment) -> None:
    """Start a private Ray whose files lie in a folder of ours.

    Raises:
        UserError: Ray does not come up.
    """
    try:
        ray.init(
            address="local",
            num_cpus=allotment.cpus,
            num_gpus=allotment.gpus,
            include_dashboard=False,
            log_to_driver=False,
            # Ray opens it to everybody, sockets and all; the folder around it is ours alone.
            _temp_dir=f"{short}/ray",
        )
    except Exception as error:  # Ray itself raises nothing more special, for a daemon that died
        raise UserError(f"Ray did not start: {error} {KEPT}") from None


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


@contextmanager
def _raylet_watched() -> Iterator[None]:
    """End the command at once if the raylet dies; Ray would end it a while later."""
    node: Any = ray._private.worker._global_node
    raylets = [info.process for info in node.all_processes["raylet"]]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(RAYLET_LOOK_S):
            if any(raylet.poll() is not None for raylet in raylets):
                os._exit(1)  # the guardian tells the user, and ends the rest

    watcher = threading.Thread(target=watch, name="raylet", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def call_in_worker(
    stop: StopSwitch,
    function: Callable[..., T],
    *arguments: Any,
    cpus: float,
    gpus: float,
    **named: Any,
) -> T:
    """Call a function once in a worker with so many cores and GPUs; a failure is not retried.

    On the driver's own node if that has them, as the driver is who can read the images. While they
    are taken, the user is told so.

    Raises:
        Stopped: A signal came; the worker is ended, or not waited for any more.
        UserError: There was no room for half an hour.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_retries": 0,
        "scheduling_strategy": here,
        "num_returns": "streaming",
    }
    answers = ray.remote(**options)(_placed_then_called).remote(function, arguments, named)
    waiting = Wait(f"No worker ({function.__name__})", cpus, gpus)
    _next_of(answers, stop, lambda: _tell(waiting, stop.say))
    result: T = _next_of(answers, stop, lambda: None)
    return result


def _next_of(answers: Any, stop: StopSwitch, meanwhile: Callable[[], None]) -> Any:
    """Wait for a task's next answer, with a call every half second."""
    while not ray.wait([answers], timeout=0.5)[0]:  # signals are heard in between
        if stop.is_thrown:
            ray.cancel(answers, force=True)
            stop.check()
        meanwhile()
    return ray.get(next(answers))


def _placed_then_called(
    function: Callable[..., T], arguments: Sequence[Any], named: Mapping[str, Any]
) -> Iterator[T | None]:
    """Yield once when a worker has begun, and then what the function returns."""
    yield None
    yield function(*arguments, **named)


def _tell(waiting: Wait, say: Callable[[str], None]) -> None:
    if line := waiting.look():
        say(line)
    if waiting.given_up:
        raise UserError(f"given up: {waiting.given_up}", KEPT)


def _shut_down() -> None:
    """End the private Ray, without waiting a second for each of its daemons.

    They do not hear the SIGTERM with which Ray asks them to end (``_signals_blocked``). The raylet
    gets its second, in which its workers end; those that only watch are killed beforehand. Its
    agents, which would take a minute to notice that it is gone, are left to the guardian.
    """
    node = getattr(ray._private.worker, "_global_node", None)
    daemons = node.all_processes if node else {}
    for name in ("monitor", "dashboard", "log_monitor"):
        for daemon in daemons.get(name, ()):
            daemon.process.kill()
    ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let the private Ray listen on 127.0.0.1 alone, as it does on macOS and Windows."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _asking_nobody() -> Iterator[None]:
    """Keep Ray from asking the cloud's metadata service which cloud it is in.

    Its dashboard process does so, for a usage report that is off, unless it fails to look for a
    file in its home directory (``get_cluster_config_to_report``); that process gets none.
    """
    start = RayNode.start_api_server

    def start_without_home(self: Any, **named: Any) -> None:
        home = os.environ.get("HOME")
        os.environ["HOME"] = os.devnull
        try:
            start(self, **named)
        finally:
            del os.environ["HOME"]
            if home is not None:
                os.environ["HOME"] = home

    RayNode.start_api_server = start_without_home
    try:
        yield
    finally:
        RayNode.start_api_server = start


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
    place = home if shared else Path(ray._private.worker._global_node.get_temp_dir_path()).parent
    return Path(tempfile.mkdtemp(prefix=".tune-", dir=place))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep SIGTERM and SIGHUP from the processes started meanwhile; they inherit the mask.

    Batch systems, service managers and closing terminals signal a whole process group. Ray's
    daemons would die before the driver has stopped its trials; Ray blocks only SIGINT for them.
    """
    signals = {signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
