"""The files of a saved leader. This module needs no torch, so that the driver can name them."""

import hashlib
from pathlib import Path

WEIGHTS = "leader.safetensors"
INFO = "leader.json"


def weights_sha256(directory: Path) -> str:
    """Return the SHA-256 of a saved leader's weights, which identifies it: 64 hex digits.

    Raises:
        FileNotFoundError: There is no leader in the directory.
    """
    with open(directory / WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
