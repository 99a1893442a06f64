"""Deletes files of ended trials, except for their curves and the networks of the best few.

A checkpoint is as large as all members with their momentum, and a trial that is closed in the study
is never resumed. Nor is a paused one that the model gives no chance; if the model is mistaken, the
trial starts over. The driver closes a trial before its worker has released its directory, and
workers of a killed driver keep writing for seconds. Directories still in use are skipped and
checked again later.
"""

import heapq
import logging
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from okddip_search.layout import LEADER, RESULT
from okddip_search.study.events import Listener, TrialEnd
from trainer.engine.checkpoint import drop_tensors
from trainer.io.files import LockedError, exclusive_lock

logger = logging.getLogger(__name__)


class Retention(Listener):
    """Deletes files that closed trials no longer need, as soon as no process holds them.

    Args:
        trials_dir: Contains a directory for each trial, named by its number.
        keep_leaders: Number of the best complete trials that keep ``leader/``; None: all.
    """

    def __init__(self, trials_dir: Path, keep_leaders: int | None) -> None:
        self._trials_dir = trials_dir
        self._keep = keep_leaders
        self._best: list[tuple[float, int]] = []  # a heap; the worst that is kept comes first
        self._waiting: dict[int, bool] = {}  # trials to be swept: with their leader?
        self._hopeless: set[int] = set()

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Keep what the trial writes; check directories again that were in use."""
        self._waiting.pop(number, None)
        self._hopeless.discard(number)
        self._sweep()

    def trials_hopeless(self, numbers: Collection[int]) -> None:
        """Sweep paused trials that are not expected to go on."""
        for number in numbers:
            if number not in self._hopeless:
                self._hopeless.add(number)
                self._waiting[number] = False
        self._sweep()

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Check directories again that were in use."""
        self._sweep()

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Sweep the trial, and the leader that it has displaced from the best."""
        self._close(end)
        self._sweep()

    def sweep(self, closed: Iterable[TrialEnd], patience_s: float = 0.0) -> None:
        """Sweep all closed trials, regardless of earlier sweeps.

        Args:
            closed: Every closed trial of the study.
            patience_s: Seconds to wait for workers to release their directories; the next driver
                sweeps those still in use after that.
        """
        self._best, self._waiting = [], {}
        for end in closed:
            self._close(end)
        self._sweep()
        deadline = time.monotonic() + patience_s
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.1)
            self._sweep()

    def _close(self, end: TrialEnd) -> None:
        self._waiting[end.number] = end.state != "complete"
        if end.state != "complete" or self._keep is None:
            return
        # Among equals the first is the best, as in `best_trial`.
        heapq.heappush(self._best, (end.value or 0.0, -end.number))
        if len(self._best) > self._keep:
            _, negative = heapq.heappop(self._best)
            self._waiting[-negative] = True

    def _sweep(self) -> None:
        for number, with_leader in list(self._waiting.items()):
            try:
                _sweep_run(self._trials_dir / str(number), with_leader)
            except LockedError:
                continue  # its worker is still there
            except OSError as error:
                logger.warning("trial %d is not swept: %s", number, error)
            del self._waiting[number]


def drop_teachers(teachers_dir: Path) -> None:
    """Delete the checkpoints of finished teachers; their leaders stay, for trials to learn from."""
    for result in teachers_dir.glob(f"*/{RESULT}"):
        try:
            _sweep_run(result.parent, with_leader=False)
        except (OSError, LockedError) as error:
            logger.warning("%s is not swept: %s", result.parent, error)


def _sweep_run(directory: Path, with_leader: bool) -> None:
    """Delete a run's checkpoint and perhaps its leader.

    Raises:
        LockedError: A worker holds it.
    """
    if not directory.exists():  # it failed before its worker started
        return
    with exclusive_lock(directory / "lock"):
        drop_tensors(directory)
        if with_leader:
            shutil.rmtree(directory / LEADER, ignore_errors=True)
