"""A search as MLflow is to show it, derived from the search directory.

The study has every trial and every epoch's value, the trials' folders have the full curves, the
confirmation has its results, and ``sessions.jsonl`` has who worked on the search. Only the epochs
that are younger than a running trial's checkpoint come from the driver's memory.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from optuna.trial import FrozenTrial, TrialState

from okddip_search import layout
from okddip_search.errors import UserError
from okddip_search.formatting import expectation
from okddip_search.space.model import SearchSpec
from okddip_search.study import reading
from okddip_search.study.reading import SEARCH, read_study
from okddip_search.study.sessions import Session, new_search_id, read_sessions
from okddip_search.study.trials import IDENTITY, WENT_ON, best_trial, end_of, state_of
from okddip_search.tracking import view
from okddip_search.tracking.desired import (
    PARENT,
    Desired,
    Point,
    Run,
    Upload,
    epoch_metrics,
    param_texts,
    run_key,
    run_name,
)
from trainer.io.yaml import YamlError, parse_yaml
from trainer.leader.files import WEIGHTS, weights_sha256

_STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "paused": "SCHEDULED",
    "running": "RUNNING",
    "interrupted": "KILLED",
}
_STATES = {"FINISHED": "complete", "KILLED": "interrupted", "FAILED": "failed"}

T = TypeVar("T")

Memory = dict[str, dict[int, Mapping[str, Any]]]
"""Reports of the epochs that a driver has heard of, by the trial's key and the step."""


class _Study(NamedTuple):
    """One of the studies of a search.

    Attributes:
        stage: ``search``, ``confirm``, ``tuning-METHOD``, …
        home: Its folder.
        trials: Those that have begun, by number.
        methods: Of a confirmation: the training method of each contender, by label.
        found: Results of a confirmation, once it is complete.
        tests: Test accuracy by number of the trial, where the test set was opened for it.
    """

    stage: str
    home: Path
    trials: Sequence[FrozenTrial]
    methods: Mapping[str, str] = {}
    found: Mapping[str, Any] | None = None
    tests: Mapping[int, float] = {}


class _History(NamedTuple):
    """Who worked on the search, whether somebody still does, and otherwise when it stopped."""

    sessions: Sequence[Session]
    is_open: bool
    stopped_ms: int


class Reader:
    """Derives what MLflow is to show of a search; a file is read again only when it has changed.

    Args:
        directory: Of the search.
        spec: Its space; None: it cannot be read.
        memory: Of the driver that is at work there; None: there is none.
    """

    def __init__(
        self, directory: Path, spec: SearchSpec | None, memory: Memory | None = None
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._memory = memory
        self._cache: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def read(self) -> Desired:
        """Return the search as MLflow is to show it now.

        Raises:
            UserError: A study is damaged.
            OSError: The directory cannot be read.
        """
        home = self._directory
        names = (layout.SESSIONS, layout.TRACKING, layout.JOURNAL)
        sessions = self._cached(sessions_of, home, *(home / name for name in names))
        studies = [self._study(folder) for folder in reading.study_folders(home)]
        last = sessions[-1]
        is_open = self._memory is not None and last.ended_ms is None
        trials = [(study, trial) for study in studies for trial in study.trials]
        # A driver that was killed has left no time; the last event of its trials has one.
        events = [t for _, trial in trials for t in (trial.datetime_start, trial.datetime_complete)]
        stopped_ms = last.ended_ms or max([last.begun_ms, *(_ms(event, 0) for event in events)])
        history = _History(sessions, is_open, stopped_ms)
        children = [self._trial(study, trial, history) for study, trial in trials]
        by_home = {study.home: study for study in studies}
        confirm = by_home.get(home / layout.CONFIRM)
        search = by_home.get(home, _Study(SEARCH, home, ()))
        is_spent = self._is_spent(search)
        is_over = confirm.found is not None if confirm else is_spent
        parent = self._parent(search, studies, history, is_over)
        views = _views(studies, last.search_id, f"okddip {last.name}", parent.started_ms)
        uploads = dict(self._uploads(last.name, parent, is_spent, confirm and confirm.found))
        return Desired(last.search_id, last.name, parent, children, views, uploads)

    def _cached(self, function: Callable[[Path], T], path: Path, *files: Path) -> T:
        """Call a function of a path again only when the path, or a given file, has changed."""
        found = [file.stat() for file in files or (path,) if file.exists()]
        signature = [(stat.st_mtime_ns, stat.st_size) for stat in found]
        key = (function, path)
        if key not in self._cache or self._cache[key][0] != signature:
            self._cache[key] = signature, function(path)
        known: T = self._cache[key][1]
        return known

    def _study(self, home: Path) -> _Study:
        trials, _ = self._cached(read_study, home / layout.JOURNAL)
        begun = [trial for trial in trials if trial.state is not TrialState.WAITING]
        methods = self._cached(_methods, home / layout.PLAN)
        found, _ = self._cached(reading.read_findings, home / layout.CONFIRMATION)
        if found is not None and found["state"] != "complete":
            found = None
        runs = [run for c in (found["contenders"] if found else ()) for run in c["runs"]]
        tests = {run["number"]: run["test"] for run in runs if run["test"] is not None}
        return _Study(reading.stage_of(self._directory, home), home, begun, methods, found, tests)

    def _trial(self, study: _Study, trial: FrozenTrial, history: _History) -> Run:
        params = _params(study, trial)
        ended_ms = _ms(trial.datetime_complete, history.stopped_ms)
        # The session that it ended in, or is running in.
        until_ms = ended_ms if trial.state.is_finished() else math.inf
        sessions = history.sessions
        session = next((s for s in reversed(sessions) if s.begun_ms <= until_ms), sessions[0])
        state = state_of(trial)
        if state == "running" and not history.is_open:
            state = "interrupted"
        tags = {**session.tags, "okddip.stage": study.stage, "okddip.state": state}
        if trial.state.is_finished():
            end = end_of(trial)
            tags |= {"okddip.reason": end.reason} if end.reason else {}
            tags |= _objective(end.value)
        if went_on := trial.user_attrs.get(WENT_ON):
            tags["okddip.went_on"] = expectation(**went_on)
        charts = [view.ACCURACY, *([view.TEST_ACCURACY] if trial.number in study.tests else [])]
        return Run(
            key=run_key(study.stage, trial.number),
            name=run_name(study.stage, trial.number, params),
            started_ms=_ms(trial.datetime_start, history.stopped_ms),
            ended_ms=ended_ms,
            status=_STATUS[state],
            params=param_texts(params),
            tags=tags,
            last_steps=dict.fromkeys(charts, _last_step(trial)),
            points=partial(self._points, study, trial),
        )

    def _points(self, study: _Study, trial: FrozenTrial) -> list[Point]:
        points = []
        best, ended_ms = 0.0, _ms(trial.datetime_start, 0)
        for step, report in sorted(self._reports(study, trial).items()):
            metrics = epoch_metrics(report)
            ended_ms += round(1000 * metrics.get("time/epoch_s", 0.0))
            if report.get("ended_s"):  # an earlier version has not recorded it
                ended_ms = round(1000 * report["ended_s"])
            if view.ACCURACY in metrics:
                metrics[view.BEST_ACCURACY] = best = max(best, metrics[view.ACCURACY])
            points += [Point(name, value, ended_ms, step) for name, value in metrics.items()]
        if study.found and trial.number in study.tests:
            test, decided_ms = study.tests[trial.number], _decided_ms(study.found)
            points.append(Point(view.TEST_ACCURACY, test, decided_ms, _last_step(trial)))
        return points

    def _reports(self, study: _Study, trial: FrozenTrial) -> dict[int, Mapping[str, Any]]:
        """Return the reports of the epochs that the study has.

        Of an epoch without a report, the study still has the value that the objective compares. It
        is used once the trial has ended; while it runs, the next worker reports the whole epoch.
        """
        known = dict((self._memory or {}).get(run_key(study.stage, trial.number), {}))
        history = (reading.read_run(study.home, trial.number) or {}).get("history", [])
        known.update((report["epoch"], report) for report in history)
        values, spec = trial.intermediate_values, self._spec
        if trial.state.is_finished() and spec and spec.objective.reduce == "last":
            for step, value in values.items():
                known.setdefault(step, {spec.objective.metric: value})
        return {step: known[step] for step in values if step in known}

    def _parent(
        self, search: _Study, studies: Iterable[_Study], history: _History, is_over: bool
    ) -> Run:
        """Return the run of the search itself."""
        first, last = history.sessions[0], history.sessions[-1]
        begun = [_ms(trial.datetime_start, history.stopped_ms) for trial in search.trials]
        ended = [trial for trial in search.trials if trial.state.is_finished()]
        ended.sort(key=lambda trial: (_ms(trial.datetime_complete, 0), trial.number))
        best = best_trial(ended)
        ending = last.status or ("FINISHED" if is_over else "KILLED")
        state = "running" if history.is_open else _STATES.get(ending, "interrupted")
        changed = {k: v for k, v in last.params.items() if first.params.get(k, v) != v}
        tags = {**last.tags, **{f"okddip.resumed.{name}": v for name, v in changed.items()}}
        tags |= {"okddip.stage": SEARCH, "okddip.state": state}
        if best is not None:
            tags |= {"okddip.best_trial": str(best.number), **_objective(best.value)}
        for found in (study.found for study in studies if study.found):
            tags |= {"okddip.verdict": _verdict(found), "okddip.confirmed": str(found["winner"])}
            tags |= _looks(found)
        return Run(
            key=PARENT,
            name=last.name,
            started_ms=first.begun_ms or min(begun, default=history.stopped_ms),
            ended_ms=history.stopped_ms,
            status="RUNNING" if history.is_open else ending,
            params={**last.params, **first.params},  # a logged parameter cannot change
            tags=tags,
            last_steps={view.BEST_ACCURACY: len(ended)} if best else {},
            points=partial(self._best_so_far, search, ended),
        )

    def _best_so_far(self, search: _Study, ended: Iterable[FrozenTrial]) -> list[Point]:
        """Chart the best trial's best epoch over the number of trials ended."""
        points: list[Point] = []
        best: FrozenTrial | None = None
        accuracy = 0.0
        for count, trial in enumerate(ended, 1):
            if best_trial([trial, best] if best else [trial]) is trial:
                best, charted = trial, self._points(search, trial)
                accuracies = [point.value for point in charted if point.key == view.ACCURACY]
                accuracy = max(accuracies, default=trial.value or 0.0)
            if best is not None:
                ended_ms = _ms(trial.datetime_complete, 0)
                points.append(Point(view.BEST_ACCURACY, accuracy, ended_ms, count))
        return points

    def _is_spent(self, search: _Study) -> bool:
        """Say whether all trials that the space asks for have ended."""
        spec, states = self._spec, [trial.state for trial in search.trials]
        if spec is None or TrialState.RUNNING in states:
            return False
        if spec.study.budget is not None:
            return (self._directory / layout.CONFIRM / layout.JOURNAL).exists()
        ended = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
        return ended >= spec.study.trials

    def _uploads(
        self, name: str, parent: Run, is_spent: bool, found: Mapping[str, Any] | None
    ) -> Iterator[tuple[str, Upload]]:
        """Yield files and leaders by name, as far as they will not change any more."""
        home, confirm = self._directory, self._directory / layout.CONFIRM
        files = [home / layout.SPEC]
        if is_spent or parent.status != "RUNNING":
            files += [home / layout.BEST, home / layout.PAGE]
        if found is not None:
            files += [confirm / layout.CONFIRMATION, confirm / layout.BEST]
        for path in files:
            if path.exists():
                yield path.name, Upload(path, self._cached(_digest, path))
        if is_spent or parent.status in ("FINISHED", "FAILED"):
            if digest := self._leader(home / layout.LEADER):
                yield layout.LEADER, Upload(home / layout.LEADER, digest, digest)
        if found is None:
            return
        retrained, verdict = found["retrained"], found["verdict"]
        path = home / retrained["path"] if retrained else confirm / layout.LEADER
        if digest := self._leader(path):
            words = _verdict(found) + (" Retrained on train + validation." if retrained else "")
            is_champion = verdict and verdict["allows_champion"]
            alias: Any = "champion" if is_champion else "candidate"
            # The same verdict again, at another time, must not undo what people did to the alias.
            mark = _short(json.dumps([digest, name, alias, words]).encode())
            upload = Upload(path, mark, digest, alias, words, _decided_ms(found))
            yield f"{layout.CONFIRM}/{layout.LEADER}", upload

    def _leader(self, folder: Path) -> str | None:
        """Return the digest of a saved leader's weights, or None if there are none."""
        weights = folder / WEIGHTS
        return self._cached(weights_sha256, folder, weights) if weights.exists() else None


def sessions_of(directory: Path, name: str = "") -> list[Session]:
    """Return who worked on a search, at least one: the study remembers the last of a lost file."""
    sessions = read_sessions(directory)
    if any(session.search_id for session in sessions):
        return sessions
    try:
        return [Session(**read_study(directory / layout.JOURNAL)[1][IDENTITY])]
    except (OSError, UserError, KeyError, TypeError):  # new, or written by an unknown version
        return sessions or [Session(new_search_id(), name or directory.name)]


def _params(study: _Study, trial: FrozenTrial) -> Mapping[str, Any]:
    """Return a trial's parameters; in a confirmation: contender, seed and method."""
    who = {k: v for k, v in trial.user_attrs.items() if k in ("contender", "seed")}
    method = study.methods.get(who.get("contender", ""))
    return {**trial.params, **who, **({"method": method} if method else {})}


def _methods(plan: Path) -> dict[str, str]:
    """Return the method of each contender, by label."""
    try:
        contenders = parse_yaml(plan.read_text()).values["contenders"]
        return {str(c["label"]): str(c["config"]["method"]) for c in contenders}
    except (OSError, YamlError, LookupError, TypeError, ValueError):
        return {}


def _verdict(found: Mapping[str, Any]) -> str:
    return str(found["verdict"]["sentence"]) if found["verdict"] else "no verdict"


def _looks(found: Mapping[str, Any]) -> dict[str, str]:
    """Return planned and taken looks, and who left when and why; version 0.1 had one look."""
    looks = found.get("looks")
    if not looks:
        return {}
    planned = ", ".join(map(str, looks["seeds"]))
    left = [f"{c['rival']} after {c['n']} seeds ({c['left']})" for c in found["comparisons"]]
    return {
        "okddip.looks": f"{looks['at']} of {len(looks['seeds'])} (after {planned} seeds)",
        "okddip.left": "; ".join(left),
    }


def _decided_ms(found: Mapping[str, Any]) -> int:
    return _ms(datetime.fromisoformat(found["ended"]), 0)


def _digest(path: Path) -> str:
    return _short(path.read_bytes())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _last_step(trial: FrozenTrial) -> int:
    return max(trial.intermediate_values, default=-1)


def _ms(time: datetime | None, otherwise: int) -> int:
    return otherwise if time is None else int(time.timestamp() * 1000)


def _objective(value: float | None) -> dict[str, str]:
    is_finite = value is not None and math.isfinite(value)
    return {"okddip.objective": f"{value:.6g}"} if is_finite else {}  # a column is narrow


def _views(
    studies: Iterable[_Study], search_id: str, title: str, created_ms: int
) -> dict[str, str]:
    """Return the saved views of the trials and of the last confirmation, as experiment tags."""
    views = {}
    for study in studies:
        kind = study.stage.partition(".")[0]
        params = [shown for trial in study.trials if (shown := _params(study, trial))]
        if kind in (SEARCH, layout.CONFIRM) and params:
            name = title if kind == SEARCH else f"{title}: {kind}"
            tag = view.view_tag(search_id, kind)
            views[tag] = view.saved_view(search_id, study.stage, name, created_ms, params)
    return views
