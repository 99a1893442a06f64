"""Tests may run under `nohup` or a script's `&`; the processes they start get default signals."""

import signal


def pytest_configure(config):
    """Replace ignored signals by a handler that does nothing.

    Children inherit an ignored signal, which the command respects, but not a handler.
    """
    is_xdist_worker = hasattr(config, "workerinput")  # its parent decides what a hang-up means
    for number in (signal.SIGHUP, signal.SIGINT):
        is_ignored = signal.getsignal(number) is signal.SIG_IGN
        if is_ignored or (is_xdist_worker and number == signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)
