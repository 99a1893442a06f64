"""Trials that fail, run out of memory or hang: told with the reason, and the search goes on."""

import json
import os
import re
from pathlib import Path

import pytest
from optuna.trial import TrialState
from search_helpers import ENDED, read_study, run, write_space

INJECTED = Path(__file__).with_name("injected")
SPACE = """\
name: tiny
data: {name: digits, train_limit: 100, validation: 200}
trainer: {model: resnet8, width: 0.25, num_peers: 2, batch_size: 32, epochs: 4, ramp_epochs: 2,
          executor: eager, precision: fp32, checkpoint_every_s: 0.0}
search:
  lr: {type: float, low: 0.0001, high: 0.1, log: true}
study: {trials: 4, sampler: random, pruner: none}
"""


def broken_search(folder, *faults, options=(), **environment):
    """Run the command while faults strike inside its workers; return its end and its study."""
    struck = folder / "struck"
    struck.mkdir()
    defaults = {"epoch": 1, "trials": [1], "times": 1}
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(INJECTED), os.environ.get("PYTHONPATH", "")]),
        "OKDDIP_TEST_FAULTS": json.dumps([{**defaults, **fault} for fault in faults]),
        "OKDDIP_TEST_STRUCK": str(struck),
        **environment,
    }
    write_space(folder, SPACE)
    done = run(
        "--space", "tiny.yaml", "--out", "out", *options, cwd=folder, env=variables, timeout=400
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert list(struck.iterdir()), "no fault has struck"
    return done, read_study(folder / "out")


def reason(trial):
    return trial.user_attrs.get("okddip:reason", "")


def whole(study, trials=4):
    """Say whether the budget is spent, every curve is whole and no trial is left open."""
    ended = [trial for trial in study.trials if trial.state in ENDED]
    curves = all(list(trial.intermediate_values) == [0, 1, 2, 3] for trial in ended)
    left = [t for t in study.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    return len(ended) == trials and curves and not left


@pytest.mark.parametrize(
    ("kind", "words"),
    [("nan", "NonFiniteLossError"), ("exception", "a bug in the trainer")],
)
def test_a_failed_trial_has_its_reason_and_the_search_goes_on(tmp_path, fault, kind, words):
    row = fault(f"{kind} in the trainer")
    row.tries += 1
    done, study = broken_search(tmp_path, {"kind": kind})
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.trials[1].state is TrialState.FAIL
    assert words in reason(study.trials[1])
    assert "Traceback" in (tmp_path / "out/trials/1/error.txt").read_text()
    assert whole(study)
    row.survived += 1


def test_out_of_memory_on_a_device_is_tried_again_with_half_as_many_at_a_time(tmp_path, fault):
    row = fault("out of memory on a device, once")
    row.tries += 1
    done, study = broken_search(tmp_path, {"kind": "gpu memory"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is restarted; from now on 1 trials at a time" in " ".join(done.stdout.split())
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert whole(study)
    row.survived += 1


def test_out_of_memory_twice_is_a_failure(tmp_path, fault):
    row = fault("out of memory on a device, again")
    row.tries += 1
    done, study = broken_search(tmp_path, {"kind": "gpu memory", "times": 2})
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.trials[1].state is TrialState.FAIL
    assert reason(study.trials[1]).startswith("out of memory again")
    assert whole(study)
    row.survived += 1


def test_out_of_memory_halves_the_trials_on_each_gpu(tmp_path, fault):
    row = fault("out of memory with 2 trials on a GPU (one that Ray is told of)")
    row.tries += 1
    done, study = broken_search(
        tmp_path,
        {"kind": "gpu memory"},
        options=("--gpus", 1, "--gpus-per-trial", 0.5, "--set", "trainer.device=cpu"),
        OKDDIP_TEST_GPUS="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from now on 1 trials at a time (1 on a device)" in " ".join(done.stdout.split())
    assert whole(study)
    row.survived += 1


def test_a_worker_out_of_host_memory_is_tried_again_with_fewer_at_a_time(tmp_path, fault):
    row = fault("worker out of host memory, killed by Ray's monitor")
    row.tries += 1
    memory = dict(re.findall(r"(\w+):\s+(\d+)", Path("/proc/meminfo").read_text()))
    total, free = int(memory["MemTotal"]), int(memory["MemAvailable"])
    enough = (total - free + 6_000_000) / total  # 6 GB from here
    if enough > 0.95:
        pytest.skip("less than 6 GB of memory are free")
    done, study = broken_search(
        tmp_path, {"kind": "host memory"}, RAY_memory_usage_threshold=f"{enough:.3f}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran out of memory and is restarted" in " ".join(done.stdout.split())
    assert whole(study)
    row.survived += 1


@pytest.mark.parametrize("kind", ["hang", "stopped"])
def test_a_worker_that_hangs_is_killed_and_its_trial_goes_on(tmp_path, fault, kind):
    row = fault(f"worker that hangs ({kind})")
    row.tries += 1
    done, study = broken_search(
        tmp_path, {"kind": kind}, options=("--set", "resources.stall_timeout=20s")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Trial 1 hangs" in done.stdout
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert whole(study)
    row.survived += 1


def test_failures_in_a_row_end_the_search_with_their_common_cause(tmp_path, fault):
    row = fault("every trial fails")
    row.tries += 1
    done, study = broken_search(
        tmp_path, {"kind": "exception", "epoch": 0, "trials": list(range(20))}
    )
    assert done.returncode == 1
    assert re.search(r"Given up: [56] trials in a row failed: ValueError: a bug", done.stdout)
    assert {trial.state for trial in study.trials} == {TrialState.FAIL}
    row.survived += 1
