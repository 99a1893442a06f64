"""``okddip-search ui DIR``: MLflow's own pages over one search directory, on this machine only."""

import contextlib
import ipaddress
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from okddip_search.errors import UserError
from okddip_search.hints import to_reach
from okddip_search.layout import CONFIRM, DATABASE
from okddip_search.study.sessions import Session, read_sessions
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import (
    artifact_uri,
    find_experiment,
    relocate,
    store_uri,
    target_of,
)
from okddip_search.tracking.view import view_tag, view_url

DEFAULT_PORT = 5000
SERVER_LOG = "ui.log"

_STOP_TIMEOUT_S = 5.0


def serve_ui(
    search_dir: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    echo: Callable[[str], None] = print,
    open_browser: bool = False,
    upgrade: bool = False,
    start_timeout_s: float = 90.0,
) -> int:
    """Serve a search in the browser until SIGINT, SIGTERM or SIGHUP.

    A store that was moved or copied is pointed to its artifacts first (``store.relocate``).

    Args:
        search_dir: The search directory.
        host: Address to listen on.
        port: Port to listen on; None: 5000 if it is free, else any free one.
        echo: Receives the lines for the user.
        open_browser: Whether to show it in the user's browser.
        upgrade: Whether to migrate a database of an earlier MLflow.
        start_timeout_s: How long the server may take to answer.

    Returns:
        0 when stopped by a signal; the server's exit code if it ended without one.

    Raises:
        UserError: There is nothing to show, the port is taken, or the server does not start.
    """
    if not (search_dir / DATABASE).exists():
        raise UserError(
            f"{search_dir}: no {DATABASE} here",
            "give the directory of a search; one tracked elsewhere (--tracking-uri) is shown there",
        )
    require_schema(target_of(search_dir, None), upgrade=upgrade)
    _relocate(search_dir)
    port = _choose_port(host, port)
    address = f"http://{host}:{port}"
    stop = threading.Event()
    with _stopped_by_signals(stop), _server(search_dir, host, port) as server:
        if not _wait_until_healthy(server, address, stop, start_timeout_s):
            raise UserError(
                f"the MLflow server did not start: {_last_line(search_dir / SERVER_LOG)}",
                f"see {search_dir / SERVER_LOG}",
            )
        if not stop.is_set():
            links = _links(search_dir, address)
            for line in links:
                echo(line)
            if command := to_reach(port):
                echo(f"From your own machine, first:  {command}")
            if open_browser and not webbrowser.open(links[0].rpartition(" ")[2]):
                echo("There is no browser to open here.")
            if not _is_loopback(host):
                echo(f"Whoever can reach {host}:{port} can read and change all of it: no password.")
            echo("Ctrl-C ends it.")
        while server.poll() is None and not stop.wait(0.2):
            pass
        return 0 if stop.is_set() else int(server.returncode)


def _relocate(search_dir: Path) -> None:
    try:
        relocate(search_dir)
    except sqlite3.Error as error:
        raise UserError(
            f"{search_dir / DATABASE}: {error}", "is it whole, and may you write to it?"
        ) from None


def _links(search_dir: Path, address: str) -> list[str]:
    """Return the links to the views, with a title each."""
    session = (read_sessions(search_dir) or [Session("", "")])[-1]
    found = find_experiment(search_dir, session.name)
    if found is None:
        return [f"MLflow is at {address}"]
    experiment_id, tags = found
    search_id = session.search_id if view_tag(session.search_id) in tags else None
    lines = [
        f"Trials, the best first:  {view_url(address, experiment_id, search_id)}",
        f"Charts of the trials:    {view_url(address, experiment_id, search_id, 'CHART')}",
    ]
    if view_tag(session.search_id, CONFIRM) in tags:
        page = view_url(address, experiment_id, session.search_id, stage=CONFIRM)
        lines.append(f"Runs that confirm it:    {page}")
    if search_id:  # else MLflow forgets it when the page is reloaded
        lines.append('There, "Override saved view" makes your browser keep this view.')
    return lines


def _choose_port(host: str, port: int | None) -> int:
    if port is not None:
        if not _is_free(host, port):
            raise UserError(f"port {port} on {host} is taken", "choose another with --port")
        return port
    if _is_free(host, DEFAULT_PORT):
        return DEFAULT_PORT
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def _server(search_dir: Path, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``mlflow server`` in a process group of its own, and leave none of it behind."""
    artifacts = artifact_uri(search_dir)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", store_uri(search_dir)]
    command += ["--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    # One worker and no job runners: 0.4 GB instead of 2.1 GB.
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (search_dir / SERVER_LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop_group(process)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    for name, patience_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + patience_s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, name)
            while time.monotonic() < deadline:
                process.poll()  # reap the leader, else its zombie keeps the group alive
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    process.wait()


def _wait_until_healthy(
    server: subprocess.Popen[bytes], address: str, stop: threading.Event, timeout_s: float
) -> bool:
    """Return whether the server answers (or the user no longer wants it to)."""
    deadline = time.monotonic() + timeout_s
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    while not stop.wait(0.2):
        if server.poll() is not None or time.monotonic() > deadline:
            return False
        with contextlib.suppress(OSError):
            with direct.open(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return True
    return True


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() or ["no message"]
    return lines[-1]
