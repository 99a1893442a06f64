"""Watches for workers that hang and trials that cannot be placed, which Tune does not report."""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from okddip_search.cluster.waiting import PendingResources
from okddip_search.driver.bridge import NotPickled, OpenTrial, StudyBridge
from okddip_search.space.settings import ResourceSettings

logger = logging.getLogger(__name__)

STALL_FACTOR = 10
"""``stall_timeout: auto``: multiple of the median epoch after which a worker is killed."""
LEAST_STALL_S = 60.0
FIRST_STALL_S = 3600.0
"""Limit until the first epoch of this session, from which later limits are derived."""
LOOK_EVERY_S = 1.0
ASLEEP_S = 30.0
"""Seconds without a look after which this process was suspended, and its workers probably too."""


class Watchdog(NotPickled, Callback):  # type: ignore[misc]
    """Kills workers that hang, and names the missing resource if no trial can be placed.

    A killed worker's trial resumes from its checkpoint in another worker, as after any other death.

    Args:
        bridge: Its trials are watched.
        kill: Kills the worker of a trial, for a reason.
        settings: ``stall_timeout``.
        cpus_per_trial: Cores of each trial.
        say: Prints a line for the user.
    """

    def __init__(
        self,
        bridge: StudyBridge,
        kill: Callable[[TuneTrial, str], None],
        settings: ResourceSettings,
        cpus_per_trial: float,
        say: Callable[[str], None],
    ) -> None:
        self._bridge = bridge
        self._kill = kill
        self._stall_timeout = settings.stall_timeout
        self._cpus = cpus_per_trial
        self._say = say
        self._epochs_s: deque[float] = deque(maxlen=1000)
        self._running_since: dict[str, float] = {}
        self._placing: PendingResources | None = None
        self._looked_at_s = 0.0

    def on_trial_result(
        self, iteration: int, trials: Any, trial: TuneTrial, result: Mapping[str, Any], **_: Any
    ) -> None:
        """Record the length of the epochs."""
        self._epochs_s.extend(report["seconds"] for report in result.get("reports", ()))

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **_: Any) -> None:
        """Check workers and pending trials, once a second."""
        now = time.monotonic()
        if now - self._looked_at_s < LOOK_EVERY_S:
            return
        if now - self._looked_at_s > ASLEEP_S:
            self._running_since = dict.fromkeys(self._running_since, now)
        self._looked_at_s = now
        try:
            self._kill_stalled(trials, now)
            self._watch_places(trials)
        except Exception:  # a watchdog must not end the search
            logger.exception("watchdog")

    def _kill_stalled(self, trials: Iterable[TuneTrial], now: float) -> None:
        running = {t.trial_id: t for t in trials if t.status == TuneTrial.RUNNING}
        began = {id_: self._running_since.get(id_, now) for id_ in running}
        self._running_since = began
        for id_, trial in running.items():
            entry = self._bridge.open_trial(trial.config["number"])
            if entry is None:
                continue
            waited_s = now - max(began[id_], entry.heard_at_s)
            limit_s = self._limit_s(entry)
            if waited_s > limit_s:
                self._running_since[id_] = now  # its death is noticed with a delay
                self._say(
                    f"Trial {entry.trial.number} hangs: no epoch for {waited_s:.0f} s "
                    "(resources.stall_timeout); its worker is killed and the trial is resumed"
                )
                self._kill(trial, f"it hung: no epoch for {waited_s:.0f} s")

    def _limit_s(self, entry: OpenTrial) -> float:
        """Return the limit of an epoch; a worker's first one includes training the teacher."""
        if self._stall_timeout != "auto":
            limit_s = self._stall_timeout
        elif self._epochs_s:
            limit_s = max(LEAST_STALL_S, STALL_FACTOR * statistics.median(self._epochs_s))
        else:
            limit_s = FIRST_STALL_S
        teacher = None if entry.curve else entry.config.teacher_config()
        return limit_s * (1 + teacher.epochs) if teacher else limit_s

    def _watch_places(self, trials: Iterable[TuneTrial]) -> None:
        states = {trial.status for trial in trials}
        if TuneTrial.PENDING not in states or TuneTrial.RUNNING in states:
            self._placing = None
            return
        if self._placing is None:
            gpus = self._bridge.share.gpus_per_trial
            self._placing = PendingResources("No trial", self._cpus, gpus)
        if line := self._placing.look():
            self._say(line)
        if self._placing.given_up:
            self._bridge.unschedulable = True
            self._bridge.abort_reason = self._placing.given_up
