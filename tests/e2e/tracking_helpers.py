"""A search's story as the bridge tells it, and what an MLflow store made of it."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from okddip_search.study.events import TrialEnd
from okddip_search.tracking import Tracker
from okddip_search.tracking.stage import Past

TAGS = {"git": "abc123", "okddip.space": "digits.yaml"}
EPOCHS = 4


def report(epoch: int, accuracy: float, **changes) -> dict:
    return {
        "epoch": epoch,
        "lr": 0.1,
        "train": {"total": 2.0, "ce_peers": 1.0, "ce_leader": 1.0, "kd_peers": 0.0},
        "leader_accuracy": accuracy,
        "leader_nll": 0.5,
        "peer_accuracy": [0.5, 0.6],
        "mean_peer_accuracy": 0.55,
        "ensemble_accuracy": accuracy + 0.01,
        "diversity": 0.1,
        "seconds": 1.0,
        "images_per_s": 1000.0,
        **changes,
    }


def run_trial(tracker, number, state="complete", start=0, stop=EPOCHS, best=None, resumed=False):
    """Tell a trial's story; accuracy falls after its second epoch, so that best is not last."""
    tracker.trial_started(number, {"lr": 0.1 / 3, "num_peers": 2 + number}, resumed)
    for epoch in range(start, stop):
        tracker.epoch_reported(
            number, epoch, report(epoch, 0.5 + number / 10 - abs(epoch - 1) / 100)
        )
    value = None if state == "failed" else 0.5 + number / 10
    reason = "" if state == "complete" else f"because of {state}"
    end = TrialEnd(number, state, value, stop - 1, reason)
    tracker.trial_ended(end, best or end)
    return end


def confirm_run(tracker, number, contender, seed, accuracy, stop=EPOCHS, resumed=False):
    """Tell the story of a confirm run that ends well, or stop telling it after some epochs."""
    stage = tracker.stage("confirm")
    method = "okddip" if contender.startswith("trial") else contender
    params = {"contender": contender, "seed": seed, "method": method}
    stage.trial_started(number, params, resumed)
    for epoch in range(stop):
        stage.epoch_reported(number, epoch, report(epoch, accuracy))
    if stop == EPOCHS:
        stage.trial_ended(TrialEnd(number, "complete", accuracy, EPOCHS - 1), None)


def past_trial(end: TrialEnd, params: dict, known: dict | None = None) -> Past:
    """Describe a trial as its study has it, with the epochs that are known of it."""
    reports = known or {}
    return Past(end.number, params, end, tuple(reports), lambda: reports, 1_700_000_000_000,
                1_700_000_100_000)  # fmt: skip


def open_tracker(search_dir: Path, uri: str | None = None, troubles: list | None = None) -> Tracker:
    told = troubles if troubles is not None else []
    return Tracker(search_dir, uri, "demo", on_trouble=told.append)


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int):
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "served")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def client_of(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(uri)


def all_runs(uri: str) -> dict:
    """Return every run of the experiment by name."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name("demo")
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == len(runs), "a run is doubled"
    return by_name


def history(uri: str, run, key: str = "val/leader_accuracy") -> list[tuple[int, float]]:
    points = client_of(uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, round(point.value, 9)) for point in points)


def dump(database: Path) -> dict[str, list]:
    """Return all that a replay could double or change."""
    queries = {
        "runs": "SELECT name, status, start_time, end_time, artifact_uri FROM runs ORDER BY 1, 3",
        "metrics": "SELECT run_uuid, key, value, timestamp, step FROM metrics ORDER BY 1, 2, 5, 4",
        "params": "SELECT run_uuid, key, value FROM params ORDER BY 1, 2",
        "tags": "SELECT run_uuid, key, value FROM tags ORDER BY 1, 2",
    }
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return {name: connection.execute(query).fetchall() for name, query in queries.items()}


def assert_one_point_per_step(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = (
            "SELECT COUNT(*), COUNT(DISTINCT run_uuid || '|' || key || '|' || step) FROM metrics"
        )
        rows, distinct = connection.execute(query).fetchone()
    assert rows == distinct > 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def wait_for(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError("it never came")


def save_tiny_leader(directory: Path, seed: int = 0) -> None:
    import torch

    from trainer.group.group import single_network
    from trainer.leader.leader import LeaderInfo, save_leader
    from trainer.models import build_architecture

    torch.manual_seed(seed)
    architecture = build_architecture("resnet8", channels=1, num_classes=4, width=0.25)
    info = LeaderInfo("resnet8", 0.25, list("abcd"), [1, 8, 8], [0.0], [1.0], 0.9, {})
    save_leader(directory, single_network(architecture).eval(), info)


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "64k"):
    """Mount a real file system that is soon full."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return ballast
