"""The command."""

from trainer.io.posix import require_posix

require_posix()
