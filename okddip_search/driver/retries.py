"""What a search does about trials that cannot go on: how often, how many at a time, when to stop.

Rules only; ``StudyBridge`` carries them out.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["died", "out of memory", "disk full"]
"""Why a trial could not go on, through no fault of its training."""

WORKER_DEATHS_FORGIVEN = 3
"""So often a trial goes on from its checkpoint after its process died (killed, hung)."""
DISK_PAUSE_S = 10.0
"""So long no trial starts after a disk was found to be full; then one finds out whether it is."""


@dataclass
class Failures:
    """Failures with no trial between them that ended well, and when they are too many.

    Too many are ``most`` with not even an epoch of another trial between them: the fault is a
    common one. So are ``most`` for each slot, where every trial fails some epochs later.

    Attributes:
        most: So many in a row are too many.
        slots: Trials at a time.
        reasons: Of the failures in a row.
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
        """A trial ended well."""
        self.reasons.clear()
        self._without_epoch = 0

    def epoch_reported(self) -> None:
        """A trial trains well so far."""
        self._without_epoch = 0

    @property
    def are_too_many(self) -> bool:
        """Whether the search should end."""
        return self._without_epoch >= self.most or len(self.reasons) >= self.most * self.slots

    @property
    def words(self) -> str:
        """Name the common cause; reasons that differ in numbers alone are one."""
        kinds = [re.sub(r"\d+(\.\d+)?", "#", reason) for reason in self.reasons]
        latest = dict(zip(kinds, self.reasons, strict=True))
        text = f"{len(kinds)} trials in a row failed"
        if len(latest) == 1:
            return f"{text}: {self.reasons[-1]}"
        counted = Counter(kinds).most_common(3)
        return f"{text}: " + "; ".join(f"{n} × {latest[kind]}" for kind, n in counted)
