"""Tracking into servers that are dead, broken, late, or restarted."""

import contextlib
import http.server
import socket
import threading
import time

import pytest
from tracking_helpers import (
    TAGS,
    all_runs,
    assert_one_point_per_step,
    free_port,
    get,
    history,
    mlflow_server,
    open_tracker,
    report,
    run_trial,
    save_tiny_leader,
    wait_for,
)

from okddip_search.errors import UserError
from okddip_search.tracking.store import store_uri
from okddip_search.tracking.worker import sync


class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def broken_server(kind: str):
    if kind == "refused":
        yield free_port()
    elif kind == "hangs":  # accepts, never answers
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener.getsockname()[1]
    else:
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_port
            server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refused", "hangs", "answers 500"])
def test_a_broken_server_slows_nothing(tmp_path, monkeypatch, kind, capfd, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    troubles: list[str] = []
    latencies = []
    with broken_server(kind) as port:
        tracker = open_tracker(tmp_path, f"http://me:s3cret@127.0.0.1:{port}", troubles)
        tracker.search_started({}, {})
        tracker.trial_started(0, {"lr": 0.1}, False)
        listener = tracker.tracker.stage(tmp_path)  # without the study, which takes its time
        for epoch in range(500):
            tracker.epoch_reported(0, epoch, report(epoch, 0.5))
            begin = time.perf_counter()
            listener.epoch_reported(0, epoch, report(epoch, 0.5))
            latencies.append(time.perf_counter() - begin)
        tracker.checkpoint(0)
        deadline = time.monotonic() + 20
        while not troubles and time.monotonic() < deadline:
            time.sleep(0.05)
        begin = time.monotonic()
        assert not tracker.close(0.5)
        assert time.monotonic() - begin < 2
    assert sorted(latencies)[250] < 0.001
    assert max(latencies) < 0.25
    assert len(troubles) == 1  # told once
    assert "s3cret" not in troubles[0] + "".join(capfd.readouterr()) + caplog.text
    assert b"s3cret" not in (tmp_path / "sessions.jsonl").read_bytes()
    if kind == "refused":
        with pytest.raises(UserError, match="does not answer") as error:
            sync(tmp_path, f"http://me:s3cret@127.0.0.1:{port}")
        assert "s3cret" not in str(error.value)
        assert sync(tmp_path, "local") > 500  # another store gets all of it
        assert sync(tmp_path, "local") == 0
        assert len(history(store_uri(tmp_path), all_runs(store_uri(tmp_path))["trial 0"])) == 500


@pytest.mark.slow
def test_a_server_that_comes_late_and_restarts_gets_everything(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    search_dir = tmp_path / "search"
    search_dir.mkdir()
    (search_dir / "spec.yaml").write_text("name: demo\n")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    troubles: list[str] = []
    driver = open_tracker(search_dir, uri, troubles)
    driver.search_started({"trials": 3}, TAGS)
    run_trial(driver, 0)
    wait_for(lambda: troubles)
    with mlflow_server(folder, port):
        assert driver.flush(150)
        run_trial(driver, 1)
        wait_for(lambda: "trial 1" in all_runs(uri), 150)
    run_trial(driver, 2, "pruned", stop=2)
    wait_for(lambda: len(troubles) == 3, 150)
    with mlflow_server(folder, port):
        save_tiny_leader(search_dir / "leader")
        wait_for(lambda: get(f"{uri}/health"), 150)
        driver.search_ended("FINISHED")
        assert driver.close(60)
        runs = all_runs(uri)
        assert set(runs) == {"demo", "trial 0", "trial 1", "trial 2"}
        assert [len(history(uri, runs[f"trial {n}"])) for n in range(3)] == [4, 4, 2]
        assert runs["trial 2"].info.status == "KILLED"
    artifacts = {path.name for path in (folder / "served").rglob("*")}
    assert {"spec.yaml", "leader.safetensors", "model.pt2"} <= artifacts
    assert len(troubles) == 4
    assert ["answers again" in message for message in troubles] == [False, True, False, True]
    assert_one_point_per_step(folder / "server.db")
