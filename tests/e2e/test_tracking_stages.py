"""Stages after the search, in the same parent run: who is who, and what stays the search's own."""

import shutil
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
    report,
    run_trial,
)

from okddip_search.study.events import TrialEnd
from okddip_search.tracking.store import store_uri
from okddip_search.tracking.worker import sync


@pytest.fixture(scope="module")
def story_dir(tmp_path_factory) -> Path:
    """A search of two trials, confirmed by one driver after it; trial numbers collide."""
    search_dir = tmp_path_factory.mktemp("stages")
    driver = open_tracker(search_dir)
    driver.search_started({"trials": 2}, TAGS)
    run_trial(driver, 0)
    run_trial(driver, 1)
    driver.search_ended("FINISHED")
    driver.search_started({"trials": 2}, TAGS)
    tuning = driver.stage("confirm/tuning/one")
    tuning.trial_started(0, {"lr": 0.3, "momentum": 0.9}, False)
    tuning.epoch_reported(0, 0, report(0, 0.99))
    tuning.trial_ended(TrialEnd(0, "pruned", 0.99, 0))
    confirm_run(driver, 0, "trial 1", 123, 0.7)
    confirm_run(driver, 1, "single", 123, 0.65)
    driver.confirmed({0: 0.55}, "within noise")
    driver.search_ended("FINISHED")
    assert driver.close(60)
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
    assert history(uri, run) == [(epoch, 0.7) for epoch in range(EPOCHS)]
    assert history(uri, run, "test/leader_accuracy") == [(EPOCHS - 1, 0.55)]


def test_the_parent_keeps_the_best_of_the_search_and_gets_the_verdict(story_dir):
    uri = store_uri(story_dir)
    parent = all_runs(uri)["demo"]
    assert parent.info.status == "FINISHED"
    tags = {key.partition(".")[2]: text for key, text in parent.data.tags.items()}
    assert (tags["best_trial"], tags["objective"], tags["state"]) == ("1", "0.6", "complete")
    assert tags["verdict"] == "within noise"
    assert history(uri, parent, "best_leader_accuracy") == [(1, 0.5), (2, 0.6)]


def test_sending_all_stages_again_changes_nothing(story_dir):
    before = dump(story_dir / "mlflow.db")
    assert sync(story_dir) == 0
    assert dump(story_dir / "mlflow.db") == before


def test_a_confirmation_that_was_set_aside_keeps_its_runs_and_the_next_has_its_own(tmp_path):
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    run_trial(driver, 0)
    confirm_run(driver, 0, "trial 0", 1, 0.5)
    driver.search_ended("KILLED")
    assert driver.close(30)
    shutil.move(tmp_path / "confirm", tmp_path / "confirm.1")
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    confirm_run(driver, 0, "trial 0", 2, 0.6)
    driver.confirmed({0: 0.55}, "within noise")
    driver.search_ended("FINISHED")
    assert driver.close(30)
    runs = all_runs(store_uri(tmp_path))
    assert set(runs) == {
        "demo", "trial 0", "confirm: trial 0, seed 1", "confirm.1: trial 0, seed 2"
    }  # fmt: skip
    assert runs["confirm.1: trial 0, seed 2"].data.tags["okddip.trial"] == "confirm.1-0"
    assert "test/leader_accuracy" not in runs["confirm: trial 0, seed 1"].data.metrics
    assert sync(tmp_path) == 0


def test_a_search_started_again_is_running_again(tmp_path):
    for _ in range(2):  # by the same driver, and by a later one
        driver = open_tracker(tmp_path)
        for _ in range(2):
            driver.search_started({"trials": 1}, {})
            driver.search_ended("KILLED")
        driver.search_started({"trials": 1}, {})
        assert driver.close(30)
        parent = all_runs(store_uri(tmp_path))["demo"]
        assert (parent.info.status, parent.data.tags["okddip.state"]) == ("RUNNING", "running")


def test_a_confirmation_killed_in_the_middle_goes_on_in_its_runs(tmp_path):
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    confirm_run(driver, 0, "trial 1", 1, 0.5, stop=2)
    confirm_run(driver, 1, "trial 1", 2, 0.5, stop=3)
    driver.search_ended("KILLED")
    assert driver.close(30)
    runs = all_runs(store_uri(tmp_path))
    assert runs["confirm: trial 1, seed 1"].data.tags["okddip.state"] == "interrupted"

    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    driver.stage("confirm").trial_ended(TrialEnd(1, "failed", None, 2, "no memory"))
    confirm_run(driver, 0, "trial 1", 1, 0.6, resumed=True)
    driver.search_ended("FINISHED")
    assert driver.close(30)
    runs = all_runs(store_uri(tmp_path))
    states = {name: run.data.tags["okddip.state"] for name, run in runs.items()}
    assert states == {
        "demo": "complete",
        "confirm: trial 1, seed 1": "complete",
        "confirm: trial 1, seed 2": "failed",
    }
    points = history(store_uri(tmp_path), runs["confirm: trial 1, seed 1"])
    assert points == [(0, 0.5), (1, 0.5), (2, 0.6), (3, 0.6)]


def test_the_confirm_view_exists_only_where_something_is_confirmed(story_dir, tmp_path):
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    run_trial(driver, 0)
    assert driver.close(30)
    views = []
    for directory in (tmp_path, story_dir):
        experiment = client_of(store_uri(directory)).get_experiment_by_name("demo")
        views.append(sorted(tag for tag in experiment.tags if "sharedViewState" in tag))
    assert [len(found) for found in views] == [1, 2]
    assert views[1][1] == f"{views[1][0]}-confirm"
