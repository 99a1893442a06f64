"""A running search, shown in MLflow, whatever the state of the MLflow server.

The driver appends events to a journal in the search directory, which takes microseconds and works
always. One thread replays the journal into MLflow, with retries; what it could not deliver by the
end, the next ``--resume`` or ``okddip-search sync`` delivers. Nobody else writes: the workers of
the trials never import mlflow.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

from okddip_search.errors import UserError
from okddip_search.events import TrialEnd
from okddip_search.tracking_delivery import Delivery
from okddip_search.tracking_journal import (
    Journal,
    Operation,
    Position,
    Story,
    epoch_metrics,
    finite,
    new_header,
    param_texts,
    read,
)
from okddip_search.tracking_store import (
    JOURNAL,
    POSITION,
    Target,
    masked,
    sole_deliverer,
    store_uri,
    target_of,
)

__all__ = ["Tracker", "masked", "store_uri", "sync", "target_of", "usual_uri"]

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # a terminal gets `on_trouble`, not log lines

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

_OPERATIONS_PER_TURN = 500
_PAUSE_S = 1.0  # between turns: lets epochs of all trials gather in one call
_MAX_BACKOFF_S = 30.0
_ATTEMPTS = 3  # before an operation that a healthy server refuses is set aside

P = ParamSpec("P")


def _harmless(
    method: Callable[Concatenate["Tracker", P], None],
) -> Callable[Concatenate["Tracker", P], None]:
    """Make a method log its exceptions: tracking must not end a search."""

    @functools.wraps(method)
    def wrapper(self: "Tracker", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            log.exception("tracking: %s", method.__name__)
            self._tell_once(f"tracking: an event is lost ({type(error).__name__}: {error})")

    return wrapper


class Tracker:
    """Tells MLflow about a search: one parent run, one nested run per trial.

    It is a ``Listener``: no method raises, and none waits for the store.
    """

    def __init__(
        self,
        search_dir: Path,
        tracking_uri: str | None,
        search_name: str,
        *,
        on_trouble: Callable[[str], None],
    ) -> None:
        """Open the journal (an earlier driver's is continued) and start delivering it.

        Args:
            search_dir: The search directory; it must exist.
            tracking_uri: MLflow server or store; None: sqlite in the search directory.
            search_name: Name of MLflow's experiment.
            on_trouble: Called, from another thread, once when the store does not answer and once
                when it does again.
        """
        self._dir = search_dir.absolute()
        self._target = target_of(self._dir, tracking_uri)
        self._on_trouble = on_trouble
        self._told: set[str] = set()
        self._journal = Journal(self._dir / JOURNAL)
        self._story = Story.from_journal(self._journal.path)
        self._news = threading.Event()
        self._closing = threading.Event()
        self._stopped = threading.Event()
        if not self._story.search_id:
            self._append(new_header(search_name))
        self._replay = _Replay(self._dir, self._target, self._story)
        self._thread = threading.Thread(target=self._work, name="okddip-tracking", daemon=True)
        self._thread.start()

    @_harmless
    def search_started(
        self, params: Mapping[str, Any], tags: Mapping[str, str], artifacts: Sequence[Path]
    ) -> None:
        """Open the search's run, or go on in it.

        Args:
            params: The few essentials of the search.
            tags: Provenance; every trial's run gets them too.
            artifacts: Files to keep with the run.
        """
        self._append(
            {
                "op": "search",
                "store": self._target.key,
                "params": param_texts(params),
                "tags": {"okddip.space": self._story.name, **tags},
            }
        )
        self._append_artifacts(artifacts)

    @_harmless
    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Open a trial's run, or go on in it."""
        columns, common = self._story.columns_with(params)
        is_known = (columns, common) == (self._story.columns, self._story.common)
        self._append(
            {
                "op": "trial",
                "trial": number,
                "params": param_texts(params),
                "tags": self._story.tags,
                "columns": [] if is_known else columns,
                "common": common,
            }
        )

    @_harmless
    def epoch_reported(self, number: int, step: int, report: Mapping[str, Any]) -> None:
        """Chart an epoch; one that a resumed trial trained again stays as it was."""
        if step <= self._story.last_step.get(number, -1):
            return
        metrics = epoch_metrics(report)
        if "val/leader_accuracy" in metrics:
            accuracy = metrics["val/leader_accuracy"]
            best = max(accuracy, self._story.best.get(number, accuracy))
            metrics["best_leader_accuracy"] = best
        self._append({"op": "epoch", "trial": number, "step": step, "metrics": metrics})

    @_harmless
    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Close a trial's run with its state, and update the search's best."""
        known_best = None
        if best is not None and best.value is not None:
            accuracy = self._story.best.get(best.number, best.value)
            known_best = {"trial": best.number, "value": best.value, "accuracy": accuracy}
        self._append(
            {
                "op": "end",
                "trial": end.number,
                "state": end.state,
                "value": finite({"value": end.value}).get("value"),
                "reason": end.reason,
                "ended": len(self._story.ended | {end.number}),
                "best": known_best,
            }
        )

    @_harmless
    def catch_up(
        self, closed: Iterable[tuple[TrialEnd, Mapping[str, Any]]], best: TrialEnd | None
    ) -> None:
        """Close the runs of trials whose end an earlier driver was killed before telling.

        Args:
            closed: Every finished trial of the study, with its parameters.
            best: The best complete trial.
        """
        for end, params in closed:
            if end.number not in self._story.ended:
                if end.number not in self._story.open:
                    self.trial_started(end.number, params, True)
                self.trial_ended(end, best)

    @_harmless
    def search_ended(
        self, status: RunStatus, metrics: Mapping[str, Any], artifacts: Sequence[Path]
    ) -> None:
        """Close the search's run; runs of trials still open are marked as interrupted."""
        self._append_artifacts(artifacts)
        states = {"FINISHED": "complete", "KILLED": "interrupted", "FAILED": "failed"}
        self._append(
            {
                "op": "search_end",
                "status": status,
                "state": states[status],
                "metrics": finite(metrics),
                "open": sorted(self._story.open),
                "ended": len(self._story.ended),
            }
        )

    @_harmless
    def log_leader(self, leader_dir: Path) -> None:
        """Log a saved leader (``trainer.leader.save_leader``) as a model and as files."""
        self._append({"op": "leader", "path": self._relative(leader_dir)})

    def close(self, timeout_s: float) -> int:
        """Deliver what can be delivered in time, and stop.

        Returns:
            Number of operations left for ``--resume`` or ``okddip-search sync``.
        """
        self._closing.set()
        self._news.set()
        self._thread.join(timeout_s)
        self._stopped.set()
        return self._replay.count_pending()

    def _append(self, operation: Operation) -> None:
        self._journal.append(operation)
        self._story.add(operation)
        self._news.set()

    def _append_artifacts(self, artifacts: Sequence[Path]) -> None:
        if artifacts:
            paths = [self._relative(path) for path in artifacts]
            self._append({"op": "artifacts", "paths": paths})

    def _relative(self, path: Path) -> str:
        """Name a path so that it is found again when the search directory has moved."""
        absolute = path.absolute()
        inside = absolute.is_relative_to(self._dir)
        return str(absolute.relative_to(self._dir) if inside else absolute)

    def _tell(self, message: str) -> None:
        log.warning("%s", message)
        try:
            self._on_trouble(message)
        except Exception:
            log.exception("tracking: on_trouble")

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._tell(message)

    def _work(self) -> None:
        """Deliver until closed; the body of the thread."""
        while not self._stopped.is_set():
            try:
                with sole_deliverer(self._dir, timeout_s=1.0):
                    self._deliver()
                    return
            except UserError as error:
                self._tell_once(f"{error.message}; waiting for it")
            except Exception as error:
                log.exception("tracking: the delivery stopped")
                self._tell_once(f"tracking: {_brief(error)}; events are kept in {JOURNAL}")
                self._stopped.wait(_MAX_BACKOFF_S)

    def _deliver(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._news.clear()
            try:
                moved = self._replay.turn(1 if failures else _OPERATIONS_PER_TURN)
            except Exception as error:
                failures += 1
                self._report_failure(failures, error)
                if failures >= _ATTEMPTS and self._replay.set_aside(error):
                    self._tell(f"MLflow refuses an event, it is left out: {_brief(error)}")
                    failures = 0
                self._pause(min(0.5 * 2**failures, _MAX_BACKOFF_S))
                continue
            if failures:
                self._tell(f"MLflow at {self._target.key} answers again; events are delivered")
                failures = 0
            if moved:
                self._closing.wait(_PAUSE_S)
            elif self._closing.is_set():
                return
            else:
                self._news.wait()

    def _report_failure(self, failures: int, error: Exception) -> None:
        log.info("tracking: attempt %d: %s", failures, _brief(error))
        if failures == 1:
            self._tell(
                f"MLflow at {self._target.key} does not answer ({_brief(error)}); "
                f"events are kept in {JOURNAL} and sent again"
            )

    def _pause(self, seconds: float) -> None:
        """Wait before another attempt; shorter once the search is only waiting for us."""
        if not self._closing.is_set():
            self._closing.wait(seconds)
        else:
            self._stopped.wait(min(seconds, 0.5))


class _Replay:
    """Moves a journal into a store, turn by turn, and remembers how far it got."""

    def __init__(self, search_dir: Path, target: Target, story: Story) -> None:
        self._path = search_dir / JOURNAL
        self._position = Position(search_dir / POSITION, target.key)
        self._delivery = Delivery(search_dir, target, story.search_id, story.name)
        is_store_gone = target.is_local and not (search_dir / "mlflow.db").exists()
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


def usual_uri(search_dir: Path) -> str | None:
    """Return where the last driver of a search wrote, or None if there was none.

    Raises:
        UserError: The address has a password, which is not kept in the search directory.
    """
    store = Story.from_journal(search_dir / JOURNAL).store
    if "***@" in store:
        raise UserError(
            f"the password of {store} is not kept in the search directory",
            "give the whole address again: --tracking-uri https://user:password@...",
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
        replay = _Replay(search_dir, target, story)
        pending = replay.count_pending()
        _drain(replay, target)
    return pending


def _drain(replay: _Replay, target: Target) -> None:
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
