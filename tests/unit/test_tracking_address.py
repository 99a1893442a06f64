"""The MLflow store of a search: its address, the environment, databases of other versions."""

import sqlite3
from functools import partial
from pathlib import Path

import pytest

from okddip_search.errors import UserError
from okddip_search.study.sessions import Session, SessionLog
from okddip_search.tracking.mirror import Mirror
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import target_of
from okddip_search.tracking.worker import chosen_uri


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("localhost:5000", "http://localhost:5000"),
        (":5000", "http://localhost:5000"),
        ("server:5000/mlflow", "http://server:5000/mlflow"),
        ("10.0.0.7:80", "http://10.0.0.7:80"),
        ("http:/server", "http://HOST:PORT"),
        ("mlruns", "sqlite:///{here}/mlruns/mlflow.db"),
        ("old.db", "sqlite:///{here}/old.db"),
        ("/data/my runs", "sqlite:////data/my runs/mlflow.db"),
        ("file:///data/my%20runs", "sqlite:////data/my runs/mlflow.db"),
        ("sqlite://old.db", "sqlite:///{here}/old.db"),
        ("htp://server", "http, https, sqlite"),
    ],
)
def test_what_is_no_address_is_refused_with_the_spelling_that_works(tmp_path, typed, right):
    with pytest.raises(UserError, match="--tracking-uri") as refused:
        target_of(tmp_path, typed)
    assert right.format(here=Path.cwd()) in refused.value.remedy


@pytest.mark.parametrize(
    "uri",
    ["https://host/base", "sqlite:////a/b.db", "postgresql+psycopg2://u:p@h/db", "databricks"],
)
def test_an_address_is_taken(tmp_path, uri):
    assert target_of(tmp_path, uri).uri == uri


def test_mlflows_own_variable_is_used_by_a_new_search_and_named_where_it_is_not(
    tmp_path, monkeypatch
):
    said = []
    choose = partial(chosen_uri, tmp_path, say=said.append)
    assert choose(None, is_resumed=False) is None and not said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert choose("http://other", is_resumed=False) == "http://other" and not said
    assert choose(None, is_resumed=False) == "http://me:secret@host:5000"
    assert said == ["tracked at http://***@host:5000 (MLFLOW_TRACKING_URI)"]
    SessionLog(tmp_path).begin(Session("1", "demo"))
    assert choose(None, is_resumed=True) == "local"
    assert said[1:] == ["MLFLOW_TRACKING_URI is not used: this search is tracked in mlflow.db"]
    SessionLog(tmp_path).begin(Session("1", "demo", store="http://***@host:5000"))
    assert choose(None, is_resumed=True) == "http://me:secret@host:5000"


@pytest.fixture
def database(tmp_path):
    """Make a database whose schema has a given revision."""

    def write(revision):
        with sqlite3.connect(tmp_path / "old.db") as connection:
            connection.execute("CREATE TABLE alembic_version (version_num)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        return target_of(tmp_path, f"sqlite:///{tmp_path / 'old.db'}")

    return write


def test_the_schema_of_this_mlflow_and_an_empty_database_are_taken(tmp_path, database):
    from mlflow.store.db.utils import _get_latest_schema_revision

    require_schema(target_of(tmp_path, None))
    require_schema(database(_get_latest_schema_revision()))
    require_schema(target_of(tmp_path, "http://host:5000"))


@pytest.mark.parametrize(
    ("revision", "words", "remedy"),
    [
        ("0584bdc529eb", "an earlier version than MLflow 3", "--upgrade-tracking-db"),
        ("ffffffffffff", "a later version than MLflow 3", "Install that version"),
    ],
)
def test_the_database_of_another_mlflow_is_refused_and_unchanged(database, revision, words, remedy):
    target = database(revision)
    before = Path(target.uri.removeprefix("sqlite:///")).read_bytes()
    with pytest.raises(UserError, match=words) as refused:
        require_schema(target)
    assert remedy in refused.value.remedy
    with pytest.raises(UserError, match=words):
        Mirror(Path("/nonexistent"), target, print)._open_client()
    assert Path(target.uri.removeprefix("sqlite:///")).read_bytes() == before


def test_with_the_users_word_a_database_is_migrated(tmp_path):
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    target = target_of(tmp_path, f"sqlite:///{tmp_path / 'old.db'}")
    Base.metadata.create_all(create_engine(target.uri))
    command.upgrade(_get_alembic_config(target.uri), "0584bdc529eb")
    with pytest.raises(UserError, match="earlier version"):
        require_schema(target)
    require_schema(target, upgrade=True)
    require_schema(target)
    with sqlite3.connect(tmp_path / "old.db") as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert revision == (_get_latest_schema_revision(),)
