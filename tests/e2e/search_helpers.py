"""Runs the real command on a space that takes seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

COMMAND = Path(sys.executable).with_name("okddip-search")
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)

SPACE = """\
name: tiny
data: {name: digits, train_limit: 100, validation: 200}
trainer: {model: resnet8, width: 0.25, num_peers: 2, batch_size: 32, epochs: 8, ramp_epochs: 2}
search:
  lr: {type: float, low: 0.0001, high: 0.3, log: true}
  temperature: {type: float, low: 1, high: 6}
enqueue:
  - {lr: 0.1, temperature: 3.0}
study:
  trials: 8
  sampler: random
  pruner: {type: median, n_startup_trials: 2, n_warmup_steps: 2}
"""


def write_space(folder, text=SPACE):
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def run(*arguments, cwd, timeout=240, **options):
    """Run the command to its end."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd, timeout=timeout, capture_output=True, text=True, **options,
    )  # fmt: skip


def start(*arguments, cwd):
    """Start the command in a session of its own, as a terminal would."""
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def read_study(directory):
    """Open a directory's study for reading, whether or not a driver is at work in it."""
    storage = JournalStorage(JournalFileBackend(str(directory / "study.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def states(directory):
    return [trial.state for trial in read_study(directory).trials]


def wait_until(condition, timeout=180, step=0.05):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(step)


def epochs_recorded(directory):
    """Count the epochs that are in the journal, without taking part in it."""
    journal = directory / "study.journal"
    if not journal.exists():
        return 0
    lines = journal.read_bytes().splitlines()
    return sum(b'"step"' in line for line in lines)


def kill(process):
    """Kill the driver alone, as the machine's out-of-memory killer would."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def curves_on_disk(directory, number):
    """Return the validation accuracies that a trial's own directory holds."""
    state = json.loads((directory / "trials" / str(number) / "state.json").read_text())
    return [report["leader_accuracy"] for report in state["history"]]


def assert_consistent(directory):
    """Compare the study with the trial directories."""
    study = read_study(directory)
    assert [t.number for t in study.trials] == list(range(len(study.trials)))
    for trial in study.trials:
        assert trial.state in ENDED, f"trial {trial.number} is {trial.state.name}"
        steps = list(trial.intermediate_values)
        assert steps == list(range(len(steps))), f"trial {trial.number} has gaps: {steps}"
        # A worker may be an epoch ahead of a pruned trial's record, never behind.
        on_disk = curves_on_disk(directory, trial.number)[: len(steps)]
        assert list(trial.intermediate_values.values()) == on_disk
    return study


def findings(folder, name="runs/tiny"):
    """Return the results of a search's confirmation."""
    return json.loads((folder / name / "confirm" / "confirm.json").read_text())


def openings(folder, name="runs/tiny"):
    """Return the lines of the log in which the sealed test set was opened."""
    log = folder / name / "test_openings.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line["event"] == "opened"]


def numbers(found):
    """Return what must not depend on when and how often a confirmation was broken."""
    return {
        "winner": found["winner"],
        "verdict": found["verdict"],
        "comparisons": found["comparisons"],
        "runs": {
            c["label"]: [(r["seed"], r["state"], r["validation"], r["test"]) for r in c["runs"]]
            for c in found["contenders"]
        },
    }
