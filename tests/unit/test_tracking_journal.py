"""The pure parts of tracking: the journal, what it tells, names, secrets, moved directories."""

import base64
import json
import math
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from okddip_search.errors import UserError
from okddip_search.masking import masked
from okddip_search.tracking.courier import sync
from okddip_search.tracking.journal import (
    Journal,
    Position,
    Story,
    epoch_metrics,
    finite,
    param_text,
    read,
    run_key,
    stage_of,
)
from okddip_search.tracking.stage import run_name
from okddip_search.tracking.store import (
    artifact_uri,
    relocate,
    sole_deliverer,
    store_uri,
    target_of,
)
from okddip_search.tracking.view import confirm_view, search_view, view_url

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


def operations(path: Path) -> list[dict]:
    return [operation for operation, _ in read(path)]


def test_importing_tracking_is_light():
    code = (
        "import sys, okddip_search.tracking, okddip_search.tracking.ui;"
        "sys.exit(bool({'mlflow', 'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_appended_is_read_back_in_order(tmp_path):
    journal = Journal(tmp_path / "j")
    for number in range(5):
        journal.append({"op": "x", "number": number})
    found = list(read(tmp_path / "j"))
    assert [operation["number"] for operation, _ in found] == [0, 1, 2, 3, 4]
    assert all(operation["t"] > 1_600_000_000_000 for operation, _ in found)
    rest = read(tmp_path / "j", offset=found[1][1], limit=2)
    assert [operation["number"] for operation, _ in rest] == [2, 3]


@pytest.mark.parametrize("torn", [b'{"op": "x"', b"{", b"x" * 200_000])
def test_a_torn_last_line_is_cut_at_reopening(tmp_path, torn):
    path = tmp_path / "j"
    Journal(path).append({"op": "whole"})
    with path.open("ab") as file:
        file.write(torn)
    assert [operation["op"] for operation in operations(path)] == ["whole"]
    Journal(path).append({"op": "next"})
    assert [operation["op"] for operation in operations(path)] == ["whole", "next"]


def test_a_line_that_was_torn_and_never_written_again_is_all_that_is_lost(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"op": "x"')
    Journal(path)
    assert path.read_bytes() == b""


def test_damage_in_the_middle_costs_one_line(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"op":"a"}\n{"op":\x00\xff\n\n{"op":"b"}\n')
    assert [operation["op"] for operation in operations(path)] == ["a", "b"]


def test_position_is_kept_per_store(tmp_path):
    journal = tmp_path / "j"
    journal.write_bytes(b"0123456789" * 3)
    local, server = (Position(tmp_path / "p", journal, key) for key in ("local", "http://h"))
    assert local.load() == 0
    local.save(10)
    server.save(20)
    assert (local.load(), server.load()) == (10, 20)


def test_story_is_what_the_journal_told(tmp_path):
    journal = Journal(tmp_path / "j")
    lines = [
        {"op": "journal", "search_id": "s", "name": "demo"},
        {"op": "search", "store": "http://h", "params": {}, "tags": {"git": "1"}},
        {"op": "trial", "trial": 0, "params": {"lr": "1"}, "tags": {}},
        {"op": "trial", "trial": 1, "params": {"lr": "1", "wd": "2"}, "tags": {}},
        {"op": "epoch", "trial": 1, "step": 0, "metrics": {"best_leader_accuracy": 0.5}},
        {"op": "epoch", "trial": 1, "step": 1, "metrics": {}},
        {"op": "end", "trial": 0, "state": "complete"},
    ]
    for line in lines:
        journal.append(line)
    story = Story.from_journal(tmp_path / "j")
    assert (story.search_id, story.name, story.store) == ("s", "demo", "http://h")
    assert (story.open, story.ended, story.columns) == ({"1"}, {"0"}, ["lr", "wd"])
    assert (story.last_step("1"), story.last_step("0")) == (1, -1)
    assert (story.best, story.tags) == ({"1": 0.5}, {"git": "1"})


def test_a_search_is_not_told_by_the_trials_of_other_stages(tmp_path):
    journal = Journal(tmp_path / "j")
    found = {"metrics": {"test/leader_accuracy": 0.4}, "tags": {"note": "x"}}
    lines = [
        {"op": "trial", "trial": "0", "params": {"lr": "1"}, "tags": {}},
        {"op": "end", "trial": "0", "state": "complete"},
        {"op": "trial", "trial": "confirm-0", "params": {"contender": "trial 0"}, "tags": {}},
        {"op": "epoch", "trial": "confirm-0", "step": 3, "metrics": {}},
        {"op": "end", "trial": "confirm-0", "state": "complete"},
        {"op": "results", "trial": "confirm-0", "step": 3, **found},
    ]
    for line in lines:
        journal.append(line)
    story = Story.from_journal(tmp_path / "j")
    assert (story.columns, story.common) == (["lr"], ["lr"])
    assert (story.ended, story.num_ended) == ({"0", "confirm-0"}, 1)
    assert story.last_step("confirm-0") == 3
    assert story.results == {"confirm-0": {"test/leader_accuracy": 0.4, "note": "x"}}


@pytest.mark.parametrize(
    ("stage", "number", "key"),
    [("search", 3, "3"), ("confirm", 3, "confirm-3"), ("tuning-cl_ilr", 12, "tuning-cl_ilr-12")],
)
def test_numbers_of_stages_do_not_collide(stage, number, key):
    assert run_key(stage, number) == key
    assert stage_of(key) == stage


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
    assert finite({"a": "text", "b": True, "c": 2}) == {"b": 1.0, "c": 2.0}
    assert epoch_metrics({}) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456789, "0.1235"), (1e-5, "1e-05"), (3, "3"), (True, "True"), ("a" * 999, "a" * 500)],
)
def test_parameters_are_short(value, text):
    assert param_text(value) == text


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


def test_sync_needs_a_journal_and_the_password(tmp_path):
    with pytest.raises(UserError, match="tracking.jsonl"):
        sync(tmp_path)
    journal = Journal(tmp_path / "tracking.jsonl")
    journal.append({"op": "journal", "search_id": "s", "name": "demo"})
    journal.append({"op": "search", "store": "http://***@h", "params": {}, "tags": {}})
    with pytest.raises(UserError, match="password"):
        sync(tmp_path)


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
    assert relocate(tmp_path)
    assert not relocate(tmp_path)
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
    search = state_in(search_view("s1", "demo", ["lr", "weight_decay"], 1_700_000_000_000))
    assert search["orderByKey"] == "metrics.`best_leader_accuracy`"
    assert search["orderByAsc"] is False
    assert search["searchFilter"] == filtered.format("search")
    assert {"tags.`okddip.state`", "params.`lr`"} <= set(search["selectedColumns"])
    confirm = state_in(confirm_view("s1", "demo", 1_700_000_000_000))
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
