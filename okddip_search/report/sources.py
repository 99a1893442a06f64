"""The files behind a report, read only: no lock, no repair, nothing written.

A search may be running in another process, or have died in the middle of a write. Its journal is
therefore copied up to the last whole line, and Optuna opens the copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from okddip_search.cluster.processes import began_before
from okddip_search.driver.autotune import load_speed
from okddip_search.errors import UserError
from okddip_search.layout import CONFIRM, CONFIRMATION, JOURNAL, require_search
from okddip_search.space.load import load_saved
from okddip_search.space.model import SearchSpec
from okddip_search.study.reading import read_findings, read_run, read_study
from okddip_search.study.sessions import Session, read_sessions


@dataclass(frozen=True)
class Sources:
    """The files of a search, as they were at one moment.

    Attributes:
        directory: Directory of the search.
        spec: The space as it ran.
        trials: Trials of the study, by number.
        study_attrs: User attributes of the study.
        runs: ``config``, ``environment`` and ``history`` of each run, by trial number.
        confirm: ``confirm/confirm.json``, or None.
        confirm_problem: Why there is no ``confirm`` although the file exists; else empty.
        sessions: The commands that worked on it, in order; empty if they are not known.
        driver: Id of the driver process, or None if none is running.
        speed: Choices and timings of autotuning, in words; empty if there are none.
    """

    directory: Path
    spec: SearchSpec
    trials: list[FrozenTrial]
    study_attrs: Mapping[str, Any]
    runs: Mapping[int, Mapping[str, Any]]
    confirm: Mapping[str, Any] | None
    confirm_problem: str
    sessions: list[Session]
    driver: int | None
    speed: str = ""


def read_sources(directory: Path) -> Sources:
    """Read a search directory, which may be in use by a running search.

    Raises:
        UserError: There is no search, or its journal is damaged before its last line.
    """
    require_search(directory, "Name a search directory such as runs/digits.")
    trials, study_attrs = read_study(directory / JOURNAL)
    confirm, problem = read_findings(directory / CONFIRM / CONFIRMATION)
    return Sources(
        directory=directory,
        spec=load_saved(directory),
        trials=trials,
        study_attrs=study_attrs,
        runs={t.number: run for t in trials if (run := read_run(directory, t.number))},
        confirm=confirm,
        confirm_problem=problem,
        sessions=read_sessions(directory),
        driver=_living_driver(directory / "lock"),
        speed=_read_speed(directory),
    )


def _read_speed(directory: Path) -> str:
    try:
        speed = load_speed(directory)
    except UserError as error:
        return str(error)
    return speed.describe() if speed else ""


def _living_driver(lock: Path) -> int | None:
    """Return the process named in the lock file if it exists; trying the lock would take it."""
    try:
        process, locked_s = int(lock.read_text()), lock.stat().st_mtime
    except (OSError, ValueError):
        return None
    # One that began since has been given the number of a driver that is gone.
    return process if began_before(process, locked_s) else None
