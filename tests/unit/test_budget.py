"""``study.budget``: what the search may spend, what is kept back, how many seeds fit."""

import subprocess
import sys
import time

import optuna
import pytest

from okddip_search.driver.budget import (
    FINISH_SHARE,
    LEAST_SEEDS,
    MOST_KEPT_BACK,
    USED,
    most_runs,
)
from okddip_search.driver.prepare import budget_of
from okddip_search.driver.work import SearchAgenda
from okddip_search.errors import UserError
from okddip_search.space.load import load_space

HOUR = 3600.0


def make_budget(text, *sets, gpus=0, slots=2):
    spec = load_space("digits", [f"study.budget={text}", *sets])
    return budget_of(spec, gpus, slots, time.monotonic()), spec


def after(budget, *seconds):
    """Let epochs of such lengths be reported."""
    for step, length in enumerate(seconds):
        budget.epoch_reported(0, step, {"seconds": length})
    return budget


@pytest.mark.parametrize("text", ["8h", "6m", "80 gpu-hours", "1.5 gpu-hours"])
def test_a_budget_is_written_as_it_is_read(text, tmp_path):
    _, spec = make_budget(text)
    assert spec.study.budget.to_plain() == text
    (tmp_path / "again.yaml").write_text(spec.to_yaml())
    assert load_space(tmp_path / "again.yaml") == spec


def test_gpu_hours_are_shared_by_the_gpus():
    budget, _ = make_budget("80 gpu-hours", gpus=8)
    assert budget.total_s == 10 * HOUR


def test_another_spelling_is_refused_with_the_ones_that_are_known():
    with pytest.raises(UserError, match="80 gpu-hours"):
        make_budget("8 parsecs")


def test_the_imports_of_a_command_count_and_the_past_of_a_notebook_does_not():
    code = (
        "import time; from okddip_search.driver import budget; began = budget.process_began_s()\n"
        "now = time.monotonic(); budget.STARTUP_S = 0.01\n"
        "print(now - began, now - budget.process_began_s())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    command_s, notebook_s = map(float, done.stdout.split())
    assert 0.05 < command_s < 60 and abs(notebook_s) < 0.05


def test_a_space_without_a_budget_has_none():
    assert budget_of(load_space("digits"), 0, 2, time.monotonic()) is None


def test_until_the_pace_is_known_half_is_kept_back_and_no_epochs_are_counted():
    budget, _ = make_budget("1h")
    assert budget.epochs_left is None
    assert budget.search_left_s < (1 - MOST_KEPT_BACK) * HOUR


def test_what_is_kept_back_is_what_the_confirmation_needs():
    budget, spec = make_budget("1h")
    after(budget, 0.1, 0.1, 0.1)
    waves = most_runs(spec.confirm, spec.confirm.seeds) / 2
    confirming_s = budget.kept_back_s - FINISH_SHARE * HOUR
    assert 1.0 < confirming_s / (waves * 60 * 0.1) < 1.3
    assert budget.kept_back_s < MOST_KEPT_BACK * HOUR


def test_where_two_seeds_do_not_fit_all_is_for_the_search():
    budget, _ = make_budget("1h")
    after(budget, 10.0)  # a run takes ten minutes and more
    assert budget.search_left_s > 0.9 * HOUR
    assert budget.seeds == 0


def test_without_a_confirmation_next_to_nothing_is_kept_back():
    budget, _ = make_budget("1h", "confirm=false")
    assert after(budget, 0.1).search_left_s > 0.9 * HOUR


def test_all_that_is_left_goes_into_seeds():
    budget, spec = make_budget("1h")
    runs_that_fit = 2 * HOUR / (60 * 1.0)  # two slots, 60 epochs of a second each
    seeds = after(budget, 1.0).seeds
    assert 0.7 * runs_that_fit < seeds * most_runs(spec.confirm) <= runs_that_fit


def test_too_few_seeds_for_a_verdict_are_none():
    budget, spec = make_budget("1h")
    runs_that_fit = most_runs(spec.confirm, LEAST_SEEDS) - 1
    assert after(budget, 2 * HOUR / runs_that_fit / 60).seeds == 0


def test_time_that_earlier_drivers_have_used_is_gone():
    budget, _ = make_budget("1h")
    study = optuna.create_study()
    study.set_user_attr(USED, 600.0)
    budget.go_on_with(study)
    assert budget.left_s == pytest.approx(HOUR - 600, abs=5)
    budget.trial_paused(0)
    assert study.user_attrs[USED] == pytest.approx(600, abs=5)


def test_with_a_budget_trials_begin_as_long_as_a_whole_run_fits():
    budget, spec = make_budget("1h")
    agenda = SearchAgenda(spec, budget)
    study = optuna.create_study()
    assert not agenda.is_spent(study, pending=50), "the pace is not known yet"
    after(budget, 1.0)
    assert not agenda.is_spent(study, pending=50)
    budget.ends_at_s = time.monotonic() + budget.kept_back_s + 30
    assert agenda.is_spent(study, pending=0)
    assert not agenda.is_overdrawn()
    budget.ends_at_s -= 600
    assert agenda.is_overdrawn()
