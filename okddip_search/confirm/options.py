"""The user's options of a confirmation: whether they are possible, and what fits into a budget."""

import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from okddip_search.confirm.looks import planned_looks
from okddip_search.confirm.openings import reopen_refused, require_test_set
from okddip_search.confirm.plan import Plan, agreed_settings
from okddip_search.driver.budget import Budget, later_runs, most_runs
from okddip_search.driver.request import Request
from okddip_search.layout import CONFIRM, OPENINGS
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ConfirmSettings


@dataclass(frozen=True)
class ConfirmOptions:
    """Options of a confirmation that are not in the space.

    Attributes:
        overrides: Fields of ``ConfirmSettings`` given on the command line.
        open_test_again: Whether the test set may be opened a second time.
        retrain_on_all: Whether to train the final leader on train + validation.
        restart: Whether to set an earlier confirmation aside and start another.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    open_test_again: bool = False
    retrain_on_all: bool = False
    restart: bool = False


def require_possible(spec: SearchSpec, directory: Path, options: ConfirmOptions) -> None:
    """Check at once what would otherwise fail after hours of training.

    Raises:
        UserError: There is no test set, or settings or flags do not fit the confirmation so far.
    """
    require_test_set(spec.data)
    known = None if options.restart else Plan.load(directory / CONFIRM)
    settings = agreed_settings(spec, known, options.overrides)
    if options.restart or (known is not None and settings != known.settings):
        reopen_refused(directory / OPENINGS, options.open_test_again)


def fitting_seeds(settings: ConfirmSettings, budget: Budget) -> dict[str, int] | None:
    """Return the settings for as many seeds as a budget has room for; None: for too few."""
    if settings.seeds == "auto":
        looks = planned_looks(settings.max_seeds)
        runs = {
            n: most_runs(settings, looks[0]) + later_runs(settings, n - looks[0]) for n in looks
        }
        fitting = [seeds for seeds in looks if budget.has_room_for(runs[seeds])]
        if fitting:
            return {"max_seeds": fitting[-1]}
    return {"seeds": budget.seeds} if budget.seeds else None


def resume_command(request: Request, options: ConfirmOptions) -> str:
    """Return the command that resumes a confirmation; its settings are in the plan by then."""
    flags = " --open-test-again" if options.open_test_again else ""
    flags += " --retrain-on-all" if options.retrain_on_all else ""
    return f"okddip-search confirm {shlex.quote(str(request.directory))}{flags}"


def set_aside(directory: Path) -> None:
    """Rename an earlier confirmation to ``confirm.1``, ``confirm.2`` and so on."""
    if directory.exists():
        number = next(n for n in itertools.count(1) if not directory.with_suffix(f".{n}").exists())
        directory.rename(directory.with_suffix(f".{number}"))
