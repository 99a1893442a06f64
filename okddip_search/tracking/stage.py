"""The trials of one stage of a search, told to the tracking journal."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from okddip_search.study.events import Listener, TrialEnd
from okddip_search.tracking.journal import (
    ACCURACY,
    AGAIN,
    BEST_ACCURACY,
    SEARCH,
    Operation,
    epoch_metrics,
    finite,
    param_texts,
    run_key,
    tag_texts,
)
from okddip_search.tracking.record import Record, harmless


@dataclass(frozen=True)
class Past:
    """A trial as the study and its directory have it.

    Attributes:
        number: Of the trial.
        params: Its parameters.
        end: How it ended; None: it has not.
        steps: Its epochs.
        reports: Reads what is known of them: epoch to ``EpochReport.to_dict()``, or to parts of it.
        started_ms: When it began, ms since 1970.
        ended_ms: When it ended; now if it has not.
    """

    number: int
    params: Mapping[str, Any]
    end: TrialEnd | None
    steps: Collection[int]
    reports: Callable[[], Mapping[int, Mapping[str, Any]]]
    started_ms: int
    ended_ms: int


class Stage(Listener):
    """Tells MLflow about trials: each is a run of its own, nested in the search's run.

    It is a ``Listener``: no method raises, and none waits for the store. The stage ``search`` is
    the search itself, and it alone has a best trial; every other stage (the confirmation, the
    tuning of a rival) numbers its trials anew.
    """

    def __init__(self, record: Record, stage: str) -> None:
        """Take the journal to write to, and the stage's name in it."""
        self._record = record
        self._stage = stage
        self._resumed: set[int] = set()

    @harmless
    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Open a trial's run, or go on in it."""
        if resumed:
            self._resumed.add(number)
        self._record.append(self._start(number, params))

    def _start(self, number: int, params: Mapping[str, Any]) -> Operation:
        story, key = self._record.story, run_key(self._stage, number)
        columns, common = story.columns_with(key, params)
        is_known = (columns, common) == (story.columns, story.common)
        return {
            "op": "trial",
            "trial": key,
            "name": run_name(self._stage, number, params),
            "params": param_texts(params),
            "tags": story.tags,
            "columns": [] if is_known else columns,
            "common": common,
        }

    @harmless
    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Chart an epoch; one that a resumed trial trained again stays as it was."""
        story, key = self._record.story, run_key(self._stage, number)
        if story.has_epoch(key, step):
            return
        metrics = epoch_metrics(report)
        if ACCURACY in metrics:
            accuracy = metrics[ACCURACY]
            metrics[BEST_ACCURACY] = max(accuracy, story.best.get(key, accuracy))
        operation: Operation = {"op": "epoch", "trial": key, "step": step, "metrics": metrics}
        if number in self._resumed:  # it may be that this was told, and the journal lost it
            operation[AGAIN] = True
        self._record.append(operation)

    @harmless
    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Close a trial's run with its state; the search's best is updated by its own trials."""
        story, key = self._record.story, run_key(self._stage, end.number)
        ended = story.num_ended + (self._stage == SEARCH and key not in story.ended)
        self._record.append(self._end(end, self._best(best, best), ended))

    def _end(self, end: TrialEnd, best: Mapping[str, Any] | None, ended: int) -> Operation:
        return {
            "op": "end",
            "trial": run_key(self._stage, end.number),
            "state": end.state,
            "value": finite({"value": end.value}).get("value"),
            "reason": end.reason,
            "ended": ended,
            "best": best,
        }

    @harmless
    def results(
        self, number: int, metrics: Mapping[str, Any], tags: Mapping[str, Any] | None = None
    ) -> None:
        """Add to a trial's run what was found out after its training, at its last epoch.

        Args:
            number: Of the trial.
            metrics: For instance ``{"test/leader_accuracy": 0.93}``.
            tags: For instance why there is no such number.
        """
        story, key = self._record.story, run_key(self._stage, number)
        known = story.results.get(key, {})
        numbers, texts = finite(metrics), tag_texts(tags or {})
        if {**known, **numbers, **texts} == known:
            return
        self._record.append(
            {
                "op": "results",
                "trial": key,
                "step": max(0, story.last_step(key)),
                "metrics": numbers,
                "tags": texts,
            }
        )

    @harmless
    def catch_up(self, past: Iterable[Past]) -> None:
        """Tell what the journal lacks: of a killed driver, a power cut, a full disk, a lost file.

        The store may have been told it all the same, at another time; it is told to add only what
        it lacks.

        Args:
            past: Every trial of the stage's study, in the order in which they ended.
        """
        story, trials, ended = self._record.story, list(past), 0
        final = leading = None
        for trial in trials:
            final = _better(final, trial.end)
        for trial in trials:
            key = run_key(self._stage, trial.number)
            if key not in story.begun:
                operation = self._start(trial.number, trial.params)
                self._record.append({**operation, "t": trial.started_ms, AGAIN: True})
            self._catch_up_epochs(key, trial)
            if trial.end is None:
                continue
            ended += self._stage == SEARCH
            leading = _better(leading, trial.end)
            if key not in story.ended:
                operation = self._end(trial.end, self._best(leading, final), ended)
                self._record.append({**operation, "t": trial.ended_ms, AGAIN: True})

    def _best(self, charted: TrialEnd | None, named: TrialEnd | None) -> dict[str, Any] | None:
        """Return what the parent shows: a best trial's accuracy in its chart, and one's name."""
        if self._stage != SEARCH or charted is None or named is None or charted.value is None:
            return None
        accuracy = self._record.story.best.get(run_key(SEARCH, charted.number), charted.value)
        return {"trial": named.number, "value": named.value, "accuracy": accuracy}

    def _catch_up_epochs(self, key: str, trial: Past) -> None:
        story, best = self._record.story, 0.0
        if all(story.has_epoch(key, step) for step in trial.steps):
            return
        reports = trial.reports()
        epoch_ms = (trial.ended_ms - trial.started_ms) / max(1, len(reports))
        for step, report in sorted(reports.items()):
            metrics = epoch_metrics(report)
            if ACCURACY in metrics:
                metrics[BEST_ACCURACY] = best = max(best, metrics[ACCURACY])
            if not story.has_epoch(key, step):
                told_ms = round(trial.started_ms + epoch_ms * (step + 1))
                epoch = {"op": "epoch", "trial": key, "step": step, "metrics": metrics}
                self._record.append({**epoch, "t": told_ms, AGAIN: True})


def _better(one: TrialEnd | None, other: TrialEnd | None) -> TrialEnd | None:
    """Return the better complete trial; among equals the first in the study."""
    if other is None or other.state != "complete" or other.value is None:
        return one
    if one is None or one.value is None:
        return other
    return max(one, other, key=lambda end: (end.value, -end.number))


def run_name(stage: str, number: int, params: Mapping[str, Any]) -> str:
    """Return the name of a trial's run; one of a contender says who trains with which seed."""
    if stage == SEARCH:
        return f"trial {number}"
    if "contender" in params and "seed" in params:
        return f"{stage}: {params['contender']}, seed {params['seed']}"
    return f"{stage} {number}"
