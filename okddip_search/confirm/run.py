"""The confirmation: is the search's winner real, or was it a lucky seed?

The search's best configurations, the paper's setting and baseline methods are trained over one list
of seeds, through the same bridge, cluster and MLflow run as the search. The winner is chosen on
validation images. Then the sealed test set is opened, once, for the winner and its baselines.
"""

import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optuna.trial import TrialState

from okddip_search.cluster.signals import Stopped
from okddip_search.confirm.plan import LONGER_SINGLE, Plan, agreed_settings, choose, longer_single
from okddip_search.confirm.results import (
    FORMAT,
    Run,
    baselines_of,
    choose_winner,
    collect_runs,
    compose,
    leader_name,
    measure_leaders,
)
from okddip_search.confirm.retrain import retrained
from okddip_search.confirm.summary import print_results
from okddip_search.confirm.test_set import (
    known_tests,
    opened_so_far,
    reopen_refused,
    require_all_openings,
    require_test_set,
    test_leaders,
)
from okddip_search.confirm.tuning import tune_baselines, tuning_seconds
from okddip_search.driver.budget import Budget
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.request import Request
from okddip_search.driver.session import Session, open_session
from okddip_search.driver.work import CONTENDER, SEED, FixedAgenda
from okddip_search.errors import UserError
from okddip_search.export import export_run
from okddip_search.formatting import percent, spread
from okddip_search.layout import CONFIRM, CONFIRMATION, OPENINGS, run_dir
from okddip_search.masking import masked
from okddip_search.report.page import try_report
from okddip_search.space.model import SearchSpec
from okddip_search.study.events import Listener, TrialEnd
from okddip_search.study.study import open_fixed_study, open_study, require_same_images
from okddip_search.study.trials import died, runs_with, trials_in
from trainer.io.files import read_json, write_json

ENDED = (TrialState.COMPLETE, TrialState.FAIL)


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


def run_confirm(request: Request, options: ConfirmOptions) -> int:
    """Confirm a finished search, in a new session.

    Returns:
        The exit code: 0 done, 1 stopped by failures, 130 stopped by a signal.

    Raises:
        UserError: There is nothing to confirm, or the request cannot be carried out.
    """
    require_possible(request.spec, request.directory, options)
    with open_session(request, _resume_command(request, options)) as session:
        if options.restart:
            _set_aside(session.directory / CONFIRM)
        return _Confirmation(session, options).run()


def require_possible(spec: SearchSpec, directory: Path, options: ConfirmOptions) -> None:
    """Check at once what would otherwise fail after hours of training.

    Raises:
        UserError: There is no test set, or settings or flags do not fit the confirmation so far.
    """
    require_test_set(spec.data)
    known = None if options.restart else Plan.load(directory / CONFIRM)
    settings = agreed_settings(spec, known, options.overrides)
    if options.restart or (known is not None and settings.seeds > len(known.seeds)):
        reopen_refused(directory / OPENINGS, options.open_test_again)


def confirm(session: Session, budget: Budget | None = None) -> int:
    """Confirm a search that has just ended, with as many seeds as its budget has room for.

    Returns:
        The exit code, as that of ``run_confirm``.
    """
    command = session.switch.resume_command = _resume_command(session.request, ConfirmOptions())
    begun = Plan.load(session.directory / CONFIRM) is not None
    if budget is None or begun:
        return _Confirmation(session, ConfirmOptions()).run()
    if not budget.seeds:
        session.say(f"The budget has no room for a confirmation. Start it with:  {command}")
        return 0
    return _Confirmation(session, ConfirmOptions({"seeds": budget.seeds})).run()


def _resume_command(request: Request, options: ConfirmOptions) -> str:
    """Return the command that resumes; the settings are in the plan by then."""
    flags = " --open-test-again" if options.open_test_again else ""
    flags += " --retrain-on-all" if options.retrain_on_all else ""
    return f"okddip-search confirm {shlex.quote(str(request.directory))}{flags}"


def _set_aside(directory: Path) -> None:
    """Rename an earlier confirmation to ``confirm.1``, ``confirm.2`` and so on."""
    if directory.exists():
        number = next(n for n in itertools.count(1) if not directory.with_suffix(f".{n}").exists())
        directory.rename(directory.with_suffix(f".{number}"))


class _Confirmation(Listener):
    """One confirmation, from its plan to its verdict.

    As a listener it keeps ``confirm.json`` up to date while runs end.
    """

    def __init__(self, session: Session, options: ConfirmOptions) -> None:
        self.session = session
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
        plan = self._chosen()
        plan = self._train_all(plan) if plan else None
        if plan is None or session.switch.is_thrown:
            return self._stopped()
        if lost := self._lost(plan):
            session.say(f"{lost} runs died with their workers. The same command retries them "
                        "once; after that the confirmation continues without them.")  # fmt: skip
            session.tracker.end("FAILED")
            try_report(session.directory, session.say)
            return 1
        try:
            return self._conclude(plan)
        except Stopped:
            return self._stopped()

    def _stopped(self) -> int:
        self.session.tracker.end("KILLED")
        try_report(self.session.directory, self.session.say)
        self.session.say(f"Stopped. Resume with:  {self.session.switch.resume_command}")
        return 130

    # Plan

    def _chosen(self) -> Plan | None:
        """Return the plan with its configurations; None if the user stopped a baseline's search."""
        spec = self.session.spec
        settings = agreed_settings(spec, self.plan, self.options.overrides)
        plan = self.plan or Plan.begin(spec, settings)
        if len(plan.seeds) != settings.seeds:
            if opened_so_far(self.log):
                self.session.say(
                    "Adding seeds after a look makes a lucky verdict more likely: the error rate "
                    "of 5 % holds for a number of seeds fixed beforehand (docs/confirm.md)"
                )
            plan = plan.with_seeds(settings.seeds)
        plan.save(self.directory)
        if not plan.configurations:
            tuned = tune_baselines(self.session, self.directory, settings)
            if tuned is None:
                return None
            plan = choose(plan, spec, self.search, tuned)
            plan.save(self.directory)
        return plan

    # Training

    def _train_all(self, plan: Plan) -> Plan:
        """Train every configuration; the length of the longer ``single`` depends on the others."""
        self._train(plan)
        labels = [configuration.label for configuration in plan.configurations]
        wanted = plan.settings.single == "seconds" and LONGER_SINGLE not in labels
        if not wanted or self.session.switch.is_thrown or self._lost(plan):
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
        self._train(plan)
        return plan

    def _train(self, plan: Plan) -> None:
        session, self.plan = self.session, plan
        # Seed by seed, so that the runs of a stopped confirmation can be compared in pairs.
        wanted = [{CONTENDER: c.label, SEED: s} for s in plan.seeds for c in plan.configurations]
        self.study = open_fixed_study(self.directory, CONFIRM, wanted)
        total = len(self.study.get_trials(deepcopy=False))
        to_go = total - len(trials_in(self.study, *ENDED))
        if to_go:
            session.say(
                f"Confirming {len(plan.configurations)} settings with {len(plan.seeds)} seeds "
                f"each: {to_go} runs to go"
            )
        self._write(self._compose(plan), "running")
        configs = {c.label: c.config for c in plan.configurations}
        agenda = FixedAgenda(
            configs, session.spec.objective, session.common, session.spec.study.max_failures
        )
        epochs = max(int(config["epochs"]) for config in configs.values())
        screen = SearchConsole(session.terminal, CONFIRM, total, epochs, total - to_go, noun="run")
        keepers: list[Listener] = [self, session.budget] if session.budget else [self]
        bridge = session.run_study(
            self.study, agenda, self.directory, screen, self.stage, keepers=keepers
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

    def _runs(self, plan: Plan) -> dict[str, list[Run]]:
        complete = trials_in(self.study, TrialState.COMPLETE)
        tests = known_tests(self.log, [leader_name(trial.number) for trial in complete])
        return collect_runs(plan, self.study, self.directory, tests)

    def _lost(self, plan: Plan) -> int:
        """Return how many runs died with their worker and were not retried."""
        wanted = [{CONTENDER: c.label, SEED: s} for s in plan.seeds for c in plan.configurations]
        tries = [runs_with(self.study, attributes) for attributes in wanted]
        return sum(len(some) == 1 and died(some[0]) for some in tries)

    # Test set and verdict

    def _conclude(self, plan: Plan) -> int:
        session = self.session
        runs = self._runs(plan)
        winner = choose_winner(plan, runs)
        if winner is None:
            raise UserError("no run of a candidate was completed, so there is no winner")
        judged = [winner, *baselines_of(winner, plan)]
        numbers = [r.number for label in judged for r in runs[label] if r.state == "complete"]
        names = [leader_name(number) for number in numbers]
        test_leaders(session, self.log, names, again=self.options.open_test_again)
        if session.switch.is_thrown:
            return self._stopped()
        self.costs = self._measure_costs(plan, runs)
        found = self._compose(plan)
        self._export_winner(found)
        seed = found["leader"]["seed"]
        found["retrained"] = retrained(
            session, plan.configuration(winner), seed, wanted=self.options.retrain_on_all
        )
        if session.switch.is_thrown:
            return self._stopped()
        self._write(found, "complete")
        print_results(session.terminal, found, session.shown)
        try_report(session.directory, session.say)
        session.tracker.end("FINISHED")
        return 0

    def _measure_costs(
        self, plan: Plan, runs: Mapping[str, list[Run]]
    ) -> dict[str, dict[str, Any]]:
        """Measure one leader of each configuration; equal networks are measured once."""
        known = {c["label"]: c["cost"] for c in self.before.get("contenders", [])}
        measured: dict[tuple[Any, ...], dict[str, Any]] = {}
        costs = {}
        for configuration in plan.configurations:
            numbers = [r.number for r in runs[configuration.label] if r.state == "complete"]
            if not numbers:
                continue
            network = (configuration.config["model"], configuration.config["width"])
            earlier = known.get(configuration.label, {})
            if earlier.get("leader_parameters"):
                names = ("parameters", "macs", "latency_ms")
                measured.setdefault(network, {name: earlier[f"leader_{name}"] for name in names})
            if network not in measured:
                folder = self.session.directory / leader_name(numbers[0])
                [measured[network]] = self.session.in_worker(measure_leaders, [str(folder)])
            costs[configuration.label] = {
                **measured[network],
                "tuning_s": tuning_seconds(self.session.spec, self.directory, configuration),
            }
        return costs

    def _export_winner(self, found: Mapping[str, Any]) -> None:
        leader, seeds = found["leader"], len(found["seeds"])
        winner = next(c for c in found["contenders"] if c["label"] == found["winner"])
        lines = [
            f"Confirmed configuration of the search {self.session.spec.name}: {winner['label']}.",
            f"Leader's validation accuracy {spread(winner['validation'])} over {seeds} seeds "
            f"({found['objective']['words']}); test accuracy {spread(winner['test'])}.",
            f"This run: seed {leader['seed']}, the best of them on the validation images "
            f"({percent(leader['validation'])}): expect the mean.",
            *([found["verdict"]["sentence"]] if found["verdict"] else []),
        ]
        export_run(run_dir(self.directory, leader["number"]), self.directory, lines)

    # Results on disk

    def _compose(self, plan: Plan) -> dict[str, Any]:
        session = self.session
        return compose(
            plan,
            self._runs(plan),
            objective=session.spec.objective,
            allocation=session.allocation,
            search=self.search,
            search_dir=session.directory,
            costs=self.costs,
            openings=opened_so_far(self.log),
        )

    def _write(self, found: dict[str, Any], state: Literal["running", "complete"]) -> None:
        found["state"] = state
        found["command"] = masked(self.session.request.command)
        found["started"] = self.started
        found["ended"] = datetime.now(UTC).isoformat() if state == "complete" else None
        found.setdefault("retrained", None)
        if state == "running":  # no verdict on only some of the seeds
            found |= {"comparisons": [], "verdict": None}
        write_json(self.directory / CONFIRMATION, found)

    def _load_results(self) -> dict[str, Any]:
        """Return the results of an earlier call, or nothing if they are damaged or unknown."""
        try:
            found = read_json(self.directory / CONFIRMATION)
        except (OSError, ValueError):
            return {}
        is_ours = isinstance(found, dict) and found.get("format") == FORMAT
        return found if is_ours else {}
