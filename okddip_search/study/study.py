"""The Optuna study of a search directory: opened by one driver at a time, repaired, enqueued.

The study is the only truth about a search. It is an Optuna journal file: every decision and every
epoch's value is on disk before the search goes on.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner

from okddip_search.errors import UserError
from okddip_search.space.model import SearchSpec
from okddip_search.study.storage import open_journal
from okddip_search.study.trials import FINGERPRINT, PAPER_KEY, died, runs_with
from trainer.io.files import LockedError, exclusive_lock

logger = logging.getLogger(__name__)


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
    study = open_journal(directory, spec.name, spec.make_pruner())
    for params in spec.enqueue:
        study.enqueue_trial(dict(params), user_attrs={PAPER_KEY: True}, skip_if_exists=True)
    return study


def open_fixed_study(directory: Path, name: str, runs: Iterable[Mapping[str, Any]]) -> optuna.Study:
    """Open a study whose runs are all known beforehand, and enqueue those that it lacks.

    A run whose worker died (out of memory, killed, a full disk) is tried again by a later
    driver; one whose training failed stays failed.

    Args:
        directory: Of the study; call it under ``sole_driver``.
        name: Of the study.
        runs: User attributes that tell each run from the others.

    Raises:
        UserError: The journal is damaged before its last line.
    """
    study = open_journal(directory, name, NopPruner())
    for attributes in runs:
        tries = runs_with(study, attributes)
        if not tries or (len(tries) == 1 and died(tries[0])):
            study.enqueue_trial({}, user_attrs=dict(attributes))
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
