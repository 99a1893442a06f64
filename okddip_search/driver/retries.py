"""Retry policy: how often a trial is retried, and when failures stop a search.

Rules only; ``StudyBridge`` applies them.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["died", "out of memory", "disk full"]
"""Why a worker failed, through no fault of its trial's training."""

WORKER_DEATHS_FORGIVEN = 3
"""How many times a trial is resumed after its worker died or hung."""
DISK_PAUSE_S = 10.0
"""Seconds to wait after a full disk before a trial is started to see if there is space again."""


@dataclass
class Failures:
    """Consecutive failures, and the limit at which they stop the search.

    The search stops after ``most`` consecutive failures without a single epoch from any other
    trial, which points to a common cause, or after ``most`` per slot if every trial fails some
    epochs later.

    Attributes:
        most: Limit of consecutive failures.
        slots: Number of concurrent trials.
        reasons: Reasons of the consecutive failures.
    """

    most: int
    slots: int
    reasons: list[str] = field(default_factory=list)
    _without_epoch: int = 0

    def add(self, reason: str) -> None:
        """Count a failure."""
        self.reasons.append(reason)
        self._without_epoch += 1

    def forgive(self) -> None:
        """Reset the count: a trial was completed or pruned."""
        self.reasons.clear()
        self._without_epoch = 0

    def epoch_reported(self) -> None:
        """Note that a trial is training."""
        self._without_epoch = 0

    @property
    def are_too_many(self) -> bool:
        """Whether the search should end."""
        return self._without_epoch >= self.most or len(self.reasons) >= self.most * self.slots

    def describe(self) -> str:
        """Return the common cause; reasons that differ only in numbers count as one."""
        kinds = [re.sub(r"\d+(\.\d+)?", "#", reason) for reason in self.reasons]
        latest = dict(zip(kinds, self.reasons, strict=True))
        text = f"{len(kinds)} trials in a row failed"
        if len(latest) == 1:
            return f"{text}: {self.reasons[-1]}"
        counted = Counter(kinds).most_common(3)
        return f"{text}: " + "; ".join(f"{n} × {latest[kind]}" for kind, n in counted)
