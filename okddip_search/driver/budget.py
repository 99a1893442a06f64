"""``study.budget``: wall-clock time in which everything is over, search, confirmation and report.

How long an epoch takes is measured before the first trial and corrected by the trials' own epochs.
The search leaves what the confirmation's seeds need. Once its leader stays the same, it leaves all.
"""

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
import psutil

from okddip_search.errors import UserError
from okddip_search.formatting import duration
from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.events import Listener, TrialEnd

logger = logging.getLogger(__name__)

USED = "okddip:budget_used_s"
"""Study attribute: seconds that earlier drivers have spent of the budget."""
PACE = "okddip:epoch_s"
"""Study attribute: how long an epoch takes, as the trials have shown so far."""
LED_SINCE = "okddip:led_since"
"""Study attribute: the leading trial, and the epochs that were spent when it took the lead."""
SEEDS = "okddip:budget_seeds"
"""Study attribute: seeds that the confirmation gets since the search has stagnated."""

LEAST_SEEDS = 2
"""The fewest that a verdict can be based on."""
ENOUGH_SEEDS = 10
"""Time is kept back for no more, unless ``confirm.seeds`` asks for more."""
CONFIRM_SHARE = 0.25
"""Of the budget for the confirmation; for ``LEAST_SEEDS`` up to ``MOST_SHARE``."""
MOST_SHARE = 0.6
MEASURED_EPOCHS = 20
"""The measurement before the first trial counts until so many epochs were reported."""
STALLED = 0.02
"""Of the epochs, the longest, that do not count: a machine was busy, or was put to sleep."""
SLACK = 1.1
"""A run is expected to take longer than its epochs: a worker begins it, and saves its leader."""
STARTUP_S = 60.0
"""A process that is older did something else before, a notebook for instance."""
FINISH_S = 25.0
FINISH_SHARE = 0.03
"""Kept for test set, report and the end of Ray: at least, and of the whole."""
FINISH_STARTS = 3
"""Workers that start one after the other at the end: on a busy machine they take longest."""
MOST_START_SHARE = 0.1
"""Of the budget: what is longer was no start of a worker."""
OVERDRAWN_SHARE = 0.05
"""Of the budget: running trials are given up once the search has taken so much too much."""
STAGNATION_FROM = 0.5
"""Share of the search's time before which it does not count as stagnant."""
STAGNANT = 1 / 3
"""Share of the epochs spent, up to now, in which a search that makes progress has a new leader."""
FEW_RUNS = 10
"""Full runs below which ``--explain`` says how short runs would have to be for as many."""


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


def later_runs(settings: ConfirmSettings, seeds: int) -> int:
    """Return how many runs further seeds take at most, once the winner is chosen."""
    return most_runs(settings, seeds) - (settings.top - 1) * seeds


@dataclass
class Budget(Listener):
    """The time that is left, and its division; a ``Listener`` that learns how long epochs take.

    Attributes:
        total_s: For everything.
        ends_at_s: On the monotonic clock.
        slots: Trials at a time.
        epochs: Of a whole run.
        confirm: What is confirmed afterwards; None: nothing.
        epoch_s: How long an epoch takes, as measured before the first trial.
        baseline_s: The same of a baseline of the confirmation; 0: there are none.
        say: Prints a line for the user.
    """

    total_s: float
    ends_at_s: float
    slots: int
    epochs: int
    confirm: ConfirmSettings | None
    epoch_s: float
    baseline_s: float
    say: Callable[[str], None] = logger.info
    _baseline_share: float = field(init=False)
    _study: optuna.Study | None = None
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    _heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    _begun_s: dict[int, float] = field(default_factory=dict)
    _start_s: float = 0.0

    def __post_init__(self) -> None:
        """Remember how a baseline's epoch compares: the trials correct only their own."""
        self._baseline_share = self.baseline_s / self.epoch_s

    def resume(self, study: optuna.Study) -> None:
        """Take off what earlier drivers of the study have used, and note from now on."""
        self._study = study
        self.ends_at_s -= float(study.user_attrs.get(USED, 0.0))
        self.epoch_s = float(study.user_attrs.get(PACE, self.epoch_s))

    # How long a run takes

    @property
    def pace_s(self) -> float:
        """How long an epoch takes: the mean of the trials', once they have had enough of them."""
        if len(self._seconds) < MEASURED_EPOCHS:
            return self.epoch_s
        usual = sorted(self._seconds)[: math.ceil((1 - STALLED) * len(self._seconds))]
        return statistics.fmean(usual)

    @property
    def run_s(self) -> float:
        """How long a whole run takes."""
        return SLACK * self.epochs * self.pace_s

    def require_two_runs(self) -> None:
        """Refuse a budget in which nothing can be searched.

        Raises:
            UserError: Two full runs do not fit.
        """
        needed_s = max(1.0, 2 / self.slots) * self.run_s
        available_s = self.total_s - self.finish_s
        if available_s >= needed_s:
            return
        least_s = math.ceil(max(needed_s + FINISH_S, needed_s / (1 - FINISH_SHARE)))
        epochs = int(self.epochs * available_s / needed_s)
        shorter = f", or --set trainer.epochs={epochs}" if epochs >= 1 else ""
        raise UserError(
            f"study.budget: two full runs do not fit into {duration(self.total_s)}: an epoch takes "
            f"{self.pace_s:.2g} s here (measured on random images), a run of {self.epochs} epochs "
            f"{duration(self.run_s)}, {self.slots} at a time",
            f"The smallest budget that would do: {least_s}s{shorter}.",
        )

    # What is left, and for what

    @property
    def left_s(self) -> float:
        """Seconds until everything has to be over."""
        return self.ends_at_s - time.monotonic()

    @property
    def finish_s(self) -> float:
        """Seconds for test set, report and the end of Ray."""
        return max(FINISH_S, FINISH_SHARE * self.total_s, FINISH_STARTS * self._start_s)

    @property
    def kept_back_s(self) -> float:
        """Seconds that the search leaves: for the confirmation's seeds, and to finish."""
        return self.confirm_s(self.kept_seeds) + self.finish_s

    def confirm_s(self, seeds: int) -> float:
        """Return how long a confirmation with so many seeds takes."""
        return 0.0 if self.confirm is None else self.seconds_for(most_runs(self.confirm, seeds))

    def seconds_for(self, runs: int) -> float:
        """Return how long runs of the confirmation take."""
        return math.ceil(runs / self.slots) * self._confirm_run_s

    @property
    def _confirm_run_s(self) -> float:
        """How long a run of the confirmation takes on average; baselines may be faster."""
        if self.confirm is None:
            return 0.0
        runs = most_runs(self.confirm)
        own = self.confirm.top + 1
        return self.run_s * (own + (runs - own) * self._baseline_share) / runs

    def has_room_for(self, runs: int) -> bool:
        """Return whether runs of the confirmation fit into what is left."""
        return self.seconds_for(runs) <= self.left_s - self.finish_s

    def _seeds_in(self, seconds: float) -> int:
        """Return how many seeds fit into a time."""
        assert self.confirm is not None
        waves = max(0, int(seconds / self._confirm_run_s))
        return waves * self.slots // most_runs(self.confirm)

    @property
    def kept_seeds(self) -> int:
        """Seeds of the confirmation that time is kept back for.

        As many as fit into ``CONFIRM_SHARE``; once the search has stagnated, all that had room
        then. None where ``LEAST_SEEDS`` would take more than ``MOST_SHARE``.
        """
        if self.confirm is None or self.confirm_s(LEAST_SEEDS) > MOST_SHARE * self.total_s:
            return 0
        planned = min(self._seeds_in(CONFIRM_SHARE * self.total_s), self.most_seeds)
        recorded = self._study.user_attrs.get(SEEDS, 0) if self._study else 0
        return max(LEAST_SEEDS, planned, min(recorded, self.seeds))

    @property
    def most_seeds(self) -> int:
        """Seeds beyond which no time is kept back."""
        assert self.confirm is not None
        if self.confirm.seeds == "auto":
            return self.confirm.max_seeds
        return max(ENOUGH_SEEDS, self.confirm.seeds)

    @property
    def seeds(self) -> int:
        """Seeds of the confirmation that fit into what is left; 0: too few for a verdict.

        A search that ended a little late is confirmed with the fewest all the same.
        """
        if self.confirm is None:
            return 0
        left_s = self.left_s - self.finish_s
        if self.confirm_s(LEAST_SEEDS) > SLACK * left_s:
            return 0
        return max(LEAST_SEEDS, self._seeds_in(left_s))

    @property
    def search_left_s(self) -> float:
        """Seconds that the search can still spend."""
        return self.left_s - self.kept_back_s

    @property
    def epochs_left(self) -> float:
        """Epochs that a slot can still train in the search."""
        return self.epochs * self.search_left_s / self.run_s

    @property
    def is_overdrawn(self) -> bool:
        """Whether the search has gone on for longer than it should, whatever was expected."""
        return self.search_left_s < -OVERDRAWN_SHARE * self.total_s

    # Listening

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Note the time that was used."""
        self._heard.pop(number, None)
        self._begun_s[number] = time.monotonic()
        self._note()

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Learn how long an epoch takes, from one report to the next."""
        now = time.monotonic()
        started_s = now - self._begun_s.pop(number, now) - float(report["seconds"])
        if started_s < MOST_START_SHARE * self.total_s:
            self._start_s = max(self._start_s, started_s)
        last, heard_s = self._heard.get(number, (step, now))
        between_s = now - heard_s if last == step - 1 else 0.0
        self._heard[number] = step, now
        self._seconds.append(max(float(report["seconds"]), between_s))

    def trial_paused(self, number: int) -> None:
        """Note the time that was used."""
        self._note()

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Note the time that was used, and since when the leader has led."""
        self._note()
        if self._study is not None and self.confirm is not None and best is not None:
            self._watch(self._study, best.number)

    def _note(self) -> None:
        if self._study is not None:
            self._study.set_user_attr(USED, round(self.total_s - self.left_s, 1))
            self._study.set_user_attr(PACE, round(self.pace_s, 4))

    def _watch(self, study: optuna.Study, leader: int) -> None:
        """Give what is left to the confirmation once the search has stagnated."""
        spent = sum(len(t.intermediate_values) for t in study.get_trials(deepcopy=False))
        trial, since = study.user_attrs.get(LED_SINCE, (None, 0))
        if trial != leader:
            study.set_user_attr(LED_SINCE, [leader, spent])
            return
        began = self.total_s - self.kept_back_s
        is_late = self.total_s - self.left_s >= STAGNATION_FROM * began
        if SEEDS in study.user_attrs or not is_late or spent - since < STAGNANT * spent:
            return
        seeds = min(self.seeds, self.most_seeds)
        if seeds > self.kept_seeds > 0:
            study.set_user_attr(SEEDS, seeds)
            self.say(
                f"The last third of {spent:,} epochs brought no better leader: the confirmation "
                f"gets {seeds} seeds, and the search ends earlier"
            )
