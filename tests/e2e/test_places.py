"""A whole search in a folder whose name is no part of an address, behind a proxy that is down."""

import os
import shlex
import sqlite3

import pytest
from search_helpers import run, write_space

HOSTILE = "shop%2Flogin? #ü 'quoted\""


@pytest.mark.slow
def test_a_search_in_a_hostile_folder_is_complete_in_mlflow_and_its_hints_can_be_pasted(tmp_path):
    folder = tmp_path / HOSTILE
    folder.mkdir()
    proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9")
    place = {"cwd": folder, "env": {**os.environ, **proxy}}
    search = ["--space", write_space(folder), "--name", "mini", "--gpus", 0, "--trials", 2]
    for _ in range(2):  # as a batch queue does
        done = run(*search, "--resume=auto", **place)
        assert done.returncode == 0, done.stdout + done.stderr
    directory = folder / "runs" / "mini"
    with sqlite3.connect(directory / "mlflow.db") as database:
        runs = dict(database.execute("SELECT name, status FROM runs"))
        assert set(runs) == {"mini", "trial 0", "trial 1"} and runs["mini"] == "FINISHED", runs
        assert database.execute("SELECT count(*) FROM logged_models").fetchone()[0] >= 1
    synced = run("sync", directory, **place)
    assert "delivered 0 records" in synced.stdout, synced.stdout + synced.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [HOSTILE]
    hints = [line for line in done.stdout.splitlines() if "okddip-search export" in line]
    assert hints, done.stdout
    command = shlex.split(hints[0].partition("okddip-search ")[2])
    exported = run(*command, **place)
    assert exported.returncode == 0, exported.stderr
    assert run(*command, **place).returncode == 2  # it is there already


@pytest.mark.slow
def test_a_space_of_two_points_ends_after_two_trials(tmp_path):
    space = """name: two
data: {name: digits, train_limit: 100, validation: 100}
trainer: {model: resnet8, width: 0.25, epochs: 2, num_peers: 2}
search:
  lr_schedule: {type: categorical, choices: [multistep, cosine]}
study: {trials: 6, pruner: none}
"""
    done = run("--space", write_space(tmp_path, space), "--gpus", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the space has 2 different configurations, fewer than study.trials (6)" in done.stderr
    assert "2 complete, 0 pruned, 0 failed" in done.stdout


def test_a_timeout_says_how_many_trials_are_missing(tmp_path):
    options = ["--gpus", 0, "--trials", 500, "--timeout", "3s"]
    done = run("--space", write_space(tmp_path), *options, cwd=tmp_path)
    assert "of 500 trials are missing: the timeout of 3s was over" in done.stdout, done.stderr
