"""An MLflow store brought up to date with a search: everything that it lacks is sent, and no more.

The store itself is asked for its contents, so any number of calls, by any driver, end in the same
runs: a run is found by its tags, a chart continues after its last step, a file is known by a mark.
Only this module opens a connection to MLflow, and imports mlflow to do so.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from okddip_search.masking import masked
from okddip_search.tracking.desired import PARENT, Desired, Point, Run, Upload, log
from okddip_search.tracking.model import log_leader
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import Target, artifact_uri, default_artifacts, relocate
from okddip_search.tracking.view import BEST_ACCURACY

_DESCRIPTION = (
    "A search by okddip-search: its trials are child runs (`okddip.stage` tells those of the "
    "search from those that confirm its result), the best leader is its logged model. "
    f"`{BEST_ACCURACY}` is the best epoch of a trial (here: of the best trial, over the number of "
    "trials ended); `okddip.objective` is the value that the study compares trials by: of the "
    "epochs that `okddip.reduction` names."
)
_STATE, _UPLOADS = "okddip.state", "okddip.uploads"
_MAX_TAG_LENGTH = 5000
_ATTEMPTS = 3
"""How many times a run or file is sent that a working server refuses, before it is left out."""

# Whatever a working server refuses for one of these reasons, it will always refuse.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
_BUGS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # a slow server still creates a run after a timeout
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # else it prints to the terminal
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass
class _Known:
    """A run in the store; ``last``: the step of the last point of each metric."""

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    last: dict[str, int]


class Mirror:
    """Makes one MLflow store show one search.

    Attributes:
        sent: Number of records that were sent so far.
    """

    def __init__(self, search_dir: Path, target: Target, on_trouble: Callable[[str], None]) -> None:
        self._dir = search_dir
        self._target = target
        self._on_trouble = on_trouble
        self._client: Any = None
        self._desired: Desired  # of the last call
        self._experiment: Any = None
        self._runs: dict[str, _Known] = {}
        self._left_out: set[str] = set()
        self._is_connected = False
        self.sent = 0

    def sync(self, desired: Desired, *, is_last: bool = False) -> None:
        """Send everything that the store lacks.

        Args:
            desired: All that it is to show.
            is_last: Whether to check the store again for runs that a slow server created twice.

        Raises:
            Exception: Whatever MLflow or the network raised; call it again.
        """
        self._desired = desired
        if is_last or not self._is_connected:
            self._connect()
        # A request that fails may have arrived all the same: the next call reads the store again.
        self._is_connected = False
        for run in (*desired.children, desired.parent):
            self._try(f"run {run.name}", partial(self._send, run))
        for tag, view in desired.views.items():
            if self._experiment.tags.get(tag) != view:
                self._experiment.tags[tag] = view
                with contextlib.suppress(Exception):  # a convenience, undocumented by MLflow
                    self._client.set_experiment_tag(self._experiment.experiment_id, tag, view)
                    self.sent += 1
        for name, upload in desired.uploads.items():
            self._try(name, partial(self._upload, name, upload))
        self._is_connected = True

    def _try(self, name: str, send: Callable[[], None]) -> None:
        """Send something; if a working store refuses it, report that and leave it out."""
        if name in self._left_out:
            return
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return send()
            except Exception as error:
                code = getattr(error, "error_code", "")
                is_bug = isinstance(error, _BUGS) and not isinstance(error, OSError)
                if code not in _REFUSALS and not is_bug:  # such as a broken connection
                    raise
                log.info("tracking: %s, attempt %d", name, attempt, exc_info=error)
                refusal = brief(error)
                self._connect()
        self._left_out.add(name)
        self._on_trouble(f"MLflow refuses {name}, it is left out: {refusal}")

    def _connect(self) -> None:
        """Read which runs the store has, and create the experiment if it is absent."""
        if self._client is None:
            self._client = self._open_client()
        name = self._desired.name
        if self._client.get_experiment_by_name(name) is None:
            location = artifact_uri(self._dir) if self._target.is_local else None
            self._client.create_experiment(name, location)
        self._experiment = self._client.get_experiment_by_name(name)
        if self._experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(self._experiment.experiment_id)
        self._runs = self._find_runs()

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
            os.environ["MLFLOW_TRACKING_PASSWORD"] = self._target.password
        require_schema(self._target)
        if self._target.is_local:
            relocate(self._dir)
        from mlflow import MlflowClient

        with default_artifacts(self._dir if self._target.is_local else None):
            return MlflowClient(tracking_uri=self._target.uri, registry_uri=self._target.uri)

    def _find_runs(self) -> dict[str, _Known]:
        """Return the run of every trial, by its key; a second run of a trial is deleted.

        There is one if a request to create it timed out and a slow server still carried it out.
        """
        from mlflow.utils import get_results_from_paginated_fn

        this_search = f"tags.`okddip.search_id` = '{self._desired.search_id}'"
        runs = get_results_from_paginated_fn(
            lambda size, token: self._client.search_runs(
                [self._experiment.experiment_id], this_search, max_results=size, page_token=token
            ),
            max_results_per_page=1000,
        )
        known: dict[str, _Known] = {}
        # The run in use has been written to; until then, any one will do.
        for run in sorted(runs, key=lambda r: (_STATE not in r.data.tags, r.info.run_id)):
            key = run.data.tags.get("okddip.trial", PARENT)
            if key in known:
                self._client.delete_run(run.info.run_id)
                continue
            last = {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}
            info, data = run.info, run.data
            known[key] = _Known(info.run_id, info.status, dict(data.params), dict(data.tags), last)
        return known

    def _run_of(self, run: Run) -> _Known:
        """Return a run as the store has it; create it if it is absent."""
        if run.key not in self._runs:
            tags = {
                "okddip.search_id": self._desired.search_id,
                "mlflow.source.name": "okddip-search",
                "mlflow.source.type": "LOCAL",
            }
            if run.key == PARENT:
                tags["mlflow.note.content"] = _DESCRIPTION
            else:
                tags["mlflow.parentRunId"] = self._run_of(self._desired.parent).run_id
                tags["okddip.trial"] = run.key
            experiment_id = self._experiment.experiment_id
            made = self._client.create_run(experiment_id, run.started_ms, tags, run.name)
            self._runs[run.key] = _Known(made.info.run_id, "RUNNING", {}, tags, {})
            self.sent += 1
        return self._runs[run.key]

    def _send(self, run: Run) -> None:
        """Send the values of a run that the store lacks, and its status."""
        from mlflow.entities import Metric, Param, RunTag

        known = self._run_of(run)
        points: list[Point] = []
        if any(known.last.get(chart, -1) < step for chart, step in run.last_steps.items()):
            points = [p for p in run.points() if p.step > known.last.get(p.key, -1)]
        params = {k: text for k, text in run.params.items() if k not in known.params}
        tags = {k: text[:_MAX_TAG_LENGTH] for k, text in run.tags.items()}
        tags = {k: text for k, text in tags.items() if known.tags.get(k) != text}
        if points or params or tags:
            self._client.log_batch(
                known.run_id,
                [Metric(*point) for point in points],
                [Param(*item) for item in params.items()],
                [RunTag(*item) for item in tags.items()],
            )
        known.last.update({point.key: point.step for point in points})
        known.params.update(params)
        known.tags.update(tags)
        self.sent += len(points) + len(params) + len(tags)
        if known.status != run.status or (_STATE in tags and run.status != "RUNNING"):
            if run.status == "RUNNING":
                self._client.update_run(known.run_id, status="RUNNING")
            else:
                self._client.set_terminated(known.run_id, run.status, run.ended_ms)
            known.status = run.status
            self.sent += 1

    def _upload(self, name: str, upload: Upload) -> None:
        """Send a file or a leader that the store does not have yet, and mark it there."""
        known = self._run_of(self._desired.parent)
        marks = json.loads(known.tags.get(_UPLOADS, "{}"))
        if marks.get(name) == upload.mark:
            return
        if upload.digest:
            log_leader(self._client, known.run_id, self._experiment, upload)
        else:
            self._client.log_artifact(known.run_id, str(upload.path))
        known.tags[_UPLOADS] = json.dumps({**marks, name: upload.mark})
        self._client.set_tag(known.run_id, _UPLOADS, known.tags[_UPLOADS])
        self.sent += 1


def brief(error: Exception) -> str:
    """Say an error in one short line without secrets."""
    text = masked(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"
