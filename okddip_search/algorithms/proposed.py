"""A sampler for a trial whose parameters were decided before it was asked for."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from okddip_search.algorithms.surrogate import Proposal


class Proposed(BaseSampler):
    """Gives a trial what was proposed, and draws the rest at random.

    Args:
        proposal: Its parameters.
        other: Draws those that the proposal lacks.
    """

    def __init__(self, proposal: Proposal, other: BaseSampler) -> None:
        self._proposal = proposal
        self._other = other

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the distributions of what was proposed."""
        return dict(self._proposal.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what was proposed."""
        return dict(self._proposal.params)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that was not proposed."""
        return self._other.sample_independent(study, trial, param_name, param_distribution)
