"""The tracking journal, replayed into an MLflow store: beside a running search, or afterwards."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL, TRACKING
from okddip_search.masking import MASK, masked
from okddip_search.tracking.delivery import WITH_FILES, Delivery
from okddip_search.tracking.journal import Position, Story, read
from okddip_search.tracking.record import Record, log
from okddip_search.tracking.store import DATABASE, POSITION, Target, sole_deliverer, target_of
from trainer.io.files import LockedError, exclusive_lock

_OPERATIONS_PER_TURN = 500
_PAUSE_S = 1.0  # between turns: lets epochs of all trials gather in one call
_MAX_BACKOFF_S = 15.0
_ATTEMPTS = 3  # before an operation that a healthy server refuses is set aside
_ATTEMPTS_WITH_FILES = 10  # their storage may be another one, down while the server is up
_TOLD_FAILURES = 2  # in a row: one lost answer is nothing to speak of
_FAREWELL_S = 5.0  # so long a store that does not answer is waited for when the search has ended


class Replay:
    """Moves a journal into a store, turn by turn, and remembers how far it got."""

    def __init__(self, search_dir: Path, target: Target, story: Story) -> None:
        """Find out how far the store has been told; nothing is connected yet."""
        self._path = search_dir / TRACKING
        self._position = Position(search_dir / POSITION, self._path, target.key)
        self._delivery = Delivery(search_dir, target, story.search_id, story.name)
        is_store_gone = target.is_local and not (search_dir / DATABASE).exists()
        self._offset = 0 if is_store_gone else self._position.load()

    def turn(self, limit: int) -> bool:
        """Deliver the next operations; return whether there were any."""
        batch = list(read(self._path, self._offset, limit))
        if not batch:
            return False
        self._delivery.deliver([operation for operation, _ in batch])
        self._advance(batch[-1][1])
        return True

    def attempts(self) -> int:
        """Return how often the next operation is to be tried before it is set aside."""
        operation, _ = next(read(self._path, self._offset, 1))
        return _ATTEMPTS_WITH_FILES if operation["op"] in WITH_FILES else _ATTEMPTS

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
        self._offset = offset
        try:
            self._position.save(offset)
        except OSError as error:  # a full disk; another driver would tell it all once more
            log.warning("tracking: %s is not written: %s", POSITION, error)


class Courier:
    """A thread that delivers what a running search records."""

    def __init__(self, record: Record, target: Target) -> None:
        """Start delivering."""
        self._record = record
        self._target = target
        self._replay = Replay(record.directory, target, record.story)
        self._closing = threading.Event()
        self._give_up_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="okddip-tracking", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> int:
        """Deliver what can be delivered in time, and stop; return the operations left."""
        self._record.flush()
        self._give_up_at = time.monotonic() + _FAREWELL_S
        self._closing.set()
        self._record.news.set()
        self._thread.join(timeout_s)
        self._stopped.set()
        return self.count_pending()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended after ``close``."""
        self._thread.join(timeout_s)

    def count_pending(self) -> int:
        """Count the operations not yet delivered."""
        return self._replay.count_pending() + self._record.num_waiting

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
                self._record.tell_once(f"tracking: {_brief(error)}; events are kept in {TRACKING}")
                self._stopped.wait(_MAX_BACKOFF_S)

    def _deliver(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._record.news.clear()
            all_is_written = self._closing.is_set()  # asked before reading: nothing comes later
            self._record.flush()
            try:
                moved = self._replay.turn(1 if failures else _OPERATIONS_PER_TURN)
            except Exception as error:
                failures = self._after_failure(failures + 1, error)
                if all_is_written and failures >= self._replay.attempts():
                    if time.monotonic() > self._give_up_at:
                        return
                self._pause(min(0.5 * 2**failures, _MAX_BACKOFF_S))
                continue
            if failures >= _TOLD_FAILURES:
                self._record.tell(
                    f"MLflow at {self._target.key} answers again; events are delivered"
                )
            failures = 0
            if moved:
                self._closing.wait(_PAUSE_S)
            elif all_is_written:
                return
            else:
                self._record.news.wait(_PAUSE_S if self._record.num_waiting else None)

    def _after_failure(self, failures: int, error: Exception) -> int:
        """Say it, and set aside what is refused for good; return the failures in a row."""
        log.info("tracking: attempt %d: %s", failures, _brief(error))
        if failures == _TOLD_FAILURES:
            self._record.tell(
                f"MLflow at {self._target.key} does not answer ({_brief(error)}); "
                f"events are kept in {TRACKING} and sent again"
            )
        if failures >= self._replay.attempts() and self._replay.set_aside(error):
            self._record.tell(f"MLflow refuses an event, it is left out: {_brief(error)}")
            return 0
        return failures

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
    story = Story.from_journal(search_dir / TRACKING)
    store = story.store
    if story.is_going_on is None:  # the journal is lost, or was never begun
        from okddip_search.tracking.restore import remembered

        store = remembered(search_dir).get("store", store)
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
    on_trouble: Callable[[str], None] = lambda line: None,
) -> int:
    """Deliver what a search could not deliver while it ran.

    What its journal lacks is told again from the study, all of it where there is no journal.

    Args:
        search_dir: The search directory.
        tracking_uri: Where to; None: where the search's last driver wrote. A store that knows
            nothing of the search gets all of it.
        on_trouble: Told what the user should know.

    Returns:
        Number of operations delivered; 0 if the store was up to date.

    Raises:
        UserError: There is no search, one is at work, or the store does not answer.
    """
    if not (search_dir / TRACKING).exists() and not (search_dir / JOURNAL).exists():
        raise UserError(f"{search_dir}: no {TRACKING} here", "give the directory of a search")
    search_dir = search_dir.absolute()
    with sole_deliverer(search_dir, timeout_s=30):
        target = target_of(search_dir, tracking_uri or usual_uri(search_dir))
        story = _made_whole(search_dir, on_trouble)
        replay = Replay(search_dir, target, story)
        pending = replay.count_pending()
        _drain(replay, target)
    return pending


def _made_whole(search_dir: Path, on_trouble: Callable[[str], None]) -> Story:
    """Repair the journal; return what it tells then."""
    from okddip_search.tracking.restore import restore

    try:
        with exclusive_lock(search_dir / "lock"):  # the driver's
            record = Record(search_dir, search_dir.name, on_trouble)
            try:
                restore(record)
            except (UserError, OSError) as error:  # what the journal has can be delivered
                record.tell(f"the journal is not compared with the study: {error}")
            if record.num_waiting:
                raise UserError(f"{search_dir}: the disk is full", "Make room, and try again.")
            return record.story
    except LockedError:
        raise UserError(
            f"{search_dir}: a search is at work here",
            "it delivers by itself; try again when it has ended",
        ) from None


def _drain(replay: Replay, target: Target) -> None:
    failures = 0
    while True:
        try:
            if not replay.turn(1 if failures else _OPERATIONS_PER_TURN):
                return
            failures = 0
        except Exception as error:
            failures += 1
            if failures < replay.attempts():
                time.sleep(min(0.5 * 2**failures, _MAX_BACKOFF_S))
            elif replay.set_aside(error):
                failures = 0
            else:
                raise UserError(
                    f"MLflow at {target.key} does not answer: {_brief(error)}",
                    f"{replay.count_pending()} operations wait in {TRACKING}; try again later",
                ) from error


def _brief(error: Exception) -> str:
    """Say an error in one short line without secrets."""
    text = masked(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"
