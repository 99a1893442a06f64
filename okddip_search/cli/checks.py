"""Looks at what a search will need, for ``--explain``: its folder, the disk, the tracking store."""

import os
import shlex
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from okddip_search.cli.disk import Disk
from okddip_search.errors import UserError
from okddip_search.formatting import size_text
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import target_of
from okddip_search.tracking.worker import chosen_uri

ANSWER_S = 5.0


def require_folder(directory: Path) -> Path:
    """Return the folder in which a search directory is or will be made.

    Raises:
        UserError: The user may not write there.
    """
    place = next(p for p in (directory.absolute(), *directory.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{directory} cannot be written: {place} is no folder of yours to write to",
            "Choose another --out.",
        )
    return place


def require_room(directory: Path, disk: Disk) -> str:
    """Compare the space that a search takes with what is free.

    Raises:
        UserError: There is less.
    """
    free = shutil.disk_usage(require_folder(directory)).free
    if disk.total > free:
        raise UserError(
            f"{directory}: at most about {size_text(disk.total)} are needed, and "
            f"{size_text(free)} are free",
            "Choose another --out, or lower study.keep_leaders or study.trials.",
        )
    return f"{size_text(free)} are free"


def describe_tracking(
    directory: Path,
    asked: str | None,
    *,
    is_resumed: bool,
    upgrade: bool,
    say: Callable[[str], None],
) -> str:
    """Return the store of a search and whether it answers; a search runs without it as well.

    Args:
        directory: Of the search.
        asked: ``--tracking-uri``.
        is_resumed: Whether there is a search in the directory.
        upgrade: Whether a database of an earlier MLflow may be migrated; it is not migrated here.
        say: Prints a line where MLFLOW_TRACKING_URI is used, or is not.

    Raises:
        UserError: It is no address of a store, or a database of another MLflow.
    """
    target = target_of(directory, chosen_uri(directory, asked, is_resumed=is_resumed, say=say))
    if not upgrade:
        require_schema(target)
    if urlsplit(target.uri).scheme not in ("http", "https"):
        return target.shown
    try:
        with urllib.request.urlopen(f"{target.uri.rstrip('/')}/health", timeout=ANSWER_S):
            return f"{target.shown} answers"
    except urllib.error.HTTPError as error:  # behind a login, or another path
        return f"{target.shown} answers (HTTP {error.code})"
    except OSError as error:
        later = f"okddip-search sync {shlex.quote(str(directory))} sends it everything later"
        return f"{target.shown} does not answer now ({error}); {later}"
