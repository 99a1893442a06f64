"""The driver's side of the sealed test set: who may open it, for whom, and how often it was."""

from collections.abc import Sequence
from pathlib import Path

from okddip_search.errors import UserError
from okddip_search.session import Session
from okddip_search.tracking import masked
from okddip_search.trial import open_test_for
from trainer.config import DataConfig
from trainer.data import DataError
from trainer.sealed_test import Opening, read_openings, weights_digest


def require_test_set(data: DataConfig) -> None:
    """Look, before anything is trained, whether there is a test set; nothing in it is opened.

    Raises:
        UserError: The image folder has no part for tests.
    """
    if data.name == "image_folder" and not (Path(data.root or "") / "test").is_dir():
        raise UserError(
            f"{data.root} has no folder test, so no winner can be confirmed on unseen images",
            "Add test/<class>/… to it, or leave the confirmation out (--no-confirm).",
        )


def known_tests(log: Path) -> dict[str, float]:
    """Return the test accuracies seen so far, by the leader's folder relative to the log's."""
    found: dict[str, float] = {}
    for opening in read_openings(log):
        found.update({name: result.accuracy for name, result in opening.results.items()})
    return found


def opened_so_far(log: Path) -> list[dict[str, str]]:
    """Return when, and by which command, the test set was opened."""
    return [{"time": o.time, "command": o.reason} for o in read_openings(log)]


def reopen_refused(log: Path, again: bool) -> None:
    """Refuse a plan that would need a second opening, before anything is trained for it.

    Raises:
        UserError: The test set was opened already and ``again`` is not given.
    """
    openings = read_openings(log)
    if openings and not again:
        raise _again_needed(openings)


def test_leaders(session: Session, log: Path, names: Sequence[str], *, again: bool) -> None:
    """Have every leader measured on the test set, in one opening; known ones are not again.

    An opening that was cut off before all its results were known is completed: it is no new one.

    Args:
        session: Its cluster does the work.
        log: Of the openings; the results stand in it afterwards.
        names: Folders of the leaders, relative to the log's.
        again: Whether the test set may be opened once more.

    Raises:
        UserError: It was opened already, there is no test set, or a leader is not the one any more
            that it was opened for.
    """
    _require_unchanged(log, names)
    missing = [name for name in names if name not in known_tests(log)]
    if not missing:
        return
    openings = read_openings(log)
    unfinished = next((o for o in openings if set(missing) <= set(o.leaders)), None)
    if openings and unfinished is None and not again:
        raise _again_needed(openings)
    try:
        session.in_worker(
            open_test_for,
            [str(session.directory / name) for name in missing],
            session.spec.data.model_dump(mode="json"),
            str(log),
            masked(session.request.command),
            session.common["device"],
            unfinished,
        )
    except DataError as error:
        raise UserError(f"data: {error}") from None


def _require_unchanged(log: Path, names: Sequence[str]) -> None:
    """Keep the test accuracy of earlier weights from being told of others."""
    for opening in read_openings(log):
        for name in set(names) & opening.results.keys():
            if weights_digest(log.parent / name) != opening.leaders[name]:
                raise UserError(
                    f"{log.parent / name} has other weights than when the test set was opened",
                    "Restore it from a copy.",
                )


def _again_needed(openings: Sequence[Opening]) -> UserError:
    times = ", ".join(opening.time[:19] for opening in openings)
    return UserError(
        f"the sealed test set was opened already ({times} UTC)",
        "A second look makes it worth less; if you must, add --open-test-again: it is counted.",
    )
