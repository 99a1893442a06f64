"""Access to the sealed test set from the driver: permission, measurement, log of openings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from okddip_search.driver.session import Session
from okddip_search.driver.trainable import one_line
from okddip_search.errors import UserError
from okddip_search.masking import masked
from trainer.config.data import DataConfig
from trainer.data.images import DataError
from trainer.data.parts import require_part
from trainer.test_set import Opening, OpeningError, read_openings, weights_digest


def open_test_for(
    leader_dirs: list[str],
    data: dict[str, Any],
    log: str,
    reason: str,
    device: str,
    unfinished: Any,
) -> None:
    """Measure leaders on the sealed test set; ``trainer.test_set.open_test`` in a worker.

    The results are written to the log. ``unfinished`` is an opening to complete, or None.
    """
    from trainer.config.data import DataConfig
    from trainer.test_set import open_test

    open_test(
        [Path(folder) for folder in leader_dirs],
        DataConfig(**data),
        log=Path(log),
        reason=reason,
        device=device,
        cache_dir=Path(log).parent,
        resume=unfinished,
    )


def require_test_set(data: DataConfig) -> None:
    """Check, before anything is trained, that there is a test set; no image in it is read.

    Raises:
        UserError: Its files are missing, or its classes differ from those of the training part.
    """
    try:
        require_part(data, "test")
    except DataError as error:
        raise UserError(
            f"no winner can be confirmed on unseen images: {error}",
            "Or skip the confirmation (--no-confirm).",
        ) from None


def known_tests(log: Path, names: Sequence[str]) -> dict[str, float]:
    """Return the known test accuracies of leaders.

    Args:
        log: Log of the openings.
        names: Folders of leaders, relative to the log's.

    Returns:
        Accuracies by name, without leaders whose weights have changed since they were tested.
    """
    digests = _digests(log, names)
    found: dict[str, float] = {}
    for opening in _openings(log):
        for name, result in opening.results.items():
            if name in digests and opening.leaders.get(name) == digests[name]:
                found[name] = result.accuracy
    return found


def _openings(log: Path) -> list[Opening]:
    try:
        return read_openings(log)
    except OpeningError as error:
        text = "Restore it from a copy: it records how often the test set was opened."
        raise UserError(str(error), text) from None


def _digests(log: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: weights_digest(log.parent / name) for name in names}


def opened_so_far(log: Path) -> list[dict[str, str]]:
    """Return time and command of each opening of the test set."""
    return [{"time": o.time, "command": o.reason} for o in _openings(log)]


def require_all_openings(log: Path, known: int) -> None:
    """Refuse to open the test set if the log of its openings is damaged.

    Args:
        log: Log of the openings.
        known: Number of openings that an earlier call found in it.

    Raises:
        UserError: There are fewer now.
    """
    found = len(read_openings(log))
    if found < known:
        raise UserError(
            f"{log} is damaged: it records {found} openings of the sealed test set, and there "
            f"were {known}",
            "Restore it from a copy; an opening cannot be undone.",
        )


def reopen_refused(log: Path, again: bool) -> None:
    """Refuse a plan that needs a second opening, before anything is trained for it.

    Raises:
        UserError: The test set was opened already and ``again`` is not given.
    """
    openings = _openings(log)
    if openings and not again:
        raise _again_needed(openings)


def test_leaders(session: Session, log: Path, names: Sequence[str], *, again: bool) -> None:
    """Measure leaders on the test set, in one opening; those already measured are skipped.

    An opening that was interrupted before all its results were known is completed and does not
    count as a new one.

    Args:
        session: Provides the workers.
        log: Log of the openings, to which the results are written.
        names: Folders of the leaders, relative to the log's.
        again: Whether the test set may be opened a second time.

    Raises:
        UserError: It was opened already, there is no test set, or the worker died.
    """
    known = known_tests(log, names)
    missing = [name for name in names if name not in known]
    if not missing:
        return
    openings = _openings(log)
    unfinished = _cut_off(openings, _digests(log, missing))
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
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DataError):
            raise UserError(f"data: {error.cause}") from None
        raise UserError(
            f"the test set could not be measured: {one_line(error.cause)}",
            "The same command completes the opening; search.log has the details.",
        ) from error
    except ray.exceptions.RayError as error:
        raise UserError(
            f"the worker that measures the test set died: {str(error).splitlines()[0]}",
            "The same command completes the opening.",
        ) from None


def _cut_off(openings: Sequence[Opening], digests: Mapping[str, str]) -> Opening | None:
    """Return an unfinished opening for these leaders, or None."""
    return next(
        (o for o in openings if not o.finished and digests.items() <= o.leaders.items()), None
    )


def _again_needed(openings: Sequence[Opening]) -> UserError:
    times = ", ".join(opening.time[:19] for opening in openings)
    return UserError(
        f"the sealed test set was opened already ({times} UTC)",
        "A second opening weakens its evidence; if you need it, add --open-test-again (counted).",
    )
