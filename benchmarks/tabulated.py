"""Recorded learning curves in place of training: a whole search replays in about a second.

``Table`` looks curves up in what ``record_curves.py`` wrote. ``replay`` simulates a search with two
slots: epochs take turns, and a slot that becomes free starts the next trial at once. The decisions
are real: for ours those of the study bridge with this tool's samplers and pruners, for the stock
search those of Ray Tune's ``OptunaSearch`` and ``ASHAScheduler``, called in the order in which
Tune's controller calls them (no cluster is needed: both only look at a trial's id and result).
"""

import itertools
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import BaseTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.work import SearchAgenda
from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ObjectiveSettings, StudySettings
from trainer.config.train import TrainConfig

CURVES = Path(__file__).with_name("digits_curves.json.xz")
SLOTS = 2
CHANCE = 0.1  # accuracy of a network whose loss became NaN
METRIC = "leader_accuracy"


class Table:
    """The recorded curves.

    Attributes:
        meta: Everything else in the file: grid, settings, versions, machine.
        grid: Values of each parameter.
        points: Every configuration, by index.
        accuracy: Of the leader on the validation images: seed × configuration × epoch; NaN from the
            epoch at which the loss was not finite.
    """

    def __init__(self, path: Path = CURVES) -> None:
        self.meta: dict[str, Any] = json.loads(lzma.decompress(path.read_bytes()))
        self.grid: dict[str, list[Any]] = self.meta["grid"]
        self.points = list(itertools.product(*(range(len(v)) for v in self.grid.values())))
        self._index = {point: index for index, point in enumerate(self.points)}
        correct = np.array(self.meta.pop("correct"), dtype=float)
        correct[correct < 0] = np.nan
        self.accuracy: NDArray[np.float64] = correct / self.meta["validation_images"]
        self._final = np.nan_to_num(self.accuracy[:, :, -1], nan=CHANCE)

    @property
    def epochs(self) -> int:
        """Of every run."""
        return self.accuracy.shape[2]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the space: steps on the grid for numbers, so that every look-up is exact."""
        return {
            name: CategoricalDistribution(values)
            if isinstance(values[0], str)
            else IntDistribution(0, len(values) - 1)
            for name, values in self.grid.items()
        }

    def index(self, params: Mapping[str, Any]) -> int:
        """Return the configuration's index from what was suggested."""
        point = (
            self.grid[name].index(params[name]) if isinstance(params[name], str) else params[name]
            for name in self.grid
        )
        return self._index[tuple(point)]

    def truth(self, config: int, seen: int) -> float:
        """Return a configuration's final accuracy, mean over the seeds that the search did not see.

        The seed that was seen is why it was chosen: with it, a lucky run would look like a good
        configuration.
        """
        others = np.delete(self._final[:, config], seen)
        return float(others.mean())

    @property
    def best(self) -> float:
        """The best configuration's final accuracy, mean over all seeds (so a little too high)."""
        return float(self._final.mean(axis=0).max())


@dataclass(frozen=True)
class Contestant:
    """How a search of this tool is set up: fields of a space's ``study`` and ``objective``."""

    sampler: Any = "tpe"
    pruner: Any = "median"
    reduce: str = "last"
    wait_for_ramp_up: bool = True


class Searching(Protocol):
    """What a replay asks of a search; trials are named by their number."""

    def start(self) -> Mapping[str, Any]:
        """Begin the next trial, and return its parameters on the grid."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tell an epoch's value, and return whether the trial has ended."""

    def fail(self, number: int) -> None:
        """End a trial whose loss became NaN."""

    def leader(self) -> int | None:
        """Return the trial that would be handed over now."""


class Ours:
    """A search of this tool: its bridge over a study in memory."""

    def __init__(self, table: Table, contestant: Contestant, seed: int) -> None:
        study_settings = StudySettings(
            sampler=contestant.sampler,
            pruner=contestant.pruner,
            wait_for_ramp_up=contestant.wait_for_ramp_up,
            seed=seed,
        )
        objective = ObjectiveSettings(reduce=contestant.reduce)
        changes = {"study": study_settings, "objective": objective}
        spec = load_space("digits").model_copy(update=changes)
        study = optuna.create_study(
            study_name="replay", direction="maximize", pruner=spec.make_pruner()
        )
        self._epochs = table.epochs
        self._history: dict[int, list[dict[str, Any]]] = {}
        self._bridge = StudyBridge(study, TableAgenda(spec, table), Concurrency(SLOTS), ())

    def start(self) -> Mapping[str, Any]:
        """See ``Searching``."""
        entry = self._bridge.next_trial()
        assert entry is not None
        self._history[entry.trial.number] = []
        return dict(entry.trial.params)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See ``Searching``."""
        history = self._history[number]
        history.append({"epoch": epoch, METRIC: value})
        if epoch == self._epochs - 1:
            self._bridge.complete(number, history)
            return True
        return self._bridge.report(number, history[-1:])

    def fail(self, number: int) -> None:
        """See ``Searching``."""
        self._bridge.fail(number, "loss is nan")

    def leader(self) -> int | None:
        """Return the best complete trial."""
        best = self._bridge.best()
        return None if best is None else best.number


class TableAgenda(SearchAgenda):
    """Trials on the grid, without end: the replay says when it is over."""

    def __init__(self, spec: SearchSpec, table: Table) -> None:
        super().__init__(spec)
        object.__setattr__(self, "_space", table.distributions())
        object.__setattr__(self, "_config", TrainConfig(**spec.trainer, data=spec.data))

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Sample the grid's parameters; all that the bridge needs of the rest is the ramp-up."""
        for name, distribution in self._space.items():  # type: ignore[attr-defined]
            trial._suggest(name, distribution)  # type: ignore[attr-defined]
        return self._config  # type: ignore[attr-defined, no-any-return]

    def is_spent(self, study: Study, pending: int) -> bool:
        """Never."""
        return False


class Stock:
    """Ray Tune with OptunaSearch and ASHAScheduler, each with its default arguments.

    The scheduler is asked first; the searcher hears of a stopped trial as complete, with the value
    it had got to. Handed over is the trial with the best last value
    (``ResultGrid.get_best_result``).
    """

    def __init__(self, table: Table, seed: int, **asha: Any) -> None:
        self._search = OptunaSearch(table.distributions(), metric=METRIC, mode="max", seed=seed)
        self._scheduler = ASHAScheduler(metric=METRIC, mode="max", max_t=table.epochs, **asha)
        self._trials: list[Any] = []
        self._last: dict[int, float] = {}

    def start(self) -> Mapping[str, Any]:
        """See ``Searching``."""
        trial = SimpleNamespace(trial_id=str(len(self._trials)))
        self._trials.append(trial)
        params: Mapping[str, Any] = self._search.suggest(trial.trial_id)
        self._scheduler.on_trial_add(None, trial)
        return params

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See ``Searching``."""
        trial = self._trials[number]
        result = {"training_iteration": epoch + 1, METRIC: value}
        self._last[number] = value
        stop = self._scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
        if stop:
            self._search.on_trial_complete(trial.trial_id, result=result)
        else:
            self._search.on_trial_result(trial.trial_id, result)
        return stop

    def fail(self, number: int) -> None:
        """See ``Searching``."""
        trial = self._trials[number]
        self._last.pop(number, None)
        self._scheduler.on_trial_error(None, trial)
        self._search.on_trial_complete(trial.trial_id, error=True)

    def leader(self) -> int | None:
        """Return the trial with the best last value, however short."""
        return max(self._last, key=self._last.__getitem__, default=None)


class Moment(NamedTuple):
    """The state of a search when a trial has ended: all epochs of both slots, and the leader."""

    epochs: int
    trials: int
    truth: float


def replay(table: Table, search: Searching, seed: int, trials: int, epochs: int) -> list[Moment]:
    """Run a search until it has had so many trials and spent so many epochs; failed ones count.

    Every trial sees the curve of one recorded seed, drawn by the replay's seed and its number.
    """
    draw = np.random.default_rng([seed, 1])
    numbers = itertools.count()
    seen: list[tuple[int, int]] = []
    moments: list[Moment] = []
    spent = 0

    def begin() -> tuple[int, int]:
        params = search.start()
        seen.append((table.index(params), int(draw.integers(len(table.accuracy)))))
        return next(numbers), 0

    slots = [begin() for _ in range(SLOTS)]
    while len(moments) < trials or spent < epochs:
        for slot, (number, epoch) in enumerate(slots):
            config, run = seen[number]
            value = float(table.accuracy[run, config, epoch])
            spent += 1
            if np.isnan(value):
                search.fail(number)
            elif not search.report(number, epoch, value):
                slots[slot] = number, epoch + 1
                continue
            leader = search.leader()
            truth = CHANCE if leader is None else table.truth(*seen[leader])
            moments.append(Moment(spent, len(moments) + 1, truth))
            slots[slot] = begin()
    return moments
