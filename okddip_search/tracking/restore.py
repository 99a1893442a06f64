"""The tracking journal made whole: what it lacks is told again from the study and its directory.

A power cut takes the journal's end or leaves zeros in it, a full disk keeps a driver from writing
it, a person deletes it. The study, which is on disk before a search goes on, knows every trial and
every epoch's value, and remembers who the search is in MLflow.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from okddip_search.confirm.plan import Plan
from okddip_search.driver.work import CONTENDER, SEED
from okddip_search.errors import UserError
from okddip_search.layout import BEST, CONFIRM, CONFIRMATION, JOURNAL, LEADER, PAGE, SPEC
from okddip_search.space.load import load_saved
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ObjectiveSettings
from okddip_search.study.reading import read_findings, read_run, read_study
from okddip_search.study.trials import end_of
from okddip_search.tracking.record import Record
from okddip_search.tracking.search_stage import SearchStage
from okddip_search.tracking.stage import Past

IDENTITY = "okddip:tracking"
"""Study attribute: what the last driver told MLflow about the search as a whole."""
TUNING = "tuning"

Params = Callable[[FrozenTrial], Mapping[str, Any]]


def remembered(directory: Path) -> Mapping[str, Any]:
    """Return what a search's study remembers (``SearchStage.identity``); nothing without one."""
    try:
        known = read_study(directory / JOURNAL)[1].get(IDENTITY)
    except (OSError, UserError):
        return {}
    return known if isinstance(known, dict) else {}


def past_trials(
    trials: Iterable[FrozenTrial], params: Params, home: Path, objective: ObjectiveSettings
) -> list[Past]:
    """Describe the trials of a study that were begun, in the order in which they ended.

    Args:
        trials: Of the study.
        params: Returns a trial's parameters.
        home: The study's directory, with the trials' own in it.
        objective: What the study's values are.
    """
    seen_ms = int((home / JOURNAL).stat().st_mtime * 1000)
    begun = [trial for trial in trials if trial.state is not TrialState.WAITING]
    past = [
        Past(
            number=trial.number,
            params=params(trial),
            end=end_of(trial) if trial.state.is_finished() else None,
            steps=tuple(trial.intermediate_values),
            reports=partial(_reports, trial, home, objective),
            started_ms=_ms(trial.datetime_start, seen_ms),
            ended_ms=_ms(trial.datetime_complete, seen_ms),
        )
        for trial in begun
    ]
    return sorted(past, key=lambda trial: (trial.end is None, trial.ended_ms, trial.number))


def _reports(
    trial: FrozenTrial, home: Path, objective: ObjectiveSettings
) -> dict[int, Mapping[str, Any]]:
    """Return what is known of a trial's epochs that the study has.

    Of one that still runs, what its next worker will report anyway is left to it.
    """
    history = (read_run(home, trial.number) or {}).get("history", [])
    known: dict[int, Mapping[str, Any]] = {report["epoch"]: report for report in history}
    values = trial.intermediate_values
    if trial.state.is_finished() and objective.reduce == "last":
        for step, value in values.items():
            known.setdefault(step, {objective.metric: value})
    return {step: known[step] for step in values if step in known}


def _ms(time: datetime | None, otherwise: int) -> int:
    return otherwise if time is None else int(time.timestamp() * 1000)


def restore(record: Record) -> None:
    """Tell a journal what its search directory knows and it does not; no driver is at work there.

    Raises:
        UserError: The study or the space is damaged.
    """
    directory, story = record.directory, record.story
    if not (directory / JOURNAL).exists():
        return
    spec = load_saved(directory)
    trials, attributes = read_study(directory / JOURNAL)
    known = attributes.get(IDENTITY, {})
    search = SearchStage(record, known.get("store", story.store))
    past = past_trials(trials, lambda trial: trial.params, directory, spec.objective)
    search.tell_again(min((trial.started_ms for trial in past), default=0))
    if story.is_going_on is None:
        search.search_started(known.get("params", {}), known.get("tags", {}), [])
    search.catch_up(past)
    for stage, home, params in _other_studies(directory):
        others, _ = read_study(home / JOURNAL)
        search.stage(stage).catch_up(past_trials(others, params, home, spec.objective))
    search.tell_again(max((trial.ended_ms for trial in past), default=0))
    _restore_end(search, record, _is_complete(spec, trials))


def _is_complete(spec: SearchSpec, trials: Iterable[FrozenTrial]) -> bool:
    states = [trial.state for trial in trials]
    ended = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
    return ended >= spec.study.trials and TrialState.RUNNING not in states


def _other_studies(directory: Path) -> Iterator[tuple[str, Path, Params]]:
    """Yield stage, directory and parameters of the studies after the search.

    A confirmation that was set aside is ``confirm.1``, ``confirm.2``, …; its stage is not renamed.
    """
    aside = sorted(directory.glob(f"{CONFIRM}.*"), key=lambda home: int(home.suffix[1:]))
    for index, home in enumerate([*aside, directory / CONFIRM]):
        for folder in sorted((home / TUNING).glob("*")):
            if (folder / JOURNAL).exists():
                yield f"{TUNING}-{folder.name}", folder, lambda trial: trial.params
        if (home / JOURNAL).exists():
            plan = Plan.load(home)
            methods = {c.label: c.method for c in plan.configurations} if plan else {}
            stage = f"{CONFIRM}.{index}" if index else CONFIRM
            yield stage, home, partial(_contender_params, methods)


def _contender_params(methods: Mapping[str, str], trial: FrozenTrial) -> dict[str, Any]:
    """Return what ``FixedAgenda.params`` does, from the study and the plan alone."""
    known = {key: trial.user_attrs[key] for key in (CONTENDER, SEED) if key in trial.user_attrs}
    method = methods.get(known.get(CONTENDER, ""))
    return {**known, **({"method": method} if method else {})}


def _restore_end(search: SearchStage, record: Record, is_complete: bool) -> None:
    """Tell files, leader, verdict and end, as far as they were not told."""
    directory, story = record.directory, record.story
    files: list[str | Path] = [SPEC, BEST, PAGE, Path(CONFIRM, CONFIRMATION), Path(CONFIRM, BEST)]
    missing = [name for name in files if str(name) not in story.files]
    found, _ = read_findings(directory / CONFIRM / CONFIRMATION)
    is_confirmed = found is not None and found["state"] == "complete"
    is_over = is_confirmed or (is_complete and not (directory / CONFIRM).exists())
    if is_over and LEADER not in story.files and (directory / LEADER).is_dir():
        search.log_leader(directory / LEADER)
    artifacts = [directory / name for name in missing if (directory / name).exists()]
    if found is not None and is_confirmed and not story.confirmed:
        earlier = len(list(directory.glob(f"{CONFIRM}.*")))
        stage = search.stage(f"{CONFIRM}.{earlier}" if earlier else CONFIRM)
        search.confirmation_ended(found, stage, artifacts)
    elif story.is_going_on:
        search.search_ended("FINISHED" if is_over else "KILLED", {}, artifacts)
