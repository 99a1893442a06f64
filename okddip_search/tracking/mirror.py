"""An MLflow store made to show what is desired: what it lacks is sent, and nothing else.

The store itself says what it has, so that any number of calls, by any driver, end in the same runs:
a run is found by its tags, a chart goes on after its last step, a file is known by a mark. The only
module that talks to MLflow, and imports it once there is something to send.
"""

import contextlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from okddip_search.masking import masked
from okddip_search.tracking import model as tracking_model
from okddip_search.tracking import registry as tracking_registry
from okddip_search.tracking.desired import PARENT, Desired, Run, Upload, log
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import Target, artifact_uri, relocate
from okddip_search.tracking.view import BEST_ACCURACY, view_tag

_DESCRIPTION = (
    "A search by okddip-search: its trials are child runs (`okddip.stage` tells those of the "
    "search from those that confirm its result), the best leader is its logged model. "
    f"`{BEST_ACCURACY}` is the best epoch of a trial (here: of the best trial, over the number of "
    "trials ended); `okddip.objective` is the value that the study compares trials by: of the "
    "epochs that `okddip.reduction` names."
)
_STATE, _UPLOADS = "okddip.state", "okddip.uploads"
_MAX_TAG_LENGTH = 5000
# The server's limits: 1,000 metrics, 100 params and 100 tags, but 1,000 entities together.
_METRICS_PER_CALL, _TEXTS_PER_CALL = 800, 100
_ATTEMPTS = 3  # before what a healthy server refuses is left out

# What a healthy server refuses for one of these, it will refuse for ever.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
_BUGS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # a slow server creates a run that nobody waits for, too
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # else it prints to the terminal
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass
class _Known:
    """What the store has of a run.

    Attributes:
        run_id: MLflow's.
        status: MLflow's.
        params: As logged.
        tags: As set.
        last: Metric to the step of its last point.
    """

    run_id: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)


class Mirror:
    """Makes one MLflow store show one search.

    Attributes:
        sent: Number of records that were sent so far.
    """

    def __init__(self, search_dir: Path, target: Target, on_trouble: Callable[[str], None]) -> None:
        """Remember the addresses; nothing is imported or connected yet."""
        self._dir = search_dir
        self._target = target
        self._on_trouble = on_trouble
        self._client: Any = None
        self._desired: Desired  # of the last call
        self._experiment_id = ""
        self._views: dict[str, str] = {}
        self._runs: dict[str, _Known] = {}
        self._left_out: set[str] = set()
        self._is_connected = self._has_failed = False
        self.sent = 0

    def sync(self, desired: Desired, *, is_last: bool = False) -> None:
        """Send what the store lacks.

        Args:
            desired: All that it is to show.
            is_last: Whether to look once more for what a slow server has done twice.

        Raises:
            Exception: Whatever MLflow or the network raised; call it again.
        """
        self._desired = desired
        try:
            if not self._is_connected or (is_last and self._has_failed):
                self._connect(desired)
                self._has_failed = self._has_failed and not is_last
            for run in (*desired.children, desired.parent):
                self._try(f"run {run.key}", f"run {run.name}", partial(self._send, run))
            self._save_views(desired)
            for name, upload in desired.uploads.items():
                self._try(f"upload {name}", name, partial(self._upload, name, upload))
        except BaseException:
            # A request may have arrived though its answer did not: look at the store again.
            self._is_connected, self._has_failed = False, True
            raise

    def _try(self, key: str, name: str, send: Callable[[], None]) -> None:
        """Send something; what a store refuses that works otherwise is named and left out."""
        for attempt in range(_ATTEMPTS if key not in self._left_out else 0):
            try:
                return send()
            except Exception as error:
                if not _is_refused(error):
                    raise
                log.info("tracking: %s, attempt %d", name, attempt + 1, exc_info=error)
                refusal = error
                self._has_failed = True
                self._connect(self._desired)
        if key not in self._left_out:
            self._left_out.add(key)
            self._on_trouble(f"MLflow refuses {name}, it is left out: {brief(refusal)}")

    # The store

    def _connect(self, desired: Desired) -> None:
        if self._client is None:
            self._client = self._open_client()
        found = self._client.get_experiment_by_name(desired.name)
        if found is None:
            location = artifact_uri(self._dir) if self._target.is_local else None
            self._experiment_id = self._client.create_experiment(desired.name, location)
        else:
            self._experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
        self._views = dict(found.tags) if found else {}
        self._runs = self._find_runs(desired.search_id)
        self._is_connected = True

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
        require_schema(self._target)
        if self._target.is_local:
            relocate(self._dir)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._target.uri, registry_uri=self._target.uri)

    def _find_runs(self, search_id: str) -> dict[str, _Known]:
        """Return the run of every trial; a second one is deleted.

        There is one where a request to create it was given up as lost, and a slow server carried
        it out later.
        """
        found: dict[str, list[Any]] = defaultdict(list)
        for run in self._all_runs(search_id):
            found[run.data.tags.get("okddip.trial", PARENT)].append(run)
        for runs in found.values():
            # The one in use has been written to; until then, any one will do.
            runs.sort(key=lambda run: (_STATE not in run.data.tags, run.info.run_id))
            for double in runs[1:]:
                self._client.delete_run(double.info.run_id)
        return {trial: _known(runs[0]) for trial, runs in found.items()}

    def _all_runs(self, search_id: str) -> Iterator[Any]:
        token: str | None = None
        while token != "":
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`okddip.search_id` = '{search_id}'",
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token or ""

    # Runs

    def _run_of(self, run: Run) -> _Known:
        """Return what the store has of a run; create it if it is absent."""
        if run.key not in self._runs:
            tags = {
                "okddip.search_id": self._desired.search_id,
                "okddip.stage": run.stage,
                "mlflow.source.name": "okddip-search",
                "mlflow.source.type": "LOCAL",
            }
            if run.key == PARENT:
                tags["mlflow.note.content"] = _DESCRIPTION
            else:
                tags["mlflow.parentRunId"] = self._run_of(self._desired.parent).run_id
                tags["okddip.trial"] = run.key
            made = self._client.create_run(self._experiment_id, run.started_ms, tags, run.name)
            self._runs[run.key] = _Known(made.info.run_id, "RUNNING", tags=tags)
            self.sent += 1
        return self._runs[run.key]

    def _send(self, run: Run) -> None:
        """Send what the store lacks of a run, and its status."""
        known = self._run_of(run)
        is_new_state = known.tags.get(_STATE) != run.tags[_STATE]
        if run.status == "RUNNING" and known.status != "RUNNING":
            self._client.update_run(known.run_id, status="RUNNING")
            known.status = "RUNNING"
            self.sent += 1
        params = {k: v for k, v in run.params.items() if k not in known.params}
        # A logged parameter cannot change; what a resumed search has been given is a tag.
        changed = {f"okddip.resumed.{k}": v for k, v in run.params.items()
                   if known.params.get(k, v) != v}  # fmt: skip
        tags = {**changed, **run.tags}
        tags = {k: text[:_MAX_TAG_LENGTH] for k, text in tags.items()}
        tags = {k: text for k, text in tags.items() if known.tags.get(k) != text}
        self._write(known, self._lacking(known, run), params, tags)
        if run.status != "RUNNING" and (known.status != run.status or is_new_state):
            self._client.set_terminated(known.run_id, run.status, run.ended_ms)
            known.status = run.status
            self.sent += 1

    def _lacking(self, known: _Known, run: Run) -> list[Any]:
        """Return the points after the last one that the store has of each chart."""
        if all(known.last.get(chart, -1) >= step for chart, step in run.reach.items()):
            return []
        from mlflow.entities import Metric

        points = run.points()
        return [Metric(*point) for point in points if point.step > known.last.get(point.key, -1)]

    def _write(
        self,
        known: _Known,
        metrics: Sequence[Any],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Send metrics, parameters and tags of a run in as few calls as allowed."""
        if not (metrics or params or tags):
            return
        from mlflow.entities import Param, RunTag

        calls = zip_longest(
            _chunks(metrics, _METRICS_PER_CALL),
            _chunks([Param(*item) for item in params.items()], _TEXTS_PER_CALL),
            _chunks([RunTag(*item) for item in tags.items()], _TEXTS_PER_CALL),
            fillvalue=(),
        )
        for some_metrics, some_params, some_tags in calls:
            self._client.log_batch(known.run_id, some_metrics, some_params, some_tags)
            known.last.update({metric.key: metric.step for metric in some_metrics})
        known.params.update(params)
        known.tags.update(tags)
        self.sent += len(metrics) + len(params) + len(tags)

    # What goes with the search's own run

    def _save_views(self, desired: Desired) -> None:
        for stage, state in desired.views.items():
            tag = view_tag(desired.search_id, stage)
            if self._views.get(tag) != state:
                self._views[tag] = state
                with contextlib.suppress(Exception):  # a convenience, undocumented by MLflow
                    self._client.set_experiment_tag(self._experiment_id, tag, state)
                    self.sent += 1

    def _upload(self, name: str, upload: Upload) -> None:
        """Send a file or a leader that the store does not have yet, and mark it there."""
        known = self._run_of(self._desired.parent)
        marks = json.loads(known.tags.get(_UPLOADS, "{}"))
        if marks.get(name) == upload.mark:
            return
        if not upload.digest:
            self._client.log_artifact(known.run_id, str(upload.path))
        else:
            self._log_leader(known.run_id, upload)
        tags = {_UPLOADS: json.dumps({**marks, name: upload.mark})}
        self._write(known, [], {}, tags)

    def _log_leader(self, run_id: str, upload: Upload) -> None:
        model_name = tracking_model.CONFIRMED if upload.alias else tracking_model.BEST
        model_id = tracking_model.log_leader(
            self._client, run_id, self._experiment_id, upload.path, model_name
        )
        if upload.alias:
            tracking_registry.register(
                self._client,
                self._client.get_logged_model(model_id),
                digest=upload.digest,
                name=self._desired.name,
                alias=upload.alias,
                description=upload.words,
                told_ms=upload.decided_ms,
            )


def _known(run: Any) -> _Known:
    data = run.data
    last = {metric.key: int(metric.step) for metric in data.to_proto().metrics}
    return _Known(run.info.run_id, run.info.status, dict(data.params), dict(data.tags), last)


def _is_refused(error: Exception) -> bool:
    """Say whether the store has refused what it was sent; a broken connection is no refusal."""
    code = getattr(error, "error_code", "")
    return code in _REFUSALS or (isinstance(error, _BUGS) and not isinstance(error, OSError))


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def brief(error: Exception) -> str:
    """Say an error in one short line without secrets."""
    text = masked(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"
