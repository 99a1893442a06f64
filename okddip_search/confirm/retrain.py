"""``--retrain-on-all``: train the confirmed setting on training and validation images.

No image is left to measure that leader on; the confirmed accuracy of its setting applies.
"""

import shutil
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from okddip_search.confirm.plan import Configuration
from okddip_search.confirm.results import name_in_words
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.session import Session
from okddip_search.driver.work import CONTENDER, SEED, FixedWork
from okddip_search.export import export_run
from okddip_search.layout import BEST, CONFIRM, FACTS, FINAL, LEADER, run_dir
from okddip_search.study.study import open_fixed_study
from okddip_search.study.trials import REASON, runs_with
from trainer.io.files import read_json, write_json


def retrained(
    session: Session, winner: Configuration, seed: int, *, wanted: bool
) -> dict[str, Any] | None:
    """Return facts about the retrained leader, which is trained first if it is wanted and missing.

    A leader of another setting or seed, from before more seeds were added, is removed, because
    ``export`` would export it.

    Args:
        session: Session of the confirmation.
        winner: The confirmed setting.
        seed: Seed of the run whose leader would be exported otherwise.
        wanted: Whether to train.

    Returns:
        ``contender``, ``seed``, number of ``images`` and ``path`` of the leader; None without one.
    """
    final = session.directory / CONFIRM / FINAL
    facts = {
        "contender": winner.label,
        "seed": seed,
        "images": len(session.data.train) + len(session.data.validation),
        "path": f"{CONFIRM}/{FINAL}/{LEADER}",
    }
    if _facts_of(final) != facts:
        shutil.rmtree(final, ignore_errors=True)
    elif (final / BEST).exists():
        return facts
    if not wanted:
        return None
    final.mkdir(parents=True, exist_ok=True)
    write_json(final / FACTS, facts)
    return facts if _train(session, winner, seed, final) else None


def _facts_of(final: Path) -> Any:
    try:
        return read_json(final / FACTS)
    except (OSError, ValueError):
        return None


def _train(session: Session, winner: Configuration, seed: int, final: Path) -> bool:
    """Train to the end and export the leader; return False if training was stopped or failed."""
    attributes = {CONTENDER: winner.label, SEED: seed}
    study = open_fixed_study(final, "retrain", [attributes])
    work = FixedWork(
        {winner.label: winner.config},
        session.spec.objective,
        session.common,
        session.spec.study.max_failures,
    )
    session.say(
        f"Retraining {name_in_words(winner.label)} on train + validation; the accuracies shown "
        "are on training images"
    )
    epochs = int(winner.config["epochs"])
    screen = SearchConsole(session.terminal, "retrain", 1, epochs, 0, noun="run")
    # Not tracked in MLflow, where accuracies on training images would appear beside honest ones.
    session.run_study(study, work, final, screen, None, session.data.merged_splits())
    run = runs_with(study, attributes)[-1]
    if run.state is not TrialState.COMPLETE:
        session.say(f"The retraining did not finish. {run.user_attrs.get(REASON, '')}")
        return False
    lines = [
        f"Final leader of the search {session.spec.name}: {winner.label}, retrained on train + "
        "validation.",
        "No image was left to measure it on; the confirmed accuracy of its setting is in "
        f"{BEST} in the folder above. This configuration trains without the validation images.",
    ]
    export_run(run_dir(final, run.number), final, lines)
    return True
