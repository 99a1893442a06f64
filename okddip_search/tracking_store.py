"""Where tracking data lies: store addresses, secrets in them, moved directories, the saved view.

Nothing here imports mlflow: a sqlite store is read and mended with the standard library alone.
"""

import base64
import contextlib
import fcntl
import json
import re
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from okddip_search.errors import UserError

JOURNAL = "tracking.jsonl"
POSITION = "tracking.offset"
LOCK = "tracking.lock"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"

BEST_ACCURACY = "best_leader_accuracy"  # the metric that runs are sorted by

_SECRET = re.compile(r"//\S+@")

# Every column of MLflow's schema that holds an absolute artifact address.
_ADDRESS_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


@dataclass(frozen=True)
class Target:
    """An MLflow store to write to.

    Attributes:
        uri: Its address without credentials.
        key: Its name in the journal and the position file; survives moving the search directory.
        username: Taken out of the address; None without one.
        password: Taken out of the address; never written anywhere.
    """

    uri: str
    key: str
    username: str | None = None
    password: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is the search directory's own sqlite store."""
        return self.key == "local"


def store_uri(search_dir: Path) -> str:
    """Return the address of the sqlite store inside a search directory."""
    return f"sqlite:///{(search_dir / DATABASE).absolute()}"


def artifact_uri(search_dir: Path) -> str:
    """Return where the search directory's own store keeps its artifacts."""
    return (search_dir / ARTIFACTS).absolute().as_uri()


def masked(text: str) -> str:
    """Hide ``user:password@`` in a URI, or in any text that quotes one."""
    return _SECRET.sub("//***@", text)


def target_of(search_dir: Path, tracking_uri: str | None) -> Target:
    """Describe the store that a tracking URI (None: the directory's own) leads to.

    Raises:
        UserError: It is no URI, or has a password that needs percent-encoding.
    """
    own = store_uri(search_dir)
    if tracking_uri in (None, "local", own):
        return Target(own, "local")
    try:
        parts = urlsplit(str(tracking_uri))
    except ValueError as error:
        raise UserError(f"--tracking-uri {masked(str(tracking_uri))}: {error}") from None
    if parts.scheme in ("http", "https") and "@" in parts.path + parts.query + parts.fragment:
        raise UserError(
            f"--tracking-uri {masked(str(tracking_uri))}: / ? or # in the user's name or password",
            "Write them percent-encoded, for instance %2F for a slash.",
        )
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Target(str(tracking_uri), masked(str(tracking_uri)))
    login, _, host = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    return Target(bare, masked(str(tracking_uri)), unquote(username), unquote(password))


@contextlib.contextmanager
def sole_deliverer(search_dir: Path, timeout_s: float) -> Iterator[None]:
    """Hold the right to deliver the journal: two at once would create every run twice.

    The lock belongs to the open file, so that it dies with its process.

    Raises:
        UserError: Another process kept it for ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    with (search_dir / LOCK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"{search_dir}: another process is delivering to MLflow",
                        "a running search delivers by itself; try again when it has ended",
                    ) from None
                time.sleep(0.1)
        yield


def relocate(search_dir: Path) -> bool:
    """Point a moved or copied sqlite store to the artifacts that lie beside it now.

    MLflow keeps absolute addresses in every run. Each old root (an experiment's location that ends
    with our folder name) is replaced by the present one, in one transaction.

    Returns:
        Whether anything had to change.
    """
    database, present = search_dir / DATABASE, artifact_uri(search_dir)
    if not database.exists():
        return False
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return False
        locations = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        roots = {row[0] for row in locations if row[0] and row[0].endswith(f"/{ARTIFACTS}")}
        for old in roots - {present}:
            for table, column in _ADDRESS_COLUMNS:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (present, len(old) + 1, len(old), old),
                    )
    return bool(roots - {present})


def view_key(search_id: str) -> str:
    """Return the name under which a search's saved view is stored."""
    return f"okddip-{search_id[:8]}"


def view_tag(search_id: str) -> str:
    """Return the experiment tag that holds the saved view."""
    return f"mlflow.sharedViewState.{view_key(search_id)}"


def view_state(
    name: str,
    columns: Sequence[str],
    created_ms: int,
    plotted: Sequence[str] | None = None,
) -> str:
    """Encode the pages that a search is best read from, as MLflow's front end stores them.

    Undocumented (read from the front end of MLflow 3.17, which fills all that is missing with its
    defaults, and seen in a browser): a table with the best accuracy first, each trial's state and
    the hyperparameters; parallel coordinates and learning curves on top of the charts.

    Args:
        name: Title of the view.
        columns: Names of the searched hyperparameters.
        created_ms: Creation time, ms since 1970.
        plotted: Those that every trial has (a run without one is left out of parallel
            coordinates); None: all.
    """
    shown = ["tags.`okddip.state`", "tags.`okddip.objective`", f"metrics.`{BEST_ACCURACY}`"]
    shown += [f"params.`{column}`" for column in columns]
    shown += ["metrics.`val/leader_accuracy`", "metrics.`val/ensemble_accuracy`"]
    run_name = "attributes.`Run Name`"
    state = {
        "orderByKey": f"metrics.`{BEST_ACCURACY}`",
        "orderByAsc": False,
        "selectedColumns": shown,
        "columnOrder": [run_name, *shown],
        "columnWidths": {run_name: 130, **{column: _column_width(column) for column in shown}},
        "runsHiddenMode": "FIRST_20_RUNS",  # in the charts; MLflow's own choice is 10
        "isAccordionReordered": True,  # keep the order of sections; MLflow adds its own below
        "compareRunSections": [
            _section("parameters", "Hyperparameters and best accuracy", 1),
            _section("curves", "Learning curves", 2),
        ],
        "compareRunCharts": [
            _parallel_coordinates(columns if plotted is None else plotted),
            _learning_curve("val/leader_accuracy"),
            _learning_curve("train/loss"),
        ],
    }
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
) -> str:
    """Return a page that shows the search, in the classic (not GenAI) interface.

    Args:
        server: Address of the MLflow server.
        experiment_id: MLflow's id of the experiment.
        search_id: The search whose saved view to open; None if there is none.
        mode: The table of runs, or their charts.
    """
    query = f"workflowType=machine_learning&compareRunsMode={mode}"
    if search_id:
        query += f"&viewStateShareKey={view_key(search_id)}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def has_view(search_dir: Path, search_id: str) -> bool:
    """Return whether the sqlite store holds a search's saved view (else its link is an error)."""
    database = (search_dir / DATABASE).absolute().as_uri()
    query = "SELECT 1 FROM experiment_tags WHERE key = ?"
    with contextlib.closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
        with contextlib.suppress(sqlite3.OperationalError):  # a store that was never filled
            return connection.execute(query, (view_tag(search_id),)).fetchone() is not None
    return False


def find_experiment(search_dir: Path, name: str | None) -> str | None:
    """Return the id of the experiment ``name`` (None: the newest) in the sqlite store."""
    database = (search_dir / DATABASE).absolute().as_uri()
    query = "SELECT experiment_id FROM experiments WHERE ? IN ('', name) ORDER BY 1 DESC"
    with contextlib.closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
        with contextlib.suppress(sqlite3.OperationalError):  # a store that was never filled
            row = connection.execute(query, (name or "",)).fetchone()
            return str(row[0]) if row else None
    return None
