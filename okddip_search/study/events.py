"""What a running search tells those who watch it: tracking and the console.

The bridge is the only sender. A listener must not raise and must not block: the study never waits
for a screen or a server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

TrialState = Literal["complete", "pruned", "failed"]


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
    state: TrialState
    value: float | None
    last_step: int | None
    reason: str = ""


class Listener(Protocol):
    """Receives the events of a search, in the driver process and thread."""

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """A trial was asked for, or one left running by an earlier driver was adopted."""

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """One epoch of a trial was recorded; ``report`` is ``EpochReport.to_dict()``."""

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """A trial was closed in the study; ``best`` is the best complete trial so far."""
