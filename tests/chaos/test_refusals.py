"""What a search directory does not bear is refused with its remedy; what it bears just works."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import textwrap
import time
from contextlib import contextmanager

import pytest
from chaos_helpers import SPACE, assert_over, findings, fresh_copy, look_at
from search_helpers import COMMAND, epochs_recorded, run, start, wait_until, write_space

pytestmark = pytest.mark.timeout(1800)
NAME = "run"
DAY_S = 24 * 3600


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search that was not confirmed."""
    folder = tmp_path_factory.mktemp("searched")
    done = run(
        "--space", write_space(folder, SPACE), "--out", NAME, "--no-confirm", "--trials", 2,
        cwd=folder, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / NAME


def assert_refused(done, *words):
    told = done.stdout + done.stderr
    assert done.returncode == 2, told
    assert "Traceback" not in told
    for word in words:
        assert word in done.stderr, told


def assert_unchanged(home, before):
    assert {p.name: p.read_bytes() for p in home.glob("*.*") if p.is_file()} == before


@pytest.mark.parametrize("command", ["resume", "confirm", "report"])
def test_a_directory_from_a_newer_version_is_refused(searched, tmp_path, fault, command):
    row = fault(f"a directory from a newer version; then {command}")
    home = fresh_copy(searched, tmp_path / NAME)
    spec = home / "spec.yaml"
    assert spec.read_text().startswith("format: 1\n")
    spec.write_text(spec.read_text().replace("format: 2", "format: 3", 1) + "quantum: {}\n")
    before = {p.name: p.read_bytes() for p in home.glob("*.*") if p.is_file()}
    row.tries += 1
    arguments = ["--resume", "--out", NAME] if command == "resume" else [command, NAME]
    assert_refused(run(*arguments, cwd=tmp_path), "spec.yaml:1:", "newer version", "install")
    assert_unchanged(home, before)
    row.survived += 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trainer.epochs=9", "trainer.epochs was 4, is 9 now"),
        ("search.lr.high=0.2", "search.lr.high was 0.3, is 0.2 now"),
        ("objective.reduce=best", "objective.reduce was last, is best now"),
        ("study.seed=7", "study.seed was 0, is 7 now"),
        ("data.train_limit=90", "data.train_limit was 100, is 90 now"),
    ],
)
def test_a_changed_space_is_refused_on_resume_by_the_field(
    searched, tmp_path, fault, change, words
):
    row = fault("a changed space on --resume")
    fresh_copy(searched, tmp_path / NAME)
    row.tries += 1
    done = run("--resume", "--out", NAME, "--set", change, cwd=tmp_path)
    assert_refused(done, words, "--name")
    row.survived += 1


@contextmanager
def read_only(home):
    """Mount a folder over itself, read-only: the superuser may write whatever the modes say."""
    if subprocess.run(["mount", "--bind", home, home], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", home], check=True)
        yield
    finally:
        subprocess.run(["umount", home], check=True)


def test_a_read_only_directory_is_refused_and_can_still_be_exported(searched, tmp_path, fault):
    row = fault("a read-only directory")
    home = fresh_copy(searched, tmp_path / NAME)
    with read_only(home):
        for arguments in (["--resume", "--out", NAME], ["confirm", NAME], ["report", NAME]):
            row.tries += 1
            assert_refused(run(*arguments, cwd=tmp_path), "Read-only", NAME, "copy the search")
            row.survived += 1
        row.tries += 1
        done = run("export", NAME, "--output", "best.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        row.survived += 1
    assert not (home / "confirm").exists()


def artifact_places(home):
    with sqlite3.connect(home / "mlflow.db") as store:
        return [uri for (uri,) in store.execute("SELECT artifact_uri FROM runs")]


def test_a_moved_directory_goes_on(searched, tmp_path, fault):
    row = fault("a moved directory: --resume, confirm, report, export")
    home = fresh_copy(searched, tmp_path / "elsewhere" / "moved")
    old = str(searched).encode()
    # MLflow keeps absolute places: its store is put right, and in a model's own file it is a note
    # that nothing reads. A log may say where it was written.
    spared = {"mlflow.db", "MLmodel", "search.log"}
    holding = [p for p in home.rglob("*") if p.is_file() and old in p.read_bytes()]
    assert {path.name for path in holding} <= spared, holding
    for arguments in (
        ["--resume", "--no-confirm", "--out", "moved", "--trials", 3],
        ["confirm", "moved"],
        ["report", "moved"],
        ["export", "moved", "--output", "best.yaml"],
    ):
        row.tries += 1
        done = run(*arguments, cwd=home.parent, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        row.survived += 1
    assert_over(look_at(home), budget=3)
    assert findings(home)["state"] == "complete"
    assert all(str(home) in uri for uri in artifact_places(home))


CLOCK = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <fcntl.h>
    #include <stdlib.h>
    #include <sys/time.h>
    #include <time.h>
    #include <unistd.h>
    static long shift(void) {
        char text[32] = {0};
        int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
        if (file < 0) return 0;
        if (read(file, text, 31) < 0) text[0] = 0;
        close(file);
        return atol(text);
    }
    int clock_gettime(clockid_t which, struct timespec *now) {
        static int (*real)(clockid_t, struct timespec *);
        if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
        int result = real(which, now);
        if (which == CLOCK_REALTIME && !result) now->tv_sec += shift();
        return result;
    }
    int gettimeofday(struct timeval *restrict now, void *restrict zone) {
        struct timespec t;
        int result = clock_gettime(CLOCK_REALTIME, &t);
        now->tv_sec = t.tv_sec;
        now->tv_usec = t.tv_nsec / 1000;
        return result;
    }
    time_t time(time_t *out) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        if (out) *out = t.tv_sec;
        return t.tv_sec;
    }
"""


@pytest.fixture
def clock(tmp_path):
    """Make a clock that can be set: what to add to the environment, and the file of its shift."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "clock.c").write_text(textwrap.dedent(CLOCK))
    library, shift = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True
    )
    shift.write_text("0")
    return {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}, shift


@pytest.mark.parametrize("days", [-3, 3], ids=["back", "forward"])
def test_a_clock_that_jumps_costs_nothing(tmp_path, fault, clock, days):
    row = fault(f"the clock jumps by {days} days, in a search with a timeout of an hour")
    settings, shift = clock
    row.tries += 1
    began = time.monotonic()
    driver = subprocess.Popen(
        [COMMAND, "--space", write_space(tmp_path, SPACE), "--out", NAME, "--no-confirm",
         "--timeout", "1h"],
        cwd=tmp_path, env={**os.environ, **settings}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: epochs_recorded(tmp_path / NAME) >= 2, timeout=600)
        shift.write_text(str(days * DAY_S))
        output, _ = driver.communicate(timeout=900)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    taken_s = time.monotonic() - began
    assert driver.returncode == 0, output
    assert "Traceback" not in output
    assert_over(look_at(tmp_path / NAME), budget=5)
    for result in (tmp_path / NAME).glob("trials/*/result.json"):
        assert 0 < json.loads(result.read_text())["seconds"] < taken_s
    row.survived += 1


def test_a_second_driver_is_refused_while_one_is_at_work(tmp_path, fault):
    row = fault("two drivers, one directory")
    driver = start("--space", write_space(tmp_path, SPACE), "--out", NAME, cwd=tmp_path)
    try:
        wait_until(lambda: epochs_recorded(tmp_path / NAME) >= 1, timeout=600)
        for arguments in (["--resume", "--out", NAME], ["confirm", NAME]):
            row.tries += 1
            second = run(*arguments, cwd=tmp_path)
            assert_refused(second, f"at work in {NAME}", str(driver.pid))
            row.survived += 1
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
