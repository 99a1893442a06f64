"""``run_search``: the trials of a space, the winner out, and its confirmation if asked for."""

import shlex

from optuna.trial import TrialState

from okddip_search.confirm.run import Wishes, confirm, require_possible
from okddip_search.driver.bridge import StudyBridge, best_of
from okddip_search.driver.prepare import Request
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.session import Session, open_session
from okddip_search.driver.summary import print_result
from okddip_search.driver.work import SearchAgenda
from okddip_search.errors import UserError
from okddip_search.export import BestKeeper, keep_best
from okddip_search.layout import BEST, JOURNAL, LEADER
from okddip_search.report.page import try_report
from okddip_search.study.events import TrialEnd
from okddip_search.study.sessions import Status
from okddip_search.study.study import open_study, require_same_images
from okddip_search.study.trials import IDENTITY, SHARE, trials_in


def run_search(request: Request, *, then_confirm: bool) -> int:
    """Run a search to its end, or until it is stopped, and then what ``confirm:`` asks for.

    Args:
        request: What the user asked for.
        then_confirm: False leaves the confirmation to ``okddip-search confirm``.

    Returns:
        The exit code: 0 done, 1 given up after failures, 130 stopped by a signal.

    Raises:
        UserError: The request cannot be carried out here.
    """
    _require_fresh_or_resumed(request)
    if then_confirm and request.spec.confirm is not None:
        require_possible(request.spec, request.directory, Wishes())
    go_on = f"okddip-search --resume --out {shlex.quote(str(request.directory))}"
    with open_session(request, go_on) as session:
        then_confirm = then_confirm and session.spec.confirm is not None
        code = _search(session, then_confirm)
        if code == 0 and then_confirm:
            code = confirm(session)
        return code


def _search(session: Session, then_confirm: bool) -> int:
    spec = session.spec
    study = open_study(session.directory, spec)
    require_same_images(study, session.data.fingerprint)
    allocation = session.allocation
    study.set_user_attr(
        SHARE, {"cpus": allocation.cpus_per_trial, "gpus": allocation.gpus_per_trial}
    )
    study.set_user_attr(IDENTITY, session.tracker.session.identity)
    finished = len(trials_in(study, TrialState.COMPLETE, TrialState.PRUNED))
    screen = SearchConsole(
        session.terminal, spec.name, spec.study.trials, spec.max_epochs, finished, best_of(study)
    )
    agenda = SearchAgenda(spec)
    keeper = BestKeeper(session.directory, spec.objective.words)
    bridge = session.run_study(
        study,
        agenda,
        session.directory,
        screen,
        session.tracker.stage(session.directory),
        keeper=keeper,
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


def _require_fresh_or_resumed(request: Request) -> None:
    exists = (request.directory / JOURNAL).exists()
    if exists and not request.resume:
        raise UserError(
            f"{request.directory} holds a search already",
            "Add --resume to go on with it, or choose another --name or --out.",
        )
    if request.resume and not exists:
        raise UserError(
            f"{request.directory} holds no search to resume", "Leave --resume out to start one."
        )
