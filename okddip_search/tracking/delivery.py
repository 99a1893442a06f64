"""Operations of the tracking journal become runs in an MLflow store.

The only module that imports mlflow, and only once there is something to deliver. Each operation
may be applied any number of times: runs are found by tag, and a metric is identical down to its
timestamp, which MLflow's store keeps once. What is told again at another time, because the journal
has lost a line, adds only what the store lacks.
"""

import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from okddip_search.tracking import model as tracking_model
from okddip_search.tracking import registry as tracking_registry
from okddip_search.tracking.journal import AGAIN, BEST_ACCURACY, Operation, stage_of
from okddip_search.tracking.store import Target, artifact_uri, relocate
from okddip_search.tracking.view import CONFIRM, confirm_view, search_view, view_tag

PARENT = ""  # stands for the search's own run among the run keys of trials

_DESCRIPTION = (
    "A search by okddip-search: its trials are child runs (`okddip.stage` tells those of the "
    "search from those that confirm its result), the best leader is its logged model. "
    f"`{BEST_ACCURACY}` is the best epoch of a trial (here: of the best trial, over the number of "
    "trials ended); `okddip.objective` is the value that the study compares trials by: of the "
    "epochs that `okddip.reduction` names."
)

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_MAX_TAG_LENGTH = 5000
# The server's limits: 1,000 metrics, 100 params and 100 tags, but 1,000 entities together.
_METRICS_PER_CALL, _TEXTS_PER_CALL = 800, 100

# An operation that a healthy server refuses for one of these will be refused for ever.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
_BUGS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)
# What will be over sooner or later, wherever the files of an operation are stored.
_PASSING = ("No space left", "disk is full", "quota exceeded", "Connection aborted",
            "Connection broken", "Connection refused", "timed out")  # fmt: skip
WITH_FILES = ("artifacts", "leader", "confirmed")

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # a slow server creates a run that nobody waits for, too
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # else it prints to the terminal
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Delivery:
    """Writes one search into one MLflow store."""

    def __init__(self, search_dir: Path, target: Target, search_id: str, name: str) -> None:
        """Remember the addresses; nothing is imported or connected yet."""
        self._dir = search_dir
        self._target = target
        self._search_id = search_id
        self._name = name
        self._client: Any = None
        self._experiment_id = ""
        self._runs: dict[str, str] = {}
        self._connected = False
        self._metrics: dict[str, list[Any]] = defaultdict(list)
        self._points: dict[tuple[str, str], dict[int, float]] = {}
        self._has_failed = False

    def deliver(self, operations: Sequence[Operation]) -> None:
        """Apply operations in order; metrics of a run are sent together.

        Raises:
            Exception: Whatever MLflow or the network raised; apply the same operations again.
        """
        try:
            if not self._connected:
                self._connect()
            for operation in operations:
                self._apply(operation)
            for trial in list(self._metrics):
                self._write(trial)
        except BaseException:
            # A request may have arrived though its answer did not: look at the store again.
            self._connected = False
            self._has_failed = True
            self._metrics.clear()
            raise

    def is_hopeless(self, operation: Operation, error: Exception) -> bool:
        """Tell whether an operation is refused for what it is, by a store that works otherwise."""
        code = getattr(error, "error_code", "")
        if any(words in str(error) for words in _PASSING):
            return False
        # The storage of files and models may be out of reach for ever.
        if operation["op"] in WITH_FILES:
            refused = code != "TEMPORARILY_UNAVAILABLE"
        else:
            refused = code in _REFUSALS or isinstance(error, _BUGS)
        return refused and self._answers()

    def _answers(self) -> bool:
        try:
            self._connect()
        except Exception:
            return False
        return True

    def _connect(self) -> None:
        if self._client is None:
            self._client = self._open_client()
        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            location = artifact_uri(self._dir) if self._target.is_local else None
            self._experiment_id = self._client.create_experiment(self._name, location)
        else:
            self._experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
        self._runs = self._find_runs()
        self._points.clear()
        self._connected = True

    def _open_client(self) -> Any:
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        # Retrying is our own business, whatever the user has set: a request whose answer was lost
        # may have been carried out, and the second of two equal ones would create a second run.
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        for name in ("mlflow", "alembic", "urllib3"):  # to the driver's log file, if it has one
            logging.getLogger(name).addHandler(logging.NullHandler())
        if self._target.username:
            # Not in the address, which mlflow quotes in its errors and logs.
            os.environ["MLFLOW_TRACKING_USERNAME"] = self._target.username
            os.environ["MLFLOW_TRACKING_PASSWORD"] = self._target.password or ""
        if self._target.is_local:
            relocate(self._dir)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._target.uri, registry_uri=self._target.uri)

    def _find_runs(self) -> dict[str, str]:
        """Return the run of every trial; a second one is deleted.

        There is one where a request to create it was given up as lost, and a slow server carried
        it out later.
        """
        found: dict[str, list[Any]] = defaultdict(list)
        for run in self._all_runs():
            found[run.data.tags.get("okddip.trial", PARENT)].append(run)
        for runs in found.values():
            # The one in use has been written to; until then, any one will do.
            runs.sort(key=lambda run: ("okddip.state" not in run.data.tags, run.info.run_id))
            for double in runs[1:]:
                self._client.delete_run(double.info.run_id)
        return {trial: runs[0].info.run_id for trial, runs in found.items()}

    def _all_runs(self) -> Iterator[Any]:
        token: str | None = None
        while token != "":
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`okddip.search_id` = '{self._search_id}'",
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token or ""

    def _apply(self, operation: Operation) -> None:
        match operation["op"]:
            case "search":
                self._start(PARENT, operation)
            case "trial":
                self._start(operation["trial"], operation)
                self._save_view(operation)
            case "epoch":
                self._chart(operation["trial"], operation, operation["step"], operation["metrics"])
            case "end":
                self._end_trial(operation)
            case "results":
                self._chart(operation["trial"], operation, operation["step"], operation["metrics"])
                self._write(operation["trial"], tags=operation["tags"])
            case "artifacts":
                self._upload(operation)
            case "leader":
                self._log_leader(operation)
            case "confirmed":
                self._register(operation)
            case "search_end":
                self._end_search(operation)

    def _start(self, trial: str, operation: Operation) -> None:
        is_new = trial not in self._runs
        run_id = self._run(trial, operation)
        params = dict(operation["params"])
        tags = {**operation["tags"], "okddip.state": "running"}
        if not is_new:
            found = self._client.get_run(run_id).data
            if operation.get(AGAIN) and "okddip.state" in found.tags:
                self._write(trial, *_lacking(operation, found))
                return
            # A logged parameter can't change; what a resumed search was told anew is a tag.
            known = found.params
            changed = {key for key in params if known.get(key, params[key]) != params[key]}
            tags.update({f"okddip.resumed.{key}": params[key] for key in changed})
            params = {key: value for key, value in params.items() if key not in known}
            self._client.update_run(run_id, status="RUNNING")
        self._write(trial, params, tags)

    def _run(self, trial: str, operation: Operation) -> str:
        """Return the id of a trial's run, or of the search's (``PARENT``); create it if absent."""
        if trial not in self._runs:
            tags = {
                "okddip.search_id": self._search_id,
                "okddip.stage": stage_of(trial),
                "mlflow.source.name": "okddip-search",
                "mlflow.source.type": "LOCAL",
            }
            name = self._name
            if trial == PARENT:
                tags["mlflow.note.content"] = _DESCRIPTION
            else:
                tags["mlflow.parentRunId"] = self._run(PARENT, operation)
                tags["okddip.trial"] = trial
                # Without a name: written by an earlier version, or its first line is lost.
                name = operation.get("name", f"trial {trial}")
            run = self._client.create_run(self._experiment_id, operation["t"], tags, name)
            self._runs[trial] = run.info.run_id
        return self._runs[trial]

    def _end_trial(self, operation: Operation) -> None:
        trial, best = operation["trial"], operation["best"]
        run_id = self._run(trial, operation)
        tags = {"okddip.state": operation["state"]}
        if operation["reason"]:
            tags["okddip.reason"] = operation["reason"]
        if operation["value"] is not None:
            tags["okddip.objective"] = _objective_text(operation["value"])
        self._close(run_id, trial, operation, _STATUS[operation["state"]], tags)
        if best is not None:
            metrics = {BEST_ACCURACY: best["accuracy"]}
            self._chart(PARENT, operation, operation["ended"], metrics)
            tags = {"okddip.best_trial": str(best["trial"])}
            tags["okddip.objective"] = _objective_text(best["value"])
            self._write(PARENT, tags=tags)

    def _end_search(self, operation: Operation) -> None:
        if self._has_failed:  # what the server was slow with may have come to an end by now
            self._runs, self._has_failed = self._find_runs(), False
        for trial in operation["open"]:  # a resumed search goes on in them
            run_id = self._run(trial, operation)
            self._write(trial, tags={"okddip.state": "interrupted"})
            self._client.set_terminated(run_id, "KILLED", operation["t"])
        run_id = self._run(PARENT, operation)
        self._chart(PARENT, operation, operation["ended"], operation["metrics"])
        tags = {"okddip.state": operation["state"], **operation.get("tags", {})}
        self._close(run_id, PARENT, operation, operation["status"], tags)

    def _close(
        self, run_id: str, trial: str, operation: Operation, status: str, tags: Mapping[str, str]
    ) -> None:
        """Give a run its last status; one that was told its end before keeps the time of it."""
        self._write(trial, tags=tags)
        ended_ms = operation["t"]
        if operation.get(AGAIN):  # the study was told a moment before the store
            ended_ms = max(ended_ms, self._client.get_run(run_id).info.end_time or 0)
        self._client.set_terminated(run_id, status, ended_ms)

    def _chart(
        self, trial: str, operation: Operation, step: int, metrics: Mapping[str, float]
    ) -> None:
        from mlflow.entities import Metric

        self._run(trial, operation)
        for key, value in metrics.items():
            if operation.get(AGAIN) or operation["op"] == "results":
                known = self._known(trial, key).get(step)
                if known == value or (known is not None and operation["op"] != "results"):
                    continue
            if (trial, key) in self._points:
                self._points[trial, key][step] = value
            self._metrics[trial].append(Metric(key, value, operation["t"], step))

    def _known(self, trial: str, metric: str) -> dict[int, float]:
        """Return the points of a metric that the store has, or is about to be sent."""
        if (trial, metric) not in self._points:
            history = self._client.get_metric_history(self._runs[trial], metric)
            points = [*history, *(point for point in self._metrics[trial] if point.key == metric)]
            self._points[trial, metric] = {point.step: point.value for point in points}
        return self._points[trial, metric]

    def _write(
        self,
        trial: str,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send a run's waiting metrics, with parameters and tags, in as few calls as allowed."""
        from mlflow.entities import Param, RunTag

        calls = zip_longest(
            _chunks(self._metrics.pop(trial, []), _METRICS_PER_CALL),
            _chunks([Param(*item) for item in (params or {}).items()], _TEXTS_PER_CALL),
            _chunks(
                [RunTag(key, text[:_MAX_TAG_LENGTH]) for key, text in (tags or {}).items()],
                _TEXTS_PER_CALL,
            ),
            fillvalue=(),
        )
        for some_metrics, some_params, some_tags in calls:
            self._client.log_batch(self._runs[trial], some_metrics, some_params, some_tags)

    def _upload(self, operation: Operation) -> None:
        run_id = self._run(PARENT, operation)
        for name in operation["paths"]:
            path = self._dir / name
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():
                self._client.log_artifact(run_id, str(path))

    def _log_leader(self, operation: Operation) -> None:
        run_id = self._run(PARENT, operation)
        leader_dir = self._dir / operation["path"]
        if leader_dir.is_dir():  # else a later leader has taken its place
            tracking_model.log_leader(self._client, run_id, self._experiment_id, leader_dir)

    def _register(self, operation: Operation) -> None:
        run_id = self._run(PARENT, operation)
        leader_dir, digest = self._dir / operation["path"], operation["digest"]
        if tracking_model.digest_of(leader_dir) != digest:
            return  # a later leader has taken its place, and has a verdict of its own
        model_id = tracking_model.log_leader(
            self._client, run_id, self._experiment_id, leader_dir, tracking_model.CONFIRMED
        )
        tracking_registry.register(
            self._client,
            self._client.get_logged_model(model_id),
            digest=digest,
            name=operation["name"],
            alias=operation["alias"],
            description=operation["description"],
            told_ms=operation["t"],
        )

    def _save_view(self, operation: Operation) -> None:
        stage, title = stage_of(operation["trial"]), f"okddip {self._name}"
        if operation["columns"]:
            columns, common = operation["columns"], operation["common"]
            state = search_view(self._search_id, title, columns, operation["t"], common)
        elif stage.partition(".")[0] == CONFIRM:  # confirm.1, …: begun anew; the last one is shown
            state = confirm_view(self._search_id, f"{title}: confirm", operation["t"], stage)
            stage = CONFIRM
        else:
            return
        with contextlib.suppress(Exception):  # a convenience that MLflow does not document
            tag = view_tag(self._search_id, stage)
            self._client.set_experiment_tag(self._experiment_id, tag, state)


def _lacking(operation: Operation, found: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the parameters and the tags that a run does not have."""
    params = {k: v for k, v in operation["params"].items() if k not in found.params}
    return params, {k: v for k, v in operation["tags"].items() if k not in found.tags}


def _objective_text(value: float) -> str:
    return f"{value:.6g}"  # a table column is narrow


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
