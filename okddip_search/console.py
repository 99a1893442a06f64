"""What a person sees of a running search: a live table on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from okddip_search.study.events import TrialEnd
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


def percent(share: float | None) -> str:
    """Format a share in [0, 1], or a dash."""
    return "–" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Format seconds as ``1:02:03`` or ``2:03``."""
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_s:02}" if hours else f"{minutes}:{whole_s:02}"


def params_text(params: Mapping[str, Any]) -> str:
    """Format hyperparameters in one line."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in params.items())


def value_text(value: Any) -> str:
    """Format a hyperparameter's value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class SearchConsole:
    """A ``Listener`` that shows a study being run; use it as a context manager.

    Args:
        console: Where to draw.
        title: What is run.
        trials: How many there are to be.
        epochs: Of the longest one.
        finished: Trials that count and were done before this session.
        best: The best complete trial of earlier sessions.
        noun: What a trial is called here.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        trials: int,
        epochs: int,
        finished: int,
        best: TrialEnd | None = None,
        noun: str = "trial",
    ) -> None:
        self._console = console
        self._title = title
        self._trials = trials
        self._epochs = epochs
        self._noun = noun
        self._counts = {"complete": 0, "pruned": 0, "failed": 0}
        self._before = finished
        self._running: dict[int, tuple[Mapping[str, Any], Mapping[str, Any] | None]] = {}
        self._best = best
        self._started = time.monotonic()
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=REFRESH_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        """Start drawing on a terminal."""
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self.stop()

    def stop(self) -> None:
        """Stop drawing; the last table stays."""
        if self._live.is_started:
            self._live.stop()

    def say(self, message: str) -> None:
        """Print a line above the table."""
        self._console.print(message, soft_wrap=True)

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Show the trial as running."""
        self._running[number] = (params, None)
        if resumed:
            self.say(f"{self._noun} {number} goes on from its checkpoint")

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Show the trial's newest epoch."""
        params, _ = self._running[number]
        self._running[number] = (params, report)

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Count it, and print a line where there is no live table."""
        params, _ = self._running.pop(end.number)
        self._counts[end.state] += 1
        self._best = best
        if self._console.is_terminal and end.state != "failed":
            return
        epochs = 0 if end.last_step is None else end.last_step + 1
        line = (
            f"{self._noun} {end.number:>3}  {end.state:<8}  {percent(end.value):>8}  "
            f"{epochs:>3} epochs"
        )
        best_text = f"best {percent(best.value)} (trial {best.number})" if best else ""
        detail = end.reason or params_text(params)
        self.say("  ".join(part for part in (line, best_text, detail) if part))

    def _render(self) -> Group:
        return Group(self._headline(), self._table())

    def _headline(self) -> Text:
        counts = self._counts
        done = self._before + counts["complete"] + counts["pruned"]
        best = f"{percent(self._best.value)} (trial {self._best.number})" if self._best else "–"
        elapsed_s = time.monotonic() - self._started
        return Text(
            f"{self._title}: {done} of {self._trials} {self._noun}s  "
            f"(here: complete {counts['complete']}, pruned {counts['pruned']}, "
            f"failed {counts['failed']})  best {best}  "
            f"elapsed {duration(elapsed_s)}  left {self._time_left(done, elapsed_s)}",
            style="bold",
        )

    def _time_left(self, done: int, elapsed_s: float) -> str:
        here = done - self._before
        if not here:
            return "–"
        left = max(0, self._trials - done)
        return f"about {duration(elapsed_s / here * left)}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("trial", "epoch", "leader", "ensemble", "img/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("hyperparameters", overflow="fold")
        for number, (params, report) in sorted(self._running.items()):
            if report is None:
                cells = ["starting", "", "", ""]
            else:
                cells = [
                    f"{report['epoch'] + 1}/{self._epochs}",
                    percent(report["leader_accuracy"]),
                    percent(report["ensemble_accuracy"]),
                    f"{report['images_per_s']:,.0f}",
                ]
            table.add_row(str(number), *cells, params_text(params))
        return table
