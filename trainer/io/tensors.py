"""Tensors in files: safetensors, written whole or not at all."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainer.io.files import replace_durably


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a file of tensors; a crash or a full disk leaves the old one.

    Args:
        path: In a folder that has one writer.
        tensors: By name; moved to the CPU.

    Raises:
        OSError: It cannot be written; safetensors gives the system's error as text only.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary)
        replace_durably(temporary, path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)  # half of it would fill the disk
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
