"""``kill -9`` of driver, worker and raylet at random moments.

One directory is broken and gone on with again and again, each time at a moment drawn uniformly
over the length of a whole session (start-up and end included), and then the next one is begun,
until there have been ``KILLS`` kills.
"""

import itertools
import os
import random
import signal
import subprocess
import time

import pytest
from chaos_helpers import (
    assert_all_gone,
    family,
    find,
    look_at,
    lost_between,
)
from search_helpers import run, start

SEED = 20260801
KILLS = int(os.environ.get("OKDDIP_KILLS", "30"))
VICTIMS = ("driver", "worker", "raylet")


class Killer:
    """Starts commands and kills one of their processes at moments drawn from a seed."""

    def __init__(self, fault, where, session_s):
        print(f"kill -9 in {where}: seed {SEED}, {KILLS} kills, a session takes {session_s:.0f} s")
        self.rows = {victim: fault(f"kill -9 of the {victim}, in {where}") for victim in VICTIMS}
        self.kills = 0
        self._victims = itertools.cycle(VICTIMS)
        self._moments = random.Random(SEED)
        self._session_s = session_s

    def breaks(self, home, *arguments, cwd):
        """Run a command that is killed at some moment; return whether it ended by itself, well.

        Args:
            home: Directory of the study that it works on.
            arguments: Of the command.
            cwd: Where it runs.
        """
        begun, moment = time.monotonic(), self._moments.random() * self._session_s
        is_whole = not (home / "study.journal").exists()
        driver = start(*arguments, cwd=cwd)
        try:
            victim = self._wait(driver, begun + moment)
            if victim is None:
                if is_whole:  # the machine is not always as busy
                    self._session_s = time.monotonic() - begun
                return self._outlived(driver)
            return self._kill(driver, victim, home)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)

    def _wait(self, driver, moment):
        """Wait for the moment, and for the victim to be there; None: the command was faster."""
        kind = next(self._victims)
        while driver.poll() is None:
            if time.monotonic() >= moment and find(kind, family(driver.pid)):
                return kind
            time.sleep(0.02)
        return None

    def _kill(self, driver, kind, home):
        row, before, members = self.rows[kind], look_at(home), family(driver.pid)
        victim = find(kind, members)
        if victim is None:
            return self._outlived(driver)
        os.kill(victim.pid, signal.SIGKILL)
        self.kills += 1
        print(f"kill {self.kills}: {kind}", flush=True)
        row.tries += 1
        try:
            output, _ = driver.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the driver hangs after a kill of its {kind}")
        assert "Traceback" not in output, output
        if kind == "raylet" and driver.returncode != 0:
            assert "raylet died" in output or "Ray did not start" in output, output
        if kind == "worker":  # another one has gone on
            assert driver.returncode == 0, output
        assert_all_gone(members)
        lost = lost_between(before, look_at(home))
        row.lost += lost
        row.survived += lost == 0
        return driver.returncode == 0

    def _outlived(self, driver):
        """Let a command end that was faster than its moment."""
        output, _ = driver.communicate(timeout=600)
        assert driver.returncode == 0, output
        return True

    def assert_nothing_lost(self):
        assert self.kills >= KILLS
        assert [(r.survived, r.lost) for r in self.rows.values()] == [
            (r.tries, 0) for r in self.rows.values()
        ]


def timed(*arguments, cwd):
    begun = time.monotonic()
    done = run(*arguments, cwd=cwd, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - begun
