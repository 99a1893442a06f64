"""Killed, stopped and resumed searches: nothing that was reported is lost or done twice."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from search_helpers import (
    assert_consistent,
    epochs_recorded,
    kill,
    read_study,
    run,
    start,
    states,
    wait_until,
    write_space,
)

NAME = "runs/tiny"


def recorded_curves(directory):
    return {t.number: (t.params, dict(t.intermediate_values)) for t in read_study(directory).trials}


def alive_workers(directory):
    """Return the processes that Ray runs for trials of this directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        trials = str(directory.resolve() / "trials")
        if any(target.startswith(trials) for target in held):
            found.append(int(folder.name))
    return found


def test_a_driver_killed_twice_loses_nothing(tmp_path):
    directory = tmp_path / NAME
    before = {}
    for session, enough in enumerate((10, 25)):
        arguments = ["--resume"] if session else ["--space", write_space(tmp_path)]
        driver = start(*arguments, "--out", NAME, cwd=tmp_path)
        wait_until(lambda enough=enough: epochs_recorded(directory) >= enough)
        kill(driver)
        after = recorded_curves(directory)
        for number, (params, curve) in before.items():
            assert params.items() <= after[number][0].items()
            assert list(after[number][1].items())[: len(curve)] == list(curve.items())
        before = after

    done = run("--resume", "--out", NAME, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    study = assert_consistent(directory)
    assert len(study.trials) == 8
    for number, (params, curve) in before.items():
        trial = study.trials[number]
        assert params.items() <= trial.params.items()
        assert list(trial.intermediate_values.items())[: len(curve)] == list(curve.items())


@pytest.mark.slow
def test_a_killed_one_at_a_time_search_ends_as_the_unbroken_one(tmp_path):
    options = ("--trials", 4, "--set", "resources.max_concurrent=1", "--set", "study.sampler=tpe")
    straight = run("--space", write_space(tmp_path), "--out", "straight", *options, cwd=tmp_path)
    assert straight.returncode == 0, straight.stdout + straight.stderr

    broken = start("--space", "tiny.yaml", "--out", "broken", *options, cwd=tmp_path)
    wait_until(lambda: epochs_recorded(tmp_path / "broken") >= 12)
    kill(broken)
    done = run("--resume", "--out", "broken", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert recorded_curves(tmp_path / "broken") == recorded_curves(tmp_path / "straight")


@pytest.mark.slow
def test_a_screened_search_killed_three_times_ends_as_the_unbroken_one(tmp_path):
    options = (
        "--trials", 9, "--set", "resources.max_concurrent=1", "--set", "study.searcher=screen",
        "--set", "study.pruner=none",
    )  # fmt: skip
    straight = run("--space", write_space(tmp_path), "--out", "straight", *options, cwd=tmp_path)
    assert straight.returncode == 0, straight.stdout + straight.stderr
    assert "goes on to its end" in straight.stdout

    for session, enough in enumerate((9, 15, 30)):
        arguments = ["--resume"] if session else ["--space", "tiny.yaml", *options]
        broken = start(*arguments, "--out", "broken", cwd=tmp_path)
        wait_until(lambda enough=enough: epochs_recorded(tmp_path / "broken") >= enough)
        kill(broken)
    done = run("--resume", "--out", "broken", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert recorded_curves(tmp_path / "broken") == recorded_curves(tmp_path / "straight")
    assert set(states(tmp_path / "broken")) == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.slow
def test_a_killed_search_with_a_budget_is_over_in_time_with_its_confirmation(tmp_path):
    options = ("--budget", "240s", "--set", "study.searcher=screen", "--set",
               "confirm={top: 1, seeds: 2, methods: [single]}")  # fmt: skip
    began = time.monotonic()
    broken = start("--space", write_space(tmp_path), "--out", NAME, *options, cwd=tmp_path)
    wait_until(lambda: epochs_recorded(tmp_path / NAME) >= 30)
    kill(broken)
    done = run("--resume", "--out", NAME, cwd=tmp_path)
    taken_s = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert taken_s < 240 + 10, "and the seconds between the last trial's start and the kill"
    findings = json.loads((tmp_path / NAME / "confirm" / "confirm.json").read_text())
    assert findings["state"] == "complete" and len(findings["seeds"]) >= 2
    assert set(states(tmp_path / NAME)) == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path):
    directory = tmp_path / NAME
    driver = start(
        "--space", write_space(tmp_path), "--out", NAME, "--trials", 3,
        "--set", "trainer.epochs=30", "--set", "study.pruner=none", cwd=tmp_path,
    )  # fmt: skip
    wait_until(lambda: epochs_recorded(directory) >= 6 and alive_workers(directory))
    os.kill(alive_workers(directory)[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=180)
    assert driver.returncode == 0, output
    study = assert_consistent(directory)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path):
    space = write_space(tmp_path)
    space.write_text(space.read_text().replace("{lr: 0.1, temp", "{lr: 100.0, temp"))
    space.write_text(space.read_text().replace("high: 0.3", "high: 100.0"))
    done = run(
        "--space", space, "--out", NAME, "--trials", 3, "--set", "study.seed=3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(tmp_path / NAME)
    failed = study.trials[0]
    assert failed.state is TrialState.FAIL
    assert "loss is" in failed.user_attrs["okddip:reason"]
    assert "loss is" in done.stdout
    assert sum(t.state is not TrialState.FAIL for t in study.trials) == 3


def rays():
    """Return the processes that call themselves Ray's: workers and agents."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return {line.split()[0] for line in listing.splitlines() if " ray::" in line}


def test_no_process_is_left_behind(tmp_path):
    before = rays()
    done = run("--space", write_space(tmp_path), "--out", NAME, "--trials", 2, cwd=tmp_path)
    assert done.returncode == 0
    wait_until(lambda: rays() <= before, timeout=10)
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in listing
    assert not alive_workers(tmp_path / NAME)
