"""The study as a model is to see it while trials are paused: each with what its end would bring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, pvariance
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from okddip_search.algorithms.ledger import Run

SCHEDULE = "lr_schedule"
"""Curves of different schedules rise at different times, so each learns from its own."""


PRIOR_TRIALS = 2
"""So much counts, beside the complete trials, that what is ahead early stays as far ahead."""


@dataclass(frozen=True)
class Row:
    """A trial with its value, or what its end is expected to bring.

    Attributes:
        number: Of the trial.
        params: What it tries.
        distributions: Of the parameters.
        value: None where nothing is known yet.
    """

    number: int
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    value: float | None


def carried(runs: Sequence[Run], window: int = 1) -> list[Row]:
    """Return every trial with a value at the end of its run, measured or expected.

    A trial that is on its way is carried to its end by what became of the complete ones from the
    same epoch on. A failed one is as bad as the worst.

    Args:
        runs: All that were begun.
        window: Epochs whose mean a trial on its way is judged by.
    """
    ends = Ends(runs, window)
    rows = [
        Row(run.trial.number, run.trial.params, run.trial.distributions, _value(run, ends))
        for run in runs
        if run.trial.params
    ]
    known = [row.value for row in rows if row.value is not None]
    failed = {run.trial.number for run in runs if run.trial.state is TrialState.FAIL}
    if not known:
        return rows
    worst = min(known)
    return [replace(row, value=worst) if row.number in failed else row for row in rows]


def _value(run: Run, ends: "Ends") -> float | None:
    trial = run.trial
    if trial.state is TrialState.COMPLETE:
        return trial.value
    if trial.state is TrialState.FAIL or run.seen < run.rung:
        return None
    step = trial.last_step
    assert step is not None
    return ends.of(trial, step)


class Ends:
    """Values at the end of a run, predicted from earlier ones as complete trials have shown.

    A straight line through their medians. Where curves saturate, what is ahead early gains less, so
    its slope is below 1; as those that went on differ little at their rungs, it is drawn towards 1
    as if by ``PRIOR_TRIALS`` more, spread as all trials are.

    Args:
        runs: All that were begun.
        window: Epochs whose mean is a trial's value at an epoch.
    """

    def __init__(self, runs: Sequence[Run], window: int = 1) -> None:
        self._trials = [run.trial for run in runs]
        self._window = window
        self._lines: dict[tuple[int, Any], Line] = {}

    def of(self, trial: FrozenTrial, step: int) -> float:
        """Return what a trial's value at a step is expected to become."""
        key = step, trial.params.get(SCHEDULE)
        if key not in self._lines:
            self._lines[key] = self._line(*key)
        return self._lines[key].at(self._value(trial, step))

    def _value(self, trial: FrozenTrial, step: int) -> float:
        values = trial.intermediate_values
        return fmean(values[s] for s in range(step - self._window + 1, step + 1) if s in values)

    def _line(self, step: int, schedule: Any) -> "Line":
        seen = [trial for trial in self._trials if step in trial.intermediate_values]
        complete = [trial for trial in seen if trial.state is TrialState.COMPLETE]
        own = [trial for trial in complete if trial.params.get(SCHEDULE) == schedule]
        learned = own or complete
        if not learned:
            return Line(0.0, 0.0, 1.0)
        before = [self._value(trial, step) for trial in learned]
        after = [trial.value or 0.0 for trial in learned]
        prior = PRIOR_TRIALS * pvariance([self._value(trial, step) for trial in seen])
        return Line.through(before, after, prior)


@dataclass(frozen=True)
class Line:
    """A straight line through a point."""

    x: float
    y: float
    slope: float

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float], prior: float) -> "Line":
        """Fit the slope around the medians, within 0 and 1; ``prior`` draws it towards 1."""
        x, y = median(xs), median(ys)
        together = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) + prior
        spread = sum((a - x) ** 2 for a in xs) + prior
        return cls(x, y, min(max(together / spread, 0.0), 1.0) if spread else 1.0)

    def at(self, x: float) -> float:
        """Return the line's value."""
        return self.y + self.slope * (x - self.x)
