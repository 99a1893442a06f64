"""The bridge between Ray Tune, which runs trials, and the Optuna study, which decides about them.

``StudyBridge`` is the sole writer of the study. Tune reaches it through two thin adapters that only
forward calls: a ``Searcher`` (next trial, end of a trial) and a ``TrialScheduler`` (continue or
stop). Tune's own ``OptunaSearch`` is not suitable: it never prunes, records stopped trials as
complete, and loses its place after a restart.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from okddip_search.algorithms.proposed import Proposed
from okddip_search.algorithms.pruners import PRUNE_FROM, first_prunable_step
from okddip_search.algorithms.screen import Begin, Decision, GoOn
from okddip_search.algorithms.surrogate import Proposal
from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.deliberation import Deliberation
from okddip_search.driver.retries import DISK_PAUSE_S, WORKER_DEATHS_FORGIVEN, Cause, Failures
from okddip_search.driver.work import Work
from okddip_search.space.settings import ObjectiveSettings
from okddip_search.study.events import Listener, Listeners, TrialEnd
from okddip_search.study.trials import (
    DIED,
    OUT_OF_MEMORY,
    PAUSES_AFTER,
    REASON,
    WENT_ON,
    best_end,
    end_of,
    trials_in,
)
from trainer.config.train import TrainConfig

logger = logging.getLogger(__name__)

PER_DEVICE = "okddip:trials_per_device"
"""Study attribute: trials that share a device since more of them ran out of memory."""
RETRIED = "okddip:retried"
"""User attribute of a trial that was restarted after it ran out of memory."""


@dataclass
class OpenTrial:
    """A trial that is running somewhere.

    Attributes:
        trial: Its handle in the study.
        config: Configuration its worker trains.
        share: Number of concurrent trials when it was started.
        curve: The raw metric by epoch, as far as the worker has reported it.
        heard_at_s: Time of its worker's last report, on the monotonic clock.
        pauses_after: Epochs after which it waits to be let go on; None: it runs to its end.
    """

    trial: Trial
    config: TrainConfig
    share: Concurrency
    curve: dict[int, float] = field(default_factory=dict)
    heard_at_s: float = field(default_factory=time.monotonic)
    pauses_after: int | None = None


class StudyBridge:
    """Starts, records, prunes and closes the trials of a study, which nothing else writes to.

    Trials that an earlier driver left RUNNING are handed out first, with their numbers, parameters
    and curves; so are trials whose worker failed through no fault of their training (``requeue``).
    Complete and pruned trials count toward the budget, failed ones do not.

    Args:
        study: Opened under the directory's lock.
        work: The trials to run.
        share: How many trials can run at once.
        listeners: Receive every event.
        say: Prints a line for the user.

    Attributes:
        share: How many trials run at once; halved where they run out of memory.
        interrupted: Set from outside to stop the search; its trials stay RUNNING.
        unschedulable: Set from outside if no machine has room for its trials, which stay RUNNING.
        abort_reason: Why the search gave up; empty if it did not.
    """

    def __init__(
        self,
        study: optuna.Study,
        work: Work,
        share: Concurrency,
        listeners: Sequence[Listener],
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        self.study = study
        self.work = work
        self.share = share.at_most(study.user_attrs.get(PER_DEVICE, share.per_device))
        self.interrupted = False
        self.unschedulable = False
        self.abort_reason = ""
        self._listeners = Listeners(listeners)
        self._say = say
        self._open: dict[int, OpenTrial] = {}
        self._deliberation = Deliberation(study, work, work.screening) if work.screening else None
        self._left_running: list[int] = []
        waiting = self.paused
        running = [trial.number for trial in trials_in(study, TrialState.RUNNING)]
        self._left_running = [number for number in running if number not in waiting]
        self._deaths: dict[int, list[str]] = {}
        self._failures = Failures(work.max_failures, share.slots)
        self._paused_until_s = 0.0
        self._reported_full = False
        self._in_end_game = False
        timeout_s = work.timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def exhausted(self) -> bool:
        """Whether no further trial may start or, where trials are screened, go on."""
        if self._is_over or self._deliberation is None:
            return self._is_over or self._is_spent
        return self._deliberation.is_over(*self._situation)

    @property
    def _is_over(self) -> bool:
        return self.is_late or self.interrupted or bool(self.abort_reason)

    @property
    def is_late(self) -> bool:
        """Whether the work's timeout is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def cut_short(self, reason: str) -> None:
        """Give up a study whose trials were ended from outside; a signal has a reason already."""
        if not self.interrupted and not self.abort_reason:
            self.abort_reason = reason

    @property
    def _is_spent(self) -> bool:
        return self.work.is_spent(self.study, len(self._held) + len(self.paused))

    @property
    def _held(self) -> set[int]:
        return {*self._open, *self._left_running}

    @property
    def _situation(self) -> tuple[int, set[int], bool]:
        """The basis of a decision: the next trial's number, who has a slot, and the budget."""
        return self._next_number(), self._held, not self._is_spent

    @property
    def paused(self) -> list[int]:
        """Numbers of the trials that wait at their rungs."""
        return self._deliberation.paused(self._held) if self._deliberation else []

    @property
    def is_deciding(self) -> bool:
        """Whether a free slot waits for a decision that is being made."""
        deliberation = self._deliberation
        return bool(deliberation and deliberation.is_going_on(*self._situation))

    def wait_for_decision(self) -> None:
        """Return once the decision that is being made is there, if there is one."""
        if self._deliberation is not None:
            self._deliberation.wait()

    def next_trial(self) -> OpenTrial | None:
        """Return the next trial to start, or None while there is no free slot or nothing to do."""
        if len(self._open) >= self.share.slots or time.monotonic() < self._paused_until_s:
            return None
        if self._left_running and not self.interrupted:
            return self._start(self._left_running.pop(0), adopted=True)
        if self._is_over:
            return None
        if self._deliberation is not None:
            return self._screened(self._deliberation.take_up(*self._situation))
        return None if self._is_spent else self._start(self._next_number(), adopted=False)

    def _screened(self, decision: Decision) -> OpenTrial | None:
        if decision is not None and decision.hopeless:
            self._listeners.trials_hopeless(decision.hopeless)
        if isinstance(decision, GoOn):
            self._say_why(decision)
            entry = self._start(decision.number, adopted=True)
            entry.trial.set_user_attr(WENT_ON, decision.expected())
            return entry
        if isinstance(decision, Begin):
            return self._start(self._next_number(), adopted=False, proposal=decision.proposal)
        return None

    def _say_why(self, decision: GoOn) -> None:
        if self._deliberation and self._deliberation.in_end_game and not self._in_end_game:
            self._in_end_game = True
            self._say("No whole run fits any more: the best paused trials that still fit go on")
        self._say(f"trial {decision.number} goes on to its end: {decision.why}")

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing will."""
        return not self._open and not self._left_running and self.exhausted

    def _next_number(self) -> int:
        waiting = trials_in(self.study, TrialState.WAITING)
        return waiting[0].number if waiting else len(self.study.get_trials(deepcopy=False))

    def open_trial(self, number: int) -> OpenTrial | None:
        """Return a trial that is running; None if it is not."""
        return self._open.get(number)

    def _start(self, number: int, *, adopted: bool, proposal: Proposal | None = None) -> OpenTrial:
        sampler = self.work.sampler(number)
        deliberation = self._deliberation
        if deliberation and adopted and PRUNE_FROM not in self._frozen(number).user_attrs:
            # A driver died between the trial's beginning and its parameters.
            proposal = deliberation.proposal(number, self._held)
        self.study.sampler = Proposed(proposal, sampler) if proposal else sampler
        trial = Trial(self.study, self._frozen(number)._trial_id) if adopted else self.study.ask()
        config = self.work.config(trial)
        if PRUNE_FROM not in trial.user_attrs:
            trial.set_user_attr(PRUNE_FROM, first_prunable_step(config))
        rung = deliberation.rung_ahead(trial.number) if deliberation else None
        if rung is not None and PAUSES_AFTER not in trial.user_attrs:
            trial.set_user_attr(PAUSES_AFTER, rung)
        self._open[trial.number] = OpenTrial(trial, config, self.share, pauses_after=rung)
        self._listeners.trial_started(trial.number, self.work.params(trial), adopted)
        return self._open[trial.number]

    def report(self, number: int, reports: Sequence[Mapping[str, Any]]) -> bool:
        """Record a worker's epochs; those that the study has already are not recorded again.

        Args:
            number: Of the trial.
            reports: ``EpochReport`` as dicts, in order; after a restart from the first epoch on.

        Returns:
            Whether the trial is to stop, because it was pruned or is no longer running.
        """
        entry = self._open.get(number)
        if entry is None:
            return True
        entry.heard_at_s = time.monotonic()
        known = self._frozen(number).intermediate_values
        for report in reports:
            step = int(report["epoch"])
            entry.curve[step] = float(report[self.work.objective.metric])
            if step not in known:
                so_far = [entry.curve[s] for s in sorted(entry.curve)]
                value = reduced(so_far, self.work.objective)
                entry.trial.report(value, step)
                self._failures.epoch_reported()
            # Known epochs as well: an earlier driver may have died before its listeners had them.
            self._listeners.epoch_reported(number, step, report)
            if step + 1 == entry.pauses_after:
                self._pause_trial(number)
                return True
            last_step = entry.config.epochs - 1
            if step < last_step and self.work.is_overdrawn():
                self._close(number, TrialState.PRUNED)
                return True
            if step >= max(known, default=0) and step < last_step and entry.trial.should_prune():
                self._close(number, TrialState.PRUNED)
                return True
        return False

    def _pause_trial(self, number: int) -> None:
        """Give its slot away; it stays RUNNING in the study, with its values and its checkpoint."""
        del self._open[number]
        self._listeners.trial_paused(number)

    def close_paused(self) -> None:
        """Close the trials that wait at their rungs as pruned, if the search has come to its end.

        Where it was interrupted or given up, they wait for a later driver.
        """
        if self.interrupted or self.abort_reason:
            return
        for number in self.paused:
            trial = Trial(self.study, self._frozen(number)._trial_id)
            frozen = self.study.tell(trial, state=TrialState.PRUNED)
            self._listeners.trial_ended(end_of(frozen), self.best())

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

    def requeue(self, number: int, reason: str, cause: Cause) -> None:
        """Requeue a trial whose worker failed, or mark it failed when a retry cannot help.

        A trial is resumed a few times after its worker died. After it ran out of memory it is
        retried once, with half as many trials on its device. A full disk stops new trials for a
        while.
        """
        entry = self._open.get(number)
        if entry is None:
            return
        logger.info("trial %d is requeued (%s): %s", number, cause, reason)
        if failure := self._why_not_retry(entry, reason, cause):
            self.fail(number, failure)
            return
        del self._open[number]
        self._left_running.append(number)

    def _why_not_retry(self, entry: OpenTrial, reason: str, cause: Cause) -> str:
        if cause == "disk full":
            self._pause(reason)
            return ""
        if cause == "out of memory":
            return self._retry_with_fewer(entry, reason)
        deaths = self._deaths.setdefault(entry.trial.number, [])
        deaths.append(reason)
        too_often = len(deaths) > WORKER_DEATHS_FORGIVEN
        return f"{DIED} {len(deaths)} times, last: {reason}" if too_often else ""

    def _pause(self, reason: str) -> None:
        self._paused_until_s = time.monotonic() + DISK_PAUSE_S
        if not self._reported_full:
            self._reported_full = True
            self._say(f"The disk is full ({reason}); trials wait until it has space again")

    def _retry_with_fewer(self, entry: OpenTrial, reason: str) -> str:
        """Halve the concurrent trials, unless that has happened since this one started."""
        if RETRIED in entry.trial.user_attrs:
            return f"{OUT_OF_MEMORY} again, with fewer concurrent trials: {reason}"
        if entry.share == self.share:
            fewer = self.share.halved()
            if fewer is None:
                return f"{OUT_OF_MEMORY} as the only trial on its device: {reason}"
            self.share = fewer
            self.study.set_user_attr(PER_DEVICE, fewer.per_device)
            self._say(
                f"Trial {entry.trial.number} ran out of memory and is restarted; from now on "
                f"{fewer.slots} trials at a time ({fewer.per_device} on a device)"
            )
        entry.trial.set_user_attr(RETRIED, True)
        return ""

    def _close(self, number: int, state: TrialState, reason: str = "") -> None:
        entry = self._open.pop(number)
        complete = state is TrialState.COMPLETE
        curve = self._frozen(number).intermediate_values
        frozen = self.study.tell(
            entry.trial, curve[entry.config.epochs - 1] if complete else None, state
        )
        if state is TrialState.FAIL:
            self._failures.add(reason)
            if self._failures.are_too_many:
                self.abort_reason = self._failures.describe()
        else:
            self._failures.forgive()
        if complete and self._reported_full:  # its network was written
            self._reported_full = False
            self._say("The disk has space again; the search continues")
        self._listeners.trial_ended(end_of(frozen), self.best())

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def best(self) -> TrialEnd | None:
        """Return the best complete trial so far; None if there is none or trials do not compete."""
        return best_end(self.study) if self.work.has_best else None


def reduced(curve: Sequence[float], objective: ObjectiveSettings) -> float:
    """Return a trial's value after the epochs so far: last, best or mean of the last 3."""
    if objective.reduce == "best":
        return max(curve)
    tail = curve[-3:] if objective.reduce == "mean_last_3" else curve[-1:]
    return sum(tail) / len(tail)


class NotPickled:
    """Keeps the bridge out of Tune's pickled snapshots; a resumed search reads the study."""

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}
