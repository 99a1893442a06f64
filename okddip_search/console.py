"""What a person sees of a running search: a live table on a terminal, plain lines elsewhere."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from trainer.io.text import visible

REFRESH_PER_S = 2
PLAIN_WIDTH = 160
"""Columns where there is no terminal to ask."""


def echo(text: str, *, err: bool = False) -> None:
    """Print a line that may quote strangers (``visible``)."""
    click.echo(visible(text), err=err)


class Terminal(Console):
    """A console that obeys nothing in what it prints, whoever that is quoted from.

    Its reader may go away (``| head``, a lost connection): the search goes on.
    """

    def __init__(self, **options: Any) -> None:
        """Take rich's options; brackets and colons in a text stay as they are."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Make all text visible; what rich itself tells the terminal is no text."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def on_broken_pipe(self) -> None:
        """Fall silent; rich would exit."""
        self.quiet = True


@contextmanager
def noise_to(log: Path) -> Iterator[Console]:
    """Send everything that libraries print (also from C++) to a file, and give us the terminal.

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
