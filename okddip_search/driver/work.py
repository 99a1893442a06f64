"""The work of a bridge: the trials of a search, or a fixed list of runs.

The work supplies the next configuration and the objective; everything else (slots, recording,
restarts, failures) is the same for a search and for its confirmation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import BaseTrial, TrialState

from okddip_search.algorithms.choice import Choice
from okddip_search.algorithms.points import untried
from okddip_search.algorithms.screen import Screening
from okddip_search.algorithms.seeds import sampler_seed
from okddip_search.driver.budget import Budget
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ObjectiveSettings
from trainer.config.train import TrainConfig

NOISY_EPOCHS = 3
"""Last epochs whose mean judges an unfinished trial, where a trial's value is one epoch's."""


class Work(Protocol):
    """The trials that a study is to have.

    Attributes:
        objective: How a trial's value follows from its curve.
        timeout_s: Seconds after which the bridge starts no further trial; None: no limit.
        max_failures: Failed trials in a row that end the study.
        has_best: Whether the trials compete, so that one of them is the best.
        keep_leaders: Number of best trials that keep their network on disk; None: all.
        screening: How trials are paused and let go on; None: each runs on until it ends.
    """

    @property
    def objective(self) -> ObjectiveSettings:
        """See above."""

    @property
    def timeout_s(self) -> float | None:
        """See above."""

    @property
    def max_failures(self) -> int:
        """See above."""

    @property
    def has_best(self) -> bool:
        """See above."""

    @property
    def keep_leaders(self) -> int | None:
        """See above."""

    @property
    def screening(self) -> Screening | None:
        """See above."""

    def epochs_left(self) -> float | None:
        """Return how many epochs a slot can still train; None: no limit is known."""

    def is_overdrawn(self) -> bool:
        """Say whether trials that run are to be given up, as time is over."""

    def sampler(self, number: int) -> BaseSampler:
        """Return the sampler of a trial's parameters."""

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Return the configuration of a trial."""

    def params(self, trial: BaseTrial) -> Mapping[str, Any]:
        """Return the parameters that distinguish the trial, for tables and charts."""

    def is_spent(self, study: Study, pending: int) -> bool:
        """Return whether no further trial is to start; ``pending`` are running or left running."""


@dataclass(frozen=True)
class SearchWork:
    """The trials of a search, sampled until the budget of complete and pruned ones is spent."""

    spec: SearchSpec
    budget: Budget | None = None
    has_best: bool = True

    @property
    def objective(self) -> ObjectiveSettings:
        """The space's."""
        return self.spec.objective

    @property
    def timeout_s(self) -> float | None:
        """The space's, where it has no budget of time."""
        return self.spec.study.timeout if self.budget is None else None

    @property
    def max_failures(self) -> int:
        """The space's."""
        return self.spec.study.max_failures

    @property
    def keep_leaders(self) -> int:
        """The space's."""
        return self.spec.study.keep_leaders

    @property
    def screening(self) -> Screening | None:
        """The space's."""
        searcher = self.spec.study.searcher
        if searcher is None:
            return None
        window = NOISY_EPOCHS if self.objective.reduce == "last" else 1
        # Where each of few configurations is trained, a model has nothing to propose.
        sampler = searcher.sampler if self._points is None else Choice(type="random")
        return Screening(self.spec.max_epochs, sampler, self.spec.study.seed, window)

    @cached_property
    def _points(self) -> list[dict[str, Any]] | None:
        return self.spec.points()

    def epochs_left(self) -> float | None:
        """Return what the budget has room for; None where it is counted in trials."""
        return self.budget.epochs_left if self.budget else None

    def is_overdrawn(self) -> bool:
        """Say whether the budget is used up; trials that run are given up then."""
        return self.budget is not None and self.budget.is_overdrawn

    def sampler(self, number: int) -> BaseSampler:
        """Return a new sampler for every trial, seeded by its number.

        A resumed search then suggests the same trials as an uninterrupted one.
        """
        if self.screening is not None and self.screening.has_model:
            # It proposes by itself; only what it leaves open is drawn.
            return RandomSampler(seed=sampler_seed(self.spec.study.seed, number))
        return self.spec.make_sampler(number)

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Sample a configuration."""
        return self.spec.suggest(trial)

    def params(self, trial: BaseTrial) -> Mapping[str, Any]:
        """Return the sampled parameters."""
        return trial.params

    def is_spent(self, study: Study, pending: int) -> bool:
        """Compare complete and pruned trials with the budget; failed ones do not count.

        With a budget of time: return whether no whole run fits any more. A space with few
        configurations is spent when each has been tried.
        """
        trials = study.get_trials(deepcopy=False)
        if self._points is not None and not untried(self._points, trials):
            return not any(trial.state is TrialState.WAITING for trial in trials)
        if self.budget is not None:
            return self.budget.epochs_left < self.spec.max_epochs
        ended = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        return ended + pending >= self.spec.study.trials


CONTENDER, SEED = "contender", "seed"


@dataclass(frozen=True)
class FixedWork:
    """Runs that were all enqueued beforehand, each a labelled configuration with a seed.

    Attributes:
        configs: By the configuration's label; fields of ``TrainConfig``.
        objective: How a run's value follows from its curve.
        common: Fields of every run: images, device and threads.
        max_failures: Failed runs in a row that end the study.
    """

    configs: Mapping[str, Mapping[str, Any]]
    objective: ObjectiveSettings
    common: Mapping[str, Any]
    max_failures: int
    timeout_s: float | None = None
    has_best: bool = False
    keep_leaders: int | None = None
    screening: Screening | None = None

    def epochs_left(self) -> float | None:
        """Return None: every run is to be run."""
        return None

    def is_overdrawn(self) -> bool:
        """Say no: every run is to be run."""
        return False

    def sampler(self, number: int) -> BaseSampler:
        """Return a sampler that will not be used."""
        return RandomSampler(seed=number)

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Return the labelled configuration with the run's seed."""
        values = self.configs[trial.user_attrs[CONTENDER]]
        return TrainConfig(**{**values, **self.common, "seed": trial.user_attrs[SEED]})

    def params(self, trial: BaseTrial) -> Mapping[str, Any]:
        """Return label, seed and method."""
        label = trial.user_attrs[CONTENDER]
        return {
            "setting": label,
            SEED: trial.user_attrs[SEED],
            "method": self.configs[label].get("method", "okddip"),
        }

    def is_spent(self, study: Study, pending: int) -> bool:
        """Return whether every run has been started; a failed one counts and is not repeated."""
        return not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
