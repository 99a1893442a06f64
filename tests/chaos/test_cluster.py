"""GPUs as Ray hands them out: logical ones will do, because placing a trial needs no CUDA."""

import json
import os
import secrets
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from chaos_helpers import look_at, lost_between
from search_helpers import COMMAND, assert_consistent, run, wait_until, write_space

pytestmark = pytest.mark.timeout(600)
CLUSTER = textwrap.dedent("""
    import sys
    from ray.cluster_utils import Cluster
    gpus = int(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "num_gpus": 0})
    node = cluster.add_node(num_cpus=16, num_gpus=gpus)
    print("address", cluster.address, flush=True)
    for order in sys.stdin:
        if order.strip() == "lose a node":
            cluster.remove_node(node, allow_graceful=False)
        else:
            node = cluster.add_node(num_cpus=16, num_gpus=gpus)
        print("done", flush=True)
    cluster.shutdown()
""")
OTHER = textwrap.dedent("""
    import sys, ray
    ray.init(address=sys.argv[1], log_to_driver=False)

    @ray.remote(num_gpus=int(sys.argv[2]))
    class Holder:
        pass

    holder = Holder.remote()
    ray.get(holder.__ray_ready__.remote())
    print("held", flush=True)
    sys.stdin.read()
""")
TIMED = ("--set", "trainer.executor=auto")
NOT_TIMED = ("--set", "trainer.executor=eager", "--set", "trainer.precision=fp32")


@contextmanager
def python(code, *arguments, env):
    """Run a script, and end it with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.communicate("", timeout=60)


def answer(process, word):
    """Read what a script prints up to a line that begins so, and return the line."""
    return next(line for line in process.stdout if line.startswith(word))


class RunningCluster(NamedTuple):
    """A Ray cluster of two nodes on this machine: a head, and one with GPUs that are not there."""

    address: str
    env: Mapping[str, str]
    process: Any

    def order(self, words):
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        answer(self.process, "done")


@contextmanager
def cluster(gpus):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    env = {**os.environ, **token}
    with python(CLUSTER, gpus, env=env) as process:
        yield RunningCluster(answer(process, "address ").split()[1], env, process)


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
    with cluster(gpus) as ray:
        done = run(
            "--space", write_space(tmp_path), "--out", "out", "--address", ray.address,
            "--gpus", gpus, "--gpus-per-trial", per_trial, "--trials", 8,
            "--set", "resources.cpus_per_trial=1", "--set", "trainer.epochs=60",
            "--set", "study.pruner=none", "--set", "trainer.device=cpu",
            cwd=tmp_path, env=ray.env,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_consistent(tmp_path / "out")
    trials = windows(tmp_path / "out")
    last_start = max(start for start, _, _ in trials)
    assert all(end > last_start for _, end, _ in trials), "some trial had to wait for another"
    assert Counter(gpu for _, _, gpu in trials) == {str(i): trials_on_a_gpu for i in range(gpus)}


def test_without_the_clusters_token_one_line_says_which_is_missing_where(tmp_path):
    with cluster(0) as ray:
        env = {k: v for k, v in ray.env.items() if not k.startswith("RAY_AUTH_TOKEN")}
        home = {"HOME": str(tmp_path)}  # Ray looks for a token there as well
        done = run(
            "--space", write_space(tmp_path), "--out", "out", "--address", ray.address,
            cwd=tmp_path, env={**env, **home},
        )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    [error, remedy] = done.stderr.strip().splitlines()[-2:]
    assert f"--address {ray.address}: the cluster asks for a token" in error
    assert "RAY_AUTH_TOKEN" in remedy and "head node" in remedy
    assert "Traceback" not in done.stderr


@contextmanager
def search(ray, folder, *options):
    """Run a search of two trials, one at a time, on the GPU of a cluster."""
    command = [
        COMMAND, "--space", write_space(folder), "--out", "out", "--address", ray.address,
        "--gpus", 1, "--trials", 2, "--set", "resources.cpus_per_trial=1",
        "--set", "trainer.device=cpu", "--set", "study.pruner=none", *options,
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=folder, env=ray.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def assert_ends_well(process, directory):
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0, rest
    assert_consistent(directory)


@pytest.mark.parametrize(
    ("options", "waits"),
    [
        pytest.param(TIMED, "No worker (measure_variants)", id="timing"),
        pytest.param(NOT_TIMED, "No trial", id="trial"),
    ],
)
def test_who_waits_for_a_gpu_that_others_hold_is_told_and_then_served(
    tmp_path, fault, options, waits
):
    row = fault("a cluster's GPU that somebody else holds for a minute")
    row.tries += 1
    with cluster(1) as ray, ExitStack() as running:
        with python(OTHER, ray.address, 1, env=ray.env) as other:
            answer(other, "held")
            process = running.enter_context(search(ray, tmp_path, *options))
            line = answer(process, f"{waits} could be started for 6")
            assert "needs 1 cores and 1 GPUs, and whoever else uses this Ray cluster" in line
        assert_ends_well(process, tmp_path / "out")
    row.survived += 1


def test_a_cluster_that_loses_its_gpu_node_goes_on_when_it_has_another(tmp_path, fault):
    row = fault("a cluster's only node with a GPU is lost, and replaced after a minute")
    row.tries += 1
    with cluster(1) as ray:
        with search(
            ray,
            tmp_path,
            *NOT_TIMED,
            "--set",
            "trainer.epochs=200",
            "--set",
            "trainer.checkpoint_every_s=1",
        ) as process:
            wait_until(lambda: list((tmp_path / "out" / "trials").glob("*/state.json")))
            before = look_at(tmp_path / "out")
            ray.order("lose a node")
            line = answer(process, "No trial could be started for 6")
            assert "GPU: a trial needs 1 cores and 1 GPUs" in line
            assert "the nodes that are left have 16 and 0" in line
            ray.order("have another")
            assert_ends_well(process, tmp_path / "out")
    assert not lost_between(before, look_at(tmp_path / "out"))
    row.survived += 1
