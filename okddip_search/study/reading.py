"""Reads a search directory, also while a search is writing to it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from okddip_search.errors import UserError
from okddip_search.layout import (
    CONFIRM,
    CONFIRMATION,
    JOURNAL,
    RESULT,
    STATE,
    TUNING,
    run_dir,
)
from trainer.io.files import read_json
from trainer.io.text import truncate

CONFIRM_FORMAT = 1
SEARCH = "search"
"""The stage whose trials the result is chosen from."""


def training_seconds(run_dir: Path) -> float | None:
    """Return how long a run has trained (evaluation included), or None where it saved nothing."""
    for name in (RESULT, STATE):
        try:
            history = read_json(run_dir / name)["history"]
            return float(sum(report["seconds"] for report in history))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def study_seconds(study: optuna.Study, home: Path) -> float:
    """Return the training seconds of all trials of a study, ended or not."""
    numbers = [trial.number for trial in study.get_trials(deepcopy=False)]
    return sum(training_seconds(run_dir(home, number)) or 0.0 for number in numbers)


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
            text = f"{journal} is damaged: {truncate(str(error) or type(error).__name__, 300)}"
            raise UserError(text, "Restore it from a copy.") from None


def study_folders(directory: Path) -> list[Path]:
    """Return where the studies of a search lie, in the order in which they were begun."""
    confirmations = [*_set_aside(directory), directory / CONFIRM]
    tuned = {home: sorted((home / TUNING).glob("*")) for home in confirmations}
    folders = [directory, *(f for home in confirmations for f in (*tuned[home], home))]
    return [folder for folder in folders if (folder / JOURNAL).exists()]


def stage_of(directory: Path, home: Path) -> str:
    """Return which stage of a search the study in a folder is, such as ``tuning-METHOD``.

    The first confirmation is ``confirm``, also where it was set aside; the next is ``confirm.1``.
    """
    inside = home.relative_to(directory).parts
    if not inside:
        return SEARCH
    index = [*(folder.name for folder in _set_aside(directory)), CONFIRM].index(inside[0])
    number = f".{index}" if index else ""
    return f"{CONFIRM}{number}" if len(inside) == 1 else f"{TUNING}{number}-{inside[-1]}"


def _set_aside(directory: Path) -> list[Path]:
    folders = [f for f in directory.glob(f"{CONFIRM}.*") if f.suffix[1:].isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.suffix[1:]))


def read_run(directory: Path, number: int) -> Mapping[str, Any] | None:
    """Read a finished run's result, or the checkpoint of one that runs or was given up."""
    for name in (RESULT, STATE):
        try:
            run = read_json(run_dir(directory, number) / name)
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
