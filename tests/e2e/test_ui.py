"""`okddip-search ui`: serves on this machine, and leaves no process behind."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_helpers import (
    TAGS,
    all_runs,
    client_of,
    confirm_run,
    free_port,
    get,
    open_tracker,
    run_trial,
)

from okddip_search.errors import UserError

UI = """
import sys
from pathlib import Path
from okddip_search.tracking.ui import serve_ui
echo = lambda line: print(line, flush=True)
sys.exit(serve_ui(Path(sys.argv[1]), port=int(sys.argv[2]), echo=echo, open_browser=True))
"""

HOSTILE = "shop%2Flogin? #ü 'quoted\""
"""A folder's name that is no part of an address as it stands."""


def descendants(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.fixture(scope="module")
def story_dir(tmp_path_factory) -> Path:
    search_dir = tmp_path_factory.mktemp("ui") / "original"
    search_dir.mkdir()
    (search_dir / "spec.yaml").write_text("name: demo\n")
    tracker = open_tracker(search_dir)
    tracker.search_started({}, TAGS)
    run_trial(tracker, 0)
    tracker.search_ended("FINISHED")
    assert tracker.close(60)
    return search_dir


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the process table")
def test_ui_serves_a_moved_search_past_a_proxy_and_stops_as_a_whole(story_dir, tmp_path):
    moved = tmp_path / HOSTILE
    shutil.copytree(story_dir, moved)
    next((moved / "mlartifacts").rglob("spec.yaml")).write_text("moved: true\n")
    port = free_port()
    command = [sys.executable, "-c", UI, str(moved), str(port)]
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" >"$0.opened"\n')
    browser.chmod(0o755)
    place = {"SSH_CONNECTION": "203.0.113.9 51234 192.0.2.7 22", "BROWSER": str(browser)}
    place |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **place}
    ) as process:
        try:
            link = process.stdout.readline().split()[-1]
            assert link.startswith(f"http://127.0.0.1:{port}/#/experiments/")
            assert "workflowType=machine_learning&compareRunsMode=TABLE" in link
            charts = process.stdout.readline().split()[-1]
            assert charts == link.replace("TABLE", "CHART")
            lines = list(iter(process.stdout.readline, "Ctrl-C ends it.\n"))
            assert f"ssh -N -L {port}:127.0.0.1:{port} " in lines[-1]
            assert Path(f"{browser}.opened").read_text().strip() == link
            key = link.rpartition("viewStateShareKey=")[2]
            experiment = client_of(f"http://127.0.0.1:{port}").get_experiment_by_name("demo")
            assert json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])["name"]
            run_id = all_runs(f"http://127.0.0.1:{port}")["demo"].info.run_id
            artifact = f"http://127.0.0.1:{port}/get-artifact?path=spec.yaml&run_uuid={run_id}"
            assert get(artifact) == b"moved: true\n"
            servers = descendants(process.pid)
            assert servers
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert not [pid for pid in servers if Path(f"/proc/{pid}").exists()]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_ui_links_no_view_that_the_store_lacks(story_dir, tmp_path):
    from okddip_search.tracking.ui import _links

    moved = tmp_path / "moved"
    shutil.copytree(story_dir, moved)
    assert "viewStateShareKey" in _links(moved, "http://h")[0]
    assert not any("confirm" in line for line in _links(moved, "http://h"))
    tracker = open_tracker(moved)
    tracker.search_started({}, TAGS)
    confirm_run(tracker, 0, "trial 0", 1, 0.5)
    assert tracker.close(30)
    table, _, confirm, _ = _links(moved, "http://h")
    assert confirm.split()[-1] == f"{table.split()[-1]}-confirm"
    with contextlib.closing(sqlite3.connect(moved / "mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM experiment_tags")
    table, charts = _links(moved, "http://h")
    assert table.endswith("/runs?workflowType=machine_learning&compareRunsMode=TABLE")
    assert charts.endswith("/runs?workflowType=machine_learning&compareRunsMode=CHART")
    with contextlib.closing(sqlite3.connect(moved / "mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM experiments")
    assert _links(moved, "http://h") == ["MLflow is at http://h"]


def test_ui_says_what_is_missing(tmp_path, story_dir):
    from okddip_search.tracking.ui import serve_ui

    with pytest.raises(UserError, match="mlflow.db"):
        serve_ui(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UserError, match="taken"):
            serve_ui(story_dir, port=taken.getsockname()[1])
