"""``baselines: tuned``: a search for every baseline, in the same space and with the same budget."""

from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from okddip_search.confirm.plan import best_config
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.session import Session
from okddip_search.driver.work import SearchWork
from okddip_search.errors import UserError
from okddip_search.layout import TUNING
from okddip_search.space.baselines import baseline_spec
from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.study import open_study
from okddip_search.study.trials import trials_in


def tune_baselines(
    session: Session, directory: Path, settings: ConfirmSettings
) -> dict[str, dict[str, Any]] | None:
    """Search for every baseline's best configuration, or resume these searches.

    Args:
        session: Session of the confirmation.
        directory: Directory of the confirmation; a baseline's search is in ``tuning/METHOD``.
        settings: Settings of the confirmation, with its baselines.

    Returns:
        Configurations by method, empty unless baselines are tuned; None if the user stopped.

    Raises:
        UserError: A search was given up after failures, or completed no trial.
    """
    tuned: dict[str, dict[str, Any]] = {}
    for method in settings.methods if settings.baselines == "tuned" else ():
        spec = baseline_spec(session.spec, method)
        study = open_study(directory / TUNING / method, spec)
        finished = len(trials_in(study, TrialState.COMPLETE, TrialState.PRUNED))
        screen = SearchConsole(
            session.terminal, f"tuning {method}", spec.study.trials, spec.max_epochs, finished
        )
        folder = directory / TUNING / method
        stage = session.tracker.stage(folder)
        bridge = session.run_study(study, SearchWork(spec), folder, screen, stage)
        if session.switch.is_thrown:
            return None
        if bridge.abort_reason:
            raise UserError(f"the search for {method} was given up: {bridge.abort_reason}")
        tuned[method] = best_config(spec, study)
    return tuned
