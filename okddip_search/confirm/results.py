"""The results of a confirmation, as one plain document: ``confirm/confirm.json``.

It is rebuilt each time from the plan, the study, the runs' own files and the log of test openings;
console, report and MLflow all use this document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from okddip_search.cluster.resources import Allocation
from okddip_search.confirm.looks import BETTER, WORSE
from okddip_search.confirm.plan import PAPER, Configuration, Plan
from okddip_search.confirm.statistics import (
    TEST,
    Comparison,
    NoiseFloor,
    Scores,
    compare,
    noise_floor,
    pick_winner,
    summary,
    verdict,
)
from okddip_search.driver.work import CONTENDER, SEED
from okddip_search.layout import CONFIRM, LEADER, TRIALS, run_dir
from okddip_search.space.settings import ObjectiveSettings
from okddip_search.study.reading import study_seconds, training_seconds
from okddip_search.study.trials import REASON, SHARE, STATES, best_trial

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """One configuration with one seed.

    Attributes:
        seed: Seed of the run.
        number: Number of its trial in the confirmation's study.
        state: ``complete``, ``failed``, ``running`` or ``waiting``.
        validation: The objective, a share; None unless complete.
        test: Its leader's test accuracy, a share; None if the test set was not opened for it.
        seconds: Training time so far; None if unknown.
        reason: Why it failed.
    """

    seed: int
    number: int
    state: str
    validation: float | None
    test: float | None
    seconds: float | None
    reason: str


def leader_name(number: int) -> str:
    """Return the folder of a run's leader, relative to the search directory."""
    return f"{CONFIRM}/{TRIALS}/{number}/{LEADER}"


def collect_runs(
    plan: Plan, study: optuna.Study, directory: Path, tests: Mapping[str, float]
) -> dict[str, list[Run]]:
    """Return every configuration's runs in the order of the seeds.

    Args:
        plan: Plan of the confirmation.
        study: Study of the confirmation.
        directory: Directory of the confirmation.
        tests: Test accuracies by ``leader_name``.
    """
    trials = {(t.user_attrs[CONTENDER], t.user_attrs[SEED]): t for t in study.get_trials(False)}
    return {
        configuration.label: [
            _run(trials[configuration.label, seed], directory, tests)
            for seed in plan.seeds
            if (configuration.label, seed) in trials
        ]
        for configuration in plan.configurations
    }


def _run(trial: FrozenTrial, directory: Path, tests: Mapping[str, float]) -> Run:
    return Run(
        seed=trial.user_attrs[SEED],
        number=trial.number,
        state=STATES[trial.state],
        validation=trial.value if trial.state is TrialState.COMPLETE else None,
        test=tests.get(leader_name(trial.number)),
        seconds=training_seconds(run_dir(directory, trial.number)),
        reason=trial.user_attrs.get(REASON, ""),
    )


def scores(runs: Sequence[Run], of: str) -> dict[int, float]:
    """Return the known accuracies by seed; ``of`` is ``validation`` or ``test``."""
    values = {run.seed: getattr(run, of) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def choose_winner(plan: Plan, runs: Mapping[str, Sequence[Run]]) -> str | None:
    """Return the label of the candidate with the best mean validation accuracy.

    The seeds of the first look decide once and for all. A candidate that failed with a seed where
    another did not cannot win: its mean would leave out its worst seed.
    """
    validation = {
        c.label: scores(first_runs(runs[c.label], plan), "validation")
        for c in plan.configurations
        if c.may_win
    }
    most = max(map(len, validation.values()), default=0)
    if most == 0:
        return None
    return pick_winner({label: s for label, s in validation.items() if len(s) == most})


def first_runs(runs: Sequence[Run], plan: Plan) -> list[Run]:
    """Return the runs with the seeds of the first look."""
    return [run for run in runs if run.seed in plan.seeds[: plan.looks[0]]]


def baselines_of(winner: str, plan: Plan) -> list[str]:
    """Return the labels to compare with: baseline methods, and the paper's setting if it lost."""
    return [c.label for c in plan.configurations if c.label != winner and c.is_baseline]


def best_run(runs: Sequence[Run]) -> Run | None:
    """Return the run whose leader is exported: the best on the validation images."""
    complete = [run for run in runs if run.validation is not None]
    return max(complete, key=lambda run: run.validation or 0.0, default=None)


def compose(
    plan: Plan,
    runs: Mapping[str, Sequence[Run]],
    *,
    objective: ObjectiveSettings,
    allocation: Allocation,
    search: optuna.Study,
    search_dir: Path,
    costs: Mapping[str, Mapping[str, Any]],
    openings: Sequence[Mapping[str, Any]],
    look: int,
    pending: str = "",
) -> dict[str, Any]:
    """Return the results so far; the caller adds command, times and the retrained leader.

    Args:
        plan: Plan of the confirmation.
        runs: Result of ``collect_runs``.
        objective: The objective behind ``validation``.
        allocation: Resources of a run.
        search: The search's study.
        search_dir: Directory of the search.
        costs: Parameters, MACs and latency of the leaders measured so far, by label.
        openings: Time, command and look of each opening of the test set.
        look: Number of the look being trained for or just taken, from 1.
        pending: About baselines that are still undecided, if further looks were planned.
    """
    first = [run for some in runs.values() for run in first_runs(some, plan)]
    ended = all(run.state in ("complete", "failed") for run in first)
    winner = choose_winner(plan, runs) if ended else None
    return {
        "format": FORMAT,
        "test": TEST,
        "objective": {**objective.model_dump(), "words": objective.words},
        "seeds": list(plan.seeds[: plan.looks[look - 1]]),
        "looks": {
            "at": look,
            "seeds": list(plan.looks),
            "error_spent": list(plan.design([]).spent(BETTER + WORSE)),
        },
        "settings": plan.settings.model_dump(mode="json"),
        "contenders": [
            _configuration(c, runs[c.label], allocation, costs.get(c.label, {}))
            for c in plan.configurations
        ],
        "winner": winner,
        "search_best": _search_best(search, plan, runs),
        "search_cost": _search_cost(search, search_dir),
        "search_trials": plan.search_trials,
        "openings": list(openings),
        **_judgement(plan, runs, winner, look, pending),
    }


def _configuration(
    configuration: Configuration,
    runs: Sequence[Run],
    allocation: Allocation,
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    times = [run.seconds for run in runs if run.seconds is not None]
    whole = [r.seconds for r in runs if r.seconds is not None and r.state == "complete"]
    return {
        "label": configuration.label,
        "kind": configuration.kind,
        "may_win": configuration.may_win,
        "method": configuration.method,
        "note": configuration.note,
        "search_trial": configuration.search_trial,
        "search_value": configuration.search_value,
        "config": dict(configuration.config),
        "runs": [asdict(run) for run in runs],
        "validation": _summary(scores(runs, "validation")),
        "test": _summary(scores(runs, "test")),
        "cost": {
            "training_s": sum(times),
            "training_s_per_run": sum(whole) / len(whole) if whole else None,
            "tuning_s": cost.get("tuning_s", 0.0),
            "gpus": allocation.gpus_per_trial,
            "cpus": allocation.cpus_per_trial,
            "leader_parameters": cost.get("parameters"),
            "leader_macs": cost.get("macs"),
            "leader_latency_ms": cost.get("latency_ms"),
        },
    }


def _summary(known: Scores) -> dict[str, Any] | None:
    return asdict(summary(known)) if known else None


def _search_best(
    search: optuna.Study, plan: Plan, runs: Mapping[str, Sequence[Run]]
) -> dict[str, Any]:
    """Compare the search's best value with the mean of the same setting over new seeds."""
    best = max(
        (c for c in plan.configurations if c.search_value is not None),
        key=lambda c: c.search_value or 0.0,
    )
    confirmed = _summary(scores(runs[best.label], "validation"))
    newest = best_trial(search.get_trials(deepcopy=False))
    return {
        "trial": best.search_trial,
        "label": best.label,
        "value": best.search_value,
        "confirmed_mean": confirmed["mean"] if confirmed else None,
        "is_still_best": newest is not None and newest.number == best.search_trial,
    }


def _search_cost(search: optuna.Study, search_dir: Path) -> dict[str, Any]:
    share = search.user_attrs.get(SHARE, {})
    return {
        "training_s": study_seconds(search, search_dir),
        "trials": len(search.get_trials(deepcopy=False)),
        "gpus": share.get("gpus"),
        "cpus": share.get("cpus"),
    }


def compared(plan: Plan, runs: Mapping[str, Sequence[Run]], look: int) -> list[Comparison]:
    """Compare the winner with its baselines on the test set, after so many looks."""
    winner = choose_winner(plan, runs)
    assert winner is not None
    tests = {label: scores(some, "test") for label, some in runs.items()}
    baselines = baselines_of(winner, plan)
    return compare(winner, tests, baselines, plan.design(baselines), plan.seeds, look)


def kept_judgement(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return words and numbers of an earlier version's test, which hold for the same runs."""
    is_of_another_test = before.get("state") == "complete" and before.get("test") != TEST
    is_the_same = len(before.get("openings", ())) == len(found["openings"])
    if not (is_of_another_test and is_the_same and before["seeds"] == found["seeds"]):
        return {}
    kept = ("winner", "leader", "noise_floor", "comparisons", "verdict")
    return {"test": before.get("test"), **{key: before[key] for key in kept}}


def _judgement(
    plan: Plan,
    runs: Mapping[str, Sequence[Run]],
    winner: str | None,
    look: int,
    pending: str,
) -> dict[str, Any]:
    """Compare on the test set if it was opened; there is no verdict before that."""
    nothing: dict[str, Any] = {
        "noise_floor": None,
        "comparisons": [],
        "verdict": None,
        "leader": None,
    }
    if winner is None:
        return nothing
    chosen = best_run(runs[winner])
    leader = {key: getattr(chosen, key) for key in ("seed", "number", "validation", "test")}
    tests = {label: scores(some, "test") for label, some in runs.items()}
    if not tests[winner]:
        return {**nothing, "leader": leader}
    comparisons = [
        replace(comparison, pending=pending) if comparison.left == "not settled" else comparison
        for comparison in compared(plan, runs, look)
    ]
    floor = noise_floor(winner, tests[winner], "test")
    return {
        "noise_floor": _stored(floor) if floor else None,
        "comparisons": [{**_stored(c), "of": "test", "words": c.describe()} for c in comparisons],
        "verdict": asdict(verdict(name_in_words(winner), comparisons, plan.settings.primary)),
        "leader": leader,
    }


_STORED = {"baseline": "rival", "baseline_mean": "rival_mean", "configuration": "contender"}
"""Keys that keep their names of version 0.1.0 in ``confirm.json``, for programs that read it."""


def _stored(record: Comparison | NoiseFloor) -> dict[str, Any]:
    return {_STORED.get(key, key): value for key, value in asdict(record).items()}


def name_in_words(label: str) -> str:
    """Return the name of a configuration in a sentence."""
    return f"the {label}" if label == PAPER else label
