"""The tracking journal, replayed into an MLflow store: beside a running search, or afterwards."""

import threading
import time
from pathlib import Path

from okddip_search.errors import UserError
from okddip_search.masking import MASK, masked
from okddip_search.tracking_delivery import Delivery
from okddip_search.tracking_journal import Journal, Position, Story, read
from okddip_search.tracking_record import Record, log
from okddip_search.tracking_store import (
    DATABASE,
    JOURNAL,
    POSITION,
    Target,
    sole_deliverer,
    target_of,
)

_OPERATIONS_PER_TURN = 500
_PAUSE_S = 1.0  # between turns: lets epochs of all trials gather in one call
_MAX_BACKOFF_S = 30.0
_ATTEMPTS = 3  # before an operation that a healthy server refuses is set aside


class Replay:
    """Moves a journal into a store, turn by turn, and remembers how far it got."""

    def __init__(self, search_dir: Path, target: Target, story: Story) -> None:
        """Find out how far the store has been told; nothing is connected yet."""
        self._path = search_dir / JOURNAL
        self._position = Position(search_dir / POSITION, target.key)
        self._delivery = Delivery(search_dir, target, story.search_id, story.name)
        is_store_gone = target.is_local and not (search_dir / DATABASE).exists()
        self._offset = 0 if is_store_gone else self._position.load(self._path.stat().st_size)

    def turn(self, limit: int) -> bool:
        """Deliver the next operations; return whether there were any."""
        batch = list(read(self._path, self._offset, limit))
        if not batch:
            return False
        self._delivery.deliver([operation for operation, _ in batch])
        self._advance(batch[-1][1])
        return True

    def set_aside(self, error: Exception) -> bool:
        """Step over the next operation if the store refuses it for good."""
        operation, offset = next(read(self._path, self._offset, 1))
        if not self._delivery.is_hopeless(operation, error):
            return False
        log.error("tracking: left out %s", operation, exc_info=error)
        self._advance(offset)
        return True

    def count_pending(self) -> int:
        """Count the operations not yet delivered."""
        return sum(1 for _ in read(self._path, self._offset))

    def _advance(self, offset: int) -> None:
        self._position.save(offset)
        self._offset = offset


class Courier:
    """A thread that delivers what a running search records."""

    def __init__(self, record: Record, target: Target) -> None:
        """Start delivering."""
        self._record = record
        self._target = target
        self._replay = Replay(record.directory, target, record.story)
        self._closing = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="okddip-tracking", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> int:
        """Deliver what can be delivered in time, and stop; return the operations left."""
        self._closing.set()
        self._record.news.set()
        self._thread.join(timeout_s)
        self._stopped.set()
        return self._replay.count_pending()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended after ``close``."""
        self._thread.join(timeout_s)

    def count_pending(self) -> int:
        """Count the operations not yet delivered."""
        return self._replay.count_pending()

    def _work(self) -> None:
        """Deliver until closed; the body of the thread."""
        while not self._stopped.is_set():
            try:
                with sole_deliverer(self._record.directory, timeout_s=1.0):
                    self._deliver()
                    return
            except UserError as error:
                self._record.tell_once(f"{error.message}; waiting for it")
            except Exception as error:
                log.exception("tracking: the delivery stopped")
                self._record.tell_once(f"tracking: {_brief(error)}; events are kept in {JOURNAL}")
                self._stopped.wait(_MAX_BACKOFF_S)

    def _deliver(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._record.news.clear()
            all_is_written = self._closing.is_set()  # asked before reading: nothing comes later
            try:
                moved = self._replay.turn(1 if failures else _OPERATIONS_PER_TURN)
            except Exception as error:
                failures += 1
                self._report_failure(failures, error)
                if failures >= _ATTEMPTS and self._replay.set_aside(error):
                    self._record.tell(f"MLflow refuses an event, it is left out: {_brief(error)}")
                    failures = 0
                self._pause(min(0.5 * 2**failures, _MAX_BACKOFF_S))
                continue
            if failures:
                self._record.tell(
                    f"MLflow at {self._target.key} answers again; events are delivered"
                )
                failures = 0
            if moved:
                self._closing.wait(_PAUSE_S)
            elif all_is_written:
                return
            else:
                self._record.news.wait()

    def _report_failure(self, failures: int, error: Exception) -> None:
        log.info("tracking: attempt %d: %s", failures, _brief(error))
        if failures == 1:
            self._record.tell(
                f"MLflow at {self._target.key} does not answer ({_brief(error)}); "
                f"events are kept in {JOURNAL} and sent again"
            )

    def _pause(self, seconds: float) -> None:
        """Wait before another attempt; shorter once the search is only waiting for us."""
        if not self._closing.is_set():
            self._closing.wait(seconds)
        else:
            self._stopped.wait(min(seconds, 0.5))


def usual_uri(search_dir: Path) -> str | None:
    """Return where the last driver of a search wrote, or None if there was none.

    Raises:
        UserError: The address has a secret, which is not kept in the search directory.
    """
    store = Story.from_journal(search_dir / JOURNAL).store
    if MASK in store:
        raise UserError(
            f"the secret of {store} is not kept in the search directory",
            "give the whole address again: --tracking-uri https://user:password@..., or keep the "
            "secret out of it: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return store or None


def sync(search_dir: Path, tracking_uri: str | None = None) -> int:
    """Deliver what a search could not deliver while it ran.

    Args:
        search_dir: The search directory.
        tracking_uri: Where to; None: where the search's last driver wrote. A store that knows
            nothing of the search gets all of it.

    Returns:
        Number of operations delivered; 0 if the store was up to date.

    Raises:
        UserError: There is no journal, or the store does not answer.
    """
    if not (search_dir / JOURNAL).exists():
        raise UserError(f"{search_dir}: no {JOURNAL} here", "give the directory of a search")
    search_dir = search_dir.absolute()
    with sole_deliverer(search_dir, timeout_s=30):
        Journal(search_dir / JOURNAL).close()  # cuts a torn last line
        story = Story.from_journal(search_dir / JOURNAL)
        target = target_of(search_dir, tracking_uri or usual_uri(search_dir))
        replay = Replay(search_dir, target, story)
        pending = replay.count_pending()
        _drain(replay, target)
    return pending


def _drain(replay: Replay, target: Target) -> None:
    failures = 0
    while True:
        try:
            if not replay.turn(1 if failures else _OPERATIONS_PER_TURN):
                return
            failures = 0
        except Exception as error:
            failures += 1
            if failures < _ATTEMPTS:
                time.sleep(0.5 * 2**failures)
            elif replay.set_aside(error):
                failures = 0
            else:
                raise UserError(
                    f"MLflow at {target.key} does not answer: {_brief(error)}",
                    f"{replay.count_pending()} operations wait in {JOURNAL}; try again later",
                ) from error


def _brief(error: Exception) -> str:
    """Say an error in one short line without secrets."""
    text = masked(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"
