"""A whole search on a table of curves in place of training, in seconds.

The decisions are real: for ours those of the study bridge with this tool's searcher, samplers and
pruners; for the stock search those of Ray Tune's ``OptunaSearch`` and ``ASHAScheduler``, called in
the order in which Tune's controller calls them (no cluster is needed: both only look at a trial's
id and result). Time runs in steps: in each, every slot with a trial trains one epoch.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import BaseTrial, TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from tables import Table

from okddip_search.algorithms.pruners import PRUNE_FROM
from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.work import SearchWork
from okddip_search.space.load import load_space
from okddip_search.space.settings import ObjectiveSettings, StudySettings
from okddip_search.study.trials import PAPER_KEY
from trainer.config.train import TrainConfig

METRIC = "leader_accuracy"


class Start(NamedTuple):
    """A trial that gets a slot.

    Attributes:
        number: Of the trial.
        params: Its parameters.
        epoch: The first to be trained; above 0 where it was paused.
    """

    number: int
    params: Mapping[str, Any]
    epoch: int


class Search(Protocol):
    """What a replay asks of a search; trials are named by their number."""

    def start(self, steps_left: int) -> Start | None:
        """Fill a free slot; None leaves it empty."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tell an epoch's value, and return whether the trial gives its slot away."""

    def fail(self, number: int) -> None:
        """End a trial whose loss became NaN."""

    def leader(self) -> int | None:
        """Return the trial that would be handed over now: one that was trained to its end."""


@dataclass(frozen=True)
class Setup:
    """Fields of a space's ``study`` and ``objective``."""

    study: Mapping[str, Any]
    reduce: str = "mean_last_3"


class TableWork(SearchWork):
    """Trials on a table, without end: the replay says when it is over."""

    def prepare(self, table: Table) -> None:
        """Take the space and the lengths of the table."""
        values = {**self.spec.trainer, "epochs": table.epochs}
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_config", TrainConfig(**values, data=self.spec.data))
        self.tell_left(table.epochs * 1000)

    def tell_left(self, steps: float) -> None:
        """Say how many epochs a slot can still train."""
        object.__setattr__(self, "_left", steps)

    def epochs_left(self) -> float | None:
        """Return what ``tell_left`` was told."""
        return self._left  # type: ignore[attr-defined, no-any-return]

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Sample the table's parameters; all that the bridge needs of the rest is the length."""
        table: Table = self._table  # type: ignore[attr-defined]
        for name, distribution in table.space.items():
            trial._suggest(name, distribution)  # type: ignore[attr-defined]
        trial.set_user_attr(PRUNE_FROM, table.judged_from - 1)
        return self._config  # type: ignore[attr-defined, no-any-return]

    def is_spent(self, study: Study, pending: int) -> bool:
        """Never."""
        return False


class Ours:
    """A search of this tool: its bridge over a study.

    Args:
        table: Of the curves.
        setup: Of the search.
        seed: Of the study.
        told: The setting that is enqueued; None: none.
        study: To go on with; None: a new one in memory.
    """

    def __init__(
        self,
        table: Table,
        setup: Setup,
        seed: int,
        told: Mapping[str, Any] | None,
        study: Study | None = None,
    ) -> None:
        spec = load_space("digits")
        changes = {
            "trainer": {**spec.trainer, "epochs": table.epochs},
            "study": StudySettings(**setup.study, seed=seed),
            "objective": ObjectiveSettings(reduce=setup.reduce),
        }
        spec = spec.model_copy(update=changes)
        pruner = spec.make_pruner()
        if study is None:
            study = optuna.create_study(direction="maximize", pruner=pruner)
            if told is not None:
                study.enqueue_trial(dict(told), user_attrs={PAPER_KEY: True})
        study.pruner = pruner
        self.work = TableWork(spec)
        self.work.prepare(table)
        self.bridge = StudyBridge(study, self.work, Concurrency(10_000), (), lambda line: None)
        self._table, self._seed = table, seed
        self._history: dict[int, list[dict[str, Any]]] = {}
        for trial in study.get_trials(deepcopy=False):
            self._remember(trial.number, dict(trial.params), len(trial.intermediate_values))

    def _remember(self, number: int, params: Mapping[str, Any], epochs: int) -> None:
        """Know what a worker's checkpoint would hold of a trial."""
        if number not in self._history and params:
            curve = self._table.curve(self._table.row(params), self._seed, number)
            self._history[number] = [_epoch(e, curve[e]) for e in range(epochs)]

    def start(self, steps_left: int) -> Start | None:
        """See ``Search``."""
        self.work.tell_left(steps_left)
        while (entry := self.bridge.next_trial()) is None and self.bridge.is_deciding:
            self.bridge.wait_for_decision()
        if entry is None and not self.bridge.exhausted:
            return self.start(steps_left)
        if entry is None:
            return None
        number = entry.trial.number
        history = self._history.setdefault(number, [])
        self.bridge.report(number, history)
        return Start(number, dict(entry.trial.params), len(history))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See ``Search``."""
        history = self._history[number]
        history.append(_epoch(epoch, value))
        if epoch == self._table.epochs - 1:
            self.bridge.complete(number, history)
            return True
        return self.bridge.report(number, history[-1:])

    def fail(self, number: int) -> None:
        """See ``Search``."""
        self.bridge.fail(number, "loss is nan")

    def leader(self) -> int | None:
        """Return the best complete trial."""
        best = self.bridge.best()
        return None if best is None else best.number


def _epoch(epoch: int, value: float) -> dict[str, Any]:
    return {"epoch": epoch, METRIC: float(value)}


class Stock:
    """Ray Tune with OptunaSearch and ASHAScheduler, each with its default arguments.

    The scheduler is asked first; the searcher hears of a stopped trial as complete, with the value
    it had got to. Handed over is the trial with the best last value among those that were trained
    to their end.
    """

    def __init__(
        self, table: Table, seed: int, told: Mapping[str, Any] | None, **asha: Any
    ) -> None:
        space: dict[str, BaseDistribution] = dict(table.space)
        first = [dict(told)] if told is not None else None
        self._search = OptunaSearch(
            space, points_to_evaluate=first, metric=METRIC, mode="max", seed=seed
        )
        self._scheduler = ASHAScheduler(metric=METRIC, mode="max", max_t=table.epochs, **asha)
        self._epochs = table.epochs
        self._trials: list[Any] = []
        self._ends: dict[int, float] = {}

    def start(self, steps_left: int) -> Start | None:
        """See ``Search``."""
        trial = SimpleNamespace(trial_id=str(len(self._trials)))
        self._trials.append(trial)
        params: Mapping[str, Any] = self._search.suggest(trial.trial_id)
        self._scheduler.on_trial_add(None, trial)
        return Start(len(self._trials) - 1, params, 0)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See ``Search``."""
        trial = self._trials[number]
        result = {"training_iteration": epoch + 1, METRIC: value}
        stop = self._scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
        if stop:
            self._search.on_trial_complete(trial.trial_id, result=result)
        else:
            self._search.on_trial_result(trial.trial_id, result)
        if epoch == self._epochs - 1:
            self._ends[number] = value
        return stop

    def fail(self, number: int) -> None:
        """See ``Search``."""
        trial = self._trials[number]
        self._scheduler.on_trial_error(None, trial)
        self._search.on_trial_complete(trial.trial_id, error=True)

    def leader(self) -> int | None:
        """Return the trial with the best last value."""
        return max(self._ends, key=self._ends.__getitem__, default=None)


class Hyperband:
    """Optuna by itself: TPE and Hyperband with their default arguments."""

    def __init__(self, table: Table, seed: int, told: Mapping[str, Any] | None) -> None:
        pruner = HyperbandPruner(max_resource=table.epochs)
        sampler = TPESampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        if told is not None:
            self._study.enqueue_trial(dict(told))
        self._table = table
        self._open: dict[int, optuna.Trial] = {}

    def start(self, steps_left: int) -> Start | None:
        """See ``Search``."""
        trial = self._study.ask(dict(self._table.space))
        self._open[trial.number] = trial
        return Start(trial.number, trial.params, 0)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See ``Search``."""
        trial = self._open[number]
        trial.report(value, epoch)
        if epoch == self._table.epochs - 1:
            self._study.tell(trial, value)
        elif trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            return False
        return True

    def fail(self, number: int) -> None:
        """See ``Search``."""
        self._study.tell(self._open[number], state=TrialState.FAIL)

    def leader(self) -> int | None:
        """Return the best complete trial."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(done, key=lambda t: float(t.value or 0), default=None).number if done else None


class Moment(NamedTuple):
    """When the leader changed: epochs of all slots so far, and what it is really worth."""

    epochs: int
    truth: float


def replay(
    table: Table,
    search: Search,
    seed: int,
    slots: int,
    steps: int,
    killed_at: Collection[int] = (),
    reopen: Callable[[], Search] | None = None,
) -> list[Moment]:
    """Run a search for so many steps.

    Args:
        table: Of the curves.
        search: Decides.
        seed: Of the curves' noise.
        slots: Trials at a time.
        steps: Epochs of a slot.
        killed_at: Steps before which the search is forgotten.
        reopen: Returns the search that goes on then.

    Returns:
        Every change of the leader; the first moment is the beginning, without one.
    """
    running: dict[int, tuple[int, int]] = {}  # slot: trial, next epoch
    curves: dict[int, Any] = {}
    rows: dict[int, int] = {}
    moments = [Moment(0, table.worst)]
    leading: int | None = None
    for step in range(steps):
        if step in killed_at and reopen is not None:
            search, running = reopen(), {}
        for slot in range(slots):
            if slot in running:
                continue
            started = search.start(steps - step)
            if started is None:
                continue
            number = started.number
            if number not in rows:
                rows[number] = table.row(started.params)
                curves[number] = table.curve(rows[number], seed, number)
            running[slot] = number, started.epoch
        for slot, (number, epoch) in list(running.items()):
            value = float(curves[number][epoch])
            if np.isnan(value):
                search.fail(number)
            elif not search.report(number, epoch, value):
                running[slot] = number, epoch + 1
                continue
            del running[slot]
        leader = search.leader()
        if leader is not None and leader != leading:
            leading = leader
            moments.append(Moment((step + 1) * slots, table.truth(rows[leader], seed, leader)))
    return moments
