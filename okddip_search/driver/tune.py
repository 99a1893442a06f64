"""What Ray Tune sees of a ``StudyBridge``: a searcher, a scheduler and a stopper that only forward.

Tune asks the scheduler first and then not the searcher where a trial is stopped; with ``done`` it
skips the scheduler. So the last epoch of a trial is recorded where it closes.
"""

import logging
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from okddip_search.cluster.ray_private import LOW_MEMORY
from okddip_search.driver.bridge import StudyBridge

logger = logging.getLogger(__name__)


class NotPickled:
    """Keeps the bridge out of Tune's pickled snapshots; a resumed search reads the study."""

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}


class StudySearcher(NotPickled, Searcher):  # type: ignore[misc]
    """Tune's question "what next?", forwarded."""

    def __init__(self, bridge: StudyBridge) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial for the worker, None to wait, ``FINISHED`` when there is no more."""
        entry = self._bridge.next_trial()
        if entry is None:
            return Searcher.FINISHED if self._bridge.done else None
        self._numbers[trial_id] = entry.trial.number
        return {
            "number": entry.trial.number,
            "trainer": entry.config.to_dict(),
            "gpus": entry.share.gpus_per_trial,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler is asked first and has recorded it."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close the trial. Tune skips the scheduler for a last result, so it is recorded here."""
        number = self._numbers.pop(trial_id, None)
        if number is None or self._bridge.interrupted or self._bridge.placeless:
            return
        if error or result is None:  # the scheduler was told why; if not, the driver itself erred
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
    """Tune's question "go on?", forwarded after every epoch."""

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
        """Remember who runs the trials."""
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
        """Kill the worker of a trial that is not heard of any more.

        Tune has no public way to a trial's actor. Where its private one has changed, the trial is
        left alone and the log says so.
        """
        try:
            tracked = self._controller._trial_to_actor[trial]
            actor, _ = self._controller._actor_manager._live_actors_to_ray_actors_resources[tracked]
        except (AttributeError, KeyError, TypeError):
            logger.exception("trial %s hangs; its worker is not found", trial.config["number"])
            return
        self._killed[trial.config["number"]] = reason
        ray.kill(actor)


def why_it_died(trial: TuneTrial) -> str:
    """Return in one line why a trial's worker died; Tune writes each death into a file."""
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
        """Say whether Tune is to end."""
        return self._bridge.interrupted or self._bridge.placeless
