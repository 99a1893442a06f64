"""The trials of a study: attributes, states, the best one and the paper's own."""

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from okddip_search.study.events import EndState, TrialEnd

FINGERPRINT = "okddip:data_fingerprint"
IDENTITY = "okddip:tracking"
"""Study attribute: who the search is in MLflow, and its last session."""
SHARE = "okddip:share"
"""Study attribute: cores and GPUs of a trial."""
REASON = "okddip:reason"
"""User attribute of a failed trial: why."""
DIED = "its worker died"
"""Begins the reason of a trial that failed with its machine."""
OUT_OF_MEMORY = "out of memory"
"""Begins the reason of a trial that does not fit."""
PAPER_KEY = "okddip:enqueued"
"""User attribute of a trial that the space file asked for; the paper's own setting comes first."""

PAUSES_AFTER = "okddip:pauses_after"
"""User attribute of a trial that is screened: epochs after which it waits to be let go on."""
WENT_ON = "okddip:went_on"
"""User attribute of a trial that was let go on: what was expected of it then."""


def runs_with(study: optuna.Study, attributes: Mapping[str, Any]) -> list[FrozenTrial]:
    """Return the runs that have these user attributes; the last one counts."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if attributes.items() <= t.user_attrs.items()]


def died(trial: FrozenTrial) -> bool:
    """Say whether a run failed because its worker died or had no room, and not in its training."""
    reason = trial.user_attrs.get(REASON, "")
    return trial.state is TrialState.FAIL and reason.startswith((DIED, OUT_OF_MEMORY))


def trials_in(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the study's trials in these states, by number."""
    return study.get_trials(deepcopy=False, states=states)


def ranked(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, the best first; of equals, the lowest number first."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def best_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the best complete trial, or None."""
    return next(iter(ranked(trials)), None)


def paper_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial of the first enqueued configuration, the paper's own setting."""
    return next((trial for trial in trials if trial.user_attrs.get(PAPER_KEY)), None)


CLOSED: Mapping[TrialState, EndState] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
"""States of a trial that has ended, with their names."""
STATES: Mapping[TrialState, str] = {
    **CLOSED,
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
"""Names of all states, in messages and files."""


def state_of(trial: FrozenTrial) -> str:
    """Return complete, pruned, failed, paused or running: the word for people.

    A paused trial is RUNNING in the study.
    """
    if trial.state is not TrialState.RUNNING:
        return STATES[trial.state]
    rung = trial.user_attrs.get(PAUSES_AFTER)
    waits = rung == len(trial.intermediate_values) and WENT_ON not in trial.user_attrs
    return "paused" if waits else "running"


def ends_in(study: optuna.Study) -> list[TrialEnd]:
    """Return how every closed trial of the study ended."""
    return [end_of(trial) for trial in trials_in(study, *CLOSED)]


def best_end(study: optuna.Study) -> TrialEnd | None:
    """Return how the best complete trial of the study ended, or None."""
    best = best_trial(study.get_trials(deepcopy=False))
    return None if best is None else end_of(best)


def end_of(trial: FrozenTrial) -> TrialEnd:
    """Return how a closed trial of the study ended."""
    return TrialEnd(
        number=trial.number,
        state=CLOSED[trial.state],
        value=trial.value,
        last_step=trial.last_step,
        reason=trial.user_attrs.get(REASON, ""),
    )
