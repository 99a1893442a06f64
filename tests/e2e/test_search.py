"""One whole search with the real command: study, trials, MLflow, the winner, and its export."""

import json
import shutil

import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from search_helpers import COMMAND, assert_consistent, run, write_space

from trainer import TrainConfig


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Run it once; the tests look at what it left."""
    folder = tmp_path_factory.mktemp("search")
    done = run(
        "--space", write_space(folder), "--out", "runs/tiny",
        "--set", "trainer.executor=auto", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def directory(search):
    return search[0] / "runs" / "tiny"


def test_the_study_holds_the_whole_budget_and_agrees_with_the_trials(search):
    study = assert_consistent(directory(search))
    states = [trial.state for trial in study.trials]
    assert len(states) == 8
    assert TrialState.COMPLETE in states
    assert TrialState.PRUNED in states
    assert study.trials[0].params == {"lr": 0.1, "temperature": 3.0}


def test_every_trial_is_computed_as_was_timed_to_be_fastest(search):
    speed = json.loads((directory(search) / "speed.json").read_text())
    runs = [json.loads(p.read_text()) for p in directory(search).glob("trials/*/result.json")]
    assert {run["environment"]["executor"] for run in runs} == {speed["chosen"]["executor"]}
    assert set(speed["seconds"]) == {"eager fp32", "fused fp32"}
    assert f"Chosen by timing: executor {speed['chosen']['executor']}" in search[1]
    assert "Chosen by timing" in (directory(search) / "report.html").read_text()


def test_a_pruned_trial_is_recorded_with_the_step_it_ended_at(search):
    for trial in assert_consistent(directory(search)).get_trials(states=[TrialState.PRUNED]):
        assert 2 <= trial.last_step < 7
        assert trial.value == trial.intermediate_values[trial.last_step]


def test_no_trial_was_pruned_before_its_ramp_up_was_over(search):
    for trial in assert_consistent(directory(search)).get_trials(states=[TrialState.PRUNED]):
        assert trial.last_step >= trial.user_attrs["okddip:prune_from"]


def test_it_prints_its_trials_the_paper_setting_and_what_to_type_next(search):
    output = search[1]
    assert "Best: trial" in output
    assert "paper's own setting" in output
    assert "okddip-search export" in output
    assert "Traceback" not in output
    assert output.count("complete") >= 2
    assert "ray" not in output.lower().replace("array", "")


def test_the_noise_of_the_libraries_is_in_the_log(search):
    assert "tune" in (directory(search) / "search.log").read_text().lower()


def test_tunes_own_records_are_gone(search):
    assert list(directory(search).glob(".tune*")) == []


def test_every_trial_is_a_run_in_mlflow(search):
    client = MlflowClient(f"sqlite:///{directory(search)}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    children = {r.data.tags["okddip.trial"]: r for r in runs if "okddip.trial" in r.data.tags}
    study = assert_consistent(directory(search))
    assert set(children) == {str(t.number) for t in study.trials}
    for trial in study.trials:
        run_ = children[str(trial.number)]
        complete = trial.state is TrialState.COMPLETE
        assert run_.info.status == ("FINISHED" if complete else "KILLED")
        assert run_.data.tags["okddip.state"] == trial.state.name.lower()
        history = client.get_metric_history(run_.info.run_id, "val/leader_accuracy")
        assert [m.value for m in history] == list(trial.intermediate_values.values())


def test_the_search_never_opened_the_test_set(search):
    names = [path.name for path in directory(search).rglob("*")]
    assert "test_openings.jsonl" not in names
    for path in directory(search).rglob("*.json*"):
        assert "test_accuracy" not in path.read_text()


def test_a_used_directory_is_not_overwritten(search):
    again = run("--space", "tiny.yaml", "--out", "runs/tiny", cwd=search[0])
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_resuming_a_finished_search_runs_nothing_again(search):
    before = {p: p.stat().st_mtime for p in (directory(search) / "trials").rglob("state*")}
    again = run("--resume", "--out", "runs/tiny", cwd=search[0])
    assert again.returncode == 0, again.stdout + again.stderr
    assert {p: p.stat().st_mtime for p in (directory(search) / "trials").rglob("state*")} == before


def test_export_then_train_gives_the_winners_accuracy_again_exactly(search, tmp_path):
    exported = run("export", directory(search), "--output", tmp_path / "best.yaml", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    trained = run("train", "best.yaml", "--out", "again", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    result = json.loads((tmp_path / "again" / "result.json").read_text())
    study = assert_consistent(directory(search))
    assert result["final"]["leader_accuracy"] == study.best_value
    assert [r["leader_accuracy"] for r in result["history"]] == list(
        study.best_trial.intermediate_values.values()
    )


def test_best_yaml_is_a_complete_configuration(search):
    values = yaml.safe_load((directory(search) / "best.yaml").read_text())
    assert set(values) == set(TrainConfig.model_fields)


@pytest.mark.parametrize("form", ["weights", "pt2", "onnx"])
def test_the_leader_is_exported(search, tmp_path, form):
    done = run("export", directory(search), "--format", form, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").exists()


def test_a_copied_directory_is_the_whole_search(search, tmp_path):
    shutil.copytree(directory(search), tmp_path / "moved")
    done = run("--resume", "--out", "moved", "--trials", 9, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(assert_consistent(tmp_path / "moved").trials) == 9


def test_the_command_is_installed():
    assert COMMAND.exists()


@pytest.mark.slow
def test_a_dead_tracking_server_stops_nothing_and_gets_everything_later(tmp_path):
    done = run(
        "--space", write_space(tmp_path), "--out", "out", "--trials", 2,
        "--tracking-uri", "http://somebody:hunter2-of-ours@127.0.0.1:9", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "okddip-search sync out" in done.stdout
    assert "hunter2-of-ours" not in done.stdout
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"hunter2-of-ours" not in path.read_bytes(), path
    store = f"sqlite:///{tmp_path}/later.db"
    synced = run("sync", "out", "--tracking-uri", store, cwd=tmp_path)
    assert synced.returncode == 0, synced.stderr
    client = MlflowClient(store)
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id])
    assert {r.data.tags.get("okddip.trial") for r in runs} == {None, "0", "1"}
