"""``run_search``: runs the trials of a space, exports the winner and, if asked, confirms it."""

import shlex

from optuna.trial import TrialState

from okddip_search.confirm.options import ConfirmOptions, require_possible
from okddip_search.confirm.run import confirm
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.request import Request
from okddip_search.driver.session import Session, open_session
from okddip_search.driver.summary import print_result
from okddip_search.driver.work import SearchWork
from okddip_search.errors import UserError
from okddip_search.export import BestKeeper, keep_best
from okddip_search.layout import BEST, LEADER
from okddip_search.report.page import try_report
from okddip_search.study.events import Listener, TrialEnd
from okddip_search.study.sessions import Status
from okddip_search.study.study import open_study, require_same_images
from okddip_search.study.trials import IDENTITY, SHARE, best_end, state_of, trials_in
from okddip_search.study.warm_start import start_warm, warm_configurations
from okddip_search.terminal import echo


def run_search(request: Request, *, then_confirm: bool) -> int:
    """Run a search to its end, or until it is stopped, and then the confirmation if configured.

    Args:
        request: The user's request.
        then_confirm: False leaves the confirmation to ``okddip-search confirm``.

    Returns:
        The exit code: 0 done, 1 given up after failures, 130 stopped by a signal.

    Raises:
        UserError: The request cannot be carried out here.
    """
    if not request.resume:
        warm_configurations(request.spec, echo)  # reports a mistake before anything starts
    if then_confirm and request.spec.confirm is not None:
        require_possible(request.spec, request.directory, ConfirmOptions())
    resume_command = f"okddip-search --resume --out {shlex.quote(str(request.directory))}"
    with open_session(request, resume_command, has_budget=True) as session:
        then_confirm = then_confirm and session.spec.confirm is not None
        if session.budget is not None and not then_confirm:
            session.budget.confirm = None
        code = _search(session, then_confirm)
        if code == 0 and then_confirm:
            code = confirm(session, session.budget)
        return code


def _search(session: Session, then_confirm: bool) -> int:
    spec, budget = session.spec, session.budget
    study = open_study(session.directory, spec)
    start_warm(study, spec)
    require_same_images(study, session.data.fingerprint)
    allocation = session.allocation
    study.set_user_attr(
        SHARE, {"cpus": allocation.cpus_per_trial, "gpus": allocation.gpus_per_trial}
    )
    study.set_user_attr(IDENTITY, session.tracker.session.identity)
    finished = len(trials_in(study, TrialState.COMPLETE, TrialState.PRUNED))
    paused = {t.number: t.params for t in study.get_trials(False) if state_of(t) == "paused"}
    screen = SearchConsole(
        session.terminal,
        spec.name,
        spec.study.trials if budget is None else None,
        spec.max_epochs,
        finished,
        best_end(study),
        paused=paused,
        left_s=(lambda: budget.left_s) if budget else None,
    )
    keepers: list[Listener] = [BestKeeper(session.directory, spec.objective.words)]
    if budget is not None:
        budget.resume(study)
        budget.say = session.say
        keepers.append(budget)
    work = SearchWork(spec, budget)
    bridge = session.run_study(
        study,
        work,
        session.directory,
        screen,
        session.tracker.stage(session.directory),
        keepers=keepers,
    )
    return _finish(session, bridge, then_confirm)


def _finish(session: Session, bridge: StudyBridge, then_confirm: bool) -> int:
    best = bridge.best()
    if best is not None:
        _keep(session, best)
    status: Status = "FINISHED"
    if bridge.interrupted or bridge.abort_reason:
        status = "KILLED" if bridge.interrupted else "FAILED"
    print_result(
        session.terminal,
        session.spec,
        session.shown,
        bridge,
        num_validation=len(session.data.validation),
        with_next_steps=not then_confirm,
    )
    try_report(session.directory, session.say)
    session.tracker.end(status)
    return 130 if bridge.interrupted else 1 if bridge.abort_reason or best is None else 0


def _keep(session: Session, best: TrialEnd) -> None:
    try:
        keep_best(session.directory, best, session.spec.objective.words)
    except (OSError, ValueError, KeyError, UserError) as error:
        session.say(f"{BEST} and {LEADER}/ could not be written: {error}")
