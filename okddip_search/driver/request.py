"""A request for a search or a confirmation; nothing here needs Ray."""

from dataclasses import dataclass
from pathlib import Path

from okddip_search.space.model import SearchSpec


@dataclass(frozen=True)
class Request:
    """The user's request.

    Attributes:
        spec: The checked space.
        directory: Of the search.
        resume: Whether to resume the search in the directory.
        gpus: Number of GPUs; None: all visible, 0: CPU.
        tracking_uri: Of an MLflow server; None: sqlite in the directory.
        address: Of a running Ray cluster; None: a private one on this machine.
        command: The command line, for the record.
        upgrade_tracking_db: Whether to migrate a database that an earlier MLflow wrote.
    """

    spec: SearchSpec
    directory: Path
    resume: bool
    gpus: int | None
    tracking_uri: str | None
    address: str | None
    command: str
    upgrade_tracking_db: bool = False
