"""Signals that stop a session: the first one cleanly, a second one at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, Self

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,  # warnings of batch systems that the job is about to end: Slurm, Grid Engine,
    signal.SIGUSR2,  # submitit, LSF
    signal.SIGXCPU,
)
STOPPED = 130
"""Exit code of a command that a signal has stopped."""


class Stopped(KeyboardInterrupt):
    """The current work was abandoned because of a signal."""


def quit_on_signals() -> None:
    """Let a signal end the command at once, until a ``StopSwitch`` takes over.

    While libraries are loaded there is nothing to save, and Python would print a traceback.
    """
    for number in _heard():
        signal.signal(number, _quit)


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Stopped.\n")
    os._exit(STOPPED)


def _heard() -> list[signal.Signals]:
    """Return the signals that are not ignored: nohup has SIGHUP ignored, and that must stay so."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class Interruptible(Protocol):
    """A running study, which a stop switch ends after a first signal."""

    interrupted: bool


class StopSwitch:
    """Thrown by a signal; use it as a context manager around everything that it may stop.

    Args:
        say: Prints a line for the user.
        resume_command: The command that resumes where this one was stopped.

    Attributes:
        say: As given.
        is_thrown: Whether a signal came.
        resume_command: May be changed from one phase to the next.
    """

    def __init__(self, say: Callable[[str], None], resume_command: str) -> None:
        self.is_thrown = False
        self.resume_command = resume_command
        self.say = say
        self._bridge: Interruptible | None = None
        self._at_once: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._before = {number: signal.getsignal(number) for number in _heard()}
        self.take_over()
        return self

    def take_over(self) -> None:
        """Become the handler of the signals, also where a library has taken them meanwhile."""
        for number in self._before:
            signal.signal(number, self._throw)

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Leave what is going on if a signal came.

        Raises:
            Stopped: So it is.
        """
        if self.is_thrown:
            raise Stopped

    @contextmanager
    def stops(self, bridge: Interruptible) -> Iterator[None]:
        """Stop this bridge, too: its running trials finish their epoch and save it."""
        self._bridge = bridge
        bridge.interrupted = self.is_thrown
        try:
            yield
        finally:
            self._bridge = None

    @contextmanager
    def at_once(self, call: Callable[[], None]) -> Iterator[None]:
        """Call this, from the signal's handler, when a second signal ends the command."""
        self._at_once = call
        try:
            yield
        finally:
            self._at_once = None

    def _throw(self, number: int, frame: FrameType | None) -> None:
        if self.is_thrown:  # everything reported is on disk, so nothing needs tidying
            self.say(f"Stopped at once. Resume with:  {self.resume_command}")
            if self._at_once is not None:
                self._at_once()
            os._exit(STOPPED)
        self.is_thrown = True
        what = ""
        if self._bridge is not None:
            self._bridge.interrupted = True
            what = ": running trials finish their epoch"
        self.say(f"stopping{what} (once more to stop at once)")
