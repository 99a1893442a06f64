"""The trials of one stage of a search, told to the tracking journal."""

from collections.abc import Iterable, Mapping
from typing import Any

from okddip_search.events import TrialEnd
from okddip_search.tracking_journal import (
    SEARCH,
    epoch_metrics,
    finite,
    param_texts,
    run_key,
    tag_texts,
)
from okddip_search.tracking_record import Record, harmless


class Stage:
    """Tells MLflow about trials: each is a run of its own, nested in the search's run.

    It is a ``Listener``: no method raises, and none waits for the store. The stage ``search`` is
    the search itself, and it alone has a best trial; every other stage (the confirmation, the
    tuning of a rival) numbers its trials anew.
    """

    def __init__(self, record: Record, stage: str) -> None:
        """Take the journal to write to, and the stage's name in it."""
        self._record = record
        self._stage = stage

    @harmless
    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Open a trial's run, or go on in it."""
        story, key = self._record.story, run_key(self._stage, number)
        columns, common = story.columns_with(key, params)
        is_known = (columns, common) == (story.columns, story.common)
        self._record.append(
            {
                "op": "trial",
                "trial": key,
                "name": run_name(self._stage, number, params),
                "params": param_texts(params),
                "tags": story.tags,
                "columns": [] if is_known else columns,
                "common": common,
            }
        )

    @harmless
    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Chart an epoch; one that a resumed trial trained again stays as it was."""
        story, key = self._record.story, run_key(self._stage, number)
        if step <= story.last_step.get(key, -1):
            return
        metrics = epoch_metrics(report)
        if "val/leader_accuracy" in metrics:
            accuracy = metrics["val/leader_accuracy"]
            metrics["best_leader_accuracy"] = max(accuracy, story.best.get(key, accuracy))
        self._record.append({"op": "epoch", "trial": key, "step": step, "metrics": metrics})

    @harmless
    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Close a trial's run with its state; the search's best is updated by its own trials."""
        story, key = self._record.story, run_key(self._stage, end.number)
        known_best = None
        if self._stage == SEARCH and best is not None and best.value is not None:
            accuracy = story.best.get(run_key(SEARCH, best.number), best.value)
            known_best = {"trial": best.number, "value": best.value, "accuracy": accuracy}
        self._record.append(
            {
                "op": "end",
                "trial": key,
                "state": end.state,
                "value": finite({"value": end.value}).get("value"),
                "reason": end.reason,
                "ended": story.num_ended + (self._stage == SEARCH and key not in story.ended),
                "best": known_best,
            }
        )

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
                "step": story.last_step.get(key, 0),
                "metrics": numbers,
                "tags": texts,
            }
        )

    @harmless
    def catch_up(
        self, closed: Iterable[tuple[TrialEnd, Mapping[str, Any]]], best: TrialEnd | None
    ) -> None:
        """Close the runs of trials whose end an earlier driver was killed before telling.

        Args:
            closed: Every finished trial of the stage's study, with its parameters.
            best: The best complete trial.
        """
        for end, params in closed:
            key = run_key(self._stage, end.number)
            if key not in self._record.story.ended:
                if key not in self._record.story.open:
                    self.trial_started(end.number, params, True)
                self.trial_ended(end, best)


def run_name(stage: str, number: int, params: Mapping[str, Any]) -> str:
    """Return the name of a trial's run; one of a contender says who trains with which seed."""
    if stage == SEARCH:
        return f"trial {number}"
    if "contender" in params and "seed" in params:
        return f"{stage}: {params['contender']}, seed {params['seed']}"
    return f"{stage} {number}"
