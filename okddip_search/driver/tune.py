"""Ray Tune adapter: a searcher, a scheduler and a stopper that forward calls to a ``StudyBridge``.

Tune asks the scheduler first, and skips the searcher if the scheduler stops the trial; a result
with ``done`` skips the scheduler. A trial's last epoch is therefore recorded when it is closed.
"""

import logging
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from okddip_search.cluster.ray_private import LOW_MEMORY, actor_of
from okddip_search.driver.bridge import NotPickled, StudyBridge

logger = logging.getLogger(__name__)


class StudySearcher(NotPickled, Searcher):  # type: ignore[misc]
    """Forwards Tune's requests for a next trial.

    Attributes:
        has_finished: Whether Tune has received the end of the trials.
    """

    def __init__(self, bridge: StudyBridge) -> None:
        super().__init__(metric=None, mode=None)
        self.has_finished = False
        self._bridge = bridge
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial for the worker, None to wait, or ``FINISHED`` if there are no more."""
        entry = self._bridge.next_trial()
        if entry is None:
            self.has_finished = self._bridge.done
            return Searcher.FINISHED if self.has_finished else None
        self._numbers[trial_id] = entry.trial.number
        return {
            "number": entry.trial.number,
            "trainer": entry.config.to_dict(),
            "gpus": entry.share.gpus_per_trial,
            "pauses_after": entry.pauses_after,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler, which is called first, has recorded it."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the last epoch, for which Tune skips the scheduler, and close the trial."""
        number = self._numbers.pop(trial_id, None)
        if number is None or self._bridge.interrupted or self._bridge.unschedulable:
            return
        if error or result is None:  # the scheduler knows why, unless the driver itself failed
            self._bridge.requeue(number, "its worker ended without a word", "died")
        elif cause := result.get("cause"):
            self._bridge.requeue(number, result["failure"], cause)
        elif failure := result.get("failure"):
            self._bridge.fail(number, failure)
        else:
            self._bridge.complete(number, result["reports"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""


class StudyScheduler(NotPickled, FIFOScheduler):  # type: ignore[misc]
    """Forwards Tune's decision whether to continue a trial, after every epoch."""

    _supports_buffered_results = False

    def __init__(self, bridge: StudyBridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._controller: Any = None
        self._killed: dict[int, str] = {}

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Record the epochs and stop a pruned trial."""
        for note in result.get("notes", ()):
            logger.warning("trial %s: %s", trial.config["number"], note)
        stop = self._bridge.report(trial.config["number"], result["reports"])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Keep a reference to Tune's controller."""
        self._controller = tune_controller
        super().on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Requeue the trial; only here does Tune say why its worker died."""
        number = trial.config["number"]
        words = why_it_died(trial)
        reason = self._killed.pop(number, "") or words
        out_of_memory = LOW_MEMORY in words
        self._bridge.requeue(number, reason, "out of memory" if out_of_memory else "died")

    def kill(self, trial: TuneTrial, reason: str) -> None:
        """Kill the worker of a trial that no longer reports.

        Tune has no public access to a trial's actor. If its private access has changed, the trial
        is left running and the log says so.
        """
        try:
            actor = actor_of(self._controller, trial)
        except (AttributeError, KeyError, TypeError):
            logger.exception("trial %s hangs; its worker is not found", trial.config["number"])
            return
        self._killed[trial.config["number"]] = reason
        ray.kill(actor)


def why_it_died(trial: TuneTrial) -> str:
    """Return in one line why a trial's worker died; Tune writes each failure to a file."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        text = ""
    _, _, last = text.rpartition("Failure #")  # "Failure # 1 (occurred at …)", then the error
    lines = last.splitlines()
    return lines[1].strip() if len(lines) > 1 else "its worker ended without a word"


class WhenInterrupted(NotPickled, Stopper):  # type: ignore[misc]
    """Ends Tune after a signal; running trials finish their epoch and save it."""

    def __init__(self, bridge: StudyBridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether Tune is to end."""
        return self._bridge.interrupted or self._bridge.unschedulable
