"""Why nothing starts is read out of Ray's logs: the words nearest to the cause, and no secrets."""

import os
import time

import pytest

from okddip_search.cluster.waiting import last_complaint, why_nothing_starts

DIED = (
    "[2026-11-29 10:01:11,744 E 17938 17938] (raylet) worker_pool.cc:660: Some workers of the "
    "worker process(18165) have not registered within the timeout."
)
BASH = "bash: line 1: /home/ada/my: No such file or directory"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"raylet.err": f"{BASH}\n{DIED}\n"}, f"{BASH} (raylet.err)"),
        ({"raylet.err": f"{DIED}\n"}, "worker_pool.cc:660: Some workers of the worker process"),
        (
            {"raylet.err": f"{DIED}\n", "worker-1-ffff-7.err": "ImportError: libfoo.so\n"},
            "ImportError: libfoo.so (worker-1-ffff-7.err)",
        ),
        ({"raylet.err": "", "raylet.out": "anything"}, ""),
        ({"raylet.err": "[2026-11-29 10:01:11,744 I 1 1] (raylet) main.cc:1: all is well\n"}, ""),
        ({}, ""),
    ],
    ids=["a shell's words", "Ray's alone", "Python's before Ray's", "empty", "no error", "none"],
)
def test_the_last_complaint_is_found(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    said = last_complaint(tmp_path, 60.0)
    assert said.startswith(words) if words else said == ""
    assert ("Ray's log says" in why_nothing_starts(tmp_path, 60.0)) == bool(words)


def test_a_complaint_from_before_the_wait_is_not_its_reason(tmp_path):
    (tmp_path / "raylet.err").write_text(BASH)
    then = time.time() - 100
    os.utime(tmp_path / "raylet.err", (then, then))
    assert last_complaint(tmp_path, 60.0) == ""
    assert str(tmp_path) in why_nothing_starts(tmp_path, 60.0)


def test_secrets_and_long_lines_are_cut(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f00dcafe")
    (tmp_path / "raylet.err").write_text("denied: f00dcafe " + "x" * 100_000)
    said = last_complaint(tmp_path, 60.0)
    assert "f00dcafe" not in said and len(said) < 400
