"""The pages that a search is best read from: saved views, as MLflow's front end stores them.

Undocumented (read from the front end of MLflow 3.17, which fills all that is missing with its
defaults, and seen in a browser). A view is a tag of the experiment. Nothing here imports mlflow.
"""

import base64
import contextlib
import json
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from okddip_search.layout import DATABASE

SEARCH, CONFIRM = "search", "confirm"  # the stages with a view of their own
ACCURACY = "val/leader_accuracy"
BEST_ACCURACY = "best_leader_accuracy"  # of the best epoch; a search's trials are sorted by it


def view_key(search_id: str, stage: str = SEARCH) -> str:
    """Return the name under which a stage's saved view is stored."""
    key = f"okddip-{search_id[:8]}"
    return key if stage == SEARCH else f"{key}-{stage}"


def view_tag(search_id: str, stage: str = SEARCH) -> str:
    """Return the experiment tag that holds the saved view."""
    return f"mlflow.sharedViewState.{view_key(search_id, stage)}"


def search_view(
    search_id: str,
    name: str,
    columns: Sequence[str],
    created_ms: int,
    plotted: Sequence[str] | None = None,
) -> str:
    """Return the view of a search: the trial with the best accuracy first, and its charts.

    The table has each trial's state, what the study compares it by, and the hyperparameters; the
    charts have parallel coordinates and learning curves on top.

    Args:
        search_id: Of the search; on a server, others of its name may share the experiment.
        name: Title of the view.
        columns: Names of the searched hyperparameters.
        created_ms: Creation time, ms since 1970.
        plotted: Those that every trial has (a run without one is left out of parallel
            coordinates); None: all.
    """
    return _packed(
        name,
        created_ms,
        {
            **_table(
                search_id,
                SEARCH,
                BEST_ACCURACY,
                [
                    "tags.`okddip.state`",
                    "tags.`okddip.objective`",
                    "tags.`okddip.reduction`",
                    f"metrics.`{BEST_ACCURACY}`",
                    *(f"params.`{column}`" for column in columns),
                    f"metrics.`{ACCURACY}`",
                    "metrics.`val/ensemble_accuracy`",
                ],
            ),
            "compareRunSections": [
                _section("parameters", "Hyperparameters and best accuracy", 1),
                _section("curves", "Learning curves", 2),
            ],
            "compareRunCharts": [
                _parallel_coordinates(columns if plotted is None else plotted),
                _learning_curve(ACCURACY),
                _learning_curve("train/loss"),
            ],
        },
    )


def confirm_view(search_id: str, name: str, created_ms: int, stage: str = CONFIRM) -> str:
    """Return the view of the confirm runs: who trained with which seed, the best run first.

    Sorted by validation, by which the winner is chosen; not every contender is tested.

    Args:
        search_id: Of the search; on a server, others of its name may share the experiment.
        name: Title of the view.
        created_ms: Creation time, ms since 1970.
        stage: Of the runs; one that was begun anew is ``confirm.1``, ``confirm.2``, …
    """
    return _packed(
        name,
        created_ms,
        {
            **_table(
                search_id,
                stage,
                ACCURACY,
                [
                    "tags.`okddip.state`",
                    "params.`contender`",
                    "params.`seed`",
                    "params.`method`",
                    f"metrics.`{ACCURACY}`",
                    "metrics.`test/leader_accuracy`",
                ],
            ),
            "compareRunSections": [_section("curves", "Learning curves", 2)],
            "compareRunCharts": [_learning_curve(ACCURACY), _learning_curve("train/loss")],
        },
    )


def _table(search_id: str, stage: str, best: str, shown: list[str]) -> dict[str, Any]:
    """Return the state of a table with these columns and one stage's runs, the best first."""
    run_name = "attributes.`Run Name`"
    run_name_width = 130 if stage == SEARCH else 220
    return {
        "searchFilter": (
            f"tags.`okddip.stage` = '{stage}' and tags.`okddip.search_id` = '{search_id}'"
        ),
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": False,
        "selectedColumns": shown,
        "columnOrder": [run_name, *shown],
        "columnWidths": {run_name: run_name_width, **{c: _column_width(c) for c in shown}},
        "runsHiddenMode": "FIRST_20_RUNS",  # in the charts; MLflow's own choice is 10
        "isAccordionReordered": True,  # keep the order of sections; MLflow adds its own below
    }


def _packed(name: str, created_ms: int, state: dict[str, Any]) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps(
        {
            "name": name,
            "createdAt": created_ms,
            "updatedAt": created_ms,
            "state": f"deflate;{packed}",
        }
    )


def _column_width(column: str) -> int:
    """Return a table column's width in pixels: room for its title, or for a short number."""
    title = column.partition(".")[2].strip("`")
    return max(80, 7 * len(title) + 24)


def _section(key: str, title: str, columns: int) -> dict[str, Any]:
    """Return a section of the charts, with so many charts side by side."""
    section = {"uuid": f"okddip-{key}", "name": title, "display": True, "isReordered": False}
    return {**section, "columns": columns, "cardHeight": 400}


def _chart(kind: str, key: str, section: str) -> dict[str, Any]:
    chart = {"type": kind, "uuid": f"okddip-{key}", "metricSectionId": f"okddip-{section}"}
    return {**chart, "deleted": False, "isGenerated": False}


def _parallel_coordinates(params: Sequence[str]) -> dict[str, Any]:
    return {
        **_chart("PARALLEL", "parallel-coordinates", "parameters"),
        "selectedParams": list(params),
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
        query += f"&viewStateShareKey={view_key(search_id, stage)}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def has_view(search_dir: Path, search_id: str, stage: str = SEARCH) -> bool:
    """Return whether the sqlite store holds a stage's saved view (else its link is an error)."""
    database = (search_dir / DATABASE).absolute().as_uri()
    query = "SELECT 1 FROM experiment_tags WHERE key = ?"
    with contextlib.closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
        with contextlib.suppress(sqlite3.OperationalError):  # a store that was never filled
            return connection.execute(query, (view_tag(search_id, stage),)).fetchone() is not None
    return False
