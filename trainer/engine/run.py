"""A run in a directory: saved when a checkpoint is due, and resumed from the last one."""

import hashlib
import json
import logging
import math
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.engine.checkpoint import CheckpointWriter, DamagedCheckpointError, drop_previous
from trainer.engine.report import EpochReport
from trainer.engine.trainer import WHERE_IT_RUNS, Trainer
from trainer.io.files import exclusive_lock, write_json
from trainer.leader.leader import LeaderInfo, save_leader

logger = logging.getLogger(__name__)

RESULT = "result.json"
"""Written last: where it is, the run is done and all of it is there."""
LOCK_WAIT_S = 60.0
"""A killed driver's worker runs on for some seconds before it ends and releases its run."""


class TrainingRun:
    """A Trainer with a directory: lock, state, ``result.json``. Use it as a context manager.

    Args:
        config: The run.
        data: Training and validation images.
        directory: Made if absent. A run saved in it is resumed; where its state is damaged, it
            starts over.
        teachers_dir: Where a teacher is trained first and kept, for all runs that name it there;
            None: in ``directory``.
        lock_wait_s: How long to wait for another process that is at work here.

    Raises:
        LockedError: Another process kept writing here.
        CheckpointError: The directory holds a run of another configuration.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DevelopmentData,
        directory: Path,
        *,
        teachers_dir: Path | None = None,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._data = data
        self._held = ExitStack()
        self._held.enter_context(exclusive_lock(directory / "lock", lock_wait_s))
        self._writer = self._held.enter_context(CheckpointWriter(directory))
        try:
            teacher_dir = find_teacher(config, data, teachers_dir or directory / "teachers")
            self.trainer = Trainer(config, data, teacher_dir)
            self._resume()
        except BaseException:
            self._held.close()
            raise
        self._unsaved = False
        self._saved_at_s = time.monotonic()

    def _resume(self) -> None:
        try:
            self.trainer.load(self.directory)
        except DamagedCheckpointError as error:
            logger.warning("%s; the run starts over", error)
            (self.directory / RESULT).unlink(missing_ok=True)
        if self.trainer.finished and not (self.directory / RESULT).exists():
            self._finish()  # it was killed after its last epoch was saved

    def step(self) -> EpochReport:
        """Run and return one epoch; the last one also writes the leader and the result.

        The state is saved after the last epoch, and after others if the last time is
        ``checkpoint_every_s`` ago: then in a thread, beside the next epoch.

        Raises:
            OSError: A state could not be written, perhaps that of an epoch before this one.
        """
        if not self._writer.busy:
            self._writer.wait()  # raises what went wrong before more is trained in vain
        self._unsaved = False  # nothing can be resumed from mid-epoch
        report = self.trainer.run_epoch()
        self._unsaved = True
        interval_s = self.trainer.config.checkpoint_every_s
        is_due = time.monotonic() - self._saved_at_s >= interval_s and not self._writer.busy
        if self.trainer.finished or is_due:
            self._save()
        if self.trainer.finished or interval_s == 0:
            self._writer.wait()
        if self.trainer.finished:
            self._finish()
        return report

    def _save(self) -> None:
        self._unsaved = False  # also where it fails: `close` would only fail again
        self._writer.write(self.trainer.checkpoint())
        self._saved_at_s = time.monotonic()

    def _finish(self) -> None:
        """Write the leader and then ``result.json``, whose presence says that all is there."""
        self._save_leader()
        write_json(self.directory / RESULT, self.result())
        drop_previous(self.directory)

    def result(self) -> dict[str, Any]:
        """Return the run's whole story in plain values."""
        history = [report.to_dict() for report in self.trainer.history]
        return {
            "config": self.trainer.config.to_dict(),
            "environment": self.trainer.environment(),
            "data_fingerprint": self._data.fingerprint,
            "trained_on": self._data.trained_on,
            "images": dict(self._data.survey),
            "epochs_done": self.trainer.epoch,
            "seconds": sum(report.seconds for report in self.trainer.history),
            "final": history[-1] if history else None,
            "history": history,
        }

    def _save_leader(self) -> None:
        trainer, images = self.trainer, self._data.train
        accuracy = None if self._data.has_merged_splits else trainer.selected_epoch.leader_accuracy
        info = LeaderInfo(
            model=trainer.config.model,
            width=trainer.config.width,
            class_names=list(images.class_names),
            input_shape=[images.channels, *images.size],
            mean=list(self._data.mean_C),
            std=list(self._data.std_C),
            validation_accuracy=accuracy,
            trained_with=trainer.config.to_dict(),
            trained_on=self._data.trained_on,
        )
        save_leader(self.directory / "leader", trainer.leader(), info)

    def close(self) -> None:
        """Save epochs that are not saved yet, and let go of the directory."""
        try:
            if self._unsaved:
                self._save()
        finally:
            self._held.close()

    def __enter__(self) -> Self:
        """Return the run itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the directory."""
        self.close()


def find_teacher(config: TrainConfig, data: DevelopmentData, teachers_dir: Path) -> Path | None:
    """Return the folder of the leader that method ``kd`` learns from, training it first if needed.

    A teacher is named by its configuration and images, so that all trials of a search share one;
    while one trains it, the others wait.
    """
    if config.method != "kd":
        return None
    if isinstance(config.teacher, str):
        return Path(config.teacher)
    teacher = config.teacher_config()
    if teacher is None:
        return None
    described = {k: v for k, v in teacher.to_dict().items() if k not in WHERE_IT_RUNS}
    identity = json.dumps([described, data.fingerprint], sort_keys=True)
    directory = teachers_dir / hashlib.sha256(identity.encode()).hexdigest()[:12]
    if (directory / RESULT).exists():  # done; its state may have been deleted
        return directory / "leader"
    with TrainingRun(teacher, data, directory, lock_wait_s=math.inf) as run:
        while not run.trainer.finished:
            run.step()
    return directory / "leader"
