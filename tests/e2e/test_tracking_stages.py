"""Stages after the search, in the same parent run: who is who, and what stays the search's own."""

import json
from pathlib import Path

import pytest
from tracking_helpers import (
    EPOCHS,
    TAGS,
    all_runs,
    client_of,
    confirm_run,
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

TESTED = {"test/leader_accuracy": 0.55}


@pytest.fixture(scope="module")
def story_dir(tmp_path_factory) -> Path:
    """A search of two trials, confirmed by one driver after it; trial numbers collide."""
    search_dir = tmp_path_factory.mktemp("stages")
    tracker = open_tracker(search_dir)
    tracker.search_started({"trials": 2}, TAGS, [])
    run_trial(tracker, 0)
    run_trial(tracker, 1)
    tracker.search_ended("FINISHED", {}, [])
    tracker.search_started({"trials": 2}, TAGS, [])
    confirm_run(tracker, 0, "trial 1", 123, 0.7)
    confirm_run(tracker, 1, "single", 123, 0.65)
    tracker.stage("confirm").results(0, TESTED, {"okddip.chosen": "yes"})
    tracker.stage("confirm").results(0, TESTED, {"okddip.chosen": "yes"})  # by a resumed driver
    tuning = tracker.stage("tuning-one")
    tuning.trial_started(0, {"lr": 0.3, "momentum": 0.9}, False)
    tuning.epoch_reported(0, 0, report(0, 0.99))
    tuning.trial_ended(TrialEnd(0, "pruned", 0.99, 0), TrialEnd(0, "complete", 0.99, 0))
    tracker.search_ended("FINISHED", {}, [], {"okddip.verdict": "within noise", "okddip.x": None})
    assert tracker.close(60) == 0
    return search_dir


def test_trials_of_all_stages_are_children_of_one_run(story_dir):
    runs = all_runs(store_uri(story_dir))
    parent = runs.pop("demo")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {name: run.data.tags["okddip.stage"] for name, run in runs.items()} == {
        "trial 0": "search",
        "trial 1": "search",
        "confirm: trial 1, seed 123": "confirm",
        "confirm: single, seed 123": "confirm",
        "tuning-one 0": "tuning-one",
    }
    for run in runs.values():
        assert {key: run.data.tags[key] for key in TAGS} == TAGS
    assert runs["tuning-one 0"].info.status == "KILLED"
    assert runs["confirm: single, seed 123"].info.status == "FINISHED"


def test_a_confirm_run_shows_contender_seed_and_later_its_test(story_dir):
    uri = store_uri(story_dir)
    run = all_runs(uri)["confirm: trial 1, seed 123"]
    assert run.data.params == {"contender": "trial 1", "seed": "123", "method": "okddip"}
    assert run.data.tags["okddip.objective"] == "0.7"
    assert run.data.tags["okddip.chosen"] == "yes"
    assert history(uri, run) == [(epoch, 0.7) for epoch in range(EPOCHS)]
    assert history(uri, run, "test/leader_accuracy") == [(EPOCHS - 1, 0.55)]


def test_the_parent_keeps_the_best_of_the_search_and_gets_the_verdict(story_dir):
    uri = store_uri(story_dir)
    parent = all_runs(uri)["demo"]
    assert parent.info.status == "FINISHED"
    tags = {key.partition(".")[2]: text for key, text in parent.data.tags.items()}
    assert (tags["best_trial"], tags["objective"], tags["state"]) == ("1", "0.6", "complete")
    assert tags["verdict"] == "within noise"
    assert "x" not in tags
    assert history(uri, parent, "best_leader_accuracy") == [(1, 0.5), (2, 0.6)]


def test_delivering_all_stages_again_changes_nothing(story_dir):
    before = dump(story_dir / "mlflow.db")
    (story_dir / "tracking.offset").unlink()
    assert sync(story_dir) > 0
    assert dump(story_dir / "mlflow.db") == before


def test_a_search_started_again_is_running_again(tmp_path):
    for _ in range(2):  # by the same driver, and by a later one
        tracker = open_tracker(tmp_path)
        for _ in range(2):
            tracker.search_started({"trials": 1}, {}, [])
            tracker.search_ended("KILLED", {}, [])
        tracker.search_started({"trials": 1}, {}, [])
        assert tracker.close(30) == 0
        parent = all_runs(store_uri(tmp_path))["demo"]
        assert (parent.info.status, parent.data.tags["okddip.state"]) == ("RUNNING", "running")


def test_a_confirmation_killed_in_the_middle_goes_on_in_its_runs(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    confirm_run(tracker, 0, "trial 1", 1, 0.5, stop=2)
    confirm_run(tracker, 1, "trial 1", 2, 0.5, stop=3)
    tracker.search_ended("KILLED", {}, [])
    assert tracker.close(30) == 0
    runs = all_runs(store_uri(tmp_path))
    assert runs["confirm: trial 1, seed 1"].data.tags["okddip.state"] == "interrupted"

    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    # The study has closed run 1, and the driver died before it told; run 0 is trained on.
    params = {"contender": "trial 1", "seed": 2, "method": "okddip"}
    failed = TrialEnd(1, "failed", None, 2, "no memory")
    tracker.stage("confirm").catch_up([past_trial(failed, params)])
    confirm_run(tracker, 0, "trial 1", 1, 0.6, resumed=True)
    tracker.search_ended("FINISHED", {}, [])
    assert tracker.close(30) == 0
    runs = all_runs(store_uri(tmp_path))
    states = {name: run.data.tags["okddip.state"] for name, run in runs.items()}
    assert states == {
        "demo": "complete",
        "confirm: trial 1, seed 1": "complete",
        "confirm: trial 1, seed 2": "failed",
    }
    points = history(store_uri(tmp_path), runs["confirm: trial 1, seed 1"])
    assert points == [(0, 0.5), (1, 0.5), (2, 0.6), (3, 0.6)]


def test_a_journal_of_an_earlier_version_is_delivered_and_continued(tmp_path):
    """Its trials are plain numbers, and its runs have no names in it."""
    trial = {"op": "trial", "params": {"lr": "0.1"}, "tags": {}, "columns": [], "common": []}
    end = {"op": "end", "state": "complete", "value": 0.5, "reason": "", "ended": 1}
    best = {"trial": 0, "value": 0.5, "accuracy": 0.5}
    operations = [
        {"op": "journal", "version": 1, "search_id": "s" * 32, "name": "demo"},
        {"op": "search", "store": "local", "params": {}, "tags": {}},
        {**trial, "trial": 0, "columns": ["lr"], "common": ["lr"]},
        {**trial, "trial": 1},
        {"op": "epoch", "trial": 1, "step": 0, "metrics": {"val/leader_accuracy": 0.5}},
        {**end, "trial": 0, "best": best},
        {
            "op": "search_end",
            "status": "KILLED",
            "state": "interrupted",
            "metrics": {},
            "open": [1],
            "ended": 1,
        },
    ]
    lines = [json.dumps({**operation, "t": 1_700_000_000_000}) for operation in operations]
    (tmp_path / "tracking.jsonl").write_text("\n".join(lines) + "\n")
    assert sync(tmp_path) == len(operations)
    runs = all_runs(store_uri(tmp_path))
    states = {name: run.data.tags["okddip.state"] for name, run in runs.items()}
    assert states == {"demo": "interrupted", "trial 0": "complete", "trial 1": "interrupted"}

    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    tracker.catch_up([past_trial(TrialEnd(0, "complete", 0.5, 0), {})])
    tracker.trial_started(1, {"lr": 0.1}, True)
    tracker.epoch_reported(1, 0, report(0, 0.9))
    tracker.epoch_reported(1, 1, report(1, 0.6))
    tracker.trial_ended(TrialEnd(1, "complete", 0.6, 1), TrialEnd(1, "complete", 0.6, 1))
    assert tracker.close(30) == 0
    runs = all_runs(store_uri(tmp_path))
    assert set(runs) == {"demo", "trial 0", "trial 1"}
    assert history(store_uri(tmp_path), runs["trial 1"]) == [(0, 0.5), (1, 0.6)]
    steps = history(store_uri(tmp_path), runs["demo"], "best_leader_accuracy")
    assert steps == [(1, 0.5), (2, 0.6)]


def test_the_confirm_view_exists_only_where_something_is_confirmed(story_dir, tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.search_started({}, {}, [])
    run_trial(tracker, 0)
    assert tracker.close(30) == 0
    views = []
    for directory in (tmp_path, story_dir):
        experiment = client_of(store_uri(directory)).get_experiment_by_name("demo")
        views.append(sorted(tag for tag in experiment.tags if "sharedViewState" in tag))
    assert [len(found) for found in views] == [1, 2]
    assert views[1][1] == f"{views[1][0]}-confirm"
