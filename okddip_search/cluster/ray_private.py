"""Every use of Ray's private parts, as they are in Ray 2.60.

``tests/unit/test_ray_private.py`` fails where one of them has moved. Two more private names are
used where Ray wants them set: ``ray.init(_temp_dir=…)`` (``ray_cluster``) and the attribute
``_supports_buffered_results`` of a scheduler (``driver/tune.py``).
"""

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.node import Node as RayNode
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import tune as ray_tune


@contextmanager
def low_memory_survived() -> Iterator[None]:
    """Have Tune take a worker that Ray's memory monitor has killed for one that died.

    Its actor manager (Ray 2.60) knows such a worker's error neither as an actor's nor as a task's,
    and ends the whole search.
    """
    failed = RayActorManager._actor_task_failed

    def as_death(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            message = f"the machine was {LOW_MEMORY}; Ray killed the worker"
            exception = RayActorError(error_msg=message)
        failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = as_death
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed


@contextmanager
def tune_without_signals() -> Iterator[None]:
    """Keep Tune from handling SIGINT and SIGUSR1, at which it ends as if all trials were done."""
    before = ray_tune._setup_signal_catching
    ray_tune._setup_signal_catching = threading.Event  # the event that a signal would set
    try:
        yield
    finally:
        ray_tune._setup_signal_catching = before


LOW_MEMORY = "running low on memory"
"""In the error of a worker that Ray's memory monitor has killed."""


RAYLET_LOOK_S = 0.5


@contextmanager
def raylet_watched() -> Iterator[None]:
    """End the command at once if the raylet dies; Ray would end it a while later."""
    node: Any = ray._private.worker._global_node
    raylets = [info.process for info in node.all_processes["raylet"]]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(RAYLET_LOOK_S):
            if any(raylet.poll() is not None for raylet in raylets):
                os._exit(1)  # the reaper tells the user, and ends the rest

    watcher = threading.Thread(target=watch, name="raylet", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def shut_down() -> None:
    """End the private Ray, without waiting a second for each of its daemons.

    They do not hear the SIGTERM with which Ray asks them to end (``_signals_blocked``). The raylet
    gets its second, in which its workers end; those that only watch are killed beforehand. Its
    agents, which would take a minute to notice that it is gone, are left to the reaper.
    """
    node = getattr(ray._private.worker, "_global_node", None)
    daemons = node.all_processes if node else {}
    for name in ("monitor", "dashboard", "log_monitor"):
        for daemon in daemons.get(name, ()):
            daemon.process.kill()
    ray.shutdown()


def private_folder() -> Path:
    """Return the folder around a private Ray's own, which nobody else may open.

    Ray does not say where its files are; its node does.
    """
    node: Any = ray._private.worker._global_node
    return Path(node.get_temp_dir_path()).parent


def session_logs() -> Path | None:
    """Return the folder of Ray's logs on this node; None where the driver is no part of it."""
    node: Any = ray._private.worker._global_node
    return Path(node.get_session_dir_path(), "logs") if node else None


def actor_of(controller: Any, trial: Any) -> Any:
    """Return the actor that runs a trial; Tune has no public way to it.

    Args:
        controller: Tune's controller, as a scheduler is handed it.
        trial: One of Tune's.

    Raises:
        AttributeError: Tune keeps them elsewhere.
        KeyError: It has none.
    """
    tracked = controller._trial_to_actor[trial]
    actor, _ = controller._actor_manager._live_actors_to_ray_actors_resources[tracked]
    return actor


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let the private Ray listen on 127.0.0.1 alone, as it does on macOS and Windows."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def quoting() -> Iterator[None]:
    """Let Ray hand its commands to the raylet in a shell's quotes.

    It uses those of Windows (``subprocess.list2cmdline``), which leave a lone ``'`` in a path as it
    is; the raylet reads it as the beginning of a quotation and ends.
    """
    before = subprocess.list2cmdline
    subprocess.list2cmdline = shlex.join  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.list2cmdline = before


@contextmanager
def asking_nobody() -> Iterator[None]:
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
