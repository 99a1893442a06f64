"""A stop signal in every phase: once ends cleanly, twice at once; exit code 130."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from chaos_helpers import SPACE, assert_all_gone, assert_over, command_of, family, look_at, openings
from search_helpers import COMMAND, ENDED, epochs_recorded, run, start, wait_until, write_space

pytestmark = pytest.mark.timeout(1800)
NAME = "run"
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2
SEED = 20261129
LONGEST_S = 30.0
# The process alone, as kill does; the whole group, as a terminal and batch systems do.
ALONE, GROUP = os.kill, os.killpg

IS_IN = {
    "start-up": lambda home: (home / "search.log").exists(),
    "training": lambda home: epochs_recorded(home) >= 3,
    "confirm": lambda home: epochs_recorded(home / "confirm") >= 2,
    "test opening": lambda home: (home / "test_openings.jsonl").exists(),
}
CASES = [
    ("start-up", INT, GROUP, 1),
    ("start-up", TERM, ALONE, 1),
    ("start-up", HUP, GROUP, 2),
    ("training", INT, GROUP, 1),
    ("training", INT, GROUP, 2),
    ("training", TERM, ALONE, 1),
    ("training", HUP, GROUP, 1),
    ("training", HUP, ALONE, 2),
    ("training", USR1, GROUP, 1),
    ("training", USR2, GROUP, 1),
    ("confirm", INT, GROUP, 1),
    ("confirm", TERM, ALONE, 2),
    ("confirm", HUP, GROUP, 1),
    ("confirm", USR1, GROUP, 1),
    ("test opening", INT, GROUP, 1),
    ("test opening", TERM, ALONE, 2),
]


def scratch_of(members):
    """Return Ray's folders that these processes name."""
    named = {
        m.decode() for one in members for m in re.findall(rb"/tmp/okddip-\w+", command_of(one))
    }
    return [Path(folder) for folder in named]


def opened_and_confirmed(home):
    return len(openings(home)) == 1 and (home / "confirm" / "best.yaml").exists()


@pytest.mark.parametrize(
    ("phase", "number", "send", "times"),
    CASES,
    ids=[f"{p}-{n.name}-{'group' if s is GROUP else 'alone'}-{t}" for p, n, s, t in CASES],
)
def test_a_signal_stops_the_command(tmp_path, fault, phase, number, send, times):
    row = fault(f"{number.name} {'once' if times == 1 else 'twice'} in {phase}")
    home = tmp_path / NAME
    options = ["--set", "trainer.epochs=30"] if phase == "training" else []
    options += ["--trials", 2, "--set", "confirm.seeds=2"]
    driver = start("--space", write_space(tmp_path, SPACE), "--out", NAME, *options, cwd=tmp_path)
    try:
        wait_until(lambda: IS_IN[phase](home), timeout=900)
        before, members = look_at(home), family(driver.pid)
        scratch = scratch_of(members)
        row.tries += 1
        for _ in range(times):
            send(driver.pid, number)
            time.sleep(0.3)  # a second one that comes before the first is heard is none
        output, _ = driver.communicate(timeout=600)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert "Traceback" not in output, output
    if phase == "test opening" and driver.returncode == 0:
        assert opened_and_confirmed(home)  # it was over before it heard
    else:
        assert driver.returncode == 130, output
        assert "Stopped" in output and "The command has ended" not in output
    assert_all_gone(members)
    wait_until(lambda: not any(folder.exists() for folder in scratch), timeout=10)
    for trial, (_, _, curve) in before.items():
        assert curve.items() <= look_at(home)[trial][2].items()
    assert len(openings(home)) <= 1
    row.survived += 1


def test_a_search_stopped_in_its_start_up_and_its_training_ends_with_the_full_budget(
    tmp_path, fault
):
    row = fault("SIGINT in start-up, then in training; then --resume")
    home = tmp_path / NAME
    how = ["--space", write_space(tmp_path, SPACE), "--no-confirm"]
    for phase in ("start-up", "training"):
        row.tries += 1
        driver = start(*how, "--out", NAME, cwd=tmp_path)
        wait_until(lambda phase=phase: IS_IN[phase](home), timeout=900)
        os.killpg(driver.pid, INT)
        output, _ = driver.communicate(timeout=600)
        assert driver.returncode == 130, output
        row.survived += 1
    before = look_at(home)
    done = run("--resume", "--no-confirm", "--out", NAME, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    after = look_at(home)
    assert_over(after, budget=5)
    for trial, (_, params, curve) in before.items():
        assert after[trial][1] == params
        assert curve.items() <= after[trial][2].items()


def test_sigusr1_at_any_moment_never_ends_a_search_as_if_it_were_done(tmp_path, fault):
    row = fault("SIGUSR1 at a random moment, ten times; then --resume=auto")
    home, moments = tmp_path / NAME, random.Random(SEED)
    how = ["--space", write_space(tmp_path, SPACE), "--out", NAME, "--resume=auto"]
    for _ in range(10):
        row.tries += 1
        driver = start(*how, "--trials", 500, cwd=tmp_path)
        time.sleep(moments.uniform(0.1, LONGEST_S))
        members = family(driver.pid)
        os.killpg(driver.pid, USR1)
        output, _ = driver.communicate(timeout=600)
        was_importing = driver.returncode == -USR1 and not output
        assert driver.returncode == 130 or was_importing, output
        assert "Traceback" not in output and "Confirming" not in output, output
        assert not (home / "confirm").exists() and not openings(home)
        assert_all_gone(members)
        row.survived += 1
    ended = sum(state in ENDED for state, _, _ in look_at(home).values())
    done = run(*how, "--trials", ended + 2, cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_over(look_at(home), budget=ended + 2)
    assert opened_and_confirmed(home)


def test_nohup_keeps_a_search_from_ending_with_its_terminal(tmp_path, fault):
    row = fault("SIGHUP of the terminal, under nohup")
    row.tries += 1
    driver = subprocess.Popen(
        [COMMAND, "--space", write_space(tmp_path, SPACE), "--out", NAME, "--no-confirm",
         "--trials", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(HUP, signal.SIG_IGN),
    )  # fmt: skip
    try:
        wait_until(lambda: IS_IN["training"](tmp_path / NAME), timeout=900)
        os.killpg(driver.pid, HUP)
        output, _ = driver.communicate(timeout=900)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == 0, output
    assert_over(look_at(tmp_path / NAME), budget=2)
    row.survived += 1
