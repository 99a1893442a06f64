"""When MLflow is brought up to date: by a thread beside a running search, or once, afterwards.

The search never waits for it, and nothing that goes wrong here ends one: the study has all that
MLflow does not have yet.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from okddip_search.errors import UserError
from okddip_search.layout import DATABASE, JOURNAL, SESSIONS, TRACKING
from okddip_search.masking import MASK, masked
from okddip_search.space.load import load_saved
from okddip_search.space.model import SearchSpec
from okddip_search.study.events import Listener, TrialEnd
from okddip_search.study.reading import stage_of
from okddip_search.study.sessions import Session, SessionLog, Status
from okddip_search.tracking.desired import epoch_of, log, param_texts, run_key
from okddip_search.tracking.mirror import Mirror, brief
from okddip_search.tracking.reader import Memory, Reader, sessions_of
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import sole_deliverer, target_of
from trainer.io.files import LockedError, exclusive_lock

_PAUSE_S = 1.0  # between turns: lets epochs of all trials gather in one call
_LOAD = 0.1  # at most this share of a core goes into reading the directory
_MAX_BACKOFF_S = 15.0
_ATTEMPTS = 3
_TOLD_FAILURES = 2  # in a row: one lost answer is nothing to speak of
_FAREWELL_S = 5.0  # a store that does not answer is waited for when the search has ended


class Stage(Listener):
    """The ``Listener`` of one stage of a search: it wakes the thread, and never waits for it."""

    def __init__(self, name: str, memory: Memory, wake: Callable[[], None]) -> None:
        """Take the stage's name, and where epochs are remembered until they are on disk."""
        self._name = name
        self._memory = memory
        self._wake = wake

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """See to it that the trial is shown; the study has it."""
        self._wake()

    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Remember an epoch that may be younger than the trial's checkpoint."""
        epochs = self._memory.setdefault(run_key(self._name, number), {})
        epochs.setdefault(step, epoch_of(report))  # one trained again stays as it was
        self._wake()

    def trial_paused(self, number: int) -> None:
        """See to it that the trial is shown to wait."""
        self._wake()

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """See to it that the trial's end is shown."""
        self._wake()


class Tracker:
    """Keeps MLflow up to date with a running search, from a thread of the driver."""

    def __init__(
        self,
        search_dir: Path,
        tracking_uri: str | None,
        search_name: str,
        spec: SearchSpec | None = None,
        *,
        on_trouble: Callable[[str], None],
    ) -> None:
        """Take up the identity that the search has in MLflow, or give it one.

        Args:
            search_dir: The search directory; it must exist.
            tracking_uri: MLflow server or store; None: sqlite in the search directory.
            search_name: Name of MLflow's experiment, for a new search.
            spec: The search's space, if it is known.
            on_trouble: Called, from another thread, once when the store does not answer and once
                when it does again.
        """
        self._dir = search_dir.absolute()
        self._target = target_of(self._dir, tracking_uri)
        self._on_trouble = on_trouble
        known = sessions_of(self._dir, search_name)[-1]
        self.session = Session(known.search_id, known.name or search_name, self._target.key)
        self._log = SessionLog(self._dir)
        self._memory: Memory = {}
        self._reader = Reader(self._dir, spec, self._memory)
        self._mirror = Mirror(self._dir, self._target, self._tell)
        self._news = threading.Condition()
        self._told = self._synced = 0
        self._is_closing = self._is_stopped = False
        self._give_up_at = 0.0
        self._thread = threading.Thread(target=self._work, name="okddip-tracking", daemon=True)

    def stage(self, home: Path) -> Stage:
        """Return the ``Listener`` for the trials of the study in a folder of the search."""
        return Stage(stage_of(self._dir, home.absolute()), self._memory, self._wake)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Note that a session of the search, or of what comes after it, begins.

        Args:
            params: The few essentials of the search.
            tags: Provenance; every trial's run gets them too.
        """
        known = self.session
        texts = {key: str(value) for key, value in tags.items() if value is not None}
        self.session = Session(known.search_id, known.name, known.store, param_texts(params), texts)
        self._log.begin(self.session)
        if not self._thread.is_alive():
            self._thread.start()
        self._wake()

    def end(self, status: Status) -> None:
        """Note how the session has ended; the trials that are still open are interrupted."""
        self._log.end(status)
        self._wake()

    def flush(self, timeout_s: float) -> bool:
        """Wait until MLflow has all that has happened so far; return whether it has."""
        with self._news:
            told = self._told
            self._news.wait_for(
                lambda: self._synced >= told or not self._thread.is_alive(), timeout_s
            )
            return self._synced >= told

    def close(self, timeout_s: float) -> bool:
        """Send what can be sent in time, and stop; return whether MLflow has everything."""
        self._give_up_at = time.monotonic() + _FAREWELL_S
        self._is_closing = True
        self._wake()
        has_all = self.flush(timeout_s)
        with self._news:
            self._is_stopped = True
            self._news.notify_all()
        return has_all

    def _wake(self) -> None:
        with self._news:
            self._told += 1
            self._news.notify_all()

    def _tell(self, message: str) -> None:
        log.warning("%s", message)
        try:
            self._on_trouble(message)
        except Exception:
            log.exception("tracking: on_trouble")

    def _pause(self, seconds: float) -> None:
        """Wait for a while; shorter once the search is only waiting for us."""
        is_closing = self._is_closing
        with self._news:
            self._news.wait_for(
                lambda: self._is_stopped or self._is_closing != is_closing,
                min(seconds, 0.5) if is_closing else seconds,
            )

    def _work(self) -> None:
        """Deliver until closed; the body of the thread."""
        was_told = False
        while not self._is_stopped:
            try:
                with sole_deliverer(self._dir, timeout_s=1.0):
                    self._deliver()
                    break
            except UserError as error:
                if not was_told:
                    self._tell(f"{error.message}; waiting for it")
                was_told = True
            except Exception:
                log.exception("tracking: the delivery stopped")
                self._pause(_MAX_BACKOFF_S)
        with self._news:
            self._news.notify_all()

    def _deliver(self) -> None:
        failures = 0
        while not self._is_stopped:
            with self._news:
                self._news.wait_for(
                    lambda: self._told > self._synced or self._is_closing or self._is_stopped
                )
                told, is_last = self._told, self._is_closing
            try:
                reading_s = self._turn(is_last)
            except Exception as error:
                failures = self._after_failure(failures + 1, error)
                if is_last and failures >= _ATTEMPTS and time.monotonic() > self._give_up_at:
                    return
                self._pause(min(0.5 * 2**failures, _MAX_BACKOFF_S))
                continue
            if failures >= _TOLD_FAILURES:
                self._tell(f"MLflow at {self._target.key} answers again and gets everything")
            failures = 0
            with self._news:
                self._synced = told
                self._news.notify_all()
            if is_last:
                return
            self._pause(max(_PAUSE_S, reading_s / _LOAD))

    def _turn(self, is_last: bool) -> float:
        """Send what is new; return how long it took to find out, in seconds of CPU time."""
        self._log.flush()
        begun_s = time.thread_time()
        desired = self._reader.read()
        reading_s = time.thread_time() - begun_s
        self._mirror.sync(desired, is_last=is_last)
        for run in desired.children:
            if run.status != "RUNNING":
                self._memory.pop(run.key, None)
        return reading_s

    def _after_failure(self, failures: int, error: Exception) -> int:
        log.info("tracking: attempt %d: %s", failures, brief(error))
        if failures == _TOLD_FAILURES:
            self._tell(
                f"MLflow at {self._target.key} does not answer ({brief(error)}); "
                "it gets later what it misses now"
            )
        return failures


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


def _spec_in(search_dir: Path) -> SearchSpec | None:
    try:
        return load_saved(search_dir)
    except (UserError, OSError) as error:  # it says little that is shown
        log.info("tracking: %s", error)
        return None


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
        on_trouble: Told what the user should know.

    Returns:
        Number of records sent; 0 if the store was up to date.

    Raises:
        UserError: There is no search, one is at work, or the store does not answer.
    """
    if not any((search_dir / name).exists() for name in (JOURNAL, SESSIONS, TRACKING)):
        raise UserError(f"{search_dir}: no {JOURNAL} here", "give the directory of a search")
    search_dir = search_dir.absolute()
    with sole_deliverer(search_dir, timeout_s=30):
        uri = chosen_uri(search_dir, tracking_uri, is_resumed=True, say=on_trouble)
        target = target_of(search_dir, uri)
        require_schema(target, upgrade=upgrade)
        try:
            with exclusive_lock(search_dir / "lock"):  # the driver's
                desired = Reader(search_dir, _spec_in(search_dir)).read()
        except LockedError:
            raise UserError(
                f"{search_dir}: a search is at work here",
                "it delivers by itself; try again when it has ended",
            ) from None
        mirror = Mirror(search_dir, target, on_trouble)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                mirror.sync(desired, is_last=True)
                break
            except Exception as error:
                if attempt == _ATTEMPTS:
                    raise UserError(
                        f"MLflow at {target.key} does not answer: {brief(error)}",
                        "try again later",
                    ) from error
                time.sleep(0.5 * 2**attempt)
        return mirror.sent
