"""What tracking writes down: the journal and what it has told so far, which grow together."""

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from okddip_search.tracking_journal import Journal, Operation, Story, new_header
from okddip_search.tracking_store import JOURNAL

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
        self._journal = Journal(self.directory / JOURNAL)
        self.story = Story.from_journal(self._journal.path)
        if not self.story.search_id:
            self.append(new_header(search_name))

    def append(self, operation: Operation) -> None:
        """Write an operation down, for the delivery to find.

        Raises:
            OSError: The disk is full or gone.
        """
        self._journal.append(operation)
        self.story.add(operation)
        self.news.set()

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
