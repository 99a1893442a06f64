"""Signals: the first one throws the switch; one that is ignored (nohup) stays so."""

import os
import signal
import subprocess
import sys

import pytest

from okddip_search.cluster.signals import STOP_SIGNALS, STOPPED, Stopped, StopSwitch


@pytest.fixture
def said():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield []
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_throws_the_switch_and_says_so(said, number):
    before = signal.getsignal(number)
    with StopSwitch(said.append, "again") as switch:
        switch.check()
        os.kill(os.getpid(), number)
        assert switch.is_thrown and "once more to stop at once" in said[0]
        with pytest.raises(Stopped):
            switch.check()
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_stays_ignored(said):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSwitch(said.append, "again") as switch:
        switch.take_over()
        os.kill(os.getpid(), signal.SIGHUP)
        assert not switch.is_thrown and not said


TWICE = """
import os, signal
from okddip_search.cluster.signals import StopSwitch
with StopSwitch(lambda line: print(line, flush=True), "again"):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
BEFORE_ANYTHING = """
import os, signal
from okddip_search.cluster.signals import quit_on_signals
quit_on_signals()
os.kill(os.getpid(), signal.SIGINT)
print("still here")
"""


@pytest.mark.parametrize(("code", "words"), [(TWICE, "with:  again"), (BEFORE_ANYTHING, "Stopped")])
def test_a_second_signal_or_one_before_anything_began_ends_at_once(code, words):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == STOPPED
    assert words in done.stdout + done.stderr
    assert "still here" not in done.stdout and "Traceback" not in done.stderr
