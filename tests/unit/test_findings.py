"""What a confirmation concludes from its runs, on real studies with made-up results."""

import json
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from okddip_search.cluster.resources import Allocation
from okddip_search.confirm.plan import PAPER, Configuration, Plan
from okddip_search.confirm.results import (
    baselines_of,
    best_run,
    choose_winner,
    collect_runs,
    compose,
    kept_judgement,
    leader_name,
)
from okddip_search.confirm.summary import print_results
from okddip_search.driver.work import CONTENDER, SEED
from okddip_search.space.settings import ConfirmSettings, ObjectiveSettings
from okddip_search.study.study import open_fixed_study
from okddip_search.study.trials import REASON

ALLOTMENT = Allocation(2, 0, 1.0, 0.0, 2)


def configuration(label, kind, trial=None, value=None, method="okddip", may_win=False):
    config = {"method": method, "epochs": 3}
    return Configuration(label, kind, "a note", config, trial, value, may_win, not may_win)


PLAN = Plan(
    ConfirmSettings(top=2, seeds=5, methods=["single"]),
    study_seed=0,
    data={},
    configurations=(
        configuration("trial 4", "candidate", 4, 0.95, may_win=True),
        configuration("trial 2", "candidate", 2, 0.93, may_win=True),
        configuration(PAPER, "paper", 0, 0.90),
        configuration("single", "baseline", method="single"),
    ),
    search_trials=6,
)

# label → validation accuracy by seed; None: the run failed
VALIDATION = {
    "trial 4": [0.90, 0.91, 0.92, 0.90, 0.91],
    "trial 2": [0.93, 0.94, 0.92, 0.95, 0.93],
    PAPER: [0.90, 0.90, 0.90, 0.90, 0.90],
    "single": [0.99, 0.99, 0.99, 0.99, 0.99],
}


@pytest.fixture
def conclude(tmp_path):
    """Return the runs and the findings, given validation and test accuracies."""

    def conclude(validation=VALIDATION, tests=None, plan=PLAN, ended=True, look=1, pending=""):
        wanted = [{CONTENDER: c.label, SEED: s} for s in plan.seeds for c in plan.configurations]
        home = tmp_path / "confirm"
        study = open_fixed_study(home, "confirm", wanted)
        accuracies = {}
        for _ in wanted if ended else wanted[:-1]:
            trial = study.ask()
            label, seed = trial.user_attrs[CONTENDER], trial.user_attrs[SEED]
            index = plan.seeds.index(seed)
            value = validation[label][index]
            folder = home / "trials" / str(trial.number)
            folder.mkdir(parents=True)
            history = {"history": [{"seconds": 1.5}, {"seconds": 0.5}]}
            (folder / "result.json").write_text(json.dumps(history))
            if value is None:
                trial.set_user_attr(REASON, "loss is nan")
                study.tell(trial, state=TrialState.FAIL)
                continue
            study.tell(trial, value)
            if tests and label in tests:
                accuracies[leader_name(trial.number)] = tests[label][index]
        runs = collect_runs(plan, study, home, accuracies)
        search = open_fixed_study(tmp_path / "search", "s", [])
        return runs, compose(
            plan, runs, objective=ObjectiveSettings(), allocation=ALLOTMENT, search=search,
            search_dir=tmp_path, costs={}, openings=[], look=look, pending=pending,
        )  # fmt: skip

    return conclude


def test_the_winner_is_the_candidate_with_the_best_mean_validation_never_a_baseline(conclude):
    runs, found = conclude()
    assert choose_winner(PLAN, runs) == found["winner"] == "trial 2"
    assert baselines_of("trial 2", PLAN) == [PAPER, "single"]


def test_the_papers_setting_wins_only_if_it_was_among_the_searchs_best(conclude):
    _, found = conclude({**VALIDATION, PAPER: [0.97] * 5})
    assert found["winner"] == "trial 2"


def test_a_papers_setting_that_wins_is_no_baseline_of_itself(conclude):
    configurations = [replace(c, may_win=c.kind != "baseline") for c in PLAN.configurations]
    plan = replace(PLAN, configurations=tuple(configurations))
    _, found = conclude({**VALIDATION, PAPER: [0.97] * 5}, plan=plan)
    assert found["winner"] == PAPER
    assert baselines_of(PAPER, plan) == ["single"]


def test_a_candidate_that_failed_with_a_seed_does_not_win_by_leaving_it_out(conclude):
    runs, found = conclude({**VALIDATION, "trial 2": [0.99, None, 0.99, 0.99, 0.99]})
    assert found["winner"] == "trial 4"
    failed = next(r for r in runs["trial 2"] if r.state == "failed")
    assert (failed.seed, failed.validation) == (PLAN.seeds[1], None)
    assert failed.reason == "loss is nan"


def test_there_is_no_winner_before_the_last_run_has_ended(conclude):
    _, found = conclude(ended=False)
    assert found["winner"] is None and found["verdict"] is None


def test_there_is_no_verdict_before_the_test_set_is_opened(conclude):
    _, found = conclude()
    assert found["verdict"] is None and found["comparisons"] == []
    assert found["leader"]["seed"] == PLAN.seeds[3]
    assert all(c["test"] is None for c in found["contenders"])


TESTS = {
    "trial 2": [0.91, 0.92, 0.90, 0.93, 0.91],
    PAPER: [0.90, 0.93, 0.89, 0.94, 0.90],
    "single": [0.85, 0.86, 0.841, 0.87, 0.85],
}


def test_every_baseline_has_its_verdict_on_the_test_set(conclude):
    _, found = conclude(tests=TESTS)
    compared = {c["rival"]: c for c in found["comparisons"]}
    assert compared[PAPER]["verdict"] == "within noise"
    assert compared["single"]["verdict"] == "better"
    assert compared["single"]["difference"] == pytest.approx(0.0598)
    assert (found["verdict"]["status"], found["verdict"]["allows_champion"]) == ("partly", False)
    assert found["noise_floor"]["contender"] == "trial 2"
    assert found["noise_floor"]["of"] == "test"


def test_the_searchs_best_value_stands_beside_the_mean_over_fresh_seeds(conclude):
    _, found = conclude()
    best = found["search_best"]
    assert (best["label"], best["value"]) == ("trial 4", 0.95)
    assert best["confirmed_mean"] == pytest.approx(0.908)


def test_the_leader_that_is_handed_over_is_the_best_on_validation_images(conclude):
    runs, _ = conclude()
    assert best_run(runs["trial 2"]).validation == 0.95
    assert best_run([]) is None


def test_the_cost_of_training_counts_failed_runs_the_mean_whole_ones(conclude):
    _, found = conclude({**VALIDATION, "single": [0.9, None, 0.9, 0.9, 0.9]})
    cost = found["contenders"][-1]["cost"]
    assert (cost["training_s"], cost["training_s_per_run"]) == (10.0, 2.0)


def test_the_findings_are_plain_json(conclude):
    _, found = conclude(tests=TESTS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_results_name_their_test_and_the_looks(conclude):
    _, found = conclude(tests=TESTS)
    assert found["test"] == "moderated max-T"
    assert found["looks"] == {"at": 1, "seeds": [5], "error_spent": [0.05]}
    single = next(c for c in found["comparisons"] if c["rival"] == "single")
    assert (single["look"], single["left"], single["n"]) == (1, "decided", 5)


LOOKING = replace(
    PLAN, settings=ConfirmSettings(top=2, seeds="auto", max_seeds=5, methods=["single"])
)


def test_the_seeds_of_the_first_look_choose_the_winner(conclude):
    later = {**VALIDATION, "trial 4": [0.9, 0.9, 0.9, 0.99, 0.99]}
    runs, _ = conclude(later, plan=LOOKING)
    assert choose_winner(LOOKING, runs) == "trial 2"
    assert choose_winner(PLAN, runs) == "trial 4"


def test_what_time_left_open_is_said(conclude):
    pending = "not settled: at most 2 more seeds, about 2 h"
    tests = {**TESTS, PAPER: [0.908, 0.905, 0.898, 0, 0]}
    _, found = conclude(tests=tests, plan=LOOKING, pending=pending)
    compared = {c["rival"]: c for c in found["comparisons"]}
    assert compared[PAPER]["words"].startswith(f"within noise ({pending}): ")
    assert pending in found["verdict"]["sentence"]
    assert not found["verdict"]["allows_champion"]


def test_an_earlier_versions_judgement_is_kept_until_there_are_other_runs(conclude):
    _, found = conclude(tests=TESTS)
    old = {**found, "state": "complete", "verdict": {"sentence": "as it was said"}}
    del old["test"]
    kept = kept_judgement(old, found)
    assert kept["verdict"] == {"sentence": "as it was said"}
    assert kept["test"] is None
    assert kept_judgement({**old, "seeds": old["seeds"][:4]}, found) == {}
    assert kept_judgement({**old, "openings": [{}]}, found) == {}
    assert kept_judgement({**old, "state": "running"}, found) == {}
    assert kept_judgement({**old, "test": found["test"]}, found) == {}


@pytest.mark.parametrize("tests", [None, TESTS])
def test_what_is_printed_ends_with_the_verdict_if_there_is_one(conclude, tests, tmp_path):
    from rich.console import Console

    _, found = conclude(tests=tests)
    found["retrained"] = None
    console = Console(record=True, width=160, file=open(tmp_path / "out", "w"))
    print_results(console, found, tmp_path)
    text = console.export_text()
    assert "trial 4: 95.00 %" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("Verdict: ") == (tests is not None)
