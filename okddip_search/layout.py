"""The names of the files in a search directory, in one place.

A confirmation is a folder of the same kind inside of it, and so is each baseline's own tuning.
"""

from pathlib import Path

from okddip_search.errors import UserError

SPEC = "spec.yaml"
"""The space as it ran."""
JOURNAL = "study.journal"
"""The Optuna study: every decision and every epoch's value."""
SPEED = "speed.json"
"""The timings made before the first trial, and the choice they led to."""

TRIALS = "trials"
RESULT = "result.json"
"""Of one run, written last: where it is, the run is done."""
STATE = "state.json"
"""Of one run: its checkpoint."""
TEACHERS = "teachers"

BEST = "best.yaml"
LEADER = "leader"

CONFIRM = "confirm"
PLAN = "plan.yaml"
CONFIRMATION = "confirm.json"
"""In the confirmation's folder: all that it found."""
TUNING = "tuning"
FINAL = "final"
"""In the confirmation's folder: the winner, trained again on all images."""
FACTS = "retrained.json"
OPENINGS = "test_openings.jsonl"

PAGE = "report.html"
DATA = "report.json"
SESSIONS = "sessions.jsonl"
"""A line when a driver begins, and one when it ends."""
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
TRACKING_LOCK = "tracking.lock"
TRACKING = "tracking.jsonl"
"""Of earlier versions: what MLflow was to be sent."""


def run_dir(directory: Path, number: int) -> Path:
    """Return the folder of a run of the study that lives in ``directory``."""
    return directory / TRIALS / str(number)


def require_search(directory: Path, remedy: str) -> None:
    """Make sure that a directory holds a search, running or ended.

    Raises:
        UserError: It does not; the message ends with the remedy.
    """
    if not (directory / JOURNAL).is_file() or not (directory / SPEC).is_file():
        raise UserError(f"{directory} holds no search", remedy)
