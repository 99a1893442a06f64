"""Screening: every trial runs to its first judged epoch and waits there; the promising go on.

Half of the epochs begin trials, half finish them. Everything here is a pure function of the study's
trials, of who is in a slot and of what is left of the budget, so that a resumed search decides as
an unbroken one would:

- a trial that has reached its *rung* and is in no slot is **paused**: RUNNING in the study, with
  its values and its checkpoint;
- the **ledger** counts what was promised: the epochs to the rung of every trial begun, and from the
  rung to the end of every trial let go on. While the second sum is the smaller one, the paused
  trial that promises most goes on, if it may still beat the best complete one;
- in the **end-game**, when a slot has less than a whole run left, only paused trials that still fit
  go on: no trial begun then could be finished.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, TrialState

from okddip_search.algorithms.choice import Choice
from okddip_search.algorithms.ledger import Ledger, Run
from okddip_search.algorithms.pruners import PRUNE_FROM
from okddip_search.algorithms.surrogate import MODELS, Proposal, Surrogate, propose
from okddip_search.algorithms.view import carried
from okddip_search.formatting import expectation

ENQUEUED = "okddip:enqueued"
LEAST_SHARE = 0.2
"""Of a run that a trial is judged after: also where no ramp-up makes it wait."""
BENEFIT_OF_DOUBT_SD = 3.0
"""Standard deviations that a paused trial is granted when it is compared with the best."""

SPARE_FOR_SLOT = 3
"""Waiting trials for each slot that are not given up: the end-game takes the best, however poor."""


@dataclass(frozen=True)
class Room:
    """The rest of the budget.

    Attributes:
        epochs: That a slot can still train; None: no limit.
        may_begin: Whether a further trial may begin.
    """

    epochs: float | None = None
    may_begin: bool = True


@dataclass(frozen=True)
class GoOn:
    """A paused trial goes on to its end.

    Attributes:
        number: Of the trial.
        mean: What its end is expected to bring.
        sd: Standard deviation of that.
        mark: The same of the best complete trial; None: there is none yet.
        hopeless: Waiting trials that will hardly go on: out of reach of that one, and others are
            ahead of them.
    """

    number: int
    mean: float
    sd: float
    mark: float | None
    hopeless: frozenset[int] = frozenset()

    @property
    def may_win(self) -> bool:
        """Whether the best complete trial is within reach."""
        return self.mark is None or self.mean + BENEFIT_OF_DOUBT_SD * self.sd > self.mark

    def expected(self) -> dict[str, float | None]:
        """Return the numbers, for the record."""
        return {"mean": self.mean, "sd": self.sd, "mark": self.mark}

    @property
    def why(self) -> str:
        """Say why, in words."""
        return expectation(self.mean, self.sd, self.mark)


@dataclass(frozen=True)
class Begin:
    """A new trial begins.

    Attributes:
        proposal: What it is to try; None leaves it to the study's sampler.
        hopeless: As of ``GoOn``, where the waiting trials were ranked.
    """

    proposal: Proposal | None = None
    hopeless: frozenset[int] = frozenset()


Decision = GoOn | Begin | None


@dataclass(frozen=True)
class Screening:
    """The rules of one search.

    Attributes:
        epochs: Of a run whose trial has no parameter ``epochs``.
        sampler: What proposes.
        seed: Of the study.
        window: Epochs whose mean a trial is judged by.
    """

    epochs: int
    sampler: Choice
    seed: int
    window: int = 1

    @property
    def has_model(self) -> bool:
        """Whether the sampler learns from values, so that it is to see the paused trials, too."""
        return self.sampler.type in MODELS

    def runs(self, trials: Sequence[FrozenTrial], held: Collection[int]) -> list[Run]:
        """Return the trials that were begun; the enqueued one, the paper's setting, never waits."""
        begun = [trial for trial in trials if trial.state is not TrialState.WAITING]
        paper = _paper(trials)
        return [self._run(trial, paper, trial.number in held) for trial in begun]

    def paused(self, trials: Sequence[FrozenTrial], held: Collection[int]) -> list[int]:
        """Return the numbers of the trials that wait at their rungs."""
        running = [t for t in trials if t.state is TrialState.RUNNING]
        paper = _paper(trials)
        runs = (self._run(t, paper, t.number in held) for t in running)
        return [run.trial.number for run in runs if run.is_paused]

    def _run(self, trial: FrozenTrial, paper: int | None, in_slot: bool) -> Run:
        epochs = int(trial.params.get("epochs", self.epochs))
        rung = rung_of(trial.user_attrs.get(PRUNE_FROM, 0), epochs)
        return Run(trial, rung, epochs, rung < epochs and trial.number != paper, in_slot)

    def in_end_game(self, room: Room) -> bool:
        """Say whether no whole run fits into what is left."""
        return room.epochs is not None and room.epochs < self.epochs

    def decide(
        self, trials: Sequence[FrozenTrial], held: Collection[int], number: int, room: Room
    ) -> Decision:
        """Say what a free slot is to do.

        Args:
            trials: All of the study.
            held: Numbers of those that are in slots.
            number: That a new trial would have.
            room: What is left of the budget.

        Returns:
            None where nothing is to be done that could end in time.
        """
        runs = self.runs(trials, held)
        waiting = [run for run in runs if run.is_paused]
        if self.in_end_game(room):
            assert room.epochs is not None
            fitting = [run for run in waiting if run.epochs - run.rung <= room.epochs]
            best = most_promising(runs, fitting, self.window)
            return best and replace(best, hopeless=frozenset())  # the next best may be next
        best = None
        ledger = Ledger.of(runs)
        if ledger.on < ledger.new:
            best = most_promising(runs, waiting, self.window)
            if best is not None and best.may_win:
                return best
        if not room.may_begin:
            return None
        begun = self.begin(trials, held, number)
        return replace(begun, hopeless=best.hopeless) if best else begun

    def begin(self, trials: Sequence[FrozenTrial], held: Collection[int], number: int) -> Begin:
        """Propose a new trial, or again one that got a number and not yet its parameters."""
        if not self.has_model:
            return Begin()
        others = [run for run in self.runs(trials, held) if run.trial.number != number]
        return Begin(propose(carried(others, self.window), self.sampler, self.seed, number))


def _paper(trials: Sequence[FrozenTrial]) -> int | None:
    return next((t.number for t in trials if t.user_attrs.get(ENQUEUED)), None)


def rung_of(prune_from: int, epochs: int) -> int:
    """Return after how many epochs a trial is paused.

    Args:
        prune_from: The first step at which it may be judged.
        epochs: Of its run.
    """
    return min(max(prune_from + 1, math.ceil(LEAST_SHARE * epochs)), epochs)


def most_promising(runs: Sequence[Run], waiting: Sequence[Run], window: int) -> GoOn | None:
    """Return the waiting trial with the highest expected value at its end; None: none waits."""
    if not waiting:
        return None
    rows = {row.number: row for row in carried(runs, window)}
    surrogate = Surrogate.fitted(list(rows.values()))
    numbers = [run.trial.number for run in waiting]
    means, sds = surrogate.predict([rows[number] for number in numbers])
    best = max(range(len(numbers)), key=lambda i: (means[i], rows[numbers[i]].value, -i))
    complete = [run.trial for run in runs if run.trial.state is TrialState.COMPLETE]
    leader = max(complete, key=lambda trial: trial.value or 0.0, default=None)
    chosen = GoOn(numbers[best], float(means[best]), float(sds[best]), None)
    if leader is None:
        return chosen
    (mark,), _ = surrogate.predict([rows[leader.number]])
    in_reach = means + BENEFIT_OF_DOUBT_SD * sds > mark
    slots = 1 + sum(run.in_slot for run in runs)
    behind = sorted(range(len(numbers)), key=lambda i: -means[i])[SPARE_FOR_SLOT * slots :]
    hopeless = frozenset(numbers[i] for i in behind if not in_reach[i])
    return replace(chosen, mark=float(mark), hopeless=hopeless)
