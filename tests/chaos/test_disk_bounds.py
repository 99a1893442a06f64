"""The disk of a search is bounded: checkpoints of running trials and the best networks alone."""

import re
import time

import pytest
from optuna.trial import TrialState
from search_helpers import (
    assert_consistent,
    epochs_recorded,
    kill,
    read_study,
    run,
    start,
    wait_until,
    write_space,
)

NAME = "runs/tiny"
KEEP = 2
UNIT = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
OPTIONS = ("--set", f"study.keep_leaders={KEEP}", "--set", "trainer.checkpoint_every_s=0")


def taken(directory):
    """Return the bytes that a directory takes on disk, while others write in it."""
    blocks = 0
    for path in directory.rglob("*"):
        try:
            blocks += path.lstat().st_blocks
        except OSError:
            continue  # it is gone already
    return 512 * blocks


def explained(folder):
    """Return what ``--explain`` says about the disk, in bytes."""
    told = run("--space", "tiny.yaml", "--out", NAME, "--explain", "--resume", *OPTIONS, cwd=folder)
    number, unit = re.search(r"at most about ([\d.e+]+) (\w+),", told.stdout).groups()
    return float(number) * UNIT[unit]


def tensors(directory):
    return list(directory.glob("trials/*/state-*.safetensors"))


def leaders(directory):
    return {int(path.parent.name) for path in directory.glob("trials/*/leader")}


def best_of(study, count):
    complete = study.get_trials(states=[TrialState.COMPLETE])
    ranked = sorted(complete, key=lambda trial: (-trial.value, trial.number))
    return {trial.number for trial in ranked[:count]}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Run a search and watch its disk; return its directory, the peak and what was explained."""
    folder = tmp_path_factory.mktemp("disk")
    driver = start("--space", write_space(folder), "--out", NAME, *OPTIONS, cwd=folder)
    peak, most_checkpoints = 0, 0
    while driver.poll() is None:
        peak = max(peak, taken(folder / NAME))
        most_checkpoints = max(most_checkpoints, len(tensors(folder / NAME)))
        time.sleep(0.1)
    assert driver.returncode == 0, driver.stdout.read()
    assert most_checkpoints > 0, "nothing was ever saved"
    return folder / NAME, peak, explained(folder)


def test_after_a_search_the_best_have_their_networks_and_no_trial_a_checkpoint(search):
    directory = search[0]
    study = assert_consistent(directory)  # the curves of all trials are there
    assert len(study.get_trials(states=[TrialState.COMPLETE])) > KEEP
    assert leaders(directory) == best_of(study, KEEP)
    assert tensors(directory) == []


def test_the_peak_is_what_explain_says(search):
    _, peak, estimate = search
    print(f"peak {peak / 2**20:.1f} MiB, explained {estimate / 2**20:.1f} MiB")
    assert 0.75 * estimate < peak <= estimate


def test_the_winner_is_handed_over_from_what_is_kept(search, tmp_path):
    done = run("export", search[0], "--format", "pt2", "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_kill_9_between_the_end_of_a_trial_and_its_sweep_is_mended_by_resume(tmp_path):
    directory = tmp_path / NAME
    driver = start("--space", write_space(tmp_path), "--out", NAME, *OPTIONS, cwd=tmp_path)
    wait_until(lambda: epochs_recorded(directory) >= 25, timeout=240)
    kill(driver)
    closed = [t.number for t in read_study(directory).trials if t.state is not TrialState.RUNNING]
    assert closed
    for number in closed:  # as the worker had left it when its driver closed the trial
        trial = directory / "trials" / str(number)
        (trial / "state-000002.safetensors").write_bytes(b"weights")
        (trial / "leader").mkdir(exist_ok=True)

    done = run("--resume", "--out", NAME, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    study = assert_consistent(directory)
    assert tensors(directory) == []
    assert leaders(directory) == best_of(study, KEEP)
