"""A space with no more configurations than trials: each is trained once, in a random order."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Point = Mapping[str, Any]


class EachPoint(BaseSampler):
    """Gives a trial a configuration that no other trial has had.

    Args:
        points: All configurations, in one order for all trials.
        seed: Of the study; it shuffles them.
        other: Draws what is left open where no configuration fits an enqueued trial's values.
    """

    def __init__(self, points: Sequence[Point], seed: int, other: BaseSampler) -> None:
        self._points = random.Random(seed).sample(points, len(points))
        self._other = other

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: the values are given one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing, as above."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of the first configuration that is left and has the values so far."""
        so_far = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        others = [
            other for other in study.get_trials(deepcopy=False) if other.number != trial.number
        ]
        for point in [*untried(self._points, others), *self._points]:
            if param_name in point and so_far.items() <= point.items():
                return point[param_name]
        return self._other.sample_independent(study, trial, param_name, param_distribution)


def untried(points: Sequence[Point], trials: Iterable[FrozenTrial]) -> list[Point]:
    """Return the configurations that no trial has had, whatever became of it."""
    tried = {_key(trial.params) for trial in trials if trial.state is not TrialState.WAITING}
    return [point for point in points if _key(point) not in tried]


def _key(point: Point) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(point.items(), key=lambda item: item[0]))
