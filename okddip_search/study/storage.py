"""An Optuna journal that waits where the disk is full, instead of ending the search."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL, STATE, TRIALS
from trainer.io.files import is_disk_full, sync_folder
from trainer.io.text import truncate

logger = logging.getLogger(__name__)


def _require_not_lost(journal: Path) -> None:
    """Refuse to begin a study in a directory whose own study was lost but whose trials remain.

    Raises:
        UserError: The journal is empty, but trials were run.
    """
    is_empty = not journal.exists() or journal.stat().st_size == 0
    if is_empty and any(journal.parent.glob(f"{TRIALS}/*/{STATE}")):
        raise UserError(
            f"{journal} is empty, but there are trials beside it: its records are lost",
            "Restore it from a copy, or start again under another --name.",
        )


def open_journal(directory: Path, name: str, pruner: BasePruner) -> optuna.Study:
    """Open the study of a directory, or create it; a torn last record is cut off first."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / JOURNAL
    (directory / f"{JOURNAL}.lock").unlink(missing_ok=True)
    cut_torn_tail(path)
    _require_not_lost(path)
    try:
        study = optuna.create_study(
            storage=JournalStorage(PatientJournal(str(path))),
            study_name=name,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        sync_folder(directory)
        return study
    except Exception as error:  # where a line is no record, Optuna raises whatever comes
        raise UserError(
            f"{path} is damaged: {truncate(str(error) or type(error).__name__, 300)}",
            "Restore it from a copy, or start again under another --name.",
        ) from None


def cut_torn_tail(path: Path) -> bool:
    """Cut a journal back to its last whole record; what was half on disk is no decision.

    A killed driver leaves half a line; after a power cut, what was written last may be zeros.
    Optuna reads over a torn last line once, but appends to it, and can never read on from there.

    Returns:
        Whether anything was cut.
    """
    if not path.exists():
        return False
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    while whole and not _is_record(content[content.rfind(b"\n", 0, whole - 1) + 1 : whole]):
        whole = content.rfind(b"\n", 0, whole - 1) + 1
    if whole == len(content) or (whole == 0 and b"\n" in content):
        return False  # all is well, or nothing is: that is no torn tail
    with open(path, "r+b") as file:
        file.truncate(whole)
    logger.warning("%s: cut a half-written tail of %d bytes", path, len(content) - whole)
    return True


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


logger = logging.getLogger(__name__)

TRY_EVERY_S = 1.0


class PatientJournal(JournalFileBackend):
    """A journal file whose writer waits for room; what was half written is taken back.

    The search stands still meanwhile: its trials finish their epoch and wait to report it. Whoever
    reads the file finds whole records.

    Args:
        path: Of the journal; it has one writer.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; return when they are on disk.

        Raises:
            OSError: They cannot be written, for another reason than a full disk.
        """
        warned = False
        size = os.path.getsize(self._path)
        while True:
            try:
                super().append_logs(logs)
                break
            except OSError as error:
                if not is_disk_full(error):
                    raise
                os.truncate(self._path, size)
                if not warned:
                    logger.warning("The disk of %s is full: waiting for room", self._path)
                    warned = True
                time.sleep(TRY_EVERY_S)
        if warned:
            logger.warning("There is room on the disk again; the search goes on")
