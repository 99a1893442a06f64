"""What a report is made from, read without touching it: no lock, no repair, nothing written.

A search may be running in another process, or have died in mid write. Its journal is therefore
copied up to the last whole line, and the copy is what Optuna opens.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from okddip_search.driver.autotune import load_speed
from okddip_search.errors import UserError
from okddip_search.layout import (
    CONFIRM,
    CONFIRMATION,
    JOURNAL,
    RESULT,
    SPEC,
    STATE,
    TRACKING,
    TRIALS,
)
from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec
from okddip_search.tracking.journal import read as read_operations
from trainer.io.files import read_json
from trainer.io.text import shown

CONFIRM_FORMAT = 1


@dataclass(frozen=True)
class Sources:
    """The files of a search, as they were at one moment.

    Attributes:
        directory: Of the search.
        spec: The space as it ran.
        trials: Of the study, by number.
        study_attrs: User attributes of the study.
        runs: Trial number to what its directory says: ``config``, ``environment``, ``history``.
        confirm: ``confirm/confirm.json``, or None.
        confirm_problem: Why there is no ``confirm`` although the file exists; else empty.
        operations: What the search told MLflow, without epochs; empty where it told nothing.
        driver: Process that is at work on the search, or None.
        speed: What was timed before the first trial, in words; empty: nothing.
    """

    directory: Path
    spec: SearchSpec
    trials: list[FrozenTrial]
    study_attrs: Mapping[str, Any]
    runs: Mapping[int, Mapping[str, Any]]
    confirm: Mapping[str, Any] | None
    confirm_problem: str
    operations: list[Mapping[str, Any]]
    driver: int | None
    speed: str = ""


def read_sources(directory: Path) -> Sources:
    """Read a search directory; a search may be at work in it.

    Raises:
        UserError: There is no search, or its journal is damaged before its last line.
    """
    if not (directory / JOURNAL).is_file() or not (directory / SPEC).is_file():
        raise UserError(
            f"{directory} holds no search", "Name a search directory such as runs/digits."
        )
    trials, study_attrs = read_study(directory / JOURNAL)
    confirm, problem = read_findings(directory / CONFIRM / CONFIRMATION)
    return Sources(
        directory=directory,
        spec=load_space(directory / SPEC),
        trials=trials,
        study_attrs=study_attrs,
        runs={t.number: run for t in trials if (run := read_run(directory, t.number))},
        confirm=confirm,
        confirm_problem=problem,
        operations=_read_tracking(directory / TRACKING),
        driver=_living_driver(directory / "lock"),
        speed=_read_speed(directory),
    )


def read_study(journal: Path) -> tuple[list[FrozenTrial], dict[str, Any]]:
    """Return the trials of a study, by number, and its user attributes.

    Raises:
        UserError: The journal is damaged before its last line.
        OSError: It cannot be read.
    """
    content = journal.read_bytes()
    with tempfile.TemporaryDirectory(prefix="okddip-report-") as folder:
        copy = Path(folder, JOURNAL)
        copy.write_bytes(content[: content.rfind(b"\n") + 1])
        try:
            storage = JournalStorage(JournalFileBackend(str(copy)))
            names = optuna.get_all_study_names(storage)
            if not names:
                return [], {}
            study = optuna.load_study(study_name=names[0], storage=storage)
            return study.get_trials(deepcopy=False), study.user_attrs
        except Exception as error:  # where a line is no record, Optuna raises whatever comes
            text = f"{journal} is damaged: {shown(str(error) or type(error).__name__, 300)}"
            raise UserError(text, "Restore it from a copy.") from None


def read_run(directory: Path, number: int) -> Mapping[str, Any] | None:
    """Read a finished run's result, or the checkpoint of one that runs or was given up."""
    for name in (RESULT, STATE):
        try:
            run = read_json(directory / TRIALS / str(number) / name)
        except (OSError, ValueError):  # not there (yet), or damaged: the study still has the trial
            continue
        if isinstance(run, dict) and run.get("history"):
            return run
    return None


def read_findings(path: Path) -> tuple[Mapping[str, Any] | None, str]:
    """Return what a confirmation found out, or why that cannot be said."""
    if not path.exists():
        return None, ""
    try:
        confirm = read_json(path)
        if confirm["format"] != CONFIRM_FORMAT:
            return None, f"{CONFIRM}/{CONFIRMATION} was written by another version of okddip-search"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{CONFIRM}/{CONFIRMATION} cannot be read: {error}"
    return confirm, ""


def _read_speed(directory: Path) -> str:
    try:
        speed = load_speed(directory)
    except UserError as error:
        return str(error)
    return speed.words if speed else ""


def _read_tracking(path: Path) -> list[Mapping[str, Any]]:
    if not path.exists():
        return []
    return [operation for operation, _ in read_operations(path) if operation.get("op") != "epoch"]


def _living_driver(lock: Path) -> int | None:
    """Return the process named in the lock file if it lives; trying the lock would take it."""
    try:
        process = int(lock.read_text())
        os.kill(process, 0)
    except PermissionError:  # it lives and belongs to somebody else
        return process
    except (OSError, ValueError):
        return None
    return process
