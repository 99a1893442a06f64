"""The tracking journal: what is to be shown in MLflow, one JSON line per operation.

The driver appends; one thread (or ``sync``, later) replays. A line is written by a single
``write`` and needs no ``fsync``: it outlives a killed process, and what a power cut takes is told
again from the study (``tracking_restore``).
"""

import errno
import json
import math
import os
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Operation = dict[str, Any]

SEARCH = "search"  # the stage whose trials the result is chosen from
AGAIN = "again"
"""Marks an operation that the store may have been told before, at another time: by a line that the
journal has lost. Only what the store lacks is added."""
ACCURACY = "val/leader_accuracy"
BEST_ACCURACY = "best_leader_accuracy"  # of the best epoch; a search's trials are sorted by it


def run_key(stage: str, number: int) -> str:
    """Name a trial in the journal and in MLflow, so that the stages' numbers do not collide."""
    return str(number) if stage == SEARCH else f"{stage}-{number}"


def stage_of(key: str) -> str:
    """Return the stage that a trial belongs to, from its ``run_key``."""
    return key.rpartition("-")[0] or SEARCH


class Journal:
    """An append-only file of JSON lines that survives being killed at any byte, and a full disk.

    What cannot be written waits in memory, in order, for the next call: no more of it than one
    search produces, whose study waits for the same disk.

    Attributes:
        cut: Bytes that a killed writer had left after the last newline, and that were cut off.
    """

    def __init__(self, path: Path) -> None:
        """Open for appending, and cut what a killed writer left after the last newline."""
        self.path = path
        # Unbuffered: a line is in the kernel's hands when it is written.
        self._file = path.open("ab", buffering=0)
        complete = _complete_length(path)
        self.cut = path.stat().st_size - complete
        if self.cut:
            self._file.truncate(complete)
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._torn_at: int | None = None

    @property
    def num_waiting(self) -> int:
        """Operations for which there was no room on the disk yet."""
        return len(self._waiting)

    def append(self, operation: Operation) -> OSError | None:
        """Write one operation, stamped with the present time (``t``, ms since 1970).

        Returns:
            Why it waits, as ``flush`` does.
        """
        operation.setdefault("t", time.time_ns() // 1_000_000)
        line = json.dumps(operation, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            self._waiting.append(line)
        return self.flush()

    def flush(self) -> OSError | None:
        """Write what waits, the oldest first; return why some of it waits on, or None."""
        with self._lock:
            try:
                while self._waiting:
                    self._write(self._waiting[0])
                    self._waiting.popleft()
            except OSError as error:
                return error
        return None

    def _write(self, line: bytes) -> None:
        if self._torn_at is not None:
            self._file.truncate(self._torn_at)
        self._torn_at = os.fstat(self._file.fileno()).st_size
        written = self._file.write(line)
        if written != len(line):  # a full disk took a part of it
            self._file.truncate(self._torn_at)
            self._torn_at = None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._torn_at = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[Operation, int]]:
    """Yield complete operations from a byte offset on, each with the offset after it.

    Lines that are no operations (a power cut leaves blocks of zeros) are skipped.

    Args:
        path: The journal.
        offset: Where to start, in bytes; must be the start of a line.
        limit: At most so many operations; None: all.
    """
    for operation, end in _lines(path, offset):
        if limit == 0:
            return
        if operation is not None:
            yield operation, end
            limit = None if limit is None else limit - 1


def _lines(path: Path, offset: int) -> Iterator[tuple[Operation | None, int]]:
    """Yield every whole line as an operation, or None if it is damaged."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            if line.strip():
                yield _parsed(line), offset


def _parsed(line: bytes) -> Operation | None:
    try:
        operation = json.loads(line)
        if not isinstance(operation["op"], str):
            return None
        # There were numbers once where run keys are now.
        if "trial" in operation:
            operation["trial"] = str(operation["trial"])
        if "open" in operation:
            operation["open"] = [str(key) for key in operation["open"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return dict(operation)


def _complete_length(path: Path) -> int:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


_MARK_BYTES = 4096


class Position:
    """How far each MLflow store has been told a journal, kept in a small file.

    With an offset goes a mark of what stands before it: a journal that a power cut has shortened
    grows beyond the offset again, with other operations.
    """

    def __init__(self, path: Path, journal: Path, key: str) -> None:
        """Remember the file, the journal, and the store's name in the file."""
        self._path = path
        self._journal = journal
        self._key = key

    def load(self) -> int:
        """Return the offset delivered; 0 if none is known for this journal as it is now."""
        stored: Any = self._all().get(self._key)
        try:
            offset, mark = int(stored["offset"]), stored["mark"]
            return offset if mark and mark == self._mark(offset) else 0
        except (KeyError, TypeError, ValueError, OSError):
            return 0  # all is replayed, which changes nothing

    def save(self, offset: int) -> None:
        """Record the offset, atomically.

        Raises:
            OSError: The disk is full or gone.
        """
        temporary = self._path.with_suffix(".tmp")
        entry = {"offset": offset, "mark": self._mark(offset)}
        temporary.write_text(json.dumps({**self._all(), self._key: entry}))
        temporary.replace(self._path)

    def _mark(self, offset: int) -> str:
        """Return a checksum of the bytes before an offset; empty if there are not so many."""
        start = max(0, offset - _MARK_BYTES)
        with self._journal.open("rb") as file:
            file.seek(start)
            before = file.read(offset - start)
        return f"{zlib.crc32(before):08x}" if start + len(before) == offset else ""

    def _all(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return stored if isinstance(stored, dict) else {}


@dataclass
class Story:
    """What a journal has told so far; rebuilt by reading it, kept current while writing it.

    Attributes:
        search_id: Random name of the search, in every one of its runs.
        name: The search's name: MLflow's experiment.
        store: Key of the store that the last driver wrote to.
        params: Essentials of the search, as the last driver told them.
        tags: Provenance tags of the last driver.
        is_going_on: Whether a driver has not told that it ended; None: none has told anything.
        epochs: Run key to the epochs written, a bit each.
        best: Run key to the best leader accuracy.
        results: Run key to what was found out about the run later.
        confirmed: The last confirmed leader that was told of.
        files: Paths of artifacts and leaders that were told of.
        begun: Run keys of trials begun.
        ended: Run keys of trials ended.
        columns: Searched hyperparameters, in order of appearance.
        common: Those that every trial of the search has (the others are conditional).
        damaged: Lines that are no operations.
    """

    search_id: str = ""
    name: str = ""
    store: str = "local"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    is_going_on: bool | None = None
    epochs: dict[str, int] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    confirmed: Operation = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    columns: list[str] = field(default_factory=list)
    common: list[str] = field(default_factory=list)
    damaged: int = 0

    @classmethod
    def from_journal(cls, path: Path) -> "Story":
        """Read a journal from its beginning; there need not be one."""
        story = cls()
        for operation, _ in _lines(path, 0) if path.exists() else ():
            try:
                story.add(operation or {})
            except Exception:  # it is JSON, and whatever it says, it is not ours
                story.damaged += 1
        return story

    @property
    def open(self) -> set[str]:
        """Run keys of trials begun and not ended."""
        return self.begun - self.ended

    @property
    def num_ended(self) -> int:
        """Trials of the search that have ended."""
        return sum(stage_of(key) == SEARCH for key in self.ended)

    def has_epoch(self, key: str, step: int) -> bool:
        """Say whether an epoch of a run was told."""
        return bool(self.epochs.get(key, 0) >> step & 1)

    def last_step(self, key: str) -> int:
        """Return the last epoch of a run that was told; -1 if none was."""
        return self.epochs.get(key, 0).bit_length() - 1

    def add(self, operation: Operation) -> None:
        """Take note of one operation."""
        key = operation.get("trial", "")
        match operation["op"]:
            case "journal":
                self.search_id, self.name = operation["search_id"], operation["name"]
            case "search":
                self.store, self.tags = operation["store"], operation["tags"]
                self.params, self.is_going_on = operation["params"], True
            case "trial":
                self.columns, self.common = self.columns_with(key, operation["params"])
                self.begun.add(key)
            case "epoch":
                self.epochs[key] = self.epochs.get(key, 0) | 1 << operation["step"]
                accuracy = operation["metrics"].get(BEST_ACCURACY)
                if accuracy is not None:
                    self.best[key] = max(accuracy, self.best.get(key, accuracy))
            case "end":
                self.ended.add(key)
            case "results":
                known = self.results.get(key, {})
                self.results[key] = {**known, **operation["metrics"], **operation["tags"]}
            case "artifacts":
                self.files.update(operation["paths"])
            case "leader":
                self.files.add(operation["path"])
            case "confirmed":
                self.confirmed = operation
            case "search_end":
                self.is_going_on = False

    def columns_with(self, key: str, params: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Return what ``columns`` and ``common`` become with a trial of these parameters."""
        if stage_of(key) != SEARCH:
            return self.columns, self.common
        columns = [*self.columns, *(name for name in params if name not in self.columns)]
        if not params:  # unknown: an earlier driver did not tell them
            return columns, self.common
        known = self.common if self.columns else columns
        return columns, [name for name in known if name in params]


def new_header(name: str, search_id: str = "") -> Operation:
    """Return the first operation of a journal: who this search is."""
    identity = {"search_id": search_id or uuid.uuid4().hex, "name": name}
    return {"op": "journal", "version": 1, **identity}


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Keep the numbers that a chart can show: no text, no inf, no NaN."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def param_text(value: Any) -> str:
    """Write a parameter so that a table column can be read: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:500]


def param_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Write all parameters as text."""
    return {str(key): param_text(value) for key, value in params.items()}


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Write all tags as text; what is not known yet (None) is left out."""
    return {key: str(value) for key, value in tags.items() if value is not None}


def epoch_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Name an epoch's numbers for MLflow: slashes make chart sections, few enough to read.

    Fourteen, and the running best makes fifteen: MLflow's pages become slow and hard
    to read with more. All the others are in the trial's result.json.

    Args:
        report: ``EpochReport.to_dict()``; what is absent or not finite is left out.
    """
    named = {
        ACCURACY: report.get("leader_accuracy"),
        "val/ensemble_accuracy": report.get("ensemble_accuracy"),
        "val/mean_peer_accuracy": report.get("mean_peer_accuracy"),
        "val/leader_nll": report.get("leader_nll"),
        "val/leader_ece": report.get("leader_ece"),
        "train/loss": (report.get("train") or {}).get("total"),
        "train/lr": report.get("lr"),
        "peers/ensemble_gap": report.get("ensemble_gap"),
        "peers/diversity": report.get("diversity"),
        "peers/disagreement": report.get("disagreement"),
        "peers/q_statistic": report.get("q_statistic"),
        "peers/attention_entropy": report.get("attention_entropy"),
        "time/epoch_s": report.get("seconds"),
        "time/images_per_s": report.get("images_per_s"),
    }
    return finite(named)
