"""The Optuna study of a search directory: opened by one driver at a time, repaired, enqueued.

The study is the only truth about a search. It is an Optuna journal file: every decision and every
epoch's value is on disk before the search goes on.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from okddip_search.errors import UserError
from okddip_search.pruning import make_pruner
from okddip_search.spec import SearchSpec
from trainer.files import LockedError, exclusive_lock

logger = logging.getLogger(__name__)

JOURNAL = "study.journal"
FINGERPRINT = "okddip:data_fingerprint"
PAPER_KEY = "okddip:enqueued"
"""User attribute of a trial that the space file asked for; the paper's own setting comes first."""


@contextmanager
def sole_driver(directory: Path) -> Iterator[None]:
    """Keep a second driver out of a search directory.

    Raises:
        UserError: Another driver is at work there.
    """
    try:
        with exclusive_lock(directory / "lock"):
            yield
    except LockedError as error:
        raise UserError(
            f"another search is at work in {directory} ({error})",
            "Wait for it to end, or choose another --name or --out.",
        ) from None


def open_study(directory: Path, spec: SearchSpec) -> optuna.Study:
    """Open the study of a directory, or create it with the space's configurations enqueued.

    Call it under ``sole_driver``: it cuts a torn line off the journal and takes away a lock file
    that a killed driver left behind (Optuna would wait 30 s for it).

    Raises:
        UserError: The journal is damaged before its last line.
    """
    path = directory / JOURNAL
    (directory / f"{JOURNAL}.lock").unlink(missing_ok=True)
    cut_torn_line(path)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=spec.name,
            direction="maximize",
            pruner=make_pruner(spec),
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:  # what Optuna raises where a line is no record
        raise UserError(
            f"{path} is damaged: {error}",
            "Restore it from a copy, or start again under another --name.",
        ) from None
    for params in spec.enqueue:
        study.enqueue_trial(dict(params), user_attrs={PAPER_KEY: True}, skip_if_exists=True)
    return study


def require_same_images(study: optuna.Study, fingerprint: str) -> None:
    """Keep a resumed search from ranking trials that were trained on different images.

    Raises:
        UserError: The images are not those that the search began with.
    """
    known = study.user_attrs.get(FINGERPRINT)
    if known is None:
        study.set_user_attr(FINGERPRINT, fingerprint)
    elif known != fingerprint:
        raise UserError(
            "the images are not those that the search began with",
            "Restore them (or --set data.root=FOLDER), or start again under another --name.",
        )


def cut_torn_line(path: Path) -> bool:
    """Cut a journal back to its last whole line; what a driver wrote when it died is no decision.

    Optuna reads over a torn last line once, but appends to it, and can never read on from there.

    Returns:
        Whether anything was cut.
    """
    if not path.exists():
        return False
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return False
    with open(path, "r+b") as file:
        file.truncate(whole)
    logger.warning("%s: cut a half-written last line of %d bytes", path, len(content) - whole)
    return True


def trials_in(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the study's trials in these states, by number."""
    return study.get_trials(deepcopy=False, states=states)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the best complete trial, or None; among equals the first."""
    complete = trials_in(study, TrialState.COMPLETE)
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def paper_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial of the first enqueued configuration, the paper's own setting."""
    asked = (t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(PAPER_KEY))
    return next(asked, None)
