"""The next task of a free slot where trials are screened, decided in a thread of its own.

A model is fitted for every decision; meanwhile the workers' reports go on being answered.
"""

import logging
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import optuna

from okddip_search.algorithms.ledger import Run
from okddip_search.algorithms.screen import Begin, Decision, Room, Screening
from okddip_search.algorithms.surrogate import Proposal
from okddip_search.driver.work import Work

logger = logging.getLogger(__name__)

AT_ONCE_S = 0.02
"""Seconds to wait for a decision: enough for most that need no model."""


class Deliberation:
    """Has decisions made, one at a time; one stands until it is taken up or things have changed.

    Args:
        study: Whose trials are screened.
        work: Says what is left of the budget.
        screening: The rules.
    """

    def __init__(self, study: optuna.Study, work: Work, screening: Screening) -> None:
        self._study = study
        self._work = work
        self._screening = screening
        self._thread = ThreadPoolExecutor(1, "screening")
        self._future: Future[Decision] | None = None
        self._asked_about: Hashable = None

    def runs(self, held: Collection[int]) -> list[Run]:
        """Return all trials that were begun; ``held`` are in slots."""
        return self._screening.runs(self._study.get_trials(deepcopy=False), held)

    def paused(self, held: Collection[int]) -> list[int]:
        """Return the numbers of the trials that wait at their rungs."""
        return self._screening.paused(self._study.get_trials(deepcopy=False), held)

    def rung_ahead(self, number: int) -> int | None:
        """Return after how many epochs a trial is to be paused; None: not, or not again."""
        run = next(run for run in self.runs(()) if run.trial.number == number)
        return run.rung if run.pauses and run.seen < run.rung else None

    def proposal(self, number: int, held: Collection[int]) -> Proposal | None:
        """Propose a trial, or again one that is there already and has no parameters yet."""
        trials = self._study.get_trials(deepcopy=False)
        return self._screening.begin(trials, held, number).proposal

    def is_over(self, number: int, held: Collection[int], may_begin: bool) -> bool:
        """Say whether it is decided that a free slot has nothing more to do.

        Args:
            number: That a new trial would have.
            held: Trials in slots.
            may_begin: Whether the budget has room for a further trial.
        """
        return self._is_ready(number, held, may_begin) and self._decision is None

    def take_up(self, number: int, held: Collection[int], may_begin: bool) -> Decision:
        """Return what to do now; None while nothing is decided, or where nothing is to be done."""
        if not self._is_ready(number, held, may_begin) or self._decision is None:
            return None
        decision, self._future = self._decision, None
        return decision

    @property
    def in_end_game(self) -> bool:
        """Whether no whole run fits into what is left."""
        return self._screening.in_end_game(Room(self._work.epochs_left()))

    def is_going_on(self, number: int, held: Collection[int], may_begin: bool) -> bool:
        """Say whether a decision is being made."""
        return not self._is_ready(number, held, may_begin)

    def wait(self) -> None:
        """Return once the decision that is being made is there."""
        if self._future is not None:
            wait([self._future])

    @property
    def _decision(self) -> Decision:
        return None if self._future is None else self._future.result()

    def _is_ready(self, number: int, held: Collection[int], may_begin: bool) -> bool:
        """Say whether there is a decision; if there is none for this situation, have one made.

        A decision to do nothing holds while the situation does; another one until it is taken up.
        """
        trials = self._study.get_trials(deepcopy=False)
        room = Room(self._work.epochs_left(), may_begin)
        ended = sum(trial.state.is_finished() for trial in trials)
        in_end_game = self._screening.in_end_game(room)
        situation = (number, frozenset(held), len(self.paused(held)), ended, may_begin, in_end_game)
        stands = self._future is None or not self._future.done() or self._decision is not None
        if self._future is None or (not stands and situation != self._asked_about):
            self._asked_about = situation
            decide = self._screening.decide
            self._future = self._thread.submit(_soundly, decide, trials, set(held), number, room)
            wait([self._future], AT_ONCE_S)
        return self._future.done()


def _soundly(
    decide: Callable[..., Decision], trials: object, held: object, number: int, room: Room
) -> Decision:
    """Decide; a model that cannot be fitted must not end a search."""
    try:
        return decide(trials, held, number, room)
    except Exception:
        logger.exception("the decision about trial %d", number)
        return Begin() if room.may_begin else None
