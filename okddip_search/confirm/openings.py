"""The log of the test set's openings: results so far, planned looks, permission for another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okddip_search.confirm.looks import BETTER, WORSE
from okddip_search.confirm.plan import Plan
from okddip_search.errors import UserError
from trainer.config.data import DataConfig
from trainer.data.images import DataError
from trainer.data.parts import require_part
from trainer.test_set import Opening, OpeningError, read_openings, weights_digest


@dataclass(frozen=True)
class Look:
    """A look at the test set, as planned before the first one; it is logged with its opening.

    Attributes:
        plan: When it was planned; tells the looks of one plan from those of another.
        number: From 1.
        of: Number of looks there can be.
        seeds: Number of seeds by then.
        error_spent: Accepted rate of false verdicts, better or worse, by then.
    """

    plan: str
    number: int
    of: int
    seeds: int
    error_spent: float

    def follows(self, openings: Sequence[Opening]) -> bool:
        """Return whether it is the next one of its plan, so that it needs no permission."""
        if self.number == 1:
            return not openings
        last = openings[-1].look if openings else None
        return last is not None and (last["plan"], last["number"]) == (self.plan, self.number - 1)


def planned_look(plan: Plan, number: int) -> Look:
    """Return one of the looks of a plan, from 1."""
    spent = plan.design([]).spent(BETTER + WORSE)[number - 1]
    return Look(plan.begun, number, len(plan.looks), plan.looks[number - 1], spent)


def again_needed(openings: Sequence[Opening]) -> UserError:
    """Return the error for an opening that nobody planned or permitted."""
    times = ", ".join(opening.time[:19] for opening in openings)
    return UserError(
        f"the sealed test set was opened already ({times} UTC)",
        "A second opening weakens its evidence; if you need it, add --open-test-again (counted).",
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
    digests = digests_of(log, names)
    found: dict[str, float] = {}
    for opening in openings_in(log):
        for name, result in opening.results.items():
            if name in digests and opening.leaders.get(name) == digests[name]:
                found[name] = result.accuracy
    return found


def openings_in(log: Path) -> list[Opening]:
    """Return the openings in a log.

    Raises:
        UserError: It is damaged.
    """
    try:
        return read_openings(log)
    except OpeningError as error:
        text = "Restore it from a copy: it records how often the test set was opened."
        raise UserError(str(error), text) from None


def digests_of(log: Path, names: Sequence[str]) -> dict[str, str]:
    """Return digests of the weights of leaders now."""
    return {name: weights_digest(log.parent / name) for name in names}


def opened_so_far(log: Path) -> list[dict[str, Any]]:
    """Return time, command and planned look of each opening of the test set."""
    return [{"time": o.time, "command": o.reason, "look": o.look} for o in openings_in(log)]


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
    openings = openings_in(log)
    if openings and not again:
        raise again_needed(openings)
