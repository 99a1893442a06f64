"""``seeds: auto`` by the real command: looks as planned, who leaves is trained no further."""

import shutil

import pytest
from mlflow.tracking import MlflowClient
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

from okddip_search.driver.work import CONTENDER, SEED

SPACE = """\
name: tiny
data: {name: digits, train_limit: 100, validation: 200}
trainer: {model: resnet8, width: 0.25, num_peers: 2, batch_size: 32, epochs: 8, ramp_epochs: 2}
search:
  lr: {type: float, low: 0.01, high: 0.3, log: true}
enqueue: [{lr: 0.1}]
study: {trials: 2, sampler: random, pruner: none, seed: 1}
confirm: {top: 2, seeds: auto, max_seeds: 5, methods: [single]}
"""
NAME = "runs/tiny"
LOOKS = [3, 5]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    space = write_space(folder, SPACE)
    done = run("--space", space, "--out", NAME, "--no-confirm", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def confirmed(searched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("confirmed")
    shutil.copytree(searched, folder, dirs_exist_ok=True)
    done = run("confirm", NAME, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def seeds_by_label(folder):
    trained = {}
    for trial in read_study(folder / NAME / "confirm").trials:
        trained.setdefault(trial.user_attrs[CONTENDER], set()).add(trial.user_attrs[SEED])
    return {label: len(seeds) for label, seeds in trained.items()}


def test_the_looks_are_planned_and_each_is_written_down_as_one_of_them(confirmed):
    folder, output = confirmed
    found, opened = findings(folder), openings(folder)
    assert found["looks"]["seeds"] == LOOKS
    assert found["looks"]["error_spent"] == pytest.approx([0.05 * 0.36, 0.05])
    assert len(opened) == found["looks"]["at"] == len(found["openings"])
    for number, (line, seeds) in enumerate(zip(opened, LOOKS, strict=False), start=1):
        look = line["look"]
        assert (look["number"], look["of"], look["seeds"]) == (number, 2, seeds)
        assert look["plan"] == opened[0]["look"]["plan"]
    assert "opened once" in output
    assert output.strip().splitlines()[-1].startswith("Verdict: ")


def test_who_left_and_who_lost_is_trained_no_further(confirmed):
    folder, _ = confirmed
    found, trained = findings(folder), seeds_by_label(folder)
    last = LOOKS[found["looks"]["at"] - 1]
    compared = {c["rival"]: c for c in found["comparisons"]}
    for label, seeds in trained.items():
        if label == found["winner"]:
            assert seeds == last
        elif label in compared:
            assert seeds == compared[label]["n"] == LOOKS[compared[label]["look"] - 1]
        else:
            assert seeds == LOOKS[0]
    assert max(c["look"] for c in compared.values()) == found["looks"]["at"]
    assert {c["left"] for c in compared.values()} <= {"decided", "hopeless", "last look"}


def test_mlflow_has_the_looks_and_who_left_when_and_why(confirmed):
    folder, _ = confirmed
    found = findings(folder)
    client = MlflowClient(f"sqlite:///{folder / NAME}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert parent.data.tags["okddip.looks"] == f"{found['looks']['at']} of 2 (after 3, 5 seeds)"
    for one in found["comparisons"]:
        words = f"{one['rival']} after {one['n']} seeds ({one['left']})"
        assert words in parent.data.tags["okddip.left"]


def test_the_same_command_again_takes_no_further_look(confirmed):
    folder, _ = confirmed
    before, opened = numbers(findings(folder)), openings(folder)
    again = run("confirm", NAME, cwd=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (numbers(findings(folder)), openings(folder)) == (before, opened)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", 7], "--open-test-again"),
        (["--seeds", 4], "begun with other settings: seeds"),
        (["--seeds", "ato"], "auto"),
    ],
)
def test_seeds_beyond_the_plan_need_leave(confirmed, arguments, words):
    folder, _ = confirmed
    done = run("confirm", NAME, *arguments, cwd=folder)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_kill_9_between_the_looks_leads_to_the_same_looks_and_words(searched, confirmed, tmp_path):
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    log = tmp_path / NAME / "test_openings.jsonl"
    for is_there in (
        lambda: len(list((tmp_path / NAME / "confirm").glob("trials/*/result.json"))) > 3,
        log.exists,
    ):
        driver = start("confirm", NAME, cwd=tmp_path)
        try:
            wait_until(is_there, timeout=180)
        finally:
            kill(driver)
        runs = [run for c in findings(tmp_path)["contenders"] for run in c["runs"]]
        assert not [run for run in runs if run["test"] is not None]
    done = run("confirm", NAME, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(findings(tmp_path)) == numbers(findings(confirmed[0]))
    assert len(openings(tmp_path)) == len(openings(confirmed[0]))
    assert seeds_by_label(tmp_path) == seeds_by_label(confirmed[0])


@pytest.mark.slow
def test_seeds_can_be_added_and_all_are_trained_with_them(confirmed, tmp_path):
    shutil.copytree(confirmed[0], tmp_path, dirs_exist_ok=True)
    done = run("confirm", NAME, "--seeds", 6, "--open-test-again", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Adding seeds after the last planned look" in done.stdout
    assert set(seeds_by_label(tmp_path).values()) == {6}
    assert "opened 2 times" in done.stdout
