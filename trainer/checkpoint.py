"""The state of a run in one directory: safetensors and JSON, no pickle, committed atomically.

``state.json`` names the tensor file that belongs to it and is replaced last, in one step: whatever
moment a process dies at, the directory holds one whole state, the newer or the one before. The one
before is kept as ``state.previous.json``: what a disk has made of the newer one costs no run.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.files import replace_durably, write_atomically

logger = logging.getLogger(__name__)

FORMAT = 1
_COMMIT = "state.json"
_PREVIOUS = "state.previous.json"


class CheckpointError(ValueError):
    """A state that must not be gone on from: of another version or configuration."""


class DamagedCheckpointError(CheckpointError):
    """A state that cannot be read; nothing is lost by starting over."""


class Checkpoint(NamedTuple):
    """A saved state.

    Attributes:
        tensors: By name, on the CPU.
        meta: Plain values: the epoch, the configuration, the reports so far.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(
    directory: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], tag: int
) -> None:
    """Write a state and then make it the directory's current one.

    Args:
        directory: Exists; one writer at a time.
        tensors: By name; moved to the CPU.
        meta: JSON values.
        tag: Differs from the last state's (the epoch).
    """
    name = f"state-{tag:06d}.safetensors"
    temporary = directory / f".{name}.tmp"
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary)
    size = temporary.stat().st_size
    replace_durably(temporary, directory / name)
    commit = {"format": FORMAT, "tensors": name, "tensor_bytes": size, **meta}
    if (directory / _COMMIT).exists():
        write_atomically(directory / _PREVIOUS, (directory / _COMMIT).read_bytes())
    # Without indentation: that would take json's slow path, and the history is long.
    write_atomically(directory / _COMMIT, json.dumps(commit) + "\n")
    kept = {name, _tensors_of(directory / _PREVIOUS)}
    for old in directory.glob("state-*.safetensors"):
        if old.name not in kept:
            old.unlink(missing_ok=True)


def drop_previous(directory: Path) -> None:
    """Delete the state before the current one: a run that is done needs it no more."""
    previous = _tensors_of(directory / _PREVIOUS)
    (directory / _PREVIOUS).unlink(missing_ok=True)
    if previous and previous != _tensors_of(directory / _COMMIT):
        (directory / Path(previous).name).unlink(missing_ok=True)


def _tensors_of(commit: Path) -> str:
    """Return the name of a state's tensor file; empty where there is none."""
    try:
        return str(json.loads(commit.read_bytes())["tensors"])
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
        meta = json.loads(commit.read_text(encoding="utf-8"))
        if meta.pop("format") != FORMAT:
            raise CheckpointError(f"{commit} was written by another version of okddip-search")
        path = commit.with_name(Path(meta.pop("tensors")).name)
        if path.stat().st_size != meta.pop("tensor_bytes"):
            raise DamagedCheckpointError(f"{path} is cut short")
        return Checkpoint(load_file(path), meta)
    except CheckpointError:
        raise
    except (OSError, KeyError, AttributeError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{commit} cannot be read: {error}") from error
