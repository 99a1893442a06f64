"""The MLflow server dies, dawdles, lies, and comes back; searches do not notice, nothing is lost.

Real searches by the real command, a real server behind a small proxy that misbehaves.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from search_helpers import (
    curves_on_disk,
    epochs_recorded,
    read_study,
    run,
    start,
    wait_until,
    write_space,
)
from tracking_helpers import (
    all_runs,
    client_of,
    dump,
    fill,
    free_port,
    get,
    history,
    mlflow_server,
    open_tracker,
    run_trial,
    small_disk,
    wait_for,
)

from okddip_search.tracking.store import store_uri

SPACE = """\
name: quiet
data: {name: digits, train_limit: 100, validation: 200}
trainer: {model: resnet8, width: 0.5, num_peers: 2, batch_size: 32, epochs: 4, ramp_epochs: 1}
search:
  lr: {type: float, low: 0.001, high: 0.3, log: true}
study: {trials: 5, sampler: random, pruner: none}
"""
FLUSH_S = 20
BEGUN = []
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


@dataclass
class Server:
    """A real MLflow server, and the proxy before it."""

    folder: Path
    direct: str
    proxy: FaultyProxy

    def dump(self) -> dict[str, list]:
        """Return all that is stored, files too."""
        stored = dump(self.folder / "server.db")
        files = (p for p in (self.folder / "served").rglob("*") if p.is_file())
        return {**stored, "files": sorted(map(str, files))}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    direct = f"http://127.0.0.1:{port}"
    with mlflow_server(folder, port):
        wait_for(lambda: get(f"{direct}/health"), 120)
        proxy = FaultyProxy(free_port(), port)
        yield Server(folder, direct, proxy)
        proxy.switch("down")


@pytest.fixture(autouse=True, scope="module")
def no_search_left():
    """End what a failed test has left behind."""
    yield
    for search in BEGUN:
        if search.poll() is None:
            os.killpg(search.pid, signal.SIGKILL)
            search.wait()


@dataclass
class Quiet:
    """A search that nothing disturbed: what it found, and how long it took."""

    directory: Path
    seconds: float

    @property
    def curves(self) -> list:
        return curves(self.directory)


@pytest.fixture(scope="module")
def quiet(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    server.proxy.switch("fine")
    search, begin = begin_search(folder, server.proxy.uri)
    output, seconds = end_of(search, begin)
    assert search.returncode == 0, output
    sync(folder / "runs" / "quiet")  # of a busy machine, the last of it
    return Quiet(folder / "runs" / "quiet", seconds)


def begin_search(folder, uri, name="quiet", space=SPACE):
    path = write_space(folder, space)
    tracked = ["--tracking-uri", uri] if uri else []
    arguments = ["--space", path, "--gpus", 0, "--name", name, *tracked]
    BEGUN.append(start(*map(str, arguments), cwd=folder))
    return BEGUN[-1], time.monotonic()


def end_of(search, begin):
    """Wait for a search; return what it printed and how long it took."""
    output, _ = search.communicate(timeout=500)
    return output, time.monotonic() - begin


def curves(directory):
    trials = read_study(directory).trials
    return [(t.number, t.state.name, t.params, t.value, t.intermediate_values) for t in trials]


def sync(directory, *arguments):
    """Run ``okddip-search sync``; return what it printed."""
    done = run("sync", directory, *arguments, cwd=directory.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs_of(uri, name, search_id=None):
    client = client_of(uri)
    experiment = client.get_experiment_by_name(name)
    told = f"tags.`okddip.search_id` = '{search_id}'" if search_id else ""
    return client.search_runs([experiment.experiment_id], told, max_results=1000)


def lost_epochs(uri, name, directory, search_id=None):
    """Compare MLflow with the study; return how many epochs are missing, doubled or changed.

    Everything else (runs, parameters, states, files, the model) must be there exactly once.
    """
    client, study = client_of(uri), read_study(directory)
    runs = runs_of(uri, name, search_id)
    [parent] = [run for run in runs if "okddip.trial" not in run.data.tags]
    children = {run.data.tags["okddip.trial"]: run for run in runs if run is not parent}
    assert len(children) == len(runs) - 1, "a run is doubled"
    assert set(children) == {str(trial.number) for trial in study.trials}
    lost = 0
    for trial in study.trials:
        child = children[str(trial.number)]
        tags = child.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["okddip.stage"] == "search"
        assert tags["okddip.state"] == trial.state.name.lower()
        assert child.info.status == STATUS[trial.state.name]
        assert child.data.params == {"lr": f"{trial.params['lr']:.4g}"}
        assert len(child.data.metrics) >= 10
        # The study's values are those of the directory; both are compared with MLflow's.
        told = list(trial.intermediate_values.items())
        assert [value for _, value in told] == curves_on_disk(directory, trial.number)
        for metric in child.data.metrics:
            points = client.get_metric_history(child.info.run_id, metric)
            assert sorted(p.step for p in points) == list(trial.intermediate_values), metric
        points = client.get_metric_history(child.info.run_id, "val/leader_accuracy")
        lost += len(set(told) ^ {(point.step, point.value) for point in points})
    assert (parent.info.status, parent.data.tags["okddip.state"]) == ("FINISHED", "complete")
    best = client.get_metric_history(parent.info.run_id, "best_leader_accuracy")
    assert sorted(point.step for point in best) == [n + 1 for n in range(len(study.trials))]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"spec.yaml", "best.yaml", "report.html"} <= files
    experiment = parent.info.experiment_id
    from_it = f"source_run_id = '{parent.info.run_id}'"
    [model] = client.search_logged_models([experiment], from_it)
    assert str(model.status) == "READY"
    return lost


def assert_all_arrived(server, name, directory, row):
    """Deliver what is left; everything is there, and delivering again changes nothing."""
    sync(directory)
    row.lost += lost_epochs(server.direct, name, directory)
    before = server.dump()
    assert "delivered 0 records" in sync(directory)
    assert server.dump() == before
    assert row.lost == 0


def assert_undisturbed(quiet, directory, seconds):
    assert curves(directory) == quiet.curves
    limit = 1.5 * quiet.seconds + FLUSH_S + 5
    assert seconds < limit, f"{seconds:.0f} s instead of {quiet.seconds:.0f} s"


def test_an_undisturbed_server_has_it_all_when_the_search_ends(server, quiet, fault):
    row = fault("none: an MLflow server that works (to compare with)")
    row.tries += 1
    row.lost += lost_epochs(server.direct, "quiet", quiet.directory)
    assert_all_arrived(server, "quiet", quiet.directory, row)
    row.survived += 1


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("down", "MLflow server down from the start to the end"),
        ("slow", "MLflow server slow: every answer 5 s late"),
        ("503", "MLflow server answering 500, then 503"),
        ("cut", "MLflow server cutting one in five answers in the middle"),
    ],
)
def test_a_server_that_misbehaves_all_the_time(server, quiet, fault, tmp_path, mode, words):
    row = fault(words)
    row.tries += 1
    server.proxy.switch("500" if mode == "503" else mode)
    search, begin = begin_search(tmp_path, server.proxy.uri, name=mode)
    directory = tmp_path / "runs" / mode
    wait_until(lambda: epochs_recorded(directory) >= 6, timeout=400)
    server.proxy.switch(mode)
    output, seconds = end_of(search, begin)
    assert search.returncode == 0, output
    assert_undisturbed(quiet, directory, seconds)
    if mode != "cut":
        assert "okddip-search sync" in output
    server.proxy.switch("fine")
    assert_all_arrived(server, mode, directory, row)
    row.survived += 1


def test_a_server_that_is_down_for_a_minute(server, quiet, fault, tmp_path):
    row = fault("MLflow server down for a minute, in a search")
    row.tries += 1
    server.proxy.switch("fine")
    search, begin = begin_search(tmp_path, server.proxy.uri, name="minute")
    directory = tmp_path / "runs" / "minute"
    wait_until(lambda: epochs_recorded(directory) >= 3, timeout=400)
    server.proxy.switch("down")
    down_since = time.monotonic()
    output, seconds = end_of(search, begin)
    assert search.returncode == 0, output
    assert_undisturbed(quiet, directory, seconds)
    assert output.count("does not answer") == 1
    refused = run("sync", directory, cwd=tmp_path)
    assert refused.returncode == 2 and "does not answer" in refused.stderr
    assert "Traceback" not in refused.stderr
    time.sleep(max(0, 60 - (time.monotonic() - down_since)))
    server.proxy.switch("fine")
    assert_all_arrived(server, "minute", directory, row)
    row.survived += 1


LOCKER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=60)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_sqlite_locked_by_another_process(quiet, fault, tmp_path):
    row = fault("mlflow.db locked for 35 s by another process, in a search")
    row.tries += 1
    search, begin = begin_search(tmp_path, None, name="locked")
    directory = tmp_path / "runs" / "locked"
    wait_until(lambda: epochs_recorded(directory) >= 1, timeout=400)
    database = directory / "mlflow.db"
    wait_until(database.exists, timeout=60)
    locker = subprocess.Popen(
        [sys.executable, "-c", LOCKER, database, "35"], stdout=subprocess.PIPE, text=True
    )
    assert locker.stdout.readline() == "locked\n"
    output, seconds = end_of(search, begin)
    assert search.returncode == 0, output
    assert_undisturbed(quiet, directory, seconds)
    locker.wait(60)
    sync(directory)
    row.lost += lost_epochs(store_uri(directory), "locked", directory)
    before = dump(database)
    assert "delivered 0 records" in sync(directory)
    assert dump(database) == before
    assert row.lost == 0
    row.survived += 1


@pytest.mark.parametrize("damage", ["deleted", "cut to a third", "zero bytes"])
def test_sessions_that_are_lost_cost_nothing_in_mlflow(server, quiet, fault, tmp_path, damage):
    """The server has had it all: it gets nothing twice. A new store gets everything."""
    row = fault(f"sessions.jsonl {damage}, then sync")
    row.tries += 1
    server.proxy.switch("fine")
    directory = tmp_path / "copy"
    shutil.copytree(quiet.directory, directory)
    sessions = directory / "sessions.jsonl"
    content = sessions.read_bytes()
    if damage == "deleted":
        sessions.unlink()
    else:
        sessions.write_bytes(content[: len(content) // 3] if damage != "zero bytes" else b"")
    before = server.dump()
    sync(directory)
    after = server.dump()
    times = {"runs"}  # when it ended is not known any more
    assert {k: v for k, v in after.items() if k not in times} == {
        k: v for k, v in before.items() if k not in times
    }
    assert "delivered 0 records" in sync(directory)
    sync(directory, "--tracking-uri", "local")
    row.lost += lost_epochs(store_uri(directory), "quiet", directory)
    assert row.lost == 0
    row.survived += 1


def test_searches_at_the_same_time_on_one_server_do_not_mix(server, fault, tmp_path):
    row = fault("three searches at once on one MLflow server, two of one name")
    server.proxy.switch("fine")
    begun = {}
    for folder, name, seed in (("a", "twin", 1), ("b", "twin", 2), ("c", "other", 3)):
        row.tries += 1
        (tmp_path / folder).mkdir()
        space = SPACE.replace("trials: 5", f"trials: 3, seed: {seed}")
        search, _ = begin_search(tmp_path / folder, server.proxy.uri, name, space)
        begun[tmp_path / folder / "runs" / name] = search
    outputs = {directory: search.communicate(timeout=500)[0] for directory, search in begun.items()}
    for directory, search in begun.items():
        assert search.returncode == 0, outputs[directory]
    for directory in begun:
        sync(directory)
    before = server.dump()
    for directory in begun:
        assert "delivered 0 records" in sync(directory)
        with contextlib.closing(sqlite3.connect(server.folder / "server.db")) as database:
            query = "SELECT COUNT(*) FROM experiments WHERE name = ?"
            assert database.execute(query, (directory.name,)).fetchone() == (1,)
        search_id = read_study(directory).user_attrs["okddip:tracking"]["search_id"]
        row.lost += lost_epochs(server.direct, directory.name, directory, search_id)
        row.survived += 1
    assert len(runs_of(server.direct, "twin")) == 8
    assert server.dump() == before
    assert row.lost == 0


def test_a_full_disk_delays_mlflow_db(fault, tmp_path):
    """The study waits for room on its own; here it has room elsewhere."""
    row = fault("disk full (a tmpfs of 8 MiB) under mlflow.db")
    row.tries += 1
    with small_disk(tmp_path / "disk", "8m") as disk:
        troubles: list[str] = []
        directory = tmp_path / "search"
        directory.mkdir()
        uri = f"sqlite:///{disk}/mlflow.db"
        driver = open_tracker(directory, uri, troubles)
        driver.search_started({"trials": 3}, {})
        assert driver.flush(120)
        ballast = fill(disk)
        for number in range(30):
            run_trial(driver, number)
        driver.search_ended("FINISHED")
        wait_for(lambda: any("does not answer" in line for line in troubles), 90)
        time.sleep(15)  # long enough for a run to be left out
        ballast.unlink()
        assert driver.close(120)
        assert not any("left out" in line for line in troubles), troubles
        runs = all_runs(uri)
        assert len(runs) == 31
        for number in range(30):
            points = history(uri, runs[f"trial {number}"])
            row.lost += len({0, 1, 2, 3} ^ {step for step, _ in points}) + abs(4 - len(points))
        assert row.lost == 0
    row.survived += 1
