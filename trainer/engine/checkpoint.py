"""The state of a run in one directory: safetensors and JSON, no pickle, committed atomically.

``state.json`` names the tensor file that belongs to it and is replaced last, in one step: whatever
moment a process dies at, the directory holds one whole state, the newer or the one before. The one
before is kept as ``state.previous.json``: what a disk has made of the newer one costs no run.
"""

import json
import logging
import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import TrainerError
from trainer.io.files import read_json, write_atomically
from trainer.io.tensors import write_tensors
from trainer.io.text import truncate

logger = logging.getLogger(__name__)

FORMAT = 1
STATES_AT_ONCE = 3
"""Most complete states that a directory holds, which is while one is being replaced."""
_COMMIT = "state.json"
_PREVIOUS = "state.previous.json"
_TENSORS = "state-*.safetensors"


class CheckpointError(TrainerError, ValueError):
    """A state that must not be resumed: it is of another version or configuration."""


class DamagedCheckpointError(CheckpointError):
    """A state that cannot be read; nothing is lost by starting over."""


class Checkpoint(NamedTuple):
    """A saved state.

    Attributes:
        tensors: By name, on the CPU.
        meta: Plain JSON values: the configuration, and as ``history`` the reports of all epochs.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a state and then make it the directory's current one.

    Args:
        directory: Exists; one writer at a time.
        checkpoint: Of another epoch than the directory's current one.
    """
    name = f"state-{len(checkpoint.meta['history']):06d}.safetensors"
    write_tensors(directory / name, checkpoint.tensors)
    size, checksum = _measure(directory / name)
    commit = {
        "format": FORMAT,
        "tensors": name,
        "tensor_bytes": size,
        "tensor_crc32": checksum,
        **checkpoint.meta,
    }
    if (directory / _COMMIT).exists():
        write_atomically(directory / _PREVIOUS, (directory / _COMMIT).read_bytes())
    # Without indentation: that would take json's slow path, and the history is long.
    body = json.dumps(commit)
    write_atomically(directory / _COMMIT, f'{body[:-1]}, "crc32": {_checksum(body)}}}\n')
    kept = {name, _tensors_of(directory / _PREVIOUS)}
    for old in directory.glob(_TENSORS):
        if old.name not in kept:
            old.unlink(missing_ok=True)


class CheckpointWriter:
    """Saves the states of a run in a thread, while training continues.

    Use it as a context manager; at its end all is written. An error of the thread is raised by the
    next call, once.

    Args:
        directory: As for ``save_checkpoint``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._writing is not None and not self._writing.done()

    def write(self, checkpoint: Checkpoint) -> None:
        """Begin to write a state; it must be a copy, as training continues.

        Raises:
            OSError: The one before could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(save_checkpoint, self._directory, checkpoint)

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: It could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def drop_previous(directory: Path) -> None:
    """Delete the state before the current one: a run that is done needs it no more."""
    previous = _tensors_of(directory / _PREVIOUS)
    (directory / _PREVIOUS).unlink(missing_ok=True)
    if previous and previous != _tensors_of(directory / _COMMIT):
        (directory / Path(previous).name).unlink(missing_ok=True)


def drop_tensors(directory: Path) -> None:
    """Delete the weights of a run that nobody will resume; its history stays readable.

    Hold the run's lock. Opened again, the run would start over.

    Args:
        directory: Of the run; nothing happens where it holds no state.
    """
    for pattern in (_TENSORS, f".{_TENSORS}.tmp", _PREVIOUS):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def _tensors_of(commit: Path) -> str:
    """Return the name of a state's tensor file; empty where there is none."""
    try:
        return str(read_json(commit)["tensors"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """Read the current state, or None where none was ever committed.

    A damaged state gives way to the one before it, which then is the current one.

    Raises:
        CheckpointError: The state was written by another version.
        DamagedCheckpointError: The state is damaged, and so is the one before or there is none.
    """
    commit, previous = directory / _COMMIT, directory / _PREVIOUS
    if not previous.exists():
        return _read(commit) if commit.exists() else None
    try:
        return _read(commit)
    except DamagedCheckpointError as error:
        found = _read(previous)
        logger.warning("%s; going on from the state before it", error)
        os.replace(previous, commit)
        return found


def _read(commit: Path) -> Checkpoint:
    try:
        meta = read_json(commit)
        version = meta.pop("format")
        if version != FORMAT and isinstance(version, int):
            raise CheckpointError(f"{commit} was written by another version of okddip-search")
        stored = meta.pop("crc32", None)  # earlier versions wrote none
        if stored is not None and stored != _checksum(json.dumps({"format": version, **meta})):
            raise DamagedCheckpointError(f"{commit} is damaged: its checksum differs")
        path = commit.with_name(Path(meta.pop("tensors")).name)
        size, checksum = _measure(path)
        if size != meta.pop("tensor_bytes"):
            raise DamagedCheckpointError(f"{path} is cut short")
        if checksum != meta.pop("tensor_crc32", checksum):
            raise DamagedCheckpointError(f"{path} is damaged: its checksum differs")
        return Checkpoint(load_file(path), meta)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file leads a reader anywhere
        what = truncate(f"{type(error).__name__}: {error}", 300)
        raise DamagedCheckpointError(f"{commit} cannot be read: {what}") from error


def _checksum(body: str) -> int:
    return zlib.crc32(body.encode())


def _measure(path: Path) -> tuple[int, int]:
    """Return a file's size and CRC-32, which costs a tenth of writing it."""
    size = checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return size, checksum
