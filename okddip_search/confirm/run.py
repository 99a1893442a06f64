"""The confirmation: is the search's winner real, or was it a lucky seed?

The search's best configurations, the paper's setting and baseline methods are trained over one list
of seeds, through the same bridge, cluster and MLflow run as the search. The winner is chosen on
validation images. Then the sealed test set is opened for the winner and its baselines: once, or at
looks that were planned beforehand, after each of which decided baselines are trained no further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from optuna.trial import TrialState

from okddip_search.cluster.signals import Stopped
from okddip_search.confirm.costs import leader_costs
from okddip_search.confirm.openings import (
    known_tests,
    opened_so_far,
    planned_look,
    require_all_openings,
)
from okddip_search.confirm.options import (
    ConfirmOptions,
    fitting_seeds,
    require_possible,
    resume_command,
    set_aside,
)
from okddip_search.confirm.plan import LONGER_SINGLE, Plan, agreed_settings, choose, longer_single
from okddip_search.confirm.results import (
    FORMAT,
    Run,
    baselines_of,
    choose_winner,
    collect_runs,
    compared,
    compose,
    kept_judgement,
    leader_name,
)
from okddip_search.confirm.retrain import retrained
from okddip_search.confirm.summary import print_results
from okddip_search.confirm.test_set import test_leaders
from okddip_search.confirm.tuning import tune_baselines
from okddip_search.driver.budget import Budget
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.request import Request
from okddip_search.driver.session import Session, open_session
from okddip_search.driver.work import CONTENDER, SEED, FixedWork
from okddip_search.errors import UserError
from okddip_search.export import export_run
from okddip_search.formatting import about, percent, spread
from okddip_search.layout import CONFIRM, CONFIRMATION, OPENINGS, run_dir
from okddip_search.masking import masked
from okddip_search.report.page import try_report
from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.events import Listener, TrialEnd
from okddip_search.study.study import open_fixed_study, open_study, require_same_images
from okddip_search.study.trials import died, runs_with, trials_in
from trainer.io.files import read_json, write_json

ENDED = (TrialState.COMPLETE, TrialState.FAIL)


def run_confirm(request: Request, options: ConfirmOptions) -> int:
    """Confirm a finished search, in a new session.

    Returns:
        The exit code: 0 done, 1 stopped by failures, 130 stopped by a signal.

    Raises:
        UserError: There is nothing to confirm, or the request cannot be carried out.
    """
    require_possible(request.spec, request.directory, options)
    with open_session(request, resume_command(request, options)) as session:
        if options.restart:
            set_aside(session.directory / CONFIRM)
        return _Confirmation(session, options).run()


def confirm(session: Session, budget: Budget | None = None) -> int:
    """Confirm a search that has just ended, with as many seeds as its budget has room for.

    Returns:
        The exit code, as that of ``run_confirm``.
    """
    command = session.switch.resume_command = resume_command(session.request, ConfirmOptions())
    if budget is None or Plan.load(session.directory / CONFIRM) is not None:
        return _Confirmation(session, ConfirmOptions(), budget).run()
    fitting = fitting_seeds(session.spec.confirm or ConfirmSettings(), budget)
    if fitting is None:
        session.say(f"The budget has no room for a confirmation. Start it with:  {command}")
        return 0
    return _Confirmation(session, ConfirmOptions(fitting), budget).run()


class _WorkersDied(Exception):
    """Number of runs whose worker died and that were not retried yet."""


class _Confirmation(Listener):
    """One confirmation, from its plan to its verdict.

    As a listener it keeps ``confirm.json`` up to date while runs end.
    """

    def __init__(
        self, session: Session, options: ConfirmOptions, budget: Budget | None = None
    ) -> None:
        self.session = session
        self.budget = budget
        self.look = 1
        self.options = options
        self.directory = session.directory / CONFIRM
        self.log = session.directory / OPENINGS
        self.stage = session.tracker.stage(self.directory)
        self.search = open_study(session.directory, session.spec)
        self.before = self._load_results()
        self.started = self.before.get("started") or datetime.now(UTC).isoformat()
        self.costs: dict[str, dict[str, Any]] = {}
        self.plan = Plan.load(self.directory)
        self.study = open_fixed_study(self.directory, CONFIRM, [])

    def run(self) -> int:
        session = self.session
        require_all_openings(self.log, len(self.before.get("openings", ())))
        require_same_images(self.search, session.data.fingerprint)
        require_possible(session.spec, session.directory, replace(self.options, restart=False))
        session.tracker.begin(*session.provenance())
        try:
            plan, pending = self._take_looks(self._chosen())
            return self._conclude(plan, pending)
        except Stopped:
            return self._stopped()
        except _WorkersDied as error:
            session.say(f"{error} runs died with their workers. The same command retries them "
                        "once; after that the confirmation continues without them.")  # fmt: skip
            session.tracker.end("FAILED")
            try_report(session.directory, session.say)
            return 1

    def _stopped(self) -> int:
        self.session.tracker.end("KILLED")
        try_report(self.session.directory, self.session.say)
        self.session.say(f"Stopped. Resume with:  {self.session.switch.resume_command}")
        return 130

    # Plan

    def _chosen(self) -> Plan:
        """Return the plan with its configurations.

        Raises:
            Stopped: The user stopped a baseline's search.
        """
        spec = self.session.spec
        settings = agreed_settings(spec, self.plan, self.options.overrides)
        plan = self.plan or Plan.begin(spec, settings)
        if plan.settings != settings:
            if opened_so_far(self.log):
                self.session.say(
                    "Adding seeds after the last planned look makes a lucky verdict more likely: "
                    "the error rate of 5 % holds for looks planned beforehand (docs/confirm.md)"
                )
            plan = replace(plan, settings=settings)
        plan.save(self.directory)
        if not plan.configurations:
            tuned = tune_baselines(self.session, self.directory, settings)
            if tuned is None:
                raise Stopped
            plan = choose(plan, spec, self.search, tuned)
            plan.save(self.directory)
        return plan

    # Looks

    def _take_looks(self, plan: Plan) -> tuple[Plan, str]:
        """Train and open the test set as planned, until no baseline goes on.

        Returns:
            The plan, and what is left to do if time ran out before its last look.
        """
        labels = [configuration.label for configuration in plan.configurations]
        since = 0
        for number, seeds in enumerate(plan.looks, start=1):
            self.look = number
            plan = self._train_all(plan, labels, plan.seeds[since:seeds])
            self._open_test(plan)
            going_on = self._going_on(plan)
            if not going_on:
                break
            labels, since = [self._winner(plan), *going_on], seeds
            runs = len(labels) * (plan.looks[number] - seeds)
            if self.budget and not self.budget.has_room_for(runs):
                most = plan.looks[-1] - seeds
                time = about(self.budget.seconds_for(len(labels) * most))
                command = resume_command(self.session.request, self.options)
                self.session.say(f"No time for the next look. Take it with:  {command}")
                return plan, f"not settled: at most {most} more seeds, {time}"
            self.session.say(
                f"Look {number} of at most {len(plan.looks)}, after {seeds} seeds: "
                f"{', '.join(going_on)} {'goes' if len(going_on) == 1 else 'go'} on"
            )
        return plan, ""

    def _train_all(self, plan: Plan, labels: list[str], seeds: Sequence[int]) -> Plan:
        """Train configurations; the length of the longer ``single`` depends on the others."""
        self._train(plan, labels, seeds)
        known = [configuration.label for configuration in plan.configurations]
        if self.look > 1 or plan.settings.single != "seconds" or LONGER_SINGLE in known:
            return plan
        seconds = {
            label: [r.seconds for r in some if r.state == "complete" and r.seconds]
            for label, some in self._runs(plan).items()
        }
        longer = longer_single(plan, seconds)
        if longer is None:
            self.session.say("no longer run of single: it takes no part, or a time is unknown")
            return plan
        plan = plan.with_configuration(longer)
        plan.save(self.directory)
        self._train(plan, [LONGER_SINGLE], seeds)
        return plan

    def _train(self, plan: Plan, labels: list[str], seeds: Sequence[int]) -> None:
        """Train configurations with further seeds.

        Raises:
            Stopped: A signal came.
            _WorkersDied: Runs are left that the next call retries.
        """
        session, self.plan = self.session, plan
        # Seed by seed, so that the runs of a stopped confirmation can be compared in pairs.
        wanted = [{CONTENDER: label, SEED: seed} for seed in seeds for label in labels]
        self.study = open_fixed_study(self.directory, CONFIRM, wanted)
        total = len(self.study.get_trials(deepcopy=False))
        to_go = total - len(trials_in(self.study, *ENDED))
        if to_go:
            session.say(
                f"Confirming {len(labels)} setting{'s' * (len(labels) > 1)} with {len(seeds)} "
                f"{'more ' * (self.look > 1)}seeds each: {to_go} runs to go"
            )
            self._write(self._compose(plan), "running")
            self._run_trials(plan, total, to_go)
        session.switch.check()
        tries = [runs_with(self.study, attributes) for attributes in wanted]
        if dead := sum(len(some) == 1 and died(some[0]) for some in tries):
            raise _WorkersDied(dead)

    def _run_trials(self, plan: Plan, total: int, to_go: int) -> None:
        session, configs = self.session, {c.label: c.config for c in plan.configurations}
        work = FixedWork(
            configs, session.spec.objective, session.common, session.spec.study.max_failures
        )
        epochs = max(int(config["epochs"]) for config in configs.values())
        screen = SearchConsole(session.terminal, CONFIRM, total, epochs, total - to_go, noun="run")
        keepers: list[Listener] = [self, session.budget] if session.budget else [self]
        bridge = session.run_study(
            self.study, work, self.directory, screen, self.stage, keepers=keepers
        )
        if bridge.abort_reason:
            raise UserError(
                f"the confirmation was given up: {bridge.abort_reason}",
                "See confirm/trials/NUMBER/error.txt.",
            )

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Write the results so far, for readers during the confirmation or after a kill."""
        if self.plan is not None:
            self._write(self._compose(self.plan), "running")

    def _open_test(self, plan: Plan) -> None:
        """Measure the winner and its baselines with the seeds of this look."""
        runs, winner = self._runs(plan), self._winner(plan)
        seeds = plan.seeds[: plan.looks[self.look - 1]]
        numbers = [
            run.number
            for label in (winner, *baselines_of(winner, plan))
            for run in runs[label]
            if run.state == "complete" and run.seed in seeds
        ]
        names = [leader_name(number) for number in numbers]
        look = planned_look(plan, self.look)
        test_leaders(self.session, self.log, names, look, again=self.options.open_test_again)
        self.session.switch.check()

    def _winner(self, plan: Plan) -> str:
        winner = choose_winner(plan, self._runs(plan))
        if winner is None:
            raise UserError("no run of a candidate was completed, so there is no winner")
        return winner

    def _going_on(self, plan: Plan) -> list[str]:
        """Return the baselines that are still undecided after this look."""
        if self.look == len(plan.looks):
            return []
        comparisons = compared(plan, self._runs(plan, with_tests=True), self.look)
        return [c.baseline for c in comparisons if c.left == "not settled"]

    def _runs(self, plan: Plan, *, with_tests: bool = False) -> dict[str, list[Run]]:
        complete = trials_in(self.study, TrialState.COMPLETE) if with_tests else []
        tests = known_tests(self.log, [leader_name(trial.number) for trial in complete])
        return collect_runs(plan, self.study, self.directory, tests)

    # Verdict

    def _conclude(self, plan: Plan, pending: str) -> int:
        session = self.session
        self.costs = leader_costs(
            session, plan, self._runs(plan), self.before.get("contenders", [])
        )
        found = self._compose(plan, with_tests=True, pending=pending)
        found |= kept_judgement(self.before, found)
        self._export_winner(found)
        winner, seed = plan.configuration(found["winner"]), found["leader"]["seed"]
        found["retrained"] = retrained(session, winner, seed, wanted=self.options.retrain_on_all)
        session.switch.check()
        self._write(found, "complete")
        print_results(session.terminal, found, session.shown)
        try_report(session.directory, session.say)
        session.tracker.end("FINISHED")
        return 0

    def _export_winner(self, found: Mapping[str, Any]) -> None:
        leader = found["leader"]
        winner = next(c for c in found["contenders"] if c["label"] == found["winner"])
        lines = [
            f"Confirmed configuration of the search {self.session.spec.name}: {winner['label']}.",
            f"Leader's validation accuracy {spread(winner['validation'])} over "
            f"{winner['validation']['n']} seeds "
            f"({found['objective']['words']}); test accuracy {spread(winner['test'])}.",
            f"This run: seed {leader['seed']}, the best of them on the validation images "
            f"({percent(leader['validation'])}): expect the mean.",
            *([found["verdict"]["sentence"]] if found["verdict"] else []),
        ]
        export_run(run_dir(self.directory, leader["number"]), self.directory, lines)

    # Results on disk

    def _compose(
        self, plan: Plan, *, with_tests: bool = False, pending: str = ""
    ) -> dict[str, Any]:
        """Return the results so far; nothing is shown of the test set before the last look."""
        session = self.session
        return compose(
            plan,
            self._runs(plan, with_tests=with_tests),
            objective=session.spec.objective,
            allocation=session.allocation,
            search=self.search,
            search_dir=session.directory,
            costs=self.costs,
            openings=opened_so_far(self.log),
            look=self.look,
            pending=pending,
        )

    def _write(self, found: dict[str, Any], state: Literal["running", "complete"]) -> None:
        found["state"] = state
        found["command"] = masked(self.session.request.command)
        found["started"] = self.started
        found["ended"] = datetime.now(UTC).isoformat() if state == "complete" else None
        found.setdefault("retrained", None)
        write_json(self.directory / CONFIRMATION, found)

    def _load_results(self) -> dict[str, Any]:
        """Return the results of an earlier call, or nothing if they are damaged or unknown."""
        try:
            found = read_json(self.directory / CONFIRMATION)
        except (OSError, ValueError):
            return {}
        is_ours = isinstance(found, dict) and found.get("format") == FORMAT
        return found if is_ours else {}
