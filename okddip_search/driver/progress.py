"""The live view of a study being run."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from okddip_search.formatting import duration, params_text, percent
from okddip_search.study.events import Listener, TrialEnd
from okddip_search.terminal import REFRESH_PER_S


class SearchConsole(Listener):
    """Shows a study being run; use it as a context manager.

    Args:
        console: Console to draw on.
        title: Name of the study.
        trials: Planned number of trials; None: as many as fit into ``left_s``.
        epochs: Length of the longest trial.
        finished: Trials of earlier sessions that count toward the budget.
        best: The best complete trial of earlier sessions.
        noun: Word for a trial.
        paused: Parameters of the trials that earlier sessions have paused, by number.
        left_s: Returns the seconds that are left of a budget of time; None: there is none.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        trials: int | None,
        epochs: int,
        finished: int,
        best: TrialEnd | None = None,
        noun: str = "trial",
        paused: Mapping[int, Mapping[str, Any]] | None = None,
        left_s: Callable[[], float] | None = None,
    ) -> None:
        self._console = console
        self._title = title
        self._trials = trials
        self._epochs = epochs
        self._noun = noun
        self._counts = {"complete": 0, "pruned": 0, "failed": 0}
        self._before = finished
        self._running: dict[int, tuple[Mapping[str, Any], Mapping[str, Any] | None]] = {}
        self._paused = dict(paused or {})
        self._left_s = left_s
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
        was_paused = self._paused.pop(number, None) is not None
        if resumed and not was_paused:
            self.say(f"{self._noun} {number} resumes from its checkpoint")

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Show the trial's newest epoch."""
        params, _ = self._running[number]
        self._running[number] = (params, report)

    def trial_paused(self, number: int) -> None:
        """Count it as paused, and print a line where there is no live table."""
        params, report = self._running.pop(number)
        self._paused[number] = params
        if report is not None and not self._console.is_terminal:
            accuracy = percent(report["leader_accuracy"])
            line = f"{self._noun} {number:>3}  paused    {accuracy:>8}"
            self.say(f"{line}  {report['epoch'] + 1:>3} epochs  {params_text(params)}")

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Count it, and print a line where there is no live table."""
        params, _ = self._running.pop(end.number, (self._paused.pop(end.number, {}), None))
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
        paused = f"paused {len(self._paused)}, " if self._paused else ""
        best = f"{percent(self._best.value)} (trial {self._best.number})" if self._best else "–"
        elapsed_s = time.monotonic() - self._started
        planned = "" if self._trials is None else f" of {self._trials}"
        return Text(
            f"{self._title}: {done}{planned} {self._noun}s  "
            f"(here: complete {counts['complete']}, {paused}pruned {counts['pruned']}, "
            f"failed {counts['failed']})  best {best}  "
            f"elapsed {duration(elapsed_s)}  left {self._time_left(done, elapsed_s)}",
            style="bold",
        )

    def _time_left(self, done: int, elapsed_s: float) -> str:
        here = done - self._before
        if self._left_s is not None:
            return f"{duration(max(0.0, self._left_s()))}, confirmation included"
        if not here or self._trials is None:
            return "–"
        left = max(0, self._trials - done - len(self._paused))
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
