"""``study.budget``: wall-clock time in which everything is over, search, confirmation and report.

The search may spend what the confirmation does not need. How long an epoch takes is learned from
the trials while they run; until then, half is kept back.
"""

import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
import psutil

from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.events import Listener, TrialEnd

USED = "okddip:budget_used_s"
"""Study attribute: seconds that earlier drivers have spent of the budget."""
LEAST_SEEDS = 2
MOST_KEPT_BACK = 0.5
"""Of the budget for the confirmation, while the search goes on."""
SLACK = 1.15
"""So much longer than its epochs so far a run is expected to take."""
STARTUP_S = 60.0
"""A process that is older did something else before, a notebook for instance."""
FINISH_S = 25.0
FINISH_SHARE = 0.03
"""What test, report and the end of Ray take, at least and of the whole."""


def process_began_s() -> float:
    """Return when this process began, on the monotonic clock, so that its imports count.

    A process that has been running for long counts from now.
    """
    age_s = time.time() - psutil.Process().create_time()
    return time.monotonic() - (age_s if age_s < STARTUP_S else 0.0)


def most_runs(settings: ConfirmSettings, seeds: int = 1) -> int:
    """Return how many runs a confirmation has at most."""
    longer = settings.single == "seconds" and "single" in settings.methods
    return (settings.top + 1 + len(settings.methods) + longer) * seeds


@dataclass
class Budget(Listener):
    """What is left of the time; a ``Listener`` that learns how long epochs take.

    Attributes:
        total_s: For everything.
        ends_at_s: On the monotonic clock.
        slots: Trials at a time.
        epochs: Of a whole run.
        confirm: What is confirmed afterwards; None: nothing.
    """

    total_s: float
    ends_at_s: float
    slots: int
    epochs: int
    confirm: ConfirmSettings | None
    _study: optuna.Study | None = None
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=500))

    def go_on_with(self, study: optuna.Study) -> None:
        """Take off what earlier drivers of the study have used, and note from now on."""
        self._study = study
        self.ends_at_s -= float(study.user_attrs.get(USED, 0.0))

    @property
    def left_s(self) -> float:
        """Seconds until everything has to be over."""
        return self.ends_at_s - time.monotonic()

    @property
    def _finish_s(self) -> float:
        return max(FINISH_S, FINISH_SHARE * self.total_s)

    @property
    def run_s(self) -> float | None:
        """How long a whole run takes; None: not known yet."""
        if not self._seconds:
            return None
        return SLACK * self.epochs * statistics.median(self._seconds)

    @property
    def kept_back_s(self) -> float:
        """What the search leaves: for the confirmation's seeds, and to finish.

        Where not even two seeds fit into half of the budget, all of it is the search's.
        """
        if self.confirm is None:
            return self._finish_s
        most = MOST_KEPT_BACK * self.total_s
        if self.run_s is None:
            return most + self._finish_s
        if self._confirm_s(LEAST_SEEDS) > most:
            return self._finish_s
        return min(most, self._confirm_s(self.confirm.seeds)) + self._finish_s

    def _confirm_s(self, seeds: int) -> float:
        """Return how long a confirmation with so many seeds takes."""
        assert self.confirm is not None and self.run_s is not None
        return -(-most_runs(self.confirm, seeds) // self.slots) * self.run_s

    @property
    def search_left_s(self) -> float:
        """Seconds that the search can still spend."""
        return self.left_s - self.kept_back_s

    @property
    def epochs_left(self) -> float | None:
        """Epochs that a slot can still train in the search; None: not known yet."""
        run_s = self.run_s
        return None if run_s is None else self.epochs * self.search_left_s / run_s

    @property
    def is_overdrawn(self) -> bool:
        """Whether the search has gone on for longer than it should, whatever was expected."""
        return self.search_left_s < -0.05 * self.total_s

    @property
    def seeds(self) -> int:
        """Seeds of the confirmation that fit into what is left; 0: too few for a verdict."""
        if self.confirm is None or self.run_s is None:
            return 0
        waves = int((self.left_s - self._finish_s) / self.run_s)
        seeds = max(0, waves) * self.slots // most_runs(self.confirm)
        return seeds if seeds >= LEAST_SEEDS else 0

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Note the time that was used."""
        self._note()

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Learn how long an epoch takes."""
        self._seconds.append(float(report["seconds"]))

    def trial_paused(self, number: int) -> None:
        """Note the time that was used."""
        self._note()

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Note the time that was used."""
        self._note()

    def _note(self) -> None:
        if self._study is not None:
            self._study.set_user_attr(USED, round(self.total_s - self.left_s, 1))
