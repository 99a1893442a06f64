"""What MLflow is to show, derived from a search's directory: nothing else is remembered.

The study has every trial and every epoch's value, the trials' folders have the full curves, the
confirmation its findings, and ``sessions.jsonl`` who worked on it. Only the epochs that are younger
than a running trial's checkpoint come from elsewhere: from the driver's memory.
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
from okddip_search.study.reading import (
    SEARCH,
    read_findings,
    read_run,
    read_study,
    stage_of,
    study_folders,
)
from okddip_search.study.sessions import Session, new_search_id, read_sessions
from okddip_search.study.trials import IDENTITY, WENT_ON, best_trial, end_of, state_of
from okddip_search.tracking.desired import (
    PARENT,
    Desired,
    Epoch,
    Point,
    Run,
    Upload,
    epoch_of,
    finite,
    param_texts,
    run_key,
    run_name,
)
from okddip_search.tracking.model import digest_of
from okddip_search.tracking.view import ACCURACY, BEST_ACCURACY, CONFIRM, confirm_view, search_view
from trainer.io.yaml import YamlError, parse_yaml

_TEST = "test/leader_accuracy"
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_STATES = {"FINISHED": "complete", "KILLED": "interrupted", "FAILED": "failed"}

T = TypeVar("T")

Memory = dict[str, dict[int, Epoch]]
"""Key of a trial to the epochs that a driver has heard of."""


class _Study(NamedTuple):
    """One of the studies of a search; ``found``: of a confirmation, once it is complete."""

    stage: str
    home: Path
    trials: Sequence[FrozenTrial]
    found: Mapping[str, Any] | None


class _Times(NamedTuple):
    """Whether the last session goes on, and otherwise when it stopped."""

    is_open: bool
    stopped_ms: int


class Reader:
    """Derives what MLflow is to show; a file that has not changed is not read again."""

    def __init__(
        self, directory: Path, spec: SearchSpec | None, memory: Memory | None = None
    ) -> None:
        """Take the directory of a search.

        Args:
            directory: Of the search.
            spec: Its space; None: it cannot be read.
            memory: Of the driver that is at work there; None: there is none.
        """
        self._directory = directory
        self._spec = spec
        self._memory = memory
        self._cache: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._accuracies: dict[int, float] = {}

    def read(self) -> Desired:
        """Return what MLflow is to show now.

        Raises:
            UserError: A study is damaged.
            OSError: The directory cannot be read.
        """
        home = self._directory
        names = (layout.SESSIONS, layout.TRACKING, layout.JOURNAL)
        sessions = self._cached(sessions_of, home, *(home / name for name in names))
        studies = [self._study(folder) for folder in study_folders(home)]
        last = sessions[-1]
        is_open = self._memory is not None and last.ended_ms is None
        times = _Times(is_open, last.ended_ms or _last_ms(studies, last.begun_ms))
        children = [
            self._trial(study, trial, sessions, times)
            for study in studies
            for trial in study.trials
        ]
        parent = self._parent(sessions, studies, times)
        views = _views(studies, last.search_id, f"okddip {last.name}", parent.started_ms)
        uploads = dict(self._uploads(last.name, studies, parent))
        return Desired(last.search_id, last.name, parent, children, views, uploads)

    def _cached(self, function: Callable[[Path], T], path: Path, *files: Path) -> T:
        """Call a function of a path again only when it, or one of its files, has changed."""
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
        found, _ = self._cached(read_findings, home / layout.CONFIRMATION)
        is_complete = found is not None and found["state"] == "complete"
        return _Study(stage_of(self._directory, home), home, begun, found if is_complete else None)

    # Trials

    def _trial(
        self, study: _Study, trial: FrozenTrial, sessions: Sequence[Session], times: _Times
    ) -> Run:
        params = self._params(study, trial)
        ended_ms = _ms(trial.datetime_complete, times.stopped_ms)
        # The session that it ended in, or is running in.
        until_ms = ended_ms if trial.state.is_finished() else math.inf
        session = next((s for s in reversed(sessions) if s.begun_ms <= until_ms), sessions[0])
        tags = dict(session.tags)
        if trial.state.is_finished():
            end = end_of(trial)
            status, state = _STATUS[end.state], str(end.state)
            tags |= {"okddip.reason": end.reason} if end.reason else {}
            tags |= _objective(end.value)
        elif state_of(trial) == "paused":
            status, state = "SCHEDULED", "paused"
        else:
            status, state = ("RUNNING", "running") if times.is_open else ("KILLED", "interrupted")
        if went_on := trial.user_attrs.get(WENT_ON):
            tags["okddip.went_on"] = expectation(**went_on)
        charts = [ACCURACY] if _test(study, trial) is None else [ACCURACY, _TEST]
        return Run(
            key=run_key(study.stage, trial.number),
            stage=study.stage,
            name=run_name(study.stage, trial.number, params),
            started_ms=_ms(trial.datetime_start, times.stopped_ms),
            ended_ms=ended_ms,
            status=status,
            params=param_texts(params),
            tags={**tags, "okddip.state": state},
            reach=dict.fromkeys(charts, _last_step(trial)),
            points=partial(self._points, study, trial),
        )

    def _params(self, study: _Study, trial: FrozenTrial) -> Mapping[str, Any]:
        """Return what tells a trial from the others; of a confirmation: who, seed and method."""
        if not study.stage.startswith(CONFIRM):
            return trial.params
        known = {k: v for k, v in trial.user_attrs.items() if k in ("contender", "seed")}
        methods = self._cached(_methods, study.home / layout.PLAN)
        label = known.get("contender")
        return {**known, "method": methods[label]} if label in methods else known

    def _points(self, study: _Study, trial: FrozenTrial) -> list[Point]:
        points = []
        best, ended_ms = 0.0, _ms(trial.datetime_start, 0)
        for step, epoch in sorted(self._epochs(study, trial).items()):
            ended_ms += round(1000 * epoch.metrics.get("time/epoch_s", 0.0))
            ended_ms = epoch.ended_ms or ended_ms
            metrics = dict(epoch.metrics)
            if ACCURACY in metrics:
                metrics[BEST_ACCURACY] = best = max(best, metrics[ACCURACY])
            points += [Point(name, value, ended_ms, step) for name, value in metrics.items()]
        test = _test(study, trial)
        if study.found is not None and test is not None:
            points.append(Point(_TEST, test, _decided_ms(study.found), _last_step(trial)))
        return points

    def _epochs(self, study: _Study, trial: FrozenTrial) -> dict[int, Epoch]:
        """Return what is known of the epochs that the study has.

        What the study alone knows is an accuracy; of a trial that is still running, the next worker
        reports the rest.
        """
        history = (read_run(study.home, trial.number) or {}).get("history", [])
        known = dict((self._memory or {}).get(run_key(study.stage, trial.number), {}))
        known.update((report["epoch"], epoch_of(report)) for report in history)
        values, spec = trial.intermediate_values, self._spec
        if trial.state.is_finished() and spec and spec.objective.reduce == "last":
            for step, value in values.items():
                known.setdefault(step, epoch_of({spec.objective.metric: value}))
        return {step: known[step] for step in values if step in known}

    # The search itself

    def _parent(self, sessions: Sequence[Session], studies: Sequence[_Study], times: _Times) -> Run:
        first, last = sessions[0], sessions[-1]
        search = _search(studies)
        begun = [_ms(trial.datetime_start, times.stopped_ms) for trial in search]
        ended = [trial for trial in search if trial.state.is_finished()]
        ended.sort(key=lambda trial: (_ms(trial.datetime_complete, 0), trial.number))
        best = best_trial(ended)
        changed = {k: v for k, v in last.params.items() if first.params.get(k, v) != v}
        tags = {**last.tags, **{f"okddip.resumed.{name}": v for name, v in changed.items()}}
        if best is not None:
            tags |= {"okddip.best_trial": str(best.number), **_objective(best.value)}
        for found in (study.found for study in studies if study.found):
            tags |= {"okddip.verdict": _verdict(found), "okddip.confirmed": str(found["winner"])}
        is_over = studies[-1].found if self._has_confirm else self._is_spent(search)
        ending = last.status or ("FINISHED" if is_over else "KILLED")
        state = "running" if times.is_open else _STATES.get(ending, "interrupted")
        return Run(
            key=PARENT,
            stage=SEARCH,
            name=last.name,
            started_ms=first.begun_ms or min(begun, default=times.stopped_ms),
            ended_ms=times.stopped_ms,
            status="RUNNING" if times.is_open else ending,
            params={**last.params, **first.params},
            tags={**tags, "okddip.state": state},
            reach={BEST_ACCURACY: len(ended)} if best else {},
            points=partial(self._best_so_far, ended),
        )

    def _best_so_far(self, ended: Sequence[FrozenTrial]) -> list[Point]:
        """Chart the best trial's best epoch over the number of trials ended."""
        points = []
        best: FrozenTrial | None = None
        for count, trial in enumerate(ended, 1):
            best = best_trial([trial, *([best] if best else [])])
            if best is not None:
                if best.number not in self._accuracies:
                    charted = self._points(_Study(SEARCH, self._directory, ended, None), best)
                    accuracies = [point.value for point in charted if point.key == ACCURACY]
                    self._accuracies[best.number] = max(accuracies, default=best.value or 0.0)
                time_ms, value = _ms(trial.datetime_complete, 0), self._accuracies[best.number]
                points.append(Point(BEST_ACCURACY, value, time_ms, count))
        return points

    @property
    def _has_confirm(self) -> bool:
        return (self._directory / layout.CONFIRM / layout.JOURNAL).exists()

    def _is_spent(self, search: Iterable[FrozenTrial]) -> bool:
        """Say whether all trials that the space asks for have ended."""
        spec, states = self._spec, [trial.state for trial in search]
        if spec is None or TrialState.RUNNING in states:
            return False
        if spec.study.budget is not None:
            return self._has_confirm
        ended = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
        return ended >= spec.study.trials

    def _uploads(
        self, name: str, studies: Sequence[_Study], parent: Run
    ) -> Iterator[tuple[str, Upload]]:
        """Yield files and leaders by name, as far as they will not change any more."""
        home, is_spent = self._directory, self._is_spent(_search(studies))
        confirm, found = home / layout.CONFIRM, studies[-1].found if self._has_confirm else None
        files = {layout.SPEC: home / layout.SPEC}
        if is_spent or parent.status != "RUNNING":
            files |= {name: home / name for name in (layout.BEST, layout.PAGE)}
        if found is not None:
            files |= {name: confirm / name for name in (layout.CONFIRMATION, layout.BEST)}
        for title, path in files.items():
            if path.exists():
                yield title, Upload(path, self._cached(_digest, path))
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
            mark = _short(json.dumps([digest, name, alias, words]).encode())
            upload = Upload(path, mark, digest, alias, words, _decided_ms(found))
            yield f"{layout.CONFIRM}/{layout.LEADER}", upload

    def _leader(self, folder: Path) -> str | None:
        return self._cached(digest_of, folder, *sorted(folder.glob("*")))


def sessions_of(directory: Path, name: str = "") -> list[Session]:
    """Return who worked on a search, at least one: of a lost file, the study remembers the last."""
    sessions = read_sessions(directory)
    if any(session.search_id for session in sessions):
        return sessions
    try:
        return [Session(**read_study(directory / layout.JOURNAL)[1][IDENTITY])]
    except (OSError, UserError, KeyError, TypeError):  # it is new, or a version's that is not known
        return sessions or [Session(new_search_id(), name or directory.name)]


def _methods(plan: Path) -> dict[Any, str]:
    """Return who is confirmed, with which method."""
    try:
        contenders = parse_yaml(plan.read_text()).values["contenders"]
        return {str(c["label"]): str(c["config"]["method"]) for c in contenders}
    except (OSError, YamlError, LookupError, TypeError, ValueError):
        return {}


def _search(studies: Sequence[_Study]) -> Sequence[FrozenTrial]:
    return next((study.trials for study in studies if study.stage == SEARCH), ())


def _test(study: _Study, trial: FrozenTrial) -> float | None:
    """Return the test accuracy of a confirmation's run, where the test set was opened for it."""
    contenders = study.found["contenders"] if study.found else []
    runs = (run for contender in contenders for run in contender["runs"])
    return next((run["test"] for run in runs if run["number"] == trial.number), None)


def _verdict(found: Mapping[str, Any]) -> str:
    return str(found["verdict"]["sentence"]) if found["verdict"] else "no verdict"


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


def _last_ms(studies: Iterable[_Study], otherwise: int) -> int:
    """Return the time of the last sign of life."""
    trials = [trial for study in studies for trial in study.trials]
    times = [_ms(time, 0) for t in trials for time in (t.datetime_start, t.datetime_complete)]
    return max([otherwise, *times])


def _objective(value: float | None) -> dict[str, str]:
    known = finite({"value": value})
    return {"okddip.objective": f"{known['value']:.6g}"} if known else {}  # a column is narrow


def _views(
    studies: Sequence[_Study], search_id: str, title: str, created_ms: int
) -> dict[str, str]:
    """Return the saved views: of the trials, and of the last confirmation."""
    views = {}
    for study in studies:
        known = [trial.params for trial in study.trials if trial.params]
        if study.stage == SEARCH and known:
            columns = list(dict.fromkeys(name for params in known for name in params))
            common = [name for name in columns if all(name in params for params in known)]
            views[SEARCH] = search_view(search_id, title, columns, created_ms, common)
        elif study.stage.startswith(CONFIRM) and study.trials:
            name = f"{title}: confirm"
            views[CONFIRM] = confirm_view(search_id, name, created_ms, study.stage)
    return views
