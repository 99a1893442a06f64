"""The user's terminal: messages made safe to print, and libraries kept off it."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import optuna
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from okddip_search.masking import MaskedFormatter
from trainer.io.text import visible

TRACKING_LOGGER = "okddip_search.tracking"


class _UserWarnings(logging.Handler):
    """Shows our own warnings to the user, one line each; tracebacks stay in ``search.log``."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        # Tracking shows its own messages (`on_trouble`).
        if not record.exc_info and record.name != TRACKING_LOGGER:
            self._say(record.getMessage())


@contextmanager
def quiet_libraries(say: Callable[[str], None]) -> Iterator[None]:
    """Send messages of libraries to ``search.log``, and show our own warnings to the user too."""
    handler = logging.StreamHandler()
    handler.setFormatter(MaskedFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown, ours = _UserWarnings(say), [logging.getLogger(n) for n in ("okddip_search", "trainer")]
    for one in ours:
        one.addHandler(shown)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one in ours:
            one.removeHandler(shown)


REFRESH_PER_S = 2
PLAIN_WIDTH = 160
"""Columns if the output is not a terminal."""


def echo(text: str, *, err: bool = False) -> None:
    """Print a line that may contain foreign text, with control characters made visible."""
    click.echo(visible(text), err=err)


class Terminal(Console):
    """A console that interprets nothing in the text it prints, whatever its source.

    Its reader may disappear (``| head``, a lost connection); the search continues.
    """

    def __init__(self, **options: Any) -> None:
        """Take rich's options; brackets and colons in a text are printed literally."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Make control characters in text visible; rich's own control codes are kept."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def on_broken_pipe(self) -> None:
        """Stop printing; rich would exit."""
        self.quiet = True


@contextmanager
def noise_to(log: Path) -> Iterator[Console]:
    """Send everything that libraries print (also from C++) to a file, and keep the terminal for us.

    Yields:
        A console on the real standard output.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(log, "ab") as file, os.fdopen(os.dup(1), "w", encoding="utf-8") as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            width = None if terminal.isatty() else PLAIN_WIDTH
            yield Terminal(file=terminal, width=width)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
