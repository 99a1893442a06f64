"""Tracking into the search directory's own sqlite store."""

import contextlib
import math
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracking_helpers import (
    EPOCHS,
    TAGS,
    all_runs,
    assert_one_point_per_step,
    client_of,
    dump,
    history,
    open_tracker,
    past_trial,
    report,
    run_trial,
)

from okddip_search.study.events import TrialEnd
from okddip_search.tracking.courier import sync
from okddip_search.tracking.store import store_uri


@pytest.fixture(scope="module")
def story_dir(tmp_path_factory) -> Path:
    """Two complete trials, one pruned, one failed."""
    search_dir = tmp_path_factory.mktemp("story") / "runs dir"
    search_dir.mkdir()
    (search_dir / "spec.yaml").write_text("name: demo\n")
    tracker = open_tracker(search_dir)
    tracker.search_started({"trials": 4, "sampler": "tpe"}, TAGS, [search_dir / "spec.yaml"])
    run_trial(tracker, 0)
    best = run_trial(tracker, 1)
    run_trial(tracker, 2, "pruned", stop=2, best=best)
    run_trial(tracker, 3, "failed", stop=1, best=best)
    tracker.search_ended("FINISHED", {"best": 0.6, "broken": math.nan}, [])
    assert tracker.close(60) == 0
    return search_dir


def test_every_trial_is_a_run_with_its_own_state(story_dir):
    runs = all_runs(store_uri(story_dir))
    assert set(runs) == {"demo", "trial 0", "trial 1", "trial 2", "trial 3"}
    states = {name: (run.info.status, run.data.tags["okddip.state"]) for name, run in runs.items()}
    assert states == {
        "demo": ("FINISHED", "complete"),
        "trial 0": ("FINISHED", "complete"),
        "trial 1": ("FINISHED", "complete"),
        "trial 2": ("KILLED", "pruned"),
        "trial 3": ("FAILED", "failed"),
    }
    assert runs["trial 3"].data.tags["okddip.reason"] == "because of failed"
    assert "okddip.reason" not in runs["trial 0"].data.tags
    for number in range(4):
        tags = runs[f"trial {number}"].data.tags
        assert tags["mlflow.parentRunId"] == runs["demo"].info.run_id
        assert tags["okddip.trial"] == str(number)
        assert tags["okddip.stage"] == "search"
        assert {key: tags[key] for key in TAGS} == TAGS


def test_parameters_and_charts(story_dir):
    uri = store_uri(story_dir)
    runs = all_runs(uri)
    assert runs["trial 1"].data.params == {"lr": "0.03333", "num_peers": "3"}
    assert runs["demo"].data.params == {"trials": "4", "sampler": "tpe"}
    assert history(uri, runs["trial 1"]) == [(0, 0.59), (1, 0.6), (2, 0.59), (3, 0.58)]
    best = history(uri, runs["trial 1"], "best_leader_accuracy")
    assert best == [(0, 0.59), (1, 0.6), (2, 0.6), (3, 0.6)]
    assert len(history(uri, runs["trial 2"])) == 2
    assert len(runs["trial 1"].data.metrics) < 15
    assert_one_point_per_step(story_dir / "mlflow.db")


def test_parent_shows_the_best(story_dir):
    uri = store_uri(story_dir)
    parent = all_runs(uri)["demo"]
    assert parent.data.tags["okddip.best_trial"] == "1"
    assert parent.data.metrics == {"best_leader_accuracy": 0.6, "best": 0.6}
    steps = [step for step, _ in history(uri, parent, "best_leader_accuracy")]
    assert steps == [1, 2, 3, 4]


def test_artifacts_lie_in_the_search_directory(story_dir):
    runs = all_runs(store_uri(story_dir))
    files = list((story_dir / "mlartifacts" / runs["demo"].info.run_id).rglob("spec.yaml"))
    assert len(files) == 1


def test_delivering_all_again_changes_nothing(story_dir):
    before = dump(story_dir / "mlflow.db")
    assert sync(story_dir) == 0
    position = story_dir / "tracking.offset"
    position.unlink()
    operations = len((story_dir / "tracking.jsonl").read_text().splitlines())
    assert sync(story_dir) == operations
    assert dump(story_dir / "mlflow.db") == before


def test_inf_and_nan_are_left_out(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    tracker.trial_started(0, {"lr": math.inf}, False)
    tracker.epoch_reported(0, 0, report(0, math.nan, leader_nll=math.inf))
    tracker.epoch_reported(0, 1, report(1, 0.5, diversity=-math.inf))
    tracker.trial_ended(TrialEnd(0, "failed", math.nan, 1, "loss"), None)
    assert tracker.close(30) == 0
    uri = store_uri(tmp_path)
    run = all_runs(uri)["trial 0"]
    assert history(uri, run) == [(1, 0.5)]
    assert all(map(math.isfinite, run.data.metrics.values()))
    assert len(history(uri, run, "best_leader_accuracy")) == 1
    assert len(history(uri, run, "peers/diversity")) == 1


def test_an_event_that_mlflow_refuses_holds_up_no_other(tmp_path):
    troubles: list[str] = []
    tracker = open_tracker(tmp_path, troubles=troubles)
    tracker.search_started({}, {"a tag name that MLflow forbids!?": "x"}, [])
    run_trial(tracker, 0)
    assert tracker.close(40) == 0
    assert all_runs(store_uri(tmp_path))["trial 0"].info.status == "FINISHED"
    assert any("left out" in message for message in troubles)


KILLED_DRIVER = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tracking_helpers import open_tracker, report, run_trial
tracker = open_tracker(Path(sys.argv[1]))
tracker.search_started({"trials": 3}, {"driver": "one"}, [])
run_trial(tracker, 0)
tracker.trial_started(1, {"lr": 0.1, "num_peers": 3}, False)
tracker.epoch_reported(1, 0, report(0, 0.9))
database = Path(sys.argv[1], "tracking.offset")
while not database.exists():
    time.sleep(0.05)
tracker.epoch_reported(1, 1, report(1, 0.4))
tracker.trial_started(2, {"lr": 0.1, "num_peers": 3}, False)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_driver_loses_nothing_and_doubles_nothing(tmp_path):
    command = [sys.executable, "-c", KILLED_DRIVER, str(tmp_path), str(Path(__file__).parent)]
    killed = subprocess.run(command, check=False, timeout=90)
    assert killed.returncode == -signal.SIGKILL
    with (tmp_path / "tracking.jsonl").open("ab") as file:
        file.write(b'{"op":"epoch","trial":2,"st')  # killed within a line
    (tmp_path / "tracking.offset").unlink()  # delivered, but killed before noting it

    tracker = open_tracker(tmp_path)
    tracker.search_started({"trials": 5}, {"driver": "two"}, [])
    finished = TrialEnd(2, "complete", 0.4, 0)
    tracker.catch_up([past_trial(TrialEnd(0, "complete", 0.5, 3), {}), past_trial(finished, {})])
    tracker.trial_started(1, {"lr": 0.1, "num_peers": 3}, True)
    for epoch in range(EPOCHS):  # from its checkpoint: two epochs are trained again
        tracker.epoch_reported(1, epoch, report(epoch, 0.5))
    tracker.search_ended("KILLED", {}, [])
    assert tracker.close(60) == 0

    uri = store_uri(tmp_path)
    runs = all_runs(uri)
    assert history(uri, runs["trial 1"]) == [(0, 0.9), (1, 0.4), (2, 0.5), (3, 0.5)]
    assert runs["trial 1"].data.metrics["best_leader_accuracy"] == 0.9
    assert_one_point_per_step(tmp_path / "mlflow.db")
    states = {name: (run.info.status, run.data.tags["okddip.state"]) for name, run in runs.items()}
    assert states == {
        "demo": ("KILLED", "interrupted"),
        "trial 0": ("FINISHED", "complete"),
        "trial 1": ("KILLED", "interrupted"),
        "trial 2": ("FINISHED", "complete"),
    }
    assert runs["demo"].data.params == {"trials": "3"}
    assert runs["demo"].data.tags["okddip.resumed.trials"] == "5"


def test_a_locked_sqlite_store_delays_delivery_only(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    assert tracker.close(30) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        tracker = open_tracker(tmp_path)
        begin = time.monotonic()
        run_trial(tracker, 0)
        assert time.monotonic() - begin < 0.5
        assert tracker.close(0.5) > 0
        blocker.rollback()
    tracker._courier.join(30)
    sync(tmp_path)
    assert all_runs(store_uri(tmp_path))["trial 0"].info.status == "FINISHED"


def test_a_run_that_a_slow_server_created_twice_is_one_run_afterwards(tmp_path):
    """A request that was given up as lost was carried out all the same, after a second one."""
    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    run_trial(tracker, 0)
    assert tracker.close(60) == 0
    client, uri = client_of(store_uri(tmp_path)), store_uri(tmp_path)
    before = all_runs(uri)
    for name, run in before.items():
        tags = {key: run.data.tags[key] for key in ("okddip.search_id", "okddip.trial")
                if key in run.data.tags}  # fmt: skip
        client.create_run(run.info.experiment_id, tags=tags, run_name=name)
    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    run_trial(tracker, 1)
    assert tracker.close(60) == 0
    after = all_runs(uri)
    assert {name: run.info.run_id for name, run in after.items() if name in before} == {
        name: run.info.run_id for name, run in before.items()
    }
    assert len(history(uri, after["trial 0"])) == EPOCHS
