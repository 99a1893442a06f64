"""Tests may be started by `nohup` or a script's `&`: what they start has the default signals."""

import signal


def pytest_configure(config):
    """Handle by doing nothing what this process ignores: `exec` hands on only what is ignored."""
    is_worker = hasattr(config, "workerinput")  # of xdist: a hang-up is the business of its parent
    for number in (signal.SIGHUP, signal.SIGINT):
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if ignored or (is_worker and number == signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)
