"""The Optuna study of a search directory: opened by one driver at a time, repaired, enqueued.

The study is the only truth about a search. It is an Optuna journal file: every decision and every
epoch's value is on disk before the search goes on.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from okddip_search.errors import UserError
from okddip_search.events import TrialEnd
from okddip_search.patient_journal import PatientJournal
from okddip_search.space.model import SearchSpec
from trainer.io.files import LockedError, exclusive_lock, sync_folder
from trainer.io.text import shown

logger = logging.getLogger(__name__)

JOURNAL = "study.journal"
FINGERPRINT = "okddip:data_fingerprint"
SHARE = "okddip:share"
"""Study attribute: cores and GPUs of a trial."""
REASON = "okddip:reason"
"""User attribute of a failed trial: why."""
DIED = "its worker died"
"""Begins the reason of a trial that failed with its machine."""
OUT_OF_MEMORY = "out of memory"
"""Begins the reason of a trial that does not fit."""
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
    study = _open_journal(directory, spec.name, spec.make_pruner())
    for params in spec.enqueue:
        study.enqueue_trial(dict(params), user_attrs={PAPER_KEY: True}, skip_if_exists=True)
    return study


def open_fixed_study(directory: Path, name: str, runs: Iterable[Mapping[str, Any]]) -> optuna.Study:
    """Open a study whose runs are all known beforehand, and enqueue those that it lacks.

    A run whose worker died (out of memory, killed, a full disk) is tried once more by a later
    driver; one whose training failed has failed.

    Args:
        directory: Of the study; call it under ``sole_driver``.
        name: Of the study.
        runs: User attributes that tell each run from the others.

    Raises:
        UserError: The journal is damaged before its last line.
    """
    study = _open_journal(directory, name, NopPruner())
    for attributes in runs:
        tries = runs_with(study, attributes)
        if not tries or (len(tries) == 1 and died(tries[0])):
            study.enqueue_trial({}, user_attrs=dict(attributes))
    return study


def runs_with(study: optuna.Study, attributes: Mapping[str, Any]) -> list[FrozenTrial]:
    """Return the runs that have these user attributes; the last one counts."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if attributes.items() <= t.user_attrs.items()]


def died(trial: FrozenTrial) -> bool:
    """Say whether a run failed because its worker died or had no room, and not in its training."""
    reason = trial.user_attrs.get(REASON, "")
    return trial.state is TrialState.FAIL and reason.startswith((DIED, OUT_OF_MEMORY))


def _open_journal(directory: Path, name: str, pruner: BasePruner) -> optuna.Study:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / JOURNAL
    (directory / f"{JOURNAL}.lock").unlink(missing_ok=True)
    cut_torn_tail(path)
    _require_not_lost(path)
    try:
        study = optuna.create_study(
            storage=JournalStorage(PatientJournal(str(path))),
            study_name=name,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        sync_folder(directory)
        return study
    except Exception as error:  # where a line is no record, Optuna raises whatever comes
        raise UserError(
            f"{path} is damaged: {shown(str(error) or type(error).__name__, 300)}",
            "Restore it from a copy, or start again under another --name.",
        ) from None


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


def cut_torn_tail(path: Path) -> bool:
    """Cut a journal back to its last whole record; what was half on disk is no decision.

    A killed driver leaves half a line; after a power cut, what was written last may be zeros.
    Optuna reads over a torn last line once, but appends to it, and can never read on from there.

    Returns:
        Whether anything was cut.
    """
    if not path.exists():
        return False
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    while whole and not _is_record(content[content.rfind(b"\n", 0, whole - 1) + 1 : whole]):
        whole = content.rfind(b"\n", 0, whole - 1) + 1
    if whole == len(content) or (whole == 0 and b"\n" in content):
        return False  # all is well, or nothing is: that is no torn tail
    with open(path, "r+b") as file:
        file.truncate(whole)
    logger.warning("%s: cut a half-written tail of %d bytes", path, len(content) - whole)
    return True


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def _require_not_lost(journal: Path) -> None:
    """Keep a study from being begun anew on top of the trials of one that is lost.

    Raises:
        UserError: The journal is empty, but trials were run.
    """
    is_empty = not journal.exists() or journal.stat().st_size == 0
    if is_empty and any(journal.parent.glob("trials/*/state.json")):
        raise UserError(
            f"{journal} is empty, but there are trials beside it: its records are lost",
            "Restore it from a copy, or start again under another --name.",
        )


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


_STATE_NAMES: dict[TrialState, Any] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def ends_in(study: optuna.Study) -> list[TrialEnd]:
    """Return how every closed trial of the study ended."""
    return [end_of(trial) for trial in trials_in(study, *_STATE_NAMES)]


def end_of(trial: FrozenTrial) -> TrialEnd:
    """Return how a closed trial of the study ended."""
    return TrialEnd(
        number=trial.number,
        state=_STATE_NAMES[trial.state],
        value=trial.value,
        last_step=trial.last_step,
        reason=trial.user_attrs.get(REASON, ""),
    )
