"""The tracking journal: what is to be shown in MLflow, one JSON line per operation.

The driver appends; one thread (or ``sync``, later) replays. A line is written by a single
``write`` and needs no ``fsync``: it outlives a killed process.
"""

import json
import logging
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Operation = dict[str, Any]

SEARCH = "search"  # the stage whose trials the result is chosen from


def run_key(stage: str, number: int) -> str:
    """Name a trial in the journal and in MLflow, so that the stages' numbers do not collide."""
    return str(number) if stage == SEARCH else f"{stage}-{number}"


def stage_of(key: str) -> str:
    """Return the stage that a trial belongs to, from its ``run_key``."""
    return key.rpartition("-")[0] or SEARCH


class Journal:
    """An append-only file of JSON lines that survives being killed at any byte."""

    def __init__(self, path: Path) -> None:
        """Open for appending, and cut what a killed writer left after the last newline."""
        self.path = path
        # Unbuffered: a line is in the kernel's hands when `append` returns.
        self._file = path.open("ab", buffering=0)
        complete = _complete_length(path)
        if complete < path.stat().st_size:
            log.warning("%s: cut a torn last line", path)
            self._file.truncate(complete)
        self._torn = False

    def append(self, operation: Operation) -> None:
        """Write one operation, stamped with the present time (``t``, ms since 1970).

        Raises:
            OSError: The disk is full or gone.
        """
        operation.setdefault("t", time.time_ns() // 1_000_000)
        line = json.dumps(operation, separators=(",", ":"), default=str).encode() + b"\n"
        if self._torn:  # a full disk took half a line: keep the next one apart from it
            line = b"\n" + line
        self._torn = True
        self._torn = self._file.write(line) != len(line)
        if self._torn:
            raise OSError(f"{self.path}: no space for an operation")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[Operation, int]]:
    """Yield complete operations from a byte offset on, each with the offset after it.

    Args:
        path: The journal.
        offset: Where to start, in bytes; must be the start of a line.
        limit: At most so many operations; None: all.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if limit == 0 or not line.endswith(b"\n"):
                return
            try:
                operation = json.loads(line)
            except ValueError:
                if line.strip():
                    log.warning("%s: a line that is no JSON is skipped", path)
                continue
            yield _with_text_keys(operation), offset
            limit = None if limit is None else limit - 1


def _with_text_keys(operation: Operation) -> Operation:
    """Return an operation as it is written today: there were numbers where run keys are now."""
    if "trial" in operation:
        operation["trial"] = str(operation["trial"])
    if "open" in operation:
        operation["open"] = [str(key) for key in operation["open"]]
    return operation


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


class Position:
    """How far each MLflow store has been told the journal, kept in a small file."""

    def __init__(self, path: Path, key: str) -> None:
        """Remember the file and the store's name in it."""
        self._path = path
        self._key = key

    def load(self, journal_length: int) -> int:
        """Return the offset delivered; 0 if none is known or it lies beyond the journal."""
        offset = self._all().get(self._key, 0)
        return offset if offset <= journal_length else 0

    def save(self, offset: int) -> None:
        """Record the offset, atomically."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**self._all(), self._key: offset}))
        temporary.replace(self._path)

    def _all(self) -> dict[str, int]:
        try:
            stored = json.loads(self._path.read_text())
            return {str(key): int(offset) for key, offset in stored.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # all is replayed, which changes nothing


@dataclass
class Story:
    """What a journal has told so far; rebuilt by reading it, kept current while writing it.

    Attributes:
        search_id: Random name of the search, in every one of its runs.
        name: The search's name: MLflow's experiment.
        store: Key of the store that the last driver wrote to.
        tags: Provenance tags of the last driver.
        last_step: Run key to the last epoch written.
        best: Run key to the best leader accuracy.
        results: Run key to what was found out about the run later.
        confirmed: The last confirmed leader that was told of.
        open: Run keys of trials begun and not ended.
        ended: Run keys of trials ended.
        columns: Searched hyperparameters, in order of appearance.
        common: Those that every trial of the search has (the others are conditional).
    """

    search_id: str = ""
    name: str = ""
    store: str = "local"
    tags: dict[str, str] = field(default_factory=dict)
    last_step: dict[str, int] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    confirmed: Operation = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    columns: list[str] = field(default_factory=list)
    common: list[str] = field(default_factory=list)

    @classmethod
    def from_journal(cls, path: Path) -> "Story":
        """Read a journal from its beginning."""
        story = cls()
        for operation, _ in read(path):
            story.add(operation)
        return story

    @property
    def num_ended(self) -> int:
        """Trials of the search that have ended."""
        return sum(stage_of(key) == SEARCH for key in self.ended)

    def add(self, operation: Operation) -> None:
        """Take note of one operation."""
        key = operation.get("trial", "")
        match operation["op"]:
            case "journal":
                self.search_id, self.name = operation["search_id"], operation["name"]
            case "search":
                self.store, self.tags = operation["store"], operation["tags"]
            case "trial":
                self.open.add(key)
                self.columns, self.common = self.columns_with(key, operation["params"])
            case "epoch":
                self.last_step[key] = operation["step"]
                if "best_leader_accuracy" in operation["metrics"]:
                    self.best[key] = operation["metrics"]["best_leader_accuracy"]
            case "end":
                self.open.discard(key)
                self.ended.add(key)
            case "results":
                known = self.results.get(key, {})
                self.results[key] = {**known, **operation["metrics"], **operation["tags"]}
            case "confirmed":
                self.confirmed = operation

    def columns_with(self, key: str, params: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Return what ``columns`` and ``common`` become with a trial of these parameters."""
        if stage_of(key) != SEARCH:
            return self.columns, self.common
        columns = [*self.columns, *(name for name in params if name not in self.columns)]
        if not params:  # unknown: an earlier driver did not tell them
            return columns, self.common
        known = self.common if self.columns else columns
        return columns, [name for name in known if name in params]


def new_header(name: str) -> Operation:
    """Return the first operation of a journal: who this search is."""
    return {"op": "journal", "version": 1, "search_id": uuid.uuid4().hex, "name": name}


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
        "val/leader_accuracy": report.get("leader_accuracy"),
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
