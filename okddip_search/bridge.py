"""The bridge between Ray Tune, which runs trials, and the Optuna study, which decides about them.

``StudyBridge`` is the sole writer of the study. Tune sees it through two thin faces that only
forward: a ``Searcher`` (what to run next, how it ended) and a ``TrialScheduler`` (go on or stop).
Tune's own ``OptunaSearch`` cannot serve here: it never prunes, records stopped trials as complete,
and loses its place after a restart.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from okddip_search.agenda import Agenda
from okddip_search.events import Listener, TrialEnd
from okddip_search.pruning import PRUNE_FROM, first_prunable_step
from okddip_search.settings import ObjectiveSettings
from okddip_search.study import DIED, REASON, best_trial, end_of, trials_in
from okddip_search.trial import one_line
from trainer.config import TrainConfig

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 5
"""After so many failures with no epoch between them the search stops: the fault is a common one."""


@dataclass
class OpenTrial:
    """A trial that is running somewhere.

    Attributes:
        trial: Its handle in the study.
        config: What its worker trains.
        curve: The raw metric by epoch, as far as the worker has reported it.
        deaths: Why its worker processes died, if any did.
    """

    trial: Trial
    config: TrainConfig
    curve: dict[int, float] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)


class StudyBridge:
    """Asks, reports, prunes and tells; nobody else writes to the study.

    Trials that an earlier driver left RUNNING are handed out first, with their numbers, parameters
    and curves. Complete and pruned trials count toward the budget, failed ones do not.

    Args:
        study: Opened under the directory's lock.
        agenda: What is to be run.
        slots: How many trials can run at once.
        listeners: Told of every event.
    """

    def __init__(
        self, study: optuna.Study, agenda: Agenda, slots: int, listeners: Sequence[Listener]
    ) -> None:
        self.study = study
        self.agenda = agenda
        self.slots = slots
        self.interrupted = False
        self.abort_reason = ""
        self._listeners = listeners
        self._open: dict[int, OpenTrial] = {}
        self._left_running = trials_in(study, TrialState.RUNNING)
        self._failures_in_a_row = 0
        timeout_s = agenda.timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def exhausted(self) -> bool:
        """Whether no further trial may start."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        if late or self.interrupted or self.abort_reason:
            return True
        return self.agenda.is_spent(self.study, len(self._open) + len(self._left_running))

    def next_trial(self) -> OpenTrial | None:
        """Return the next trial to start, or None while there is no free slot or nothing to do."""
        if len(self._open) >= self.slots:
            return None
        if self._left_running and not self.interrupted:
            frozen = self._left_running.pop(0)
            return self._start(frozen.number, frozen)
        if self.exhausted:
            return None
        return self._start(self._next_number(), None)

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing will."""
        return not self._open and not self._left_running and self.exhausted

    def _next_number(self) -> int:
        waiting = trials_in(self.study, TrialState.WAITING)
        return waiting[0].number if waiting else len(self.study.get_trials(deepcopy=False))

    def _start(self, number: int, adopted: FrozenTrial | None) -> OpenTrial:
        self.study.sampler = self.agenda.sampler(number)
        trial = Trial(self.study, adopted._trial_id) if adopted else self.study.ask()
        config = self.agenda.config(trial)
        if PRUNE_FROM not in trial.user_attrs:
            trial.set_user_attr(PRUNE_FROM, first_prunable_step(config))
        self._open[trial.number] = OpenTrial(trial, config)
        self._tell("trial_started", trial.number, self.agenda.params(trial), adopted is not None)
        return self._open[trial.number]

    def report(self, number: int, reports: Sequence[Mapping[str, Any]]) -> bool:
        """Record a worker's epochs; those that the study has already are not recorded again.

        Args:
            number: Of the trial.
            reports: ``EpochReport`` as dicts, in order; after a restart from the first epoch on.

        Returns:
            Whether the trial is to stop: it was pruned, or is not running any more.
        """
        entry = self._open.get(number)
        if entry is None:
            return True
        known = self._recorded(entry.trial)
        for report in reports:
            step = int(report["epoch"])
            entry.curve[step] = float(report[self.agenda.objective.metric])
            if step not in known:
                so_far = [entry.curve[s] for s in sorted(entry.curve)]
                value = reduced(so_far, self.agenda.objective)
                entry.trial.report(value, step)
                self._failures_in_a_row = 0  # others train well: this is no common fault
            # Also what the study knows: an earlier driver may have died before it told.
            self._tell("epoch_reported", number, step, report)
            last_step = entry.config.epochs - 1
            if step >= max(known, default=0) and step < last_step and entry.trial.should_prune():
                self._close(number, TrialState.PRUNED)
                return True
        return False

    def complete(self, number: int, reports: Sequence[Mapping[str, Any]]) -> None:
        """Close a trial whose worker has finished; nothing happens if it is closed already."""
        if number not in self._open or self.report(number, reports):
            return
        entry = self._open[number]
        if len(entry.curve) < entry.config.epochs:
            self.fail(number, f"ended after {len(entry.curve)} of {entry.config.epochs} epochs")
            return
        self._close(number, TrialState.COMPLETE)

    def fail(self, number: int, reason: str) -> None:
        """Close a trial as failed, with the reason; nothing happens if it is closed already."""
        if number in self._open:
            self._open[number].trial.set_user_attr(REASON, reason)
            self._close(number, TrialState.FAIL, reason)

    def worker_died(self, number: int, reason: str) -> None:
        """Remember why a worker died; Tune decides whether the trial goes on in another one."""
        if number in self._open:
            self._open[number].deaths.append(reason)

    def give_up(self, number: int) -> None:
        """Close a trial whose workers died too often."""
        if number in self._open:
            deaths = self._open[number].deaths or ["its worker ended without a word"]
            self.fail(number, f"{DIED} {len(deaths)} times, last: {deaths[-1]}")

    def _close(self, number: int, state: TrialState, reason: str = "") -> None:
        entry = self._open.pop(number)
        complete = state is TrialState.COMPLETE
        value = self._recorded(entry.trial)[entry.config.epochs - 1] if complete else None
        frozen = self.study.tell(entry.trial, value, state)
        self._failures_in_a_row = self._failures_in_a_row + 1 if state is TrialState.FAIL else 0
        if self._failures_in_a_row >= MAX_CONSECUTIVE_FAILURES:
            self.abort_reason = f"{self._failures_in_a_row} trials in a row failed: {reason}"
        self._tell("trial_ended", end_of(frozen), self.best())

    def _tell(self, event: str, *facts: Any) -> None:
        """Tell every listener; whatever happens to a screen or a disk there, the search goes on."""
        for listener in self._listeners:
            try:
                getattr(listener, event)(*facts)
            except Exception:
                logger.exception("%s of %s", event, type(listener).__name__)

    def _recorded(self, trial: Trial) -> dict[int, float]:
        return self.study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def best(self) -> TrialEnd | None:
        """Return the best complete trial so far; None also where trials do not compete."""
        return best_of(self.study) if self.agenda.has_best else None


def best_of(study: optuna.Study) -> TrialEnd | None:
    """Return the best complete trial of a study."""
    best = best_trial(study)
    return None if best is None else end_of(best)


def reduced(curve: Sequence[float], objective: ObjectiveSettings) -> float:
    """Return what a trial is worth after the epochs so far: last, best, or mean of the last 3."""
    if objective.reduce == "best":
        return max(curve)
    tail = curve[-3:] if objective.reduce == "mean_last_3" else curve[-1:]
    return sum(tail) / len(tail)


class Unsaved:
    """Keeps the bridge out of the snapshots that Tune pickles; the study is what a resume reads."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class StudySearcher(Unsaved, Searcher):  # type: ignore[misc]
    """Tune's question "what next?", forwarded."""

    def __init__(self, bridge: StudyBridge) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial for the worker, None to wait, ``FINISHED`` when there is no more."""
        entry = self._bridge.next_trial()
        if entry is None:
            return Searcher.FINISHED if self._bridge.done else None
        self._numbers[trial_id] = entry.trial.number
        return {"number": entry.trial.number, "trainer": entry.config.to_dict()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler is asked first and has recorded it."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close the trial. Tune skips the scheduler for a last result, so it is recorded here."""
        number = self._numbers.pop(trial_id, None)
        if number is None or self._bridge.interrupted:
            return
        if error or result is None:
            self._bridge.give_up(number)
        elif failure := result.get("failure"):
            self._bridge.fail(number, failure)
        else:
            self._bridge.complete(number, result["reports"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""


class StudyScheduler(Unsaved, FIFOScheduler):  # type: ignore[misc]
    """Tune's question "go on?", forwarded after every epoch."""

    _supports_buffered_results = False

    def __init__(self, bridge: StudyBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Record the epochs and stop a pruned trial."""
        stop = self._bridge.report(trial.config["number"], result["reports"])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Remember why a worker died; Tune says so only here, also when it will try again."""
        error = trial.get_pickled_error() or trial.get_error()
        self._bridge.worker_died(trial.config["number"], one_line(error))
