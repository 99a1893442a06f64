"""GPUs as Ray hands them out: logical ones will do, because placing a trial needs no CUDA."""

import json
import os
import secrets
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import contextmanager

import pytest
from search_helpers import assert_consistent, run, write_space

CLUSTER = textwrap.dedent("""
    import sys
    from ray.cluster_utils import Cluster
    gpus = int(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "num_gpus": gpus})
    print("address", cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
""")


@contextmanager
def cluster(gpus):
    """Run a Ray cluster of one node with 16 cores and some GPUs that are not there."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **token},
    )
    try:
        for line in process.stdout:
            if line.startswith("address "):
                break
        yield line.split()[1], {**os.environ, **token}
    finally:
        process.communicate("", timeout=60)


def windows(directory):
    """Return, for each trial, when its first epoch began at the latest, its end, and its GPU."""
    found = []
    for trial in sorted((directory / "trials").iterdir()):
        result = json.loads((trial / "result.json").read_text())
        gpu = result["environment"]["visible_gpus"]
        end = (trial / "result.json").stat().st_mtime
        found.append((end - result["seconds"], end, gpu))
    return found


@pytest.mark.parametrize(
    ("gpus", "per_trial", "trials_on_a_gpu"),
    [pytest.param(8, 1, 1, id="8 whole GPUs"), pytest.param(2, 0.25, 4, id="4 trials share a GPU")],
)
def test_eight_trials_run_at_once(tmp_path, gpus, per_trial, trials_on_a_gpu):
    with cluster(gpus) as (address, environment):
        done = run(
            "--space", write_space(tmp_path), "--out", "out", "--address", address,
            "--gpus", gpus, "--gpus-per-trial", per_trial, "--trials", 8,
            "--set", "resources.cpus_per_trial=1", "--set", "trainer.epochs=60",
            "--set", "study.pruner=none", "--set", "trainer.device=cpu",
            cwd=tmp_path, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_consistent(tmp_path / "out")
    trials = windows(tmp_path / "out")
    last_start = max(start for start, _, _ in trials)
    assert all(end > last_start for _, end, _ in trials), "some trial had to wait for another"
    assert Counter(gpu for _, _, gpu in trials) == {str(i): trials_on_a_gpu for i in range(gpus)}
