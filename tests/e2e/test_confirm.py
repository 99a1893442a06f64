"""A search and its confirmation by the real command: runs, one look at the test set, verdict."""

import json
import os
import re
import shutil
import signal

import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from search_helpers import (
    findings,
    kill,
    numbers,
    openings,
    read_study,
    run,
    start,
    wait_until,
    write_space,
)

from trainer.config.data import DataConfig
from trainer.test_set import open_test

SPACE = """\
name: tiny
data: {name: digits, train_limit: 100, validation: 200}
trainer: {model: resnet8, width: 0.25, num_peers: 2, batch_size: 32, epochs: 6, ramp_epochs: 2}
search:
  lr: {type: float, low: 0.01, high: 0.3, log: true}
  temperature: {type: float, low: 1, high: 6}
enqueue:
  - {lr: 0.1, temperature: 3.0}
study: {trials: 4, sampler: random, pruner: none, seed: 1}
confirm: {top: 1, seeds: 3, methods: [single, dml]}
"""
NAME = "runs/tiny"
LABELS = 4  # a candidate, the paper's setting, two rivals


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search that was not confirmed."""
    folder = tmp_path_factory.mktemp("searched")
    done = run(
        "--space", write_space(folder, SPACE), "--out", NAME, "--no-confirm", cwd=folder
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def confirmed(searched, tmp_path_factory):
    """The same search in another folder, confirmed without a break; its folder and output."""
    folder = tmp_path_factory.mktemp("confirmed")
    shutil.copytree(searched, folder, dirs_exist_ok=True)
    done = run("confirm", NAME, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_no_number_of_the_test_set_exists_before_a_confirmation(searched, tmp_path):
    directory = searched / NAME
    leaders = sorted(directory.glob("**/leader"))
    assert len(leaders) == 4  # of the best three trials, and the winner's copy
    data = DataConfig(name="digits", train_limit=100, validation=200)
    results = open_test(leaders, data, log=tmp_path / "log", reason="to know what to look for")
    secrets = [repr(number).encode() for r in results for number in (r.accuracy, r.nll)]
    words = [b"test_openings", b"test_accuracy", b"test/"]
    # An accuracy of 360 images may be one of 200 as well; their likelihoods cannot be.
    validation = {repr(k / 200).encode() for k in range(201)}
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found = {secret for secret in secrets if secret in content} - validation
            assert not found, path
            if path.name != "report.html":  # plotly has words of all kinds
                assert not [word for word in words if word in content], path
    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    for experiment in client.search_experiments():
        for entry in client.search_runs([experiment.experiment_id]):
            assert not [key for key in entry.data.metrics if key.startswith("test")]


def test_every_setting_is_trained_with_every_seed(confirmed):
    folder, _ = confirmed
    found = findings(folder)
    assert found["state"] == "complete"
    assert [c["kind"] for c in found["contenders"]] == [
        "candidate",
        "paper",
        "baseline",
        "baseline",
    ]
    study = read_study(folder / NAME / "confirm")
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * LABELS * 3
    for contender in found["contenders"]:
        assert [run["seed"] for run in contender["runs"]] == found["seeds"]
        for entry in contender["runs"]:
            folder_ = folder / NAME / "confirm" / "trials" / str(entry["number"])
            result = json.loads((folder_ / "result.json").read_text())
            assert result["config"]["seed"] == entry["seed"]
            assert result["config"]["method"] == contender["method"]
            assert result["final"]["leader_accuracy"] == entry["validation"]
            assert entry["test"] is not None or contender["label"] != found["winner"]


def test_the_winner_has_the_best_mean_validation_of_the_searchs_best(confirmed):
    found = findings(confirmed[0])
    means = {c["label"]: c["validation"]["mean"] for c in found["contenders"] if c["may_win"]}
    assert means[found["winner"]] == max(means.values())
    assert found["winner"].startswith("trial")
    assert {c["rival"] for c in found["comparisons"]} >= {"single", "dml"}


def test_the_test_set_is_opened_once_and_the_opening_is_written_down(confirmed):
    folder, output = confirmed
    [opened] = openings(folder)
    assert opened["reason"] == f"okddip-search confirm {NAME}"
    assert len(opened["leaders"]) >= 9 and all(name[0] != "/" for name in opened["leaders"])
    assert "opened once" in output
    [found] = findings(folder)["openings"]
    assert (found["time"], found["command"]) == (opened["time"], opened["reason"])
    assert found["look"] == opened["look"] and found["look"]["number"] == found["look"]["of"] == 1


def test_it_ends_with_the_verdict_and_calls_no_noise_a_gain(confirmed):
    folder, output = confirmed
    found = findings(folder)
    assert output.strip().splitlines()[-1] == f"Verdict: {found['verdict']['sentence']}"
    assert "mean over fresh" in output
    assert "Traceback" not in output
    if not any(c["verdict"] == "better" for c in found["comparisons"]):
        assert "better" not in found["verdict"]["sentence"]


def test_costs_are_measured_and_the_leader_costs_the_same_whoever_trained_it(confirmed):
    found = findings(confirmed[0])
    costs = {c["label"]: c["cost"] for c in found["contenders"]}
    assert len({(c["leader_parameters"], c["leader_macs"]) for c in costs.values()}) == 1
    assert all(c["leader_latency_ms"] > 0 for c in costs.values())
    assert all(c["training_s"] > 0 for c in costs.values())
    assert found["search_cost"]["training_s"] > 0


def test_mlflow_has_the_runs_below_the_searchs_and_the_model_in_its_registry(confirmed):
    folder, _ = confirmed
    found = findings(folder)
    client = MlflowClient(f"sqlite:///{folder / NAME}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    stages = [r for r in runs if r.data.tags.get("okddip.stage") == "confirm"]
    assert len(stages) == LABELS * 3
    assert {r.data.tags["mlflow.parentRunId"] for r in stages} == {parent.info.run_id}
    assert {int(r.data.params["seed"]) for r in stages} == set(found["seeds"])
    tested = [r for r in stages if "test/leader_accuracy" in r.data.metrics]
    assert len(tested) == len(openings(folder)[0]["leaders"])
    assert parent.data.tags["okddip.verdict"] == found["verdict"]["sentence"]
    assert parent.info.status == "FINISHED"
    alias = "champion" if found["verdict"]["allows_champion"] else "candidate"
    assert int(client.get_model_version_by_alias("tiny", alias).version) == 1


def test_the_report_tells_the_same(confirmed):
    folder, _ = confirmed
    assert (folder / NAME / "report.html").stat().st_size > 1_000_000  # plotly is in it
    report = (folder / NAME / "report.json").read_text()
    assert findings(folder)["verdict"]["sentence"] in json.dumps(json.loads(report))


def test_export_hands_over_the_confirmed_setting_and_says_so(confirmed, tmp_path):
    folder, _ = confirmed
    done = run("export", NAME, "--output", tmp_path / "best.yaml", cwd=folder)
    assert "from a confirmation over several seeds" in done.stdout
    text = (tmp_path / "best.yaml").read_text()
    found = findings(folder)
    assert f"seed: {found['leader']['seed']}\n" in text
    assert found["verdict"]["sentence"] in text


def test_the_same_command_again_runs_nothing_and_opens_nothing(confirmed):
    folder, _ = confirmed
    before = numbers(findings(folder))
    states = {p: p.stat().st_mtime for p in (folder / NAME / "confirm").rglob("state.json")}
    again = run("confirm", NAME, cwd=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert numbers(findings(folder)) == before
    assert {p: p.stat().st_mtime for p in states} == states
    assert len(openings(folder)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", 4], "--open-test-again"),
        (["--seeds", 2], "begun with other settings: seeds"),
        (["--top", 2], "begun with other settings: top"),
        (["--methods", "single"], "begun with other settings: methods"),
        (["--methods", "singel"], "did you mean 'single'"),
        (["--baselines", "tunded"], "one of searched, tuned"),
        (["--rivals", "tunded"], "--rivals is now called --baselines"),
        (["--seeds", 1], "in [2, 1000]"),
        (["--restart"], "--open-test-again"),
        (["--anew"], "--anew is now called --restart"),
        (["--set", "data.flip=true"], "data.flip was None, is True now"),
        (["--set", "study.seed=9"], "Only data."),
    ],
)
def test_what_would_spoil_a_confirmation_is_refused(confirmed, arguments, words):
    folder, _ = confirmed
    before = numbers(findings(folder))
    done = run("confirm", NAME, *arguments, cwd=folder)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert numbers(findings(folder)) == before


def test_a_directory_without_a_search_has_nothing_to_confirm(tmp_path):
    done = run("confirm", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_kill_9_and_a_stop_in_mid_confirm_then_the_same_command_gives_the_same_numbers(
    searched, confirmed, tmp_path
):
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    trials = tmp_path / NAME / "confirm" / "trials"
    driver = start("confirm", NAME, cwd=tmp_path)
    try:
        wait_until(lambda: len(list(trials.glob("*/result.json"))) > 1, timeout=120)
    finally:
        kill(driver)
    driver = start("confirm", NAME, cwd=tmp_path)
    wait_until(lambda: len(list(trials.glob("*/result.json"))) > 5, timeout=120)
    os.killpg(driver.pid, signal.SIGTERM)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert f"okddip-search confirm {NAME}" in output
    assert findings(tmp_path)["state"] == "running"
    assert not openings(tmp_path)
    done = run("confirm", NAME, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(findings(tmp_path)) == numbers(findings(confirmed[0]))
    assert len(openings(tmp_path)) == 1


@pytest.mark.slow
def test_more_seeds_are_added_a_second_look_is_counted_and_the_leader_is_retrained(
    confirmed, tmp_path
):
    shutil.copytree(confirmed[0], tmp_path, dirs_exist_ok=True)
    before = findings(tmp_path)
    done = run("confirm", NAME, "--seeds", 4, "--open-test-again", "--retrain-on-all", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(tmp_path)
    assert found["seeds"][:3] == before["seeds"] and len(found["seeds"]) == 4
    for label, runs in numbers(before)["runs"].items():
        tested = {r[0]: r for r in runs if r[3] is not None}
        kept = {r[0]: r for r in numbers(found)["runs"][label] if r[0] in tested}
        assert kept == tested, label
    assert len(openings(tmp_path)) == len(found["openings"]) == 2
    assert "opened 2 times" in done.stdout
    final = tmp_path / NAME / "confirm" / "final" / "leader" / "leader.json"
    leader = json.loads(final.read_text())
    assert leader["trained_on"] == "train and validation"
    assert leader["validation_accuracy"] is None
    exported = run("export", NAME, "--format", "weights", "--output", "out", cwd=tmp_path)
    assert "retrained on train + validation" in exported.stdout
    assert json.loads((tmp_path / "out" / "leader.json").read_text()) == leader


@pytest.mark.slow
def test_a_confirmation_can_be_restarted_and_the_earlier_one_is_kept(confirmed, tmp_path):
    shutil.copytree(confirmed[0], tmp_path, dirs_exist_ok=True)
    before = findings(tmp_path)
    done = run(
        "confirm", NAME, "--restart", "--open-test-again", "--top", 2, "--methods", "single",
        "--seeds", 2, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(tmp_path)
    assert found["settings"]["top"] == 2 and len(found["openings"]) == 2
    kept = json.loads((tmp_path / NAME / "confirm.1" / "confirm.json").read_text())
    assert kept == before
    assert "opened 2 times" in done.stdout


@pytest.mark.slow
def test_baselines_can_have_a_search_of_their_own(searched, tmp_path):
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    done = run(
        "confirm", NAME, "--baselines", "tuned", "--methods", "single", "--seeds", 2,
        "--single", "seconds", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tuning = read_study(tmp_path / NAME / "confirm" / "tuning" / "single")
    assert len(tuning.trials) == 4
    found = findings(tmp_path)
    single = next(c for c in found["contenders"] if c["label"] == "single")
    assert single["config"]["lr"] == tuning.best_params["lr"]
    longer = found["contenders"][-1]
    assert longer["label"] == "single, as long in seconds"
    assert longer["config"]["epochs"] >= 6
    assert re.search(r"\d+ epochs", longer["note"])


@pytest.mark.slow
def test_a_space_that_asks_for_it_is_confirmed_at_the_end_of_its_search(tmp_path):
    text = SPACE.replace("trials: 4", "trials: 2").replace("[single, dml]", "[single]")
    space = write_space(tmp_path, text.replace("seeds: 3", "seeds: 2"))
    done = run("--space", space, "--out", NAME, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("Best: trial") < done.stdout.index("Verdict: ")
    assert len(openings(tmp_path)) == 1
