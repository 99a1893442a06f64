"""The confirmation: is the search's winner real, or was it a lucky seed?

The search's best configurations, the paper's setting and rival methods are trained over one list
of seeds, through the same bridge, cluster and MLflow run as the search. The winner is chosen on
validation images. Then the sealed test set is opened, once, for the winner and its rivals.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optuna.trial import TrialState

from okddip_search.agenda import CONTENDER, SEED, FixedAgenda, SearchAgenda
from okddip_search.console import SearchConsole, percent
from okddip_search.contenders import (
    LONGER_SINGLE,
    Plan,
    agreed_settings,
    best_config,
    longer_single,
    make_plan,
    rival_spec,
)
from okddip_search.errors import UserError
from okddip_search.export import BEST, CONFIRM, LEADER, TRIALS, hand_over
from okddip_search.findings import (
    FINDINGS,
    OPENINGS,
    Run,
    choose_winner,
    collect_runs,
    compose,
    leader_name,
    rivals_of,
)
from okddip_search.result import print_findings, spread
from okddip_search.retrain import retrained
from okddip_search.sealed import (
    known_tests,
    opened_so_far,
    reopen_refused,
    require_test_set,
    test_leaders,
)
from okddip_search.session import Request, Session, open_session
from okddip_search.settings import ConfirmSettings
from okddip_search.spec import SearchSpec
from okddip_search.study import (
    open_fixed_study,
    open_study,
    require_same_images,
    trials_in,
)
from okddip_search.tracking import masked
from okddip_search.trial import measure_leaders
from trainer.files import write_json

ENDED = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Wishes:
    """What the user asked of a confirmation beyond the space.

    Attributes:
        changes: Fields of ``ConfirmSettings`` given at the command line.
        open_test_again: Whether the test set may be opened once more.
        retrain_on_all: Whether to train the final leader on train + validation.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    open_test_again: bool = False
    retrain_on_all: bool = False


def run_confirm(request: Request, wishes: Wishes) -> int:
    """Confirm a finished search in a session of its own.

    Returns:
        The exit code: 0 done, 130 stopped by a signal.

    Raises:
        UserError: There is nothing to confirm, or it cannot be carried out as asked.
    """
    _require_possible(request.spec, request.directory, wishes)
    with open_session(request, masked(request.command)) as session:
        return _Confirmation(session, wishes).run()


def _require_possible(spec: SearchSpec, directory: Path, wishes: Wishes) -> None:
    """Refuse in a second what would be refused after hours of training."""
    require_test_set(spec.data)
    known = Plan.load(directory / CONFIRM)
    settings = agreed_settings(spec, known, wishes.changes)
    if known is not None and settings.seeds > len(known.seeds):
        reopen_refused(directory / OPENINGS, wishes.open_test_again)


def confirm(session: Session) -> int:
    """Confirm a search that has just ended; the exit code is that of ``run_confirm``."""
    session.switch.how_to_go_on = f"okddip-search confirm {session.request.directory}"
    return _Confirmation(session, Wishes()).run()


class _Confirmation:
    def __init__(self, session: Session, wishes: Wishes) -> None:
        self.session = session
        self.wishes = wishes
        self.home = session.directory / CONFIRM
        self.log = session.directory / OPENINGS
        self.stage = session.tracker.stage("confirm")
        self.search = open_study(session.directory, session.spec)
        self.before = self._load_findings()
        self.started = self.before.get("started") or datetime.now(UTC).isoformat()
        self.costs: dict[str, dict[str, Any]] = {}

    def run(self) -> int:
        session = self.session
        require_same_images(self.search, session.data.fingerprint)
        _require_possible(session.spec, session.directory, self.wishes)
        plan = self._plan()
        if plan is not None:
            session.tracker.search_started(*session.provenance())
            plan = self._train_all(plan)
        if plan is None or session.switch.is_thrown:
            session.tracker.search_ended("KILLED", {}, [])
            session.say(f"Stopped. Go on with:  {session.switch.how_to_go_on}")
            return 130
        self._conclude(plan)
        return 130 if session.switch.is_thrown else 0

    # Who takes part

    def _plan(self) -> Plan | None:
        """Return the plan, made now or found; None where the user stopped a rival's search."""
        known = Plan.load(self.home)
        settings = agreed_settings(self.session.spec, known, self.wishes.changes)
        if known is not None:
            if len(known.seeds) == settings.seeds:
                return known
            if opened_so_far(self.log):
                self.session.say(
                    "Seeds that are added after a look make a lucky verdict more likely: the "
                    "error rate of 5 % is for a number of seeds fixed beforehand (docs/confirm.md)"
                )
            plan = known.with_seeds(settings.seeds, self.session.spec.study.seed)
        else:
            tuned = self._tune_rivals(settings)
            if tuned is None:
                return None
            plan = make_plan(self.session.spec, self.search, settings, tuned)
        plan.save(self.home)
        return plan

    def _tune_rivals(self, settings: ConfirmSettings) -> dict[str, dict[str, Any]] | None:
        """Give every rival a search of its own; None where the user stopped it."""
        if settings.rivals != "tuned":
            return {}
        spaces = {method: rival_spec(self.session.spec, method) for method in settings.methods}
        tuned = {}
        for method, spec in spaces.items():
            home = self.home / "tuning" / method
            study = open_study(home, spec)
            done = trials_in(study, TrialState.COMPLETE, TrialState.PRUNED)
            screen = SearchConsole(
                self.session.terminal, f"tuning {method}", spec.study.trials, spec.max_epochs,
                len(done),
            )  # fmt: skip
            stage = self.session.tracker.stage(f"tuning-{method}")
            self.session.run_study(study, SearchAgenda(spec), home, screen, stage)
            if self.session.switch.is_thrown:
                return None
            tuned[method] = best_config(spec, study)
        return tuned

    # Training

    def _train_all(self, plan: Plan) -> Plan:
        """Train every contender; the longer run of ``single`` is known only after the others."""
        runs = self._train(plan)
        labels = [contender.label for contender in plan.contenders]
        asked = plan.settings.single == "seconds" and "single" in labels
        if asked and LONGER_SINGLE not in labels and not self.session.switch.is_thrown:
            seconds = {
                label: [r.seconds for r in some if r.state == "complete" and r.seconds]
                for label, some in runs.items()
            }
            plan = plan.with_contender(longer_single(plan, seconds))
            plan.save(self.home)
            self._train(plan)
        return plan

    def _train(self, plan: Plan) -> dict[str, list[Run]]:
        session = self.session
        # Seed by seed, so that what a stopped confirmation has can be compared in pairs.
        wanted = [{CONTENDER: c.label, SEED: s} for s in plan.seeds for c in plan.contenders]
        study = open_fixed_study(self.home, CONFIRM, wanted)
        configs = {contender.label: contender.config for contender in plan.contenders}
        agenda = FixedAgenda(configs, session.spec.objective, session.common)
        done = trials_in(study, *ENDED)
        if len(done) < len(wanted):
            session.say(
                f"Confirming {len(plan.contenders)} settings with {len(plan.seeds)} seeds each: "
                f"{len(wanted) - len(done)} runs to go"
            )
        epochs = max(int(config["epochs"]) for config in configs.values())
        screen = SearchConsole(
            session.terminal, CONFIRM, len(wanted), epochs, len(done), noun="run"
        )
        bridge = session.run_study(study, agenda, self.home, screen, self.stage)
        if bridge.abort_reason:
            raise UserError(
                f"the confirmation was given up: {bridge.abort_reason}",
                "See confirm/trials/NUMBER/error.txt.",
            )
        runs = self._runs(plan)
        self._write(self._compose(plan, runs), "running")
        return runs

    def _runs(self, plan: Plan) -> dict[str, list[Run]]:
        wanted = [{CONTENDER: c.label, SEED: s} for s in plan.seeds for c in plan.contenders]
        study = open_fixed_study(self.home, CONFIRM, wanted)
        return collect_runs(plan, study, self.home, known_tests(self.log))

    # The end

    def _conclude(self, plan: Plan) -> None:
        session = self.session
        runs = self._runs(plan)
        winner = choose_winner(plan, runs)
        if winner is None:
            raise UserError("no run of a candidate was completed, so there is no winner")
        judged = [winner, *rivals_of(winner, plan)]
        numbers = [r.number for label in judged for r in runs[label] if r.state == "complete"]
        test_leaders(
            session,
            self.log,
            [leader_name(number) for number in numbers],
            again=self.wishes.open_test_again,
        )
        self.costs = self._measure_costs(plan, runs)
        runs = self._runs(plan)
        found = self._compose(plan, runs)
        self._hand_over(found)
        found["retrained"] = retrained(
            session,
            next(c for c in plan.contenders if c.label == winner),
            found["leader"]["seed"],
            wanted=self.wishes.retrain_on_all,
        )
        self._write(found, "complete")
        print_findings(session.terminal, found, session.shown)
        self._tell_mlflow(found, session.write_report())

    def _measure_costs(
        self, plan: Plan, runs: Mapping[str, list[Run]]
    ) -> dict[str, dict[str, Any]]:
        """Measure one leader of each contender; equal networks are measured once."""
        known = {c["label"]: c["cost"] for c in self.before.get("contenders", [])}
        measured: dict[tuple[Any, ...], dict[str, Any]] = {}
        costs = {}
        for contender in plan.contenders:
            numbers = [r.number for r in runs[contender.label] if r.state == "complete"]
            if not numbers:
                continue
            network = (contender.config["model"], contender.config["width"])
            earlier = known.get(contender.label, {})
            if earlier.get("leader_parameters"):
                names = ("parameters", "macs", "latency_ms")
                measured.setdefault(network, {name: earlier[f"leader_{name}"] for name in names})
            if network not in measured:
                folder = self.session.directory / leader_name(numbers[0])
                [measured[network]] = self.session.in_worker(measure_leaders, [str(folder)])
            costs[contender.label] = measured[network]
        return costs

    def _hand_over(self, found: Mapping[str, Any]) -> None:
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
        hand_over(self.home / TRIALS / str(leader["number"]), self.home, lines)

    # What is told

    def _compose(self, plan: Plan, runs: Mapping[str, list[Run]]) -> dict[str, Any]:
        session = self.session
        return compose(
            plan,
            runs,
            objective=session.spec.objective,
            allotment=session.allotment,
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
        write_json(self.home / FINDINGS, found)

    def _load_findings(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.home / FINDINGS).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return {}

    def _tell_mlflow(self, found: Mapping[str, Any], report: Path | None) -> None:
        tracker, verdict = self.session.tracker, found["verdict"]
        for contender in found["contenders"]:
            for run in contender["runs"]:
                if run["test"] is not None:
                    self.stage.results(run["number"], {"test/leader_accuracy": run["test"]})
        is_champion = verdict is not None and verdict["allows_champion"]
        words = verdict["sentence"] if verdict else "no verdict"
        tracker.log_confirmed(
            self.session.directory
            / (found["retrained"] or {"path": f"{CONFIRM}/{LEADER}"})["path"],
            self.session.spec.name,
            "champion" if is_champion else "candidate",
            words + (" Retrained on train + validation." if found["retrained"] else ""),
        )
        artifacts = [self.home / FINDINGS, self.home / BEST, *([report] if report else [])]
        tags = {"okddip.verdict": words, "okddip.confirmed": found["winner"]}
        tracker.search_ended("FINISHED", {}, artifacts, tags)
