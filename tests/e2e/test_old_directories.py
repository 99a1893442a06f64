"""Search directories written before the packages had rooms: nothing in them is lost on the way.

``tests/data/before_rooms.tar.xz`` holds two directories of one small search, written by version
0.1.0: ``killed`` in mid-search with ``kill -9``, and ``confirmed``, resumed to its end by that
version and confirmed over two seeds.
"""

import json
import sqlite3
import tarfile
from pathlib import Path

import pytest
from optuna.trial import TrialState
from search_helpers import read_study, run, states

ARCHIVE = Path(__file__).parents[1] / "data" / "before_rooms.tar.xz"


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def done(*arguments, cwd):
    ended = run(*arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def mlflow_runs(directory):
    """Return the status of each trial's run; one that is there twice fails the test, as a second
    parent does.
    """
    with sqlite3.connect(directory / "mlflow.db") as database:
        rows = database.execute(
            "SELECT trial.value, runs.status FROM runs "
            "JOIN tags AS trial ON trial.run_uuid = runs.run_uuid AND trial.key = 'okddip.trial'"
        ).fetchall()
        (total,) = database.execute("SELECT count(*) FROM runs").fetchone()
    assert len(dict(rows)) == len(rows) == total - 1
    return dict(rows)


def test_a_search_that_was_killed_is_resumed(old):
    directory = old / "killed"
    before = states(directory)
    results = {n: (directory / f"trials/{n}/result.json").read_bytes() for n in (0, 1)}
    assert before.count(TrialState.RUNNING) == 2
    done("--resume", "--out", directory, "--no-confirm", cwd=old)
    study = read_study(directory)
    assert [trial.number for trial in study.trials] == list(range(6))
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)
    for number, content in results.items():  # ended trials are not run again
        assert (directory / f"trials/{number}/result.json").read_bytes() == content
    assert set(mlflow_runs(directory)) == set(map(str, range(6)))
    assert "RUNNING" not in mlflow_runs(directory).values()


def test_a_confirmed_search_is_reported_exported_and_synced(old):
    directory = old / "confirmed"
    runs = mlflow_runs(directory)
    done("report", directory, cwd=old)
    report = json.loads((directory / "report.json").read_text())
    found = json.loads((directory / "confirm" / "confirm.json").read_text())
    assert report["confirm"]["verdict"] == found["verdict"]
    assert len(report["trials"]) == 6
    assert "from a confirmation over several seeds" in done("export", directory, cwd=old)
    assert (old / "best.yaml").read_bytes() == (directory / "confirm" / "best.yaml").read_bytes()
    done("export", directory, "--format", "weights", "--output", "weights", cwd=old)
    assert {path.name for path in (old / "weights").iterdir()} >= {"leader.safetensors"}
    done("sync", directory, cwd=old)
    assert mlflow_runs(directory) == runs  # none is told twice


def test_a_lost_mlflow_store_is_told_again(old):
    directory = old / "confirmed"
    runs = mlflow_runs(directory)
    (directory / "mlflow.db").unlink()
    done("sync", directory, cwd=old)
    assert mlflow_runs(directory) == runs


def test_a_confirmation_keeps_the_words_and_numbers_that_it_was_given(old):
    directory = old / "confirmed"
    before = json.loads((directory / "confirm" / "confirm.json").read_text())
    assert "test" not in before
    output = done("confirm", directory, cwd=old)
    after = json.loads((directory / "confirm" / "confirm.json").read_text())
    for key in ("comparisons", "verdict", "winner", "seeds"):
        assert after[key] == before[key], key
    assert f"Verdict: {before['verdict']['sentence']}" in " ".join(output.split())


def test_a_confirmation_goes_on_with_another_seed(old):
    directory = old / "confirmed"
    before = json.loads((directory / "confirm" / "confirm.json").read_text())
    done("confirm", directory, "--seeds", "3", "--open-test-again", cwd=old)
    after = json.loads((directory / "confirm" / "confirm.json").read_text())
    assert after["winner"] == before["winner"]
    tests = {c["label"]: [run["test"] for run in c["runs"]] for c in after["contenders"]}
    for contender in before["contenders"]:
        known = [run["test"] for run in contender["runs"]]
        assert tests[contender["label"]][:2] == known
        assert len(tests[contender["label"]]) == 3
    openings = (directory / "test_openings.jsonl").read_text().splitlines()
    assert len(openings) > 1
