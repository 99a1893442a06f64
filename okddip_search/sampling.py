"""Optuna's samplers by name, made anew for every trial.

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
from typing import TYPE_CHECKING, Any

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

from okddip_search.seeds import sampler_seed

if TYPE_CHECKING:
    from okddip_search.spec import SearchSpec


class AskTellGridSampler(GridSampler):
    """Optuna's grid, for a study that is asked and told.

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


def make_sampler(spec: "SearchSpec", trial_number: int) -> BaseSampler:
    """Build the sampler that chooses the parameters of one trial.

    Give each trial its own (``study.sampler = make_sampler(spec, number)`` before it is asked).

    Raises:
        ValueError: Arguments that Optuna refuses, or a space that has no grid.
    """
    study = spec.study
    own = sampler_seed(study.seed, trial_number)
    shared = sampler_seed(study.seed, None)
    defaults: dict[str, Callable[[], dict[str, Any]]] = {
        # Multivariate TPE models conditional parameters only when they are grouped.
        "tpe": lambda: {"seed": own, "group": spec.has_conditions},
        "random": lambda: {"seed": own},
        "gp": lambda: {"seed": own, "warn_independent_sampling": False},
        "qmc": lambda: {
            "seed": shared,
            "scramble": True,  # the plain sequence starts in a corner of the space
            "independent_sampler": RandomSampler(seed=own),
            "warn_asynchronous_seeding": False,
            "warn_independent_sampling": False,
        },
        "grid": lambda: {"seed": shared, "search_space": spec.grid()},
    }
    arguments = {**defaults[study.sampler.type](), **study.sampler.arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[study.sampler.type](**arguments)
