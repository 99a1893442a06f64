"""A database keeps the schema of the MLflow that wrote it, unless the user has it upgraded.

MLflow migrates a database of an earlier version when it opens it, and the earlier version cannot
read it any more.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from okddip_search.errors import UserError
from okddip_search.masking import masked
from okddip_search.tracking.store import Target

_REVISIONS = re.compile(r'^(down_revision|revision) *= *["\'](\w+)["\']', re.MULTILINE)


def require_schema(target: Target, *, upgrade: bool = False) -> None:
    """Make sure that a database has the schema of the MLflow that is installed, or is still empty.

    A server looks after its own database. A database that does not answer is looked at again when
    it is written to.

    Args:
        target: The store.
        upgrade: Whether to migrate a database of an earlier version.

    Raises:
        UserError: It has the schema of another version, or Python has no driver for it.
    """
    if urlsplit(target.uri).scheme.startswith(("http", "databricks")):
        return
    found, ours = _revision_in(target), dict(_revisions())
    head = (ours.keys() - ours.values()).pop()
    if found in (None, head):
        return
    here = f"MLflow {version('mlflow')}"
    if found not in ours:
        raise UserError(
            f"{target.shown} was written by a later version than {here}",
            "Install that version, or choose another --tracking-uri.",
        )
    if not upgrade:
        raise UserError(
            f"{target.shown} was written by an earlier version than {here}",
            "With --upgrade-tracking-db it is migrated, and the earlier version cannot read it any "
            "more: make a copy first. Or choose another --tracking-uri.",
        )
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", target.uri]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{target.shown} could not be migrated: {masked(last)}")


def _revision_in(target: Target) -> str | None:
    """Return the revision of a database's schema; None: it has none, or does not answer."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    try:
        engine = create_engine(target.uri)
        if target.uri.startswith("sqlite") and not Path(engine.url.database or "").exists():
            return None
    except (ImportError, NoSuchModuleError) as error:
        raise UserError(
            f"{target.shown}: {error}", "Install the database's driver for Python."
        ) from None
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _revisions() -> Iterator[tuple[str, str | None]]:
    """Yield each revision of MLflow's schema and the one before it.

    Read as text: MLflow and its migrations take seconds to import.
    """
    spec = find_spec("mlflow")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "store", "db_migrations", "versions")
    for path in folder.glob("*.py"):
        known = dict(_REVISIONS.findall(path.read_text(encoding="utf-8")))
        if "revision" in known:
            yield known["revision"], known.get("down_revision")
