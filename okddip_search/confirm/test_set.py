"""Measuring leaders on the sealed test set, in a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from okddip_search.confirm.openings import (
    Look,
    again_needed,
    digests_of,
    known_tests,
    openings_in,
)
from okddip_search.driver.session import Session
from okddip_search.driver.trainable import one_line
from okddip_search.errors import UserError
from okddip_search.masking import masked
from trainer.config.data import DataConfig
from trainer.data.images import DataError
from trainer.test_set import Opening


def open_test_for(
    leader_dirs: list[str],
    data: dict[str, Any],
    log: str,
    reason: str,
    device: str,
    unfinished: Any,
    look: dict[str, Any],
) -> None:
    """Measure leaders on the sealed test set; ``trainer.test_set.open_test`` in a worker.

    The results are written to the log. ``unfinished`` is an opening to complete, or None; ``look``
    is written to the log as well.
    """
    from trainer.test_set import open_test

    open_test(
        [Path(folder) for folder in leader_dirs],
        DataConfig(**data),
        log=Path(log),
        reason=reason,
        device=device,
        cache_dir=Path(log).parent,
        resume=unfinished,
        look=look,
    )


def test_leaders(
    session: Session, log: Path, names: Sequence[str], look: Look, *, again: bool
) -> None:
    """Measure leaders on the test set, in one opening; those already measured are skipped.

    An opening that was interrupted before all its results were known is completed and does not
    count as a new one.

    Args:
        session: Provides the workers.
        log: Log of the openings, to which the results are written.
        names: Folders of the leaders, relative to the log's.
        look: The look that they are measured for.
        again: Whether the test set may be opened where no look was planned.

    Raises:
        UserError: It was opened already, there is no test set, or the worker died.
    """
    known = known_tests(log, names)
    missing = [name for name in names if name not in known]
    if not missing:
        return
    openings = openings_in(log)
    unfinished = _cut_off(openings, digests_of(log, missing))
    if unfinished is None and not look.follows(openings) and not again:
        raise again_needed(openings)
    try:
        session.in_worker(
            open_test_for,
            [str(session.directory / name) for name in missing],
            session.spec.data.model_dump(mode="json"),
            str(log),
            masked(session.request.command),
            session.common["device"],
            unfinished,
            asdict(look),
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
