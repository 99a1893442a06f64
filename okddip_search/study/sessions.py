"""``sessions.jsonl``: who worked on a search, when, with which versions, and how it ended.

A driver appends a line when a phase begins (the search, the confirmation) and one when it ends. A
killed driver leaves the second one out, or half a line, which is skipped. A directory of an earlier
version has the same facts in its ``tracking.jsonl``. Nothing here imports optuna.
"""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from okddip_search.layout import SESSIONS, TRACKING
from trainer.io.files import append_line, read_json_lines

Status = Literal["FINISHED", "KILLED", "FAILED"]
"""How a session ended, in MLflow's words."""


@dataclass(frozen=True)
class Session:
    """One phase of a driver's work.

    Attributes:
        search_id: Random name of the search.
        name: The search's own name.
        store: Where MLflow's side of it is (``Target.key``).
        params: The essentials of the search.
        tags: Provenance: command, host, versions.
        begun_ms: When it began, ms since 1970.
        ended_ms: When it ended; None: it is at work, or was killed.
        status: How it ended; None as above.
    """

    search_id: str
    name: str
    store: str = "local"
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    begun_ms: int = 0
    ended_ms: int | None = None
    status: Status | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """A copy for the study, in case ``sessions.jsonl`` is lost."""
        names = ("search_id", "name", "store", "params", "tags")
        return {name: getattr(self, name) for name in names}


def new_search_id() -> str:
    """Return a random name for a search."""
    return uuid.uuid4().hex


class SessionLog:
    """Writes ``sessions.jsonl``; what has no room on a full disk waits for a later ``flush``."""

    def __init__(self, directory: Path) -> None:
        """Take the directory of the search."""
        self._path = directory / SESSIONS
        self._waiting: list[str] = []
        self._lock = threading.Lock()

    def begin(self, session: Session) -> None:
        """Write down that a session begins, now."""
        self._append({"event": "begin", **session.identity})

    def end(self, status: Status) -> None:
        """Write down that the session which has begun last ends, now."""
        self._append({"event": "end", "status": status})

    def flush(self) -> None:
        """Write what waits, the oldest first.

        Raises:
            OSError: It cannot be written yet.
        """
        with self._lock:
            while self._waiting:
                append_line(self._path, self._waiting[0])
                self._waiting.pop(0)

    def _append(self, event: Mapping[str, Any]) -> None:
        time_ms = time.time_ns() // 1_000_000
        with self._lock:
            self._waiting.append(json.dumps({**event, "time_ms": time_ms}, default=str))
        with contextlib.suppress(OSError):
            self.flush()


def read_sessions(directory: Path) -> list[Session]:
    """Return the sessions of a search in order, those of an earlier version's drivers first."""
    sessions: list[Session] = []
    for event in [*_earlier_events(directory / TRACKING), *_lines(directory / SESSIONS)]:
        try:
            if event["event"] == "begin":
                sessions.append(_begun(event))
            elif event["event"] == "end" and sessions:
                status: Any = str(event["status"])
                sessions[-1] = replace(sessions[-1], ended_ms=int(event["time_ms"]), status=status)
        except (LookupError, TypeError, ValueError, AttributeError):
            continue  # it is JSON, and whatever it says, it is not ours
    return sessions


def _begun(event: Mapping[str, Any]) -> Session:
    names = ("search_id", "name", "store")
    params, tags = ({str(k): str(v) for k, v in event[n].items()} for n in ("params", "tags"))
    search_id, name, store = (str(event[n]) for n in names)
    return Session(search_id, name, store, params, tags, int(event["time_ms"]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        yield from (event for _, event in read_json_lines(path) if isinstance(event, dict))


def _earlier_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records about sessions that an earlier version wrote for MLflow."""
    header: dict[str, Any] = {"search_id": "", "name": ""}
    for operation in _lines(path):
        kind = operation.get("op")
        if kind == "journal":
            header = {name: operation.get(name, "") for name in header}
        elif kind in ("search", "search_end"):
            event = "begin" if kind == "search" else "end"
            defaults = {"params": {}, "tags": {}, "t": 0}
            known = {**defaults, **header, **operation}
            yield {**known, "event": event, "time_ms": known["t"]}
