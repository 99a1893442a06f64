"""Saved views of a search in MLflow: sorted tables and charts, as its front end stores them.

Undocumented (read from the front end of MLflow 3.17, which fills in defaults for absent fields, and
seen in a browser). A view is a tag of the experiment. Nothing here imports mlflow.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

SEARCH = "search"  # the stage of the search's own trials
ACCURACY = "val/leader_accuracy"
BEST_ACCURACY = "best_leader_accuracy"  # of the best epoch; a search's trials are sorted by it
TEST_ACCURACY = "test/leader_accuracy"


def view_tag(search_id: str, stage: str = SEARCH) -> str:
    """Return the experiment tag that holds a stage's saved view."""
    return f"mlflow.sharedViewState.{_view_key(search_id, stage)}"


def view_url(
    server: str,
    experiment_id: str,
    search_id: str | None,
    mode: Literal["TABLE", "CHART"] = "TABLE",
    stage: str = SEARCH,
) -> str:
    """Return a page that shows the search, in the classic (not GenAI) interface.

    Args:
        server: Address of the MLflow server.
        experiment_id: MLflow's id of the experiment.
        search_id: The search whose saved view to open; None if there is none.
        mode: The table of runs, or their charts.
        stage: Whose runs.
    """
    query = f"workflowType=machine_learning&compareRunsMode={mode}"
    if search_id:
        query += f"&viewStateShareKey={_view_key(search_id, stage)}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def _view_key(search_id: str, stage: str) -> str:
    key = f"okddip-{search_id[:8]}"
    return key if stage == SEARCH else f"{key}-{stage}"


def saved_view(
    search_id: str, stage: str, title: str, created_ms: int, trials: Sequence[Mapping[str, Any]]
) -> str:
    """Return the view of the search's trials, or of the confirm runs, as the tag's value.

    The table has the state, parameters and accuracies of each run, the best run first. Confirm runs
    are sorted by validation, by which the winner is chosen; not every contender is tested. The
    charts have learning curves on top and, for a search, parallel coordinates.

    Args:
        search_id: Of the search; on a server, others of its name may share the experiment.
        stage: Of the runs: ``search``, ``confirm``, ``confirm.1``, …
        title: Of the view.
        created_ms: Creation time, ms since 1970.
        trials: The parameters of each trial.
    """
    is_search = stage == SEARCH
    best = BEST_ACCURACY if is_search else ACCURACY
    params = list(dict.fromkeys(param for trial in trials for param in trial))
    run_name = "attributes.`Run Name`"
    columns = ["tags.`okddip.state`"]
    if is_search:
        columns += ["tags.`okddip.objective`", "tags.`okddip.reduction`", f"metrics.`{best}`"]
    columns += [f"params.`{param}`" for param in params]
    columns += [f"metrics.`{ACCURACY}`"]
    columns += [f"metrics.`{'val/ensemble_accuracy' if is_search else TEST_ACCURACY}`"]
    sections = [_section("curves", "Learning curves", columns=2)]
    charts = [_learning_curve(ACCURACY), _learning_curve("train/loss")]
    if is_search:
        sections.insert(0, _section("parameters", "Hyperparameters and best accuracy", columns=1))
        # MLflow leaves out a run that lacks one of the parameters.
        common = [param for param in params if all(param in trial for trial in trials)]
        charts.insert(0, _parallel_coordinates(common))
    state = {
        "searchFilter": (
            f"tags.`okddip.stage` = '{stage}' and tags.`okddip.search_id` = '{search_id}'"
        ),
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [run_name, *columns],
        "columnWidths": {run_name: 130 if is_search else 220}
        | {column: _column_width(column) for column in columns},
        "runsHiddenMode": "FIRST_20_RUNS",  # in the charts; MLflow's own choice is 10
        "isAccordionReordered": True,  # keep the order of sections; MLflow adds its own below
        "compareRunSections": sections,
        "compareRunCharts": charts,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    times = {"createdAt": created_ms, "updatedAt": created_ms}
    return json.dumps({"name": title, **times, "state": f"deflate;{packed}"})


def _column_width(column: str) -> int:
    """Return a table column's width in pixels: room for its title, or for a short number."""
    title = column.partition(".")[2].strip("`")
    return max(80, 7 * len(title) + 24)


def _section(key: str, title: str, columns: int) -> dict[str, Any]:
    section = {"uuid": f"okddip-{key}", "name": title, "display": True, "isReordered": False}
    return {**section, "columns": columns, "cardHeight": 400}


def _chart(kind: str, key: str, section: str) -> dict[str, Any]:
    chart = {"type": kind, "uuid": f"okddip-{key}", "metricSectionId": f"okddip-{section}"}
    return {**chart, "deleted": False, "isGenerated": False}


def _parallel_coordinates(params: Sequence[str]) -> dict[str, Any]:
    return {
        **_chart("PARALLEL", "parallel-coordinates", "parameters"),
        "selectedParams": params,
        "selectedMetrics": [BEST_ACCURACY],
        "showAllRuns": True,
    }


def _learning_curve(metric: str) -> dict[str, Any]:
    return {
        **_chart("LINE", metric, "curves"),
        "metricKey": metric,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
