"""Where tracking data lies: store addresses, secrets in them, moved directories.

Nothing here imports mlflow: a sqlite store is read and repaired with the standard library alone.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from okddip_search.errors import UserError
from okddip_search.layout import ARTIFACTS, DATABASE, TRACKING_LOCK
from okddip_search.masking import masked
from trainer.io.files import LockedError, exclusive_lock

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
PLUGINS = "mlflow.tracking_store"

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
        key: Its name in `sessions.jsonl`, without secrets; survives moving the search directory.
        username: Taken out of the address; empty without one.
        password: Taken out of the address; never written anywhere.
    """

    uri: str
    key: str
    username: str = ""
    password: str = ""

    @property
    def shown(self) -> str:
        """Its address as it may be shown to the user."""
        return masked(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether it is the search directory's own sqlite store."""
        return self.key == "local"


def store_uri(search_dir: Path) -> str:
    """Return the address of the sqlite store inside a search directory.

    SQLAlchemy 2.1 unquotes the path in an address; earlier versions take it literally, up to a
    question mark, so that a path with one has to be quoted for sqlite itself. MLflow would make
    folders of such an address's text; it does not where the address names its driver.
    """
    path = str((search_dir / DATABASE).absolute())
    if not {"%", "?"} & set(path):
        return f"sqlite:///{path}"
    if tuple(map(int, version("sqlalchemy").split(".")[:2])) >= (2, 1):
        return f"sqlite+pysqlite:///{quote(path)}"
    if "?" in path:
        return f"sqlite+pysqlite:///file:{quote(path)}?uri=true"
    return f"sqlite:///{path}"


def artifact_uri(search_dir: Path) -> str:
    """Return where the search directory's own store keeps its artifacts."""
    return (search_dir / ARTIFACTS).absolute().as_uri()


@contextlib.contextmanager
def default_artifacts(search_dir: Path | None) -> Iterator[None]:
    """Have a store that is opened meanwhile keep its default experiment's artifacts in a search.

    MLflow would put them below the working directory, whose path it writes into SQL as Python
    quotes it: with both kinds of quotes in it, no store can be opened.

    Args:
        search_dir: The search directory; None: leave it to MLflow.
    """
    before = os.environ.get(ARTIFACT_ROOT)
    if search_dir is not None:
        os.environ[ARTIFACT_ROOT] = artifact_uri(search_dir)
    try:
        yield
    finally:
        os.environ.pop(ARTIFACT_ROOT, None)
        if before is not None:
            os.environ[ARTIFACT_ROOT] = before


def target_of(search_dir: Path, tracking_uri: str | None) -> Target:
    """Describe the store that a tracking URI (None: the directory's own) leads to.

    Raises:
        UserError: It is no URI, or has a password that needs percent-encoding.
    """
    own = store_uri(search_dir)
    if tracking_uri in (None, "local", own):
        return Target(own, "local")
    uri = str(tracking_uri)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UserError(f"--tracking-uri {masked(uri)}: {error}") from None
    if problem := _problem(uri, parts):
        raise UserError(f"--tracking-uri {masked(uri)}: {problem[0]}", problem[1])
    if parts.scheme not in ("http", "https"):
        return Target(uri, masked(uri))
    if "@" in parts.path + parts.query + parts.fragment:
        raise UserError(
            f"--tracking-uri {masked(uri)}: / ? or # in the user's name or password",
            "Write them percent-encoded, for instance %2F for a slash.",
        )
    login, _, host = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    return Target(bare, masked(uri), unquote(username), unquote(password))


def _problem(text: str, parts: SplitResult) -> tuple[str, str] | None:
    """Return why a text is no address of a store, and the spelling that works."""
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("http", "https") and not parts.hostname:
        return "it names no host", f"Write {scheme}://HOST:PORT."
    if scheme == "sqlite" and not text.startswith(f"{parts.scheme}:///"):
        path = text.removeprefix(f"{parts.scheme}:").lstrip("/")
        return "three slashes come before a path", f"Write {_sqlite_uri(path)}"
    if scheme in (*SCHEMES, *(plugin.name for plugin in entry_points(group=PLUGINS))):
        return None
    if text == "databricks":
        return None
    if host := re.match(r"([\w.-]*)(:\d+(?:/.*)?)$", text):
        return "the scheme is missing", f"Write http://{host[1] or 'localhost'}{host[2]}"
    if scheme == "file":
        path = unquote(parts.path)
        return "MLflow writes to databases and servers", f"Write {_sqlite_uri(path)}"
    if "://" not in text:
        return "a path is no address", f"Write {_sqlite_uri(text)}"
    return f"{scheme} is no store of MLflow's", f"It has {', '.join(SCHEMES)}."


def _sqlite_uri(path: str) -> str:
    """Return the address of a database at a path: a file, or in a folder."""
    whole = Path(path).expanduser().absolute()
    is_file = whole.suffix in (".db", ".sqlite", ".sqlite3")
    return f"sqlite:///{whole if is_file else whole / DATABASE}"


@contextlib.contextmanager
def sole_deliverer(search_dir: Path, timeout_s: float) -> Iterator[None]:
    """Hold the right to write to MLflow: two at once would create every run twice.

    Raises:
        UserError: Another process kept it for ``timeout_s``.
    """
    try:
        with exclusive_lock(search_dir / TRACKING_LOCK, timeout_s):
            yield
    except LockedError:
        raise UserError(
            f"{search_dir}: another process is sending to MLflow",
            "A running search does that itself; try again when it has ended.",
        ) from None


def relocate(search_dir: Path) -> None:
    """Point a moved or copied sqlite store to the artifacts that lie beside it now.

    MLflow keeps absolute addresses in every run. Each old root (an experiment's location that ends
    with our folder name) is replaced by the present one, in one transaction.
    """
    database, present = search_dir / DATABASE, artifact_uri(search_dir)
    if not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return
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


def find_experiment(search_dir: Path, name: str) -> tuple[str, set[str]] | None:
    """Return id and tags of the experiment ``name`` (empty: the newest) in the sqlite store."""
    database = (search_dir / DATABASE).absolute().as_uri()
    found = "SELECT experiment_id FROM experiments WHERE ? IN ('', name) ORDER BY 1 DESC"
    tags = "SELECT key FROM experiment_tags WHERE experiment_id = ?"
    with contextlib.closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
        with contextlib.suppress(sqlite3.OperationalError):  # a store that was never filled
            for row in connection.execute(found, (name,)):
                return str(row[0]), {key for (key,) in connection.execute(tags, row)}
    return None
