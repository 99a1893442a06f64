"""An Optuna journal that waits where the disk is full, instead of ending the search."""

import logging
import os
import time
from typing import Any

from optuna.storages.journal import JournalFileBackend

from trainer.io.files import is_disk_full

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
        told = False
        size = os.path.getsize(self._path)
        while True:
            try:
                super().append_logs(logs)
                break
            except OSError as error:
                if not is_disk_full(error):
                    raise
                os.truncate(self._path, size)
                if not told:
                    logger.warning("The disk of %s is full: waiting for room", self._path)
                    told = True
                time.sleep(TRY_EVERY_S)
        if told:
            logger.warning("There is room on the disk again; the search goes on")
