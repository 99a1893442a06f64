"""Workers start wherever Python lies; where they do not, the search says why."""

import os
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from search_helpers import SPACE, states, wait_until, write_space

import okddip_search

ROOT = Path(okddip_search.__file__).parents[1]
QUICK = SPACE.replace("epochs: 8", "epochs: 2, executor: eager, precision: fp32")
# Python's path as Ray gets it is wrong, so that no worker of Tune's begins.
BROKEN = """
import sys
from okddip_search.cluster import ray_cluster, waiting

ray_cluster._runtime_env = lambda: {"py_executable": "/no/such/python"}
waiting.TOLD_EVERY_S = 5.0
from okddip_search.cli.main import main
main()
"""


def install(place):
    """Make an environment that has the packages of this one, and return its Python."""
    venv.create(place, symlinks=True)
    inside = place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (inside / "shared.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return place / "bin" / "python"


@pytest.mark.parametrize("folder", ["my project's", pytest.param("it's", marks=pytest.mark.slow)])
def test_a_search_runs_where_the_path_of_python_has_a_space_and_a_quote(tmp_path, folder):
    python = install(tmp_path / folder / ".venv")
    write_space(tmp_path / folder, QUICK)
    done = subprocess.run(
        [python, "-m", "okddip_search", "--space", "tiny.yaml", "--trials", "1", "--gpus", "0"],
        cwd=tmp_path / folder, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [state.name for state in states(tmp_path / folder / "runs" / "tiny")] == ["COMPLETE"]


def test_workers_that_do_not_start_are_told_with_the_reason(tmp_path):
    command = [sys.executable, "-c", BROKEN, "--space", write_space(tmp_path, QUICK), "--gpus", "0"]
    lines = tmp_path / "lines"
    with lines.open("w") as output:
        search = subprocess.Popen(
            [*command, "--out", "out"], cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: "could be started" in lines.read_text(), timeout=120)
        wait_until(lambda: "/no/such/python: No such file" in lines.read_text(), timeout=60)
    finally:
        search.send_signal(signal.SIGINT)
        search.send_signal(signal.SIGINT)
        search.wait(60)
    assert "(raylet.err)" in lines.read_text()
