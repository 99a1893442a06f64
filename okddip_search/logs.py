"""What libraries and our own modules log: where it goes, and what of it the user is shown."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna

from okddip_search.masking import MaskedFormatter
from okddip_search.tracking.record import log as tracking_log


class _Teller(logging.Handler):
    """Shows the user our own warnings, a line each; a traceback stays in ``search.log``."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        # The tracking's record tells the user itself (`on_trouble`).
        if not record.exc_info and record.name != tracking_log.name:
            self._say(record.getMessage())


@contextmanager
def quiet_libraries(say: Callable[[str], None]) -> Iterator[None]:
    """Send what libraries have to say to ``search.log``, and our own warnings to the user, too."""
    handler = logging.StreamHandler()
    handler.setFormatter(MaskedFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    teller, ours = _Teller(say), [logging.getLogger(n) for n in ("okddip_search", "trainer")]
    for one in ours:
        one.addHandler(teller)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one in ours:
            one.removeHandler(teller)
