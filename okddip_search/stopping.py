"""SIGINT, SIGTERM and SIGHUP: the first one ends a session cleanly, a second one at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from okddip_search.bridge import StudyBridge

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSwitch:
    """Thrown by a signal; use it as a context manager around everything that it may stop.

    Args:
        say: Prints a line for the user.
        how_to_go_on: The command that goes on where this one was stopped.

    Attributes:
        is_thrown: Whether a signal came.
        how_to_go_on: May be changed from one phase to the next.
    """

    def __init__(self, say: Callable[[str], None], how_to_go_on: str) -> None:
        self.is_thrown = False
        self.how_to_go_on = how_to_go_on
        self._say = say
        self._bridge: StudyBridge | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._before = self.take_over()
        return self

    def take_over(self) -> dict[int, Any]:
        """Become the handler of the signals; return who was."""
        return {number: signal.signal(number, self._throw) for number in STOP_SIGNALS}

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def stops(self, bridge: StudyBridge) -> Iterator[None]:
        """Stop this bridge, too: its running trials finish their epoch and save it."""
        self._bridge = bridge
        bridge.interrupted = self.is_thrown
        try:
            yield
        finally:
            self._bridge = None

    def _throw(self, number: int, frame: FrameType | None) -> None:
        if self.is_thrown:  # everything reported is on disk, so nothing needs tidying
            self._say(f"Stopped at once. Go on with:  {self.how_to_go_on}")
            os._exit(130)
        self.is_thrown = True
        if self._bridge is not None:
            self._bridge.interrupted = True
        self._say("stopping: running trials finish their epoch (once more to stop at once)")
