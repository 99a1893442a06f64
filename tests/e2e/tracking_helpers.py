"""A search as it lies on disk, told by a driver's hooks, and what an MLflow store made of it."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.trial import Trial, TrialState, create_trial

from okddip_search.study.events import TrialEnd
from okddip_search.study.storage import open_journal
from okddip_search.study.trials import IDENTITY, PAUSES_AFTER, REASON, WENT_ON
from okddip_search.tracking.worker import Tracker
from trainer.io.files import write_json

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


class Stage:
    """A study in a search directory, written as the bridge and the workers write it."""

    def __init__(self, tracker: Tracker, home: Path) -> None:
        self.home = home
        self._study = open_journal(home, home.name, NopPruner())
        self._listener = tracker.stage(home)
        self._history: dict[int, list[dict]] = {}

    def trial_started(self, number, params, resumed=False) -> None:
        if not resumed:
            kinds = {int: IntDistribution, float: FloatDistribution}
            is_sampled = "contender" not in params
            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=params if is_sampled else {},
                    distributions={k: kinds[type(v)](0, 1000) for k, v in params.items()}
                    if is_sampled
                    else {},
                    user_attrs={} if is_sampled else {k: params[k] for k in ("contender", "seed")},
                )
            )
        self._listener.trial_started(number, params, resumed)

    def epoch_reported(self, number, step, report) -> None:
        """An epoch that the study has already is not recorded again."""
        frozen = self._study.trials[number]
        if step not in frozen.intermediate_values:
            Trial(self._study, frozen._trial_id).report(report["leader_accuracy"], step)
        self._history.setdefault(number, []).append(report)
        self._listener.epoch_reported(number, step, report)

    def trial_paused(self, number: int) -> None:
        """Let a trial wait after the epochs that it has."""
        frozen = self._study.trials[number]
        epochs = len(frozen.intermediate_values)
        Trial(self._study, frozen._trial_id).set_user_attr(PAUSES_AFTER, epochs)
        self._listener.trial_paused(number)

    def trial_went_on(self, number: int, expected: dict[str, float]) -> None:
        """Note what was expected of a paused trial that goes on."""
        Trial(self._study, self._study.trials[number]._trial_id).set_user_attr(WENT_ON, expected)

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None = None) -> None:
        trial = Trial(self._study, self._study.trials[end.number]._trial_id)
        if end.reason:
            trial.set_user_attr(REASON, end.reason)
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        value = end.value if end.state == "complete" else None
        self._study.tell(trial, value, state.get(end.state, TrialState.FAIL))
        self.checkpoint(end.number)
        self._listener.trial_ended(end, best)

    def checkpoint(self, number: int) -> None:
        """Write what a worker keeps of a run."""
        folder = self.home / "trials" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "state.json", {"history": self._history.get(number, [])})


class Driver(Stage):
    """A driver at work in a search directory."""

    def __init__(self, search_dir: Path, uri: str | None, troubles: list[str]) -> None:
        self.directory = search_dir
        self.tracker = Tracker(search_dir, uri, "demo", on_trouble=troubles.append)
        self._stages: dict[str, Stage] = {}
        super().__init__(self.tracker, search_dir)
        self.flush, self.close = self.tracker.flush, self.tracker.close
        self.search_ended = self.tracker.end

    def search_started(self, params, tags) -> None:
        self.tracker.begin(params, tags)
        self._study.set_user_attr(IDENTITY, self.tracker.session.identity)

    def stage(self, name: str) -> Stage:
        """Return the study in a folder of the search."""
        if name not in self._stages:
            self._stages[name] = Stage(self.tracker, self.directory / name)
        return self._stages[name]

    def confirmed(self, tests: dict[int, float], verdict: str = "", champion=False) -> None:
        """Write what a confirmation found."""
        self.stage("confirm")
        write_findings(self.directory, tests, verdict, champion)


def write_findings(search_dir: Path, tests: dict[int, float], verdict: str, champion: bool) -> None:
    """Write ``confirm.json`` as far as MLflow shows it."""
    home = search_dir / "confirm"
    home.mkdir(exist_ok=True)
    runs = [{"number": number, "test": test} for number, test in tests.items()]
    found = {
        "format": 1,
        "state": "complete",
        "contenders": [{"label": "trial 1", "runs": runs}],
        "winner": "trial 1",
        "verdict": {"sentence": verdict, "allows_champion": champion} if verdict else None,
        "retrained": None,
        "ended": datetime.now(UTC).isoformat(),
    }
    write_json(home / "confirm.json", found)


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


def confirm_run(driver, number, contender, seed, accuracy, stop=EPOCHS, resumed=False):
    """Tell the story of a confirm run that ends well, or stop telling it after some epochs."""
    stage = driver.stage("confirm")
    method = "okddip" if contender.startswith("trial") else contender
    write_plan(stage.home, contender, method)
    params = {"contender": contender, "seed": seed, "method": method}
    stage.trial_started(number, params, resumed)
    for epoch in range(stop):
        stage.epoch_reported(number, epoch, report(epoch, accuracy))
    if stop == EPOCHS:
        stage.trial_ended(TrialEnd(number, "complete", accuracy, EPOCHS - 1), None)


def write_plan(home: Path, contender: str, method: str) -> None:
    """Add a contender to ``plan.yaml``, which JSON is, too."""
    path = home / "plan.yaml"
    known = json.loads(path.read_text())["contenders"] if path.exists() else []
    known.append({"label": contender, "config": {"method": method}})
    write_json(path, {"contenders": known})


def open_tracker(search_dir: Path, uri: str | None = None, troubles: list | None = None) -> Driver:
    return Driver(search_dir, uri, troubles if troubles is not None else [])


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
