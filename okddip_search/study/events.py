"""The events of a running search, and those who follow them: tracking, the console, the disk.

The bridge is the only sender. A listener should not block: the study never waits for a screen or a
server.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

logger = logging.getLogger(__name__)

EndState = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        number: Optuna's trial number.
        state: ``complete``, ``pruned`` or ``failed``.
        value: The objective as the study records it; None for a failed trial.
        last_step: Last epoch reported (from 0), or None if there was none.
        reason: Why it failed or was pruned; empty when complete.
    """

    number: int
    state: EndState
    value: float | None
    last_step: int | None
    reason: str = ""


class Listener:
    """Receives the events of a search, in the driver's process and thread.

    Subclasses override the events they need; the others are ignored.
    """

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """A trial was started, or one left running by an earlier driver was resumed."""

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """One epoch of a trial was recorded; ``report`` is ``EpochReport.to_dict()``."""

    def trial_paused(self, number: int) -> None:
        """A trial waits at its rung: its slot is free, and it may be let go on later."""

    def trials_hopeless(self, numbers: Collection[int]) -> None:
        """Paused trials are not expected to go on; one that does all the same starts over."""

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """A trial was closed in the study; ``best`` is the best complete trial so far."""


class Listeners(Listener):
    """Passes each event on to several listeners; an error in one is logged and stops nothing."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._listeners = tuple(listeners)

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Pass it on."""
        self._each(lambda one: one.trial_started(number, params, resumed))

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Pass it on."""
        self._each(lambda one: one.epoch_reported(number, step, report))

    def trial_paused(self, number: int) -> None:
        """Pass it on."""
        self._each(lambda one: one.trial_paused(number))

    def trials_hopeless(self, numbers: Collection[int]) -> None:
        """Pass it on."""
        self._each(lambda one: one.trials_hopeless(numbers))

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Pass it on."""
        self._each(lambda one: one.trial_ended(end, best))

    def _each(self, handle: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            try:
                handle(listener)
            except Exception:
                logger.exception("an event in %s", type(listener).__name__)
