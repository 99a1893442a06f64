"""The Ray Tune trainable: a training run in a worker, one epoch per step."""

import logging
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from okddip_search.driver.retries import Cause
from okddip_search.environment import protect_files

logger = logging.getLogger(__name__)


class OKDDipTrial(Trainable):  # type: ignore[misc]
    """One trial of the search.

    Workers are reused from trial to trial, as importing torch takes seconds. Tune may build one
    that it never steps, so nothing is opened before the first step. Errors of the training are
    reported as a ``failure`` and not raised, because Tune replaces a worker that raises. If the
    machine caused the failure (memory, disk), ``cause`` says so.
    """

    def setup(
        self, config: dict[str, Any], arrays: dict[str, Any], trials_dir: str, teachers_dir: str
    ) -> None:
        """Store the arguments.

        Args:
            config: ``number`` of the trial; ``trainer``, its ``TrainConfig`` as a dict; and
                ``pauses_after``, the epochs after which it is let go of (None: at its end).
            arrays: ``DevelopmentData.to_arrays()``, shared by the node's workers, not copied.
            trials_dir: Each trial has a directory in it, named by its number.
            teachers_dir: Where the teachers of ``kd`` are kept, shared by all phases of a search.
        """
        protect_files()
        self._assignment = config
        self._arrays = arrays
        self._trials_dir = Path(trials_dir)
        self._teachers_dir = Path(teachers_dir)
        self._data: Any = None
        self._run: Any = None
        self._notes = _Notes()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Switch to another trial in the same process."""
        self.cleanup()
        self._assignment = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch.

        The first report of a worker contains all epochs so far, including those of an earlier
        worker that was killed before its driver received them.
        """
        try:
            if self._run is None:
                self._run = self._open()
                if self._run.trainer.history:
                    return self._result(self._run.trainer.history)
            result = self._result([self._run.step()])
            if self._run.trainer.epoch == self._assignment.get("pauses_after"):
                self.cleanup()  # another worker may be the one that goes on
            return result
        except Exception as error:
            cause = machine_at_fault(error)
            if cause == "died":
                self.cleanup()
                raise  # another worker resumes from the checkpoint
            if cause is None:
                self._write_traceback()  # the training's own fault: this trial failed
            with suppress(OSError):  # no checkpoint can be written to a full disk either
                self.cleanup()
            return {"reports": [], "failure": one_line(error), "cause": cause, "done": True}

    @property
    def _directory(self) -> Path:
        return self._trials_dir / str(self._assignment["number"])

    def _write_traceback(self) -> None:
        """Write the traceback to the trial's directory; the study keeps only its first line."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        except OSError:
            logger.exception("trial %s failed", self._assignment["number"])

    def _open(self) -> Any:
        from trainer.config.train import TrainConfig
        from trainer.data.load import development_data_from_arrays
        from trainer.engine.run import TrainingRun

        if self._data is None:
            self._data = development_data_from_arrays(self._arrays)
        config = TrainConfig(**self._assignment["trainer"])
        return TrainingRun(config, self._data, self._directory, teachers_dir=self._teachers_dir)

    def _result(self, reports: list[Any]) -> dict[str, Any]:
        return {
            "reports": [report.to_dict() for report in reports],
            "done": self._run.trainer.finished,
            "notes": self._notes.taken(),
        }

    def cleanup(self) -> None:
        """Release the run, its directory and its GPU memory."""
        if self._run is None:
            return
        import torch

        self._run.close()
        self._run = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Notes(logging.Handler):
    """Collects the trainer's warnings for the driver to show, as a worker's own log is lost."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        logging.getLogger("trainer").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """Return the warnings since the last call."""
        lines, self._lines = self._lines, []
        return lines


def machine_at_fault(error: Exception) -> Cause | None:
    """Classify an error: the machine's, which is worth a retry, or the training's own.

    Returns:
        The cause, or None if the training itself failed. ``died`` means that this process can no
        longer be used (a broken GPU, a lost file system).
    """
    from torch import OutOfMemoryError

    from trainer.io.files import LockedError, is_disk_full

    words = str(error)
    # A library's allocation on a GPU, or torch's on the CPU, fails as a plain RuntimeError.
    memory = isinstance(error, RuntimeError) and (
        "out of memory" in words or "allocate memory" in words
    )
    if memory or isinstance(error, (OutOfMemoryError, MemoryError)):
        return "out of memory"
    if isinstance(error, OSError) and is_disk_full(error):
        return "disk full"
    of_cuda = isinstance(error, RuntimeError) and "CUDA" in words
    return "died" if of_cuda or isinstance(error, (OSError, LockedError)) else None


def one_line(error: BaseException | None) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
