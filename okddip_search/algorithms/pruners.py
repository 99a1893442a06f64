"""Optuna's pruners by name, and one that waits for the distillation ramp-up."""

import math
import warnings
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from okddip_search.algorithms.choice import Choice
from trainer.config.train import TrainConfig
from trainer.schedules import rampup_weight

PRUNE_FROM = "okddip:prune_from"  # trial attribute: its first prunable step
RAMP_WEIGHT = 0.7  # below it, the method is not yet itself

PRUNERS: dict[str, type[BasePruner]] = {
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
    "successive_halving": SuccessiveHalvingPruner,
    "percentile": PercentilePruner,
    "patient": PatientPruner,
    "none": NopPruner,
}


def first_prunable_step(config: TrainConfig) -> int:
    """Return the first epoch (from 0) at which the ramp-up weight is at least 0.7.

    The weight is ``exp(-5 (1 - min(e, R) / R)²)`` with R epochs of ramp-up, and 1 where R is 0. The
    epoch may lie behind the end of a short run, which then is never pruned.
    """
    length = config.ramp_length
    if length == 0:
        return 0
    start = int(length * (1 - math.sqrt(-math.log(RAMP_WEIGHT) / 5)))
    # The closed form may be off by one where rounding decides; the definition settles it.
    return next(
        e for e in range(max(start - 1, 0), length + 1) if rampup_weight(e, length) >= RAMP_WEIGHT
    )


class RampUpPruner(BasePruner):
    """Asks another pruner, but only once a trial's own distillation has ramped up.

    Early curves of trials with a long and a short ramp-up say nothing about each other. The step is
    read from the trial's attribute ``okddip:prune_from``; a trial without it is never pruned.
    """

    def __init__(self, wrapped: BasePruner) -> None:
        """Wrap the pruner that decides once the trial may be judged."""
        self._wrapped = wrapped

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Say whether the trial should be given up at its last step."""
        first = trial.user_attrs.get(PRUNE_FROM, trial.system_attrs.get(PRUNE_FROM))
        last = trial.last_step
        if first is None or last is None or last < first:
            return False
        return self._wrapped.prune(study, trial)


def make_pruner(choice: Choice, epochs: int, *, wait_for_ramp_up: bool) -> BasePruner:
    """Build the pruner of a study.

    Args:
        choice: Which pruner, and its arguments.
        epochs: Length of the longest run.
        wait_for_ramp_up: Whether no trial is pruned before its distillation has ramped up.

    Raises:
        ValueError: Arguments that Optuna refuses.
    """
    pruner = _build(choice, epochs)
    return RampUpPruner(pruner) if wait_for_ramp_up else pruner


def _build(choice: Choice, epochs: int) -> BasePruner:
    arguments: dict[str, Any] = dict(choice.arguments)
    if choice.type == "patient":
        arguments["wrapped_pruner"] = _build(arguments.pop("wrapped"), epochs)
    if choice.type == "hyperband":
        # "auto" would wait for the first complete trial; the length of a run is known here.
        arguments.setdefault("max_resource", epochs)
        _check_hyperband(**arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[choice.type](**arguments)


def _check_hyperband(
    max_resource: int | str,
    min_resource: int = 1,
    reduction_factor: int = 3,
    bootstrap_count: int = 0,
) -> None:
    """Check early what HyperbandPruner itself only finds out, or passes over, in mid search."""
    SuccessiveHalvingPruner(min_resource, reduction_factor, 0, bootstrap_count)
    if isinstance(max_resource, int) and min_resource > max_resource:
        raise ValueError(
            f"min_resource {min_resource} is above max_resource {max_resource} (epochs)"
        )
