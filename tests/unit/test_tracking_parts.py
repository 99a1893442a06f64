"""The parts of tracking that need no store: what is derived, names, secrets, moved directories."""

import base64
import json
import math
import sqlite3
import subprocess
import sys
import zlib

import pytest
from tracking_helpers import TAGS, open_tracker, report, run_trial

from okddip_search.errors import UserError
from okddip_search.masking import masked
from okddip_search.study.events import TrialEnd
from okddip_search.study.reading import stage_of
from okddip_search.study.sessions import Session, SessionLog, read_sessions
from okddip_search.tracking.desired import epoch_metrics, param_texts, run_name
from okddip_search.tracking.reader import Reader
from okddip_search.tracking.store import (
    artifact_uri,
    relocate,
    sole_deliverer,
    store_uri,
    target_of,
)
from okddip_search.tracking.view import saved_view, view_url
from okddip_search.tracking.worker import sync, usual_uri

REPORT = {
    "epoch": 3,
    "lr": 0.1,
    "ramp_weight": 0.2,
    "train": {"total": 3.0, "ce_peers": 1.0, "ce_leader": 1.0, "kd_peers": 0.5, "kd_leader": 0.5},
    "leader_accuracy": 0.9,
    "leader_nll": 0.3,
    "peer_accuracy": [0.8, 0.85],
    "peer_nll": [0.4, 0.4],
    "mean_peer_accuracy": 0.825,
    "ensemble_accuracy": 0.91,
    "ensemble_nll": 0.29,
    "diversity": 0.05,
    "seconds": 1.5,
    "images_per_s": 2000.0,
}


def test_the_ui_imports_no_heavy_library():
    code = (
        "import sys, okddip_search.tracking.ui, okddip_search.tracking.store;"
        "sys.exit(bool({'mlflow', 'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Sessions


def session(**changes) -> Session:
    return Session(**{"search_id": "s1", "name": "demo", "store": "local", **changes})


def test_a_session_is_read_back_with_how_it_ended(tmp_path):
    log = SessionLog(tmp_path)
    log.begin(session(params={"trials": "3"}, tags={"okddip.host": "box"}))
    [running] = read_sessions(tmp_path)
    assert (running.status, running.ended_ms) == (None, None)
    log.end("KILLED")
    log.begin(session())
    ended, again = read_sessions(tmp_path)
    assert (ended.status, ended.tags, ended.params) == (
        "KILLED",
        {"okddip.host": "box"},
        {"trials": "3"},
    )
    assert ended.begun_ms <= ended.ended_ms <= again.begun_ms
    assert again.status is None


def test_sessions_cut_at_any_byte_lose_at_most_the_last_line(tmp_path):
    log = SessionLog(tmp_path)
    for status in ("KILLED", "FINISHED"):
        log.begin(session())
        log.end(status)
    whole, path = read_sessions(tmp_path), tmp_path / "sessions.jsonl"
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        left = read_sessions(tmp_path)
        assert len(left) >= content[:cut].count(b"begin") - 1
        assert [known.begun_ms for known in left] == [s.begun_ms for s in whole[: len(left)]]
        SessionLog(tmp_path).begin(session())  # the next driver begins a line of its own
        assert len(read_sessions(tmp_path)) == len(left) + 1


RUBBISH = ["", "null", "[]", "{}", '{"event": "begin"}', "\0" * 99, "[" * 9999]
RUBBISH += ['{"event": "end", "status": 5, "time_ms": "x"}', '{"event": "begin", "params": 5}']


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_among_sessions_is_skipped(tmp_path, rubbish):
    SessionLog(tmp_path).begin(session())
    with (tmp_path / "sessions.jsonl").open("a") as file:
        file.write(rubbish + "\n")
    SessionLog(tmp_path).end("FINISHED")
    [known] = read_sessions(tmp_path)
    assert known.status == "FINISHED"


def test_an_earlier_versions_journal_says_who_worked_and_how_it_ended(tmp_path):
    operations = [
        {"op": "journal", "version": 1, "search_id": "s1", "name": "demo", "t": 1},
        {"op": "search", "store": "http://***@h", "params": {"trials": "3"}, "tags": {}, "t": 5},
        {"op": "epoch", "trial": "0", "step": 0, "metrics": {}, "t": 6},
        {"op": "search_end", "status": "FINISHED", "state": "complete", "t": 9},
    ]
    lines = "".join(json.dumps(operation) + "\n" for operation in operations)
    (tmp_path / "tracking.jsonl").write_text(lines)
    [known] = read_sessions(tmp_path)
    assert (known.search_id, known.begun_ms, known.ended_ms) == ("s1", 5, 9)
    assert known.status == "FINISHED"
    SessionLog(tmp_path).begin(session())
    assert [s.status for s in read_sessions(tmp_path)] == ["FINISHED", None]


def test_sync_needs_a_search_and_the_password(tmp_path):
    with pytest.raises(UserError, match=r"no study\.journal"):
        sync(tmp_path)
    SessionLog(tmp_path).begin(session(store="http://***@h"))
    with pytest.raises(UserError, match="password"):
        sync(tmp_path)


# What is derived


def desired(directory):
    return Reader(directory, None).read()


def test_a_search_whose_sessions_are_lost_is_the_same_search(tmp_path):
    driver = open_tracker(tmp_path, "http://127.0.0.1:9")
    driver.search_started({"trials": 1}, TAGS)
    run_trial(driver, 0)
    before = desired(tmp_path)
    driver.close(0)
    (tmp_path / "sessions.jsonl").unlink()
    after = desired(tmp_path)
    assert (after.search_id, after.name) == (before.search_id, before.name)
    assert usual_uri(tmp_path) == "http://127.0.0.1:9"
    assert after.children[0].tags == before.children[0].tags
    assert after.parent.params == before.parent.params


def test_epochs_younger_than_a_checkpoint_come_from_memory_and_then_from_disk(tmp_path):
    driver = open_tracker(tmp_path, "http://127.0.0.1:9")
    driver.search_started({}, {})
    driver.trial_started(0, {"lr": 0.1})
    driver.epoch_reported(0, 0, report(0, 0.5))
    driver.checkpoint(0)
    driver.epoch_reported(0, 1, report(1, 0.6))

    def charted(reader):
        [run] = reader.read().children
        return [(p.step, p.value) for p in run.points() if p.key == "val/leader_accuracy"]

    live, later = Reader(tmp_path, None, driver.tracker._memory), Reader(tmp_path, None)
    assert charted(live) == [(0, 0.5), (1, 0.6)]
    assert charted(later) == [(0, 0.5)]
    driver.trial_ended(TrialEnd(0, "complete", 0.6, 1))
    assert charted(later) == charted(live) == [(0, 0.5), (1, 0.6)]
    driver.close(0)


def test_a_killed_search_is_interrupted_and_its_trials_are(tmp_path):
    driver = open_tracker(tmp_path, "http://127.0.0.1:9")
    driver.search_started({}, {})
    driver.trial_started(0, {"lr": 0.1})
    driver.close(0)
    found = desired(tmp_path)
    states = [run.tags["okddip.state"] for run in (found.parent, *found.children)]
    assert states == ["interrupted", "interrupted"]
    assert {run.status for run in (found.parent, *found.children)} == {"KILLED"}


def test_a_trial_that_waits_to_go_on_is_scheduled(tmp_path):
    driver = open_tracker(tmp_path, "http://127.0.0.1:9")
    driver.search_started({}, {})
    driver.trial_started(0, {"lr": 0.1})
    driver.epoch_reported(0, 0, report(0, 0.5))
    driver.trial_paused(0)

    def shown():
        [run] = desired(tmp_path).children
        return run.status, run.tags["okddip.state"]

    assert shown() == ("SCHEDULED", "paused")
    assert "okddip.went_on" not in desired(tmp_path).children[0].tags
    driver.epoch_reported(0, 1, report(1, 0.6))
    assert shown() == ("KILLED", "interrupted"), "it goes on, but no driver is at work"
    driver.trial_went_on(0, {"mean": 0.6, "sd": 0.05, "mark": 0.55})
    why = desired(tmp_path).children[0].tags["okddip.went_on"]
    assert why == "expected 60.00 % ± 5.00, the best had 55.00 %"
    driver.close(0)


def test_stages_are_named_by_their_folders(tmp_path):
    names = {".": "search", "confirm": "confirm", "confirm/tuning/one": "tuning-one"}
    assert {f: stage_of(tmp_path, tmp_path / f) for f in names} == names
    (tmp_path / "confirm.1").mkdir()
    names = {"confirm.1": "confirm", "confirm": "confirm.1", "confirm/tuning/one": "tuning.1-one"}
    assert {f: stage_of(tmp_path, tmp_path / f) for f in names} == names


# Names and numbers


@pytest.mark.parametrize(
    ("stage", "params", "name"),
    [
        ("search", {"lr": 0.1}, "trial 4"),
        ("confirm", {"contender": "trial 7", "seed": 123}, "confirm: trial 7, seed 123"),
        ("tuning-one", {"lr": 0.1}, "tuning-one 4"),
        ("confirm", {}, "confirm 4"),
    ],
)
def test_runs_have_names_to_be_read(stage, params, name):
    assert run_name(stage, 4, params) == name


def test_epoch_metrics_are_named_in_sections_and_few():
    metrics = epoch_metrics(REPORT)
    assert metrics["val/leader_accuracy"] == 0.9
    assert metrics["train/loss"] == 3.0
    assert "train/kd_leader" not in metrics
    assert metrics["time/epoch_s"] == 1.5
    assert len(metrics) + 1 <= 15  # one more is the running best
    many = {**REPORT, "train": {f"part{i}": 1.0 for i in range(50)}}
    assert len(epoch_metrics(many)) + 1 <= 15


def test_only_finite_numbers_are_charted():
    report = {**REPORT, "leader_nll": math.inf, "diversity": math.nan, "seconds": None}
    report["train"] = {"total": -math.inf, "ce_leader": 1.0}
    metrics = epoch_metrics(report)
    assert all(map(math.isfinite, metrics.values()))
    assert not {"val/leader_nll", "peers/diversity", "train/loss", "time/epoch_s"} & set(metrics)
    assert epoch_metrics({"lr": "text", "seconds": 2}) == {"time/epoch_s": 2.0}
    assert epoch_metrics({}) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456789, "0.1235"), (1e-5, "1e-05"), (3, "3"), (True, "True"), ("a" * 999, "a" * 500)],
)
def test_parameters_are_short(value, text):
    assert param_texts({"name": value}) == {"name": text}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://user:pa%40ss@host:5000/x", "https://***@host:5000/x"),
        ("postgresql://u:p@db/mlflow", "postgresql://***@db/mlflow"),
        ("http://u:p@h/a and http://v:q@h/b", "http://***@h/a and http://***@h/b"),
        ("http://user:pa/ss@host", "http://***@host"),
        ("http://user:p@ss@host:5000/x", "http://***@host:5000/x"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_secrets_are_masked(text, hidden):
    assert masked(text) == hidden


def test_credentials_leave_the_address(tmp_path):
    target = target_of(tmp_path, "https://me:p%40ss@host:5000/base")
    assert (target.uri, target.username, target.password) == (
        "https://host:5000/base",
        "me",
        "p@ss",
    )
    assert target.key == "https://***@host:5000/base"
    assert target_of(tmp_path, None) == target_of(tmp_path, store_uri(tmp_path))
    assert target_of(tmp_path, None).is_local


def test_two_never_deliver_at_once(tmp_path):
    with sole_deliverer(tmp_path, 0):
        with pytest.raises(UserError, match="another process"), sole_deliverer(tmp_path, 0.2):
            pass
    with sole_deliverer(tmp_path, 0):
        pass


def test_a_moved_store_is_pointed_to_its_artifacts(tmp_path):
    old = "file:///elsewhere/run%20s/mlartifacts"
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE experiments (name, artifact_location)")
        database.execute("CREATE TABLE runs (artifact_uri)")
        rows = [("Default", "/somewhere/mlruns/0"), ("demo", old)]
        database.executemany("INSERT INTO experiments VALUES (?, ?)", rows)
        rows = [(f"{old}/abc/artifacts",), ("s3://bucket/mlartifacts/x",)]
        database.executemany("INSERT INTO runs VALUES (?)", rows)
    for _ in range(2):
        relocate(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        locations = [
            row[0] for row in database.execute("SELECT artifact_location FROM experiments")
        ]
        runs = [row[0] for row in database.execute("SELECT artifact_uri FROM runs")]
    assert locations == ["/somewhere/mlruns/0", artifact_uri(tmp_path)]
    assert runs == [f"{artifact_uri(tmp_path)}/abc/artifacts", "s3://bucket/mlartifacts/x"]


def state_in(view: str) -> dict:
    """Decode a saved view as the front end does."""
    content = json.loads(view)
    assert isinstance(content["name"], str) and isinstance(content["createdAt"], int)
    kind, _, packed = content["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_saved_views_are_what_the_front_end_decodes():
    filtered = "tags.`okddip.stage` = '{}' and tags.`okddip.search_id` = 's1'"
    trials = [{"lr": 0.1}, {"lr": 0.2, "weight_decay": 1e-4}]
    search = state_in(saved_view("s1", "search", "demo", 1_700_000_000_000, trials))
    assert search["orderByKey"] == "metrics.`best_leader_accuracy`"
    assert search["orderByAsc"] is False
    assert search["searchFilter"] == filtered.format("search")
    shown = {"tags.`okddip.state`", "params.`lr`", "params.`weight_decay`"}
    assert shown <= set(search["selectedColumns"])
    assert search["compareRunCharts"][0]["selectedParams"] == ["lr"], "MLflow drops runs without"
    runs = [{"contender": "trial 1", "seed": 5, "method": "okddip"}]
    confirm = state_in(saved_view("s1", "confirm", "demo", 1_700_000_000_000, runs))
    assert confirm["searchFilter"] == filtered.format("confirm")
    assert confirm["selectedColumns"] == [
        "tags.`okddip.state`",
        "params.`contender`",
        "params.`seed`",
        "params.`method`",
        "metrics.`val/leader_accuracy`",
        "metrics.`test/leader_accuracy`",
    ]


def test_a_view_is_opened_by_its_key():
    page = "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning"
    page += "&compareRunsMode=TABLE&viewStateShareKey=okddip-abcdefgh"
    assert view_url("http://127.0.0.1:5000/", "7", "abcdefghij") == page
    assert (
        view_url("http://127.0.0.1:5000", "7", "abcdefghij", stage="confirm") == f"{page}-confirm"
    )
