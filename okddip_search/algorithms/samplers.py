"""Optuna's samplers by name, a new one for every trial.

A resumed search has to go on as an unbroken one would, so nothing may hide in a sampler object.
What lives where in Optuna 5:

========  ==========================================  =========================================
sampler   in the object                               so it gets
========  ==========================================  =========================================
tpe       random state (models come from the study)   a seed of its own for every trial
random    random state                                a seed of its own for every trial
gp        random state; kernel of the last fit, a     a seed of its own for every trial, and a
          mere starting point for the next one        fresh fit
qmc       seed of the scrambling; the position in     one scrambling for all trials; a seed for
          the sequence is a study attribute           every trial where it draws independently
grid      shuffled order of the points; the visited   one order for all trials
          ones are trial attributes
========  ==========================================  =========================================
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from okddip_search.algorithms.choice import Choice
from okddip_search.algorithms.seeds import sampler_seed


class AskTellGridSampler(GridSampler):
    """Optuna's grid, for a study driven by ``ask`` and ``tell``.

    The original ends ``Study.optimize`` from ``after_trial``, which raises outside of it, and fails
    on enqueued trials that give only some of the parameters.
    """

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Do nothing: the search's own budget ends it."""

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the grid point's value; an enqueued trial's open parameters are drawn."""
        if "grid_id" in trial.system_attrs:
            return super().sample_independent(study, trial, param_name, param_distribution)
        draw = RandomSampler(seed=sampler_seed(0, trial.number))
        return draw.sample_independent(study, trial, param_name, param_distribution)


SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": TPESampler,
    "random": RandomSampler,
    "gp": GPSampler,
    "qmc": QMCSampler,
    "grid": AskTellGridSampler,
}


def make_sampler(
    choice: Choice,
    study_seed: int,
    trial_number: int,
    *,
    has_conditions: bool,
    grid: Callable[[], dict[str, list[Any]]],
) -> BaseSampler:
    """Build the sampler that chooses the parameters of one trial.

    Give each trial its own (``study.sampler = spec.make_sampler(number)`` before it is asked).

    Args:
        choice: Which sampler, and its arguments.
        study_seed: The study's seed.
        trial_number: The trial's number in the study.
        has_conditions: Whether some parameters apply only with certain values of others.
        grid: Returns the points of each parameter; called for the grid sampler alone.

    Raises:
        ValueError: Arguments that Optuna refuses, or a space that has no grid.
    """
    own = sampler_seed(study_seed, trial_number)
    shared = sampler_seed(study_seed, None)
    defaults: dict[str, Callable[[], dict[str, Any]]] = {
        # Multivariate TPE models conditional parameters only when they are grouped.
        "tpe": lambda: {"seed": own, "group": has_conditions},
        "random": lambda: {"seed": own},
        "gp": lambda: {"seed": own, "warn_independent_sampling": False},
        "qmc": lambda: {
            "seed": shared,
            "scramble": True,  # the plain sequence starts in a corner of the space
            "independent_sampler": RandomSampler(seed=own),
            "warn_asynchronous_seeding": False,
            "warn_independent_sampling": False,
        },
        "grid": lambda: {"seed": shared, "search_space": grid()},
    }
    arguments = {**defaults[choice.type](), **choice.arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[choice.type](**arguments)
