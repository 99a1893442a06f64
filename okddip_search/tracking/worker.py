"""MLflow brought up to date: by a thread beside a running search, or once, afterwards.

The search never waits for it, and no failure here ends one: whatever MLflow lacks, the search
directory has.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from okddip_search.errors import UserError
from okddip_search.layout import DATABASE, JOURNAL, SESSIONS, TRACKING
from okddip_search.masking import MASK, masked
from okddip_search.space.load import load_saved
from okddip_search.space.model import SearchSpec
from okddip_search.study.events import Listener
from okddip_search.study.reading import stage_of
from okddip_search.study.sessions import Session, SessionLog, Status
from okddip_search.study.study import sole_driver
from okddip_search.tracking.desired import log, param_texts, run_key
from okddip_search.tracking.mirror import Mirror, brief
from okddip_search.tracking.reader import Memory, Reader, sessions_of
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import sole_deliverer, target_of

_PAUSE_S = 1.0
"""Seconds between two turns, in which epochs of all trials gather for one request."""
_LOAD = 0.1
"""Share of a core that reading the directory may take."""
_MAX_BACKOFF_S = 15.0
_REPORTED_FAILURES = 2
"""Failures in a row before the user gets a message; one lost answer is not worth one."""
_LAST_FAILURES = 10
"""Failures in a row after which nothing is sent any more once the search has ended."""
_SYNC_ATTEMPTS = 3


class Stage(Listener):
    """Remembers the epochs of one stage of a search until they are on disk and in MLflow."""

    def __init__(self, name: str, memory: Memory) -> None:
        self._name = name
        self._memory = memory

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Remember an epoch, which may be younger than the trial's checkpoint."""
        epochs = self._memory.setdefault(run_key(self._name, number), {})
        epochs.setdefault(step, report)  # an epoch that is trained again keeps its first report


class Tracker:
    """Keeps MLflow up to date with a running search, from a thread of the driver.

    Args:
        search_dir: The search directory; it must exist.
        tracking_uri: MLflow server or store; None: sqlite in the search directory.
        search_name: Name of MLflow's experiment, for a new search.
        spec: The search's space, if it is known.
        on_trouble: Called, from another thread, once when the store does not answer and once when
            it answers again.
    """

    def __init__(
        self,
        search_dir: Path,
        tracking_uri: str | None,
        search_name: str,
        spec: SearchSpec | None = None,
        *,
        on_trouble: Callable[[str], None],
    ) -> None:
        self._dir = search_dir.absolute()
        self._target = target_of(self._dir, tracking_uri)
        self._on_trouble = on_trouble
        known = sessions_of(self._dir, search_name)[-1]
        self.session = Session(known.search_id, known.name or search_name, self._target.key)
        self._log = SessionLog(self._dir)
        self._memory: Memory = {}
        self._reader = Reader(self._dir, spec, self._memory)
        self._mirror = Mirror(self._dir, self._target, self._tell)
        self._turn_ended = threading.Condition()
        self._begun = self._complete = 0  # numbers of the last turn and of the last successful one
        self._closing, self._is_stopped = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="okddip-tracking", daemon=True)

    def stage(self, home: Path) -> Stage:
        """Return the ``Listener`` for the trials of the study in a folder of the search."""
        return Stage(stage_of(self._dir, home.absolute()), self._memory)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Note that a session of the search, or of its confirmation, begins.

        Args:
            params: The few essentials of the search.
            tags: Provenance; every trial's run gets them too.
        """
        texts = {key: str(value) for key, value in tags.items() if value is not None}
        self.session = replace(self.session, params=param_texts(params), tags=texts)
        self._log.begin(self.session)
        if not self._thread.is_alive():
            self._thread.start()

    def end(self, status: Status) -> None:
        """Note how the session has ended; the trials that are still open are interrupted."""
        self._log.end(status)

    def flush(self, timeout_s: float) -> bool:
        """Wait until MLflow has all that has happened so far; return whether it has."""
        with self._turn_ended:
            begun = self._begun
            self._turn_ended.wait_for(
                lambda: self._complete > begun or not self._thread.is_alive(), timeout_s
            )
            return self._complete > begun

    def close(self, timeout_s: float) -> bool:
        """Send as much as is possible in time, and stop; return whether MLflow has everything."""
        with self._turn_ended:  # the next turn is the last
            self._closing.set()
            has_all = self.flush(timeout_s)
        self._is_stopped = True
        return has_all

    def _tell(self, message: str) -> None:
        log.warning("%s", message)
        try:
            self._on_trouble(message)
        except Exception:
            log.exception("tracking: on_trouble")

    def _work(self) -> None:
        """Bring MLflow up to date until the search is over; the body of the thread."""
        failures = 0
        while not self._is_stopped:
            with self._turn_ended:
                self._begun += 1
                is_last = self._closing.is_set()
            try:
                pause_s = max(_PAUSE_S, self._turn(is_last) / _LOAD)
            except Exception as error:
                failures += 1
                log.info("tracking: attempt %d: %s", failures, brief(error))
                if failures == _REPORTED_FAILURES:
                    self._tell(
                        f"MLflow at {self._target.key} does not answer ({brief(error)}); "
                        "it gets later what it misses now"
                    )
                pause_s = min(0.5 * 2**failures, _MAX_BACKOFF_S)
            else:
                if failures >= _REPORTED_FAILURES:
                    self._tell(f"MLflow at {self._target.key} answers again and gets everything")
                failures = 0
                with self._turn_ended:
                    self._complete = self._begun
                    self._turn_ended.notify_all()
            if is_last and not 0 < failures < _LAST_FAILURES:
                break
            if is_last:
                time.sleep(0.5)
            else:
                self._closing.wait(pause_s)
        with self._turn_ended:
            self._turn_ended.notify_all()

    def _turn(self, is_last: bool) -> float:
        """Send MLflow what it lacks; return the CPU seconds that reading the directory took."""
        self._log.flush()
        with sole_deliverer(self._dir, timeout_s=1.0):
            begun_s = time.thread_time()
            desired = self._reader.read()
            reading_s = time.thread_time() - begun_s
            self._mirror.sync(desired, is_last=is_last)
        for run in desired.children:
            if run.status != "RUNNING":
                self._memory.pop(run.key, None)
        return reading_s


def chosen_uri(
    search_dir: Path, asked: str | None, *, is_resumed: bool, say: Callable[[str], None]
) -> str | None:
    """Return the store of a search: as asked, else that of its last driver, else the environment's.

    Args:
        search_dir: The search directory.
        asked: ``--tracking-uri``.
        is_resumed: Whether there is a search in the directory.
        say: Prints a line where MLFLOW_TRACKING_URI is used, or is not.

    Raises:
        UserError: The address of the last driver's store had a secret.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    if asked is not None or not (environment or is_resumed):
        return asked
    if not is_resumed or masked(environment or "") == sessions_of(search_dir)[-1].store:
        say(f"tracked at {masked(environment or '')} (MLFLOW_TRACKING_URI)")
        return environment
    usual = usual_uri(search_dir)
    if environment:
        where = DATABASE if usual in (None, "local") else usual
        say(f"MLFLOW_TRACKING_URI is not used: this search is tracked in {where}")
    return usual


def usual_uri(search_dir: Path) -> str | None:
    """Return where the last driver of a search wrote, or None if there was none.

    Raises:
        UserError: The address has a secret, which is not kept in the search directory.
    """
    store = sessions_of(search_dir)[-1].store
    if MASK in store:
        raise UserError(
            f"the secret of {store} is not kept in the search directory",
            "give the whole address again: --tracking-uri https://user:password@..., or keep the "
            "secret out of it: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return store or None


def sync(
    search_dir: Path,
    tracking_uri: str | None = None,
    *,
    upgrade: bool = False,
    on_trouble: Callable[[str], None] = lambda line: None,
) -> int:
    """Send MLflow what it lacks of a search that is not running.

    Args:
        search_dir: The search directory.
        tracking_uri: Where to; None: where the search's last driver wrote. A store that knows
            nothing of the search gets all of it.
        upgrade: Whether to migrate a database of an earlier MLflow.
        on_trouble: Receives messages for the user.

    Returns:
        Number of records sent; 0 if the store was up to date.

    Raises:
        UserError: There is no search, one is at work, or the store does not answer.
    """
    if not any((search_dir / name).exists() for name in (JOURNAL, SESSIONS, TRACKING)):
        raise UserError(f"{search_dir}: no {JOURNAL} here", "give the directory of a search")
    search_dir = search_dir.absolute()
    spec = None
    with contextlib.suppress(UserError, OSError):  # little of a space is shown
        spec = load_saved(search_dir)
    with sole_deliverer(search_dir, timeout_s=30):
        uri = chosen_uri(search_dir, tracking_uri, is_resumed=True, say=on_trouble)
        target = target_of(search_dir, uri)
        require_schema(target, upgrade=upgrade)
        with sole_driver(search_dir):
            desired = Reader(search_dir, spec).read()
        mirror = Mirror(search_dir, target, on_trouble)
        for attempt in range(1, _SYNC_ATTEMPTS + 1):
            try:
                mirror.sync(desired, is_last=True)
                break
            except Exception as error:
                if attempt == _SYNC_ATTEMPTS:
                    raise UserError(
                        f"MLflow at {target.key} does not answer: {brief(error)}",
                        "try again later",
                    ) from error
                time.sleep(0.5 * 2**attempt)
        return mirror.sent
