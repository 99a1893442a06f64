"""What Ray runs in a worker: training runs, an epoch a step, and looks at finished leaders."""

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

    Workers are reused from trial to trial (importing torch takes seconds) and Tune may build one
    that it never steps, so nothing is opened before the first step. Errors of the training are
    reported as a ``failure`` and not raised, as a worker that raises is replaced. Where the machine
    is to blame for the failure (memory, disk), ``cause`` says so.
    """

    def setup(
        self, config: dict[str, Any], arrays: dict[str, Any], trials_dir: str, teachers_dir: str
    ) -> None:
        """Keep what the trial needs.

        Args:
            config: ``number`` of the trial and ``trainer``, its ``TrainConfig`` as a dict.
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
        """Take up another trial in the same process."""
        self.cleanup()
        self._assignment = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch.

        The first report of a worker holds all epochs so far, also those of an earlier worker that
        was killed before its driver heard of them.
        """
        try:
            if self._run is None:
                self._run = self._open()
                if self._run.trainer.history:
                    return self._result(self._run.trainer.history)
            return self._result([self._run.step()])
        except Exception as error:
            cause = machine_at_fault(error)
            if cause == "died":
                self.cleanup()
                raise  # another worker goes on from the checkpoint
            if cause is None:
                self._write_traceback()  # the training's own fault: this trial failed
            with suppress(OSError):  # a full disk takes no checkpoint either
                self.cleanup()
            return {"reports": [], "failure": one_line(error), "cause": cause, "done": True}

    @property
    def _directory(self) -> Path:
        return self._trials_dir / str(self._assignment["number"])

    def _write_traceback(self) -> None:
        """Keep the whole story beside the trial; the study has room for one line of it."""
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
        """Let go of the run, its directory and its GPU memory."""
        if self._run is None:
            return
        import torch

        self._run.close()
        self._run = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Notes(logging.Handler):
    """Keeps what the trainer warns of, for the driver to tell: a worker's own log is lost."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        logging.getLogger("trainer").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """Return what is new."""
        lines, self._lines = self._lines, []
        return lines


def machine_at_fault(error: Exception) -> Cause | None:
    """Tell what may be over soon, or with fewer trials at a time, from a failed training.

    Returns:
        ``died`` where this process is of no use any more (a broken GPU, a lost file system).
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
