"""A search on disk, shown in the search directory's own sqlite store."""

import contextlib
import math
import shutil
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
    report,
    run_trial,
)

from okddip_search.study.events import TrialEnd
from okddip_search.tracking.store import store_uri
from okddip_search.tracking.worker import sync


@pytest.fixture(scope="module")
def story_dir(tmp_path_factory) -> Path:
    """Two complete trials, one pruned, one failed."""
    search_dir = tmp_path_factory.mktemp("story") / "runs dir"
    search_dir.mkdir()
    (search_dir / "spec.yaml").write_text("name: demo\n")
    driver = open_tracker(search_dir)
    driver.search_started({"trials": 4, "sampler": "tpe"}, TAGS)
    run_trial(driver, 0)
    run_trial(driver, 1)
    run_trial(driver, 2, "pruned", stop=2)
    run_trial(driver, 3, "failed", stop=1)
    driver.search_ended("FINISHED")
    assert driver.close(60)
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


def test_an_epochs_point_has_the_time_at_which_it_ended(tmp_path):
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    driver.trial_started(0, {"lr": 0.1})
    for epoch in range(2):
        driver.epoch_reported(0, epoch, report(epoch, 0.5, ended_s=1_700_000_000.25 + epoch))
    assert driver.close(30)
    run = all_runs(store_uri(tmp_path))["trial 0"]
    points = client_of(store_uri(tmp_path)).get_metric_history(run.info.run_id, "train/loss")
    assert [point.timestamp for point in points] == [1_700_000_000_250, 1_700_000_001_250]


def test_parent_shows_the_best(story_dir):
    uri = store_uri(story_dir)
    parent = all_runs(uri)["demo"]
    assert parent.data.tags["okddip.best_trial"] == "1"
    assert parent.data.metrics == {"best_leader_accuracy": 0.6}
    assert history(uri, parent, "best_leader_accuracy") == [(1, 0.5), (2, 0.6), (3, 0.6), (4, 0.6)]


def test_artifacts_lie_in_the_search_directory(story_dir):
    runs = all_runs(store_uri(story_dir))
    files = list((story_dir / "mlartifacts" / runs["demo"].info.run_id).rglob("spec.yaml"))
    assert len(files) == 1


def test_a_second_sync_sends_nothing(story_dir):
    before = dump(story_dir / "mlflow.db")
    assert sync(story_dir) == 0
    assert dump(story_dir / "mlflow.db") == before


def test_a_lost_store_gets_everything_again(story_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(story_dir, copy, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    assert sync(copy) > 0

    def content(stored):  # all but MLflow's random names of runs, and of folders
        columns = {"runs": slice(0, 4), "metrics": slice(1, 5), "params": slice(1, 3)}
        return {name: sorted(row[part] for row in stored[name]) for name, part in columns.items()}

    assert content(dump(copy / "mlflow.db")) == content(dump(story_dir / "mlflow.db"))
    assert sync(copy) == 0


def test_a_store_that_lacks_something_gets_just_that(story_dir):
    before = dump(story_dir / "mlflow.db")
    trial_2 = all_runs(store_uri(story_dir))["trial 2"].info.run_id
    with contextlib.closing(sqlite3.connect(story_dir / "mlflow.db")) as database, database:
        for table in ("metrics", "latest_metrics"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (trial_2,))
        database.execute("DELETE FROM tags WHERE key = 'okddip.best_trial'")
        database.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (trial_2,))
    assert sync(story_dir) == 2 * 10 + 2  # two epochs, a tag and a status
    assert dump(story_dir / "mlflow.db") == before


def test_inf_and_nan_are_left_out(tmp_path):
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    driver.trial_started(0, {"lr": 0.1})
    driver.epoch_reported(0, 0, report(0, math.nan, leader_nll=math.inf))
    driver.epoch_reported(0, 1, report(1, 0.5, diversity=-math.inf))
    driver.trial_ended(TrialEnd(0, "failed", math.nan, 1, "loss"))
    assert driver.close(30)
    uri = store_uri(tmp_path)
    run = all_runs(uri)["trial 0"]
    assert history(uri, run) == [(1, 0.5)]
    assert all(map(math.isfinite, run.data.metrics.values()))
    assert len(history(uri, run, "best_leader_accuracy")) == 1
    assert len(history(uri, run, "peers/diversity")) == 1
    assert sync(tmp_path) > 0  # the driver has not said how it ended
    assert sync(tmp_path) == 0


def test_a_run_that_mlflow_refuses_is_named_and_holds_up_no_other(tmp_path):
    troubles: list[str] = []
    driver = open_tracker(tmp_path, troubles=troubles)
    driver.search_started({}, {})
    driver.trial_started(0, {f"a name that MLflow forbids!? {'x' * 300}": 0.1})
    run_trial(driver, 1)
    assert driver.close(40)
    assert all_runs(store_uri(tmp_path))["trial 1"].info.status == "FINISHED"
    [message] = troubles
    assert "refuses run trial 0, it is left out" in message


KILLED_DRIVER = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tracking_helpers import open_tracker, report, run_trial
driver = open_tracker(Path(sys.argv[1]))
driver.search_started({"trials": 3}, {"driver": "one"})
run_trial(driver, 0)
driver.trial_started(1, {"lr": 0.1, "num_peers": 3}, False)
driver.epoch_reported(1, 0, report(0, 0.9))
assert driver.flush(60)
driver.epoch_reported(1, 1, report(1, 0.4))
driver.trial_started(2, {"lr": 0.1, "num_peers": 3}, False)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_driver_loses_nothing_and_doubles_nothing(tmp_path):
    command = [sys.executable, "-c", KILLED_DRIVER, str(tmp_path), str(Path(__file__).parent)]
    killed = subprocess.run(command, check=False, timeout=90)
    assert killed.returncode == -signal.SIGKILL
    with (tmp_path / "sessions.jsonl").open("ab") as file:
        file.write(b'{"event":"end","sta')  # killed within a line

    driver = open_tracker(tmp_path)
    driver.search_started({"trials": 5}, {"driver": "two"})
    driver.trial_started(1, {"lr": 0.1, "num_peers": 3}, resumed=True)
    for epoch in range(EPOCHS):  # from its checkpoint: two epochs are trained again
        driver.epoch_reported(1, epoch, report(epoch, 0.5))
    driver.search_ended("KILLED")
    assert driver.close(60)

    uri = store_uri(tmp_path)
    runs = all_runs(uri)
    assert history(uri, runs["trial 1"])[0] == (0, 0.9)  # as it was told first
    assert history(uri, runs["trial 1"])[2:] == [(2, 0.5), (3, 0.5)]
    assert_one_point_per_step(tmp_path / "mlflow.db")
    states = {name: (run.info.status, run.data.tags["okddip.state"]) for name, run in runs.items()}
    assert states == {
        "demo": ("KILLED", "interrupted"),
        "trial 0": ("FINISHED", "complete"),
        "trial 1": ("KILLED", "interrupted"),
        "trial 2": ("KILLED", "interrupted"),
    }
    assert runs["trial 0"].data.tags["driver"] == "one"
    assert runs["trial 1"].data.tags["driver"] == "two"
    assert runs["demo"].data.params == {"trials": "3"}
    assert runs["demo"].data.tags["okddip.resumed.trials"] == "5"


def test_a_locked_sqlite_store_delays_delivery_only(tmp_path):
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    assert driver.close(30)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        driver = open_tracker(tmp_path)
        driver.search_started({}, {})
        begin = time.monotonic()
        run_trial(driver, 0)
        assert time.monotonic() - begin < 0.5
        assert not driver.close(0.5)
        blocker.rollback()
    sync(tmp_path)
    assert all_runs(store_uri(tmp_path))["trial 0"].info.status == "FINISHED"


def test_a_run_that_a_slow_server_created_twice_is_one_run_afterwards(tmp_path):
    """A request that was given up as lost was carried out all the same, after a second one."""
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    run_trial(driver, 0)
    assert driver.close(60)
    client, uri = client_of(store_uri(tmp_path)), store_uri(tmp_path)
    before = all_runs(uri)
    for name, run in before.items():
        tags = {key: run.data.tags[key] for key in ("okddip.search_id", "okddip.trial")
                if key in run.data.tags}  # fmt: skip
        client.create_run(run.info.experiment_id, tags=tags, run_name=name)
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    run_trial(driver, 1)
    assert driver.close(60)
    after = all_runs(uri)
    assert {name: run.info.run_id for name, run in after.items() if name in before} == {
        name: run.info.run_id for name, run in before.items()
    }
    assert len(history(uri, after["trial 0"])) == EPOCHS
