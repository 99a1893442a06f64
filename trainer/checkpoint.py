"""The state of a run in one directory: safetensors and JSON, no pickle, committed atomically.

``state.json`` names the tensor file that belongs to it and is replaced last, in one step: whatever
moment a process dies at, the directory holds one whole state, the newer or the one before.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.files import write_atomically

FORMAT = 1
STATES_AT_ONCE = 2
"""So many whole states lie in a directory while one is being replaced."""
_COMMIT = "state.json"
_TENSORS = "state-*.safetensors"


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
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    os.replace(temporary, directory / name)
    commit = {"format": FORMAT, "tensors": name, "tensor_bytes": size, **meta}
    # Without indentation: that would take json's slow path, and the history is long.
    write_atomically(directory / _COMMIT, json.dumps(commit) + "\n")
    for old in directory.glob(_TENSORS):
        if old.name != name:
            old.unlink(missing_ok=True)


def drop_tensors(directory: Path) -> None:
    """Delete the weights of a run that nobody will go on with; what it came to stays readable.

    Hold the run's lock. Opened again, the run would start over.

    Args:
        directory: Of the run; nothing happens where it holds no state.
    """
    for pattern in (_TENSORS, f".{_TENSORS}.tmp"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """Read the current state, or None where none was ever committed.

    Raises:
        CheckpointError: The state was written by another version.
        DamagedCheckpointError: The state is damaged.
    """
    commit = directory / _COMMIT
    if not commit.exists():
        return None
    try:
        meta = json.loads(commit.read_text(encoding="utf-8"))
        if meta.pop("format") != FORMAT:
            raise CheckpointError(f"{commit} was written by another version of okddip-search")
        path = directory / Path(meta.pop("tensors")).name
        if path.stat().st_size != meta.pop("tensor_bytes"):
            raise DamagedCheckpointError(f"{path} is cut short")
        return Checkpoint(load_file(path), meta)
    except CheckpointError:
        raise
    except (OSError, KeyError, AttributeError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{commit} cannot be read: {error}") from error
