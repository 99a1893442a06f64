"""What tracking writes down: the journal and what it has told so far, which grow together."""

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from okddip_search.layout import JOURNAL, TRACKING
from okddip_search.tracking.journal import Journal, Operation, Story, new_header

log = logging.getLogger("okddip_search.tracking")
log.addHandler(logging.NullHandler())  # a terminal gets `on_trouble`, not log lines


class Record:
    """The journal of one search, open for writing.

    Attributes:
        directory: The search directory, absolute.
        story: What the journal has told.
        news: Set whenever an operation was appended.
    """

    def __init__(
        self, directory: Path, search_name: str, on_trouble: Callable[[str], None]
    ) -> None:
        """Open the journal; an earlier driver's is continued.

        Args:
            directory: The search directory; it must exist.
            search_name: Name of MLflow's experiment, if the journal is new.
            on_trouble: Told what the user should know, from any thread.
        """
        self.directory = directory.absolute()
        self.news = threading.Event()
        self._on_trouble = on_trouble
        self._told: set[str] = set()
        self._is_full = False
        self._journal = Journal(self.directory / TRACKING)
        self.story = Story.from_journal(self._journal.path)
        self._tell_damage()
        if not self.story.search_id:
            self.append(self._header(search_name))

    def _header(self, search_name: str) -> Operation:
        """Return the first operation: of a new search, or of one whose journal is lost."""
        if not (self.directory / JOURNAL).exists():
            return new_header(search_name)
        from okddip_search.tracking.restore import remembered  # it imports optuna

        known = remembered(self.directory)
        return new_header(known.get("name", search_name), known.get("search_id", ""))

    def _tell_damage(self) -> None:
        cut, damaged = self._journal.cut, self.story.damaged
        found = [f"a half-written last line of {cut} bytes was cut off"] if cut else []
        found += [f"{damaged} damaged lines are skipped"] if damaged else []
        if found:
            self.tell(
                f"{TRACKING}: {', '.join(found)}; what is missing is told again from the study"
            )

    @property
    def num_waiting(self) -> int:
        """Operations that are in memory alone, because the disk is full."""
        return self._journal.num_waiting

    def append(self, operation: Operation) -> None:
        """Write an operation down, for the delivery to find; on a full disk, it waits."""
        self._note(self._journal.append(operation))
        self.story.add(operation)
        self.news.set()

    def flush(self) -> None:
        """Write down what waits for room on the disk, if there is some now."""
        self._note(self._journal.flush())

    def _note(self, trouble: OSError | None) -> None:
        if self._is_full == (trouble is not None):
            return
        self._is_full = trouble is not None
        if trouble:
            self.tell(
                f"{TRACKING} cannot be written ({trouble.strerror}); what MLflow is told waits in "
                "memory until it can"
            )
        else:
            self.tell(f"{TRACKING} is written again")

    def relative(self, path: Path) -> str:
        """Name a path so that it is found again when the search directory has moved."""
        absolute = path.absolute()
        inside = absolute.is_relative_to(self.directory)
        return str(absolute.relative_to(self.directory) if inside else absolute)

    def tell(self, message: str) -> None:
        """Tell the user."""
        log.warning("%s", message)
        try:
            self._on_trouble(message)
        except Exception:
            log.exception("tracking: on_trouble")

    def tell_once(self, message: str) -> None:
        """Tell the user what need not be said again."""
        if message not in self._told:
            self._told.add(message)
            self.tell(message)


class _Recording(Protocol):
    _record: Record


_Self = TypeVar("_Self", bound=_Recording)
_P = ParamSpec("_P")


def harmless(
    method: Callable[Concatenate[_Self, _P], None],
) -> Callable[Concatenate[_Self, _P], None]:
    """Make a method log its exceptions: tracking must not end a search."""

    @functools.wraps(method)
    def wrapper(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            log.exception("tracking: %s", method.__name__)
            self._record.tell_once(f"tracking: an event is lost ({type(error).__name__}: {error})")

    return wrapper
