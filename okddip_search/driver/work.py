"""The work of a bridge: the trials of a search, or a fixed list of runs.

The agenda supplies the next configuration and the objective; everything else (slots, recording,
restarts, failures) is the same for a search and for its confirmation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import BaseTrial, TrialState

from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ObjectiveSettings
from trainer.config.train import TrainConfig


class Agenda(Protocol):
    """The trials that a study is to have.

    Attributes:
        objective: How a trial's value follows from its curve.
        timeout_s: Seconds after which the bridge starts no further trial; None: no limit.
        max_failures: Failed trials in a row that end the study.
        has_best: Whether the trials compete, so that one of them is the best.
        keep_leaders: Number of best trials that keep their network on disk; None: all.
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

    def sampler(self, number: int) -> BaseSampler:
        """Return the sampler of a trial's parameters."""

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Return the configuration of a trial."""

    def params(self, trial: BaseTrial) -> Mapping[str, Any]:
        """Return the parameters that distinguish the trial, for tables and charts."""

    def is_spent(self, study: Study, pending: int) -> bool:
        """Return whether no further trial is to start; ``pending`` are running or left running."""


@dataclass(frozen=True)
class SearchAgenda:
    """The trials of a search, sampled until the budget of complete and pruned ones is spent."""

    spec: SearchSpec
    has_best: bool = True

    @property
    def objective(self) -> ObjectiveSettings:
        """The space's."""
        return self.spec.objective

    @property
    def timeout_s(self) -> float | None:
        """The space's."""
        return self.spec.study.timeout

    @property
    def max_failures(self) -> int:
        """The space's."""
        return self.spec.study.max_failures

    @property
    def keep_leaders(self) -> int:
        """The space's."""
        return self.spec.study.keep_leaders

    def sampler(self, number: int) -> BaseSampler:
        """Return a new sampler for every trial, seeded by its number.

        A resumed search then suggests the same trials as an uninterrupted one.
        """
        return self.spec.make_sampler(number)

    def config(self, trial: BaseTrial) -> TrainConfig:
        """Sample a configuration."""
        return self.spec.suggest(trial)

    def params(self, trial: BaseTrial) -> Mapping[str, Any]:
        """Return the sampled parameters."""
        return trial.params

    def is_spent(self, study: Study, pending: int) -> bool:
        """Compare complete and pruned trials with the budget; failed ones do not count."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return len(ended) + pending >= self.spec.study.trials


CONTENDER, SEED = "contender", "seed"


@dataclass(frozen=True)
class FixedAgenda:
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
            CONTENDER: label,
            SEED: trial.user_attrs[SEED],
            "method": self.configs[label].get("method", "okddip"),
        }

    def is_spent(self, study: Study, pending: int) -> bool:
        """Return whether every run has been started; a failed one counts and is not repeated."""
        return not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
