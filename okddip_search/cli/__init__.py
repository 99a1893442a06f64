"""The command."""

from okddip_search.own_trainer import require_own_trainer

require_own_trainer()

from trainer.io.posix import require_posix  # noqa: E402

require_posix()
