"""``study.budget``: what the search may spend, what is kept back, how many seeds fit."""

import subprocess
import sys
import time

import optuna
import pytest

from okddip_search.confirm.options import fitting_seeds
from okddip_search.driver.budget import (
    CONFIRM_SHARE,
    ENOUGH_SEEDS,
    LEAST_SEEDS,
    LED_SINCE,
    MEASURED_EPOCHS,
    MOST_SHARE,
    SEEDS,
    USED,
    Budget,
    most_runs,
)
from okddip_search.driver.work import SearchWork
from okddip_search.errors import UserError
from okddip_search.space.load import load_space
from okddip_search.study.events import TrialEnd

HOUR = 3600.0
EPOCHS = 60
MEASURED_S = 1.0


def make_budget(text, *sets, gpus=0, slots=2, epoch_s=MEASURED_S, baseline_s=None):
    baseline_s = epoch_s if baseline_s is None else baseline_s
    spec = load_space("digits", [f"study.budget={text}", *sets])
    total_s = spec.study.budget.seconds(gpus)
    ends_at_s = time.monotonic() + total_s
    return Budget(
        total_s, ends_at_s, slots, spec.max_epochs, spec.confirm, epoch_s, baseline_s
    ), spec


def after(budget, seconds, count=MEASURED_EPOCHS):
    """Let epochs of such a length be reported."""
    for step in range(count):
        budget.epoch_reported(step, 0, {"seconds": seconds})
    return budget


def at(budget, used_s):
    """Let so much time have passed."""
    budget.ends_at_s = time.monotonic() + budget.total_s - used_s
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


def test_the_measured_epoch_counts_until_the_trials_have_had_enough_of_them():
    budget, _ = make_budget("1h")
    assert after(budget, 3.0, MEASURED_EPOCHS - 1).pace_s == MEASURED_S
    assert after(budget, 3.0, 1).pace_s == 3.0


def test_an_epoch_lasts_from_one_report_to_the_next(monkeypatch):
    budget, _ = make_budget("1h")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for step in range(MEASURED_EPOCHS + 1):
        clock[0] += 2.0
        budget.epoch_reported(0, step, {"seconds": 1.5})
    assert budget.pace_s == pytest.approx(2.0, rel=0.02), "what the trainer does not time counts"


def test_an_epoch_in_which_the_machine_slept_does_not_count():
    budget, _ = make_budget("1h")
    after(budget, 2.0, 99)
    assert after(budget, 3600.0, 1).pace_s == 2.0


def test_where_workers_start_slowly_more_is_kept_to_finish(monkeypatch):
    budget, _ = make_budget("6m")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before_s = budget.finish_s
    budget.trial_started(0, {}, False)
    clock[0] += 21.0
    budget.epoch_reported(0, 0, {"seconds": 1.0})
    assert budget.finish_s == 3 * 20.0 > before_s


def test_a_pause_is_no_epoch(monkeypatch):
    budget, _ = make_budget("1h")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for step in range(2 * MEASURED_EPOCHS):
        clock[0] += 500.0
        budget.trial_started(0, {}, True)
        budget.epoch_reported(0, step, {"seconds": 1.5})
    assert budget.pace_s == 1.5


def test_two_full_runs_have_to_fit_or_the_smallest_budget_that_would_do_is_named():
    budget, _ = make_budget("1m")
    with pytest.raises(UserError) as caught:
        budget.require_two_runs()
    words = str(caught.value)
    assert "an epoch takes 1 s here" in words and "a run of 60 epochs 1:06" in words
    least = words.split("would do: ")[1].split("s")[0]
    epochs = words.split("trainer.epochs=")[1].rstrip(".")
    make_budget(f"{least}s")[0].require_two_runs()
    make_budget("1m", f"trainer.epochs={epochs}")[0].require_two_runs()
    with pytest.raises(UserError):
        make_budget(f"{int(least) - 1}s")[0].require_two_runs()
    with pytest.raises(UserError):
        make_budget("1m", f"trainer.epochs={int(epochs) + 1}")[0].require_two_runs()


def test_one_slot_needs_the_time_of_two_runs():
    least = 2 * EPOCHS * MEASURED_S
    with pytest.raises(UserError):
        make_budget(f"{least + 10}s", slots=1)[0].require_two_runs()
    make_budget(f"{least + 60}s", slots=1)[0].require_two_runs()


def test_as_many_seeds_as_fit_are_kept_back_and_no_more_than_enough():
    budget, spec = make_budget("1h")
    assert budget.kept_seeds > LEAST_SEEDS
    assert budget.confirm_s(budget.kept_seeds) <= CONFIRM_SHARE * HOUR
    assert budget.confirm_s(budget.kept_seeds + 1) > CONFIRM_SHARE * HOUR
    assert make_budget("8h")[0].kept_seeds == ENOUGH_SEEDS
    assert make_budget("8h", "confirm.seeds=20")[0].kept_seeds == 20


def test_a_small_budget_keeps_back_the_fewest_seeds_with_a_verdict():
    runs = 2 * MOST_SHARE * HOUR / EPOCHS  # two slots, a second each
    spec = load_space("digits")
    longest_s = 0.9 * runs / most_runs(spec.confirm, LEAST_SEEDS)
    budget, _ = make_budget("1h", epoch_s=longest_s / 1.1)
    assert budget.kept_seeds == LEAST_SEEDS
    assert budget.confirm_s(LEAST_SEEDS) > CONFIRM_SHARE * HOUR


def test_where_the_fewest_seeds_do_not_fit_all_is_for_the_search():
    budget, _ = make_budget("1h", epoch_s=10.0)  # a run takes ten minutes and more
    assert budget.kept_seeds == budget.seeds == 0
    assert budget.search_left_s > 0.9 * HOUR


def test_without_a_confirmation_next_to_nothing_is_kept_back():
    budget, _ = make_budget("1h", "confirm=false")
    assert budget.search_left_s > 0.9 * HOUR


def test_baselines_that_are_faster_leave_room_for_more_seeds():
    budget, spec = make_budget("1h", baseline_s=MEASURED_S / 2)
    own = spec.confirm.top + 1
    runs = own + 0.5 * (most_runs(spec.confirm) - own)
    as_long, _ = make_budget("1h")
    assert budget.confirm_s(4) / as_long.confirm_s(4) == runs / most_runs(spec.confirm)
    assert budget.seeds > as_long.seeds
    assert after(budget, 2.0).confirm_s(4) / after(as_long, 2.0).confirm_s(4) == pytest.approx(
        runs / most_runs(spec.confirm)
    )


def test_all_that_is_left_goes_into_seeds():
    budget, spec = make_budget("1h")
    runs_that_fit = 2 * HOUR / EPOCHS
    assert 0.7 * runs_that_fit < budget.seeds * most_runs(spec.confirm) <= runs_that_fit


@pytest.mark.parametrize(
    ("hours", "fitting"),
    [
        (10, {"max_seeds": 10}),
        (2, {"max_seeds": 7}),
        (1, {"max_seeds": 3}),
        (0.5, {"seeds": 2}),
        (0.3, None),
    ],
)
def test_planned_looks_are_those_that_fit(hours, fitting):
    budget, spec = make_budget(f"{hours}h", "confirm.seeds=auto")
    assert fitting_seeds(spec.confirm, after(budget, 3.0)) == fitting


def test_runs_of_a_look_take_their_turns_in_the_slots():
    budget, _ = make_budget("1h", slots=2)
    one_run_s = after(budget, 1.0).seconds_for(1)
    assert budget.seconds_for(3) == budget.seconds_for(4) == 2 * one_run_s
    assert budget.has_room_for(2 * int(0.9 * HOUR / one_run_s))
    assert not budget.has_room_for(2 * int(HOUR / one_run_s))


def test_a_search_that_ended_a_little_late_is_confirmed_with_the_fewest_seeds():
    budget, _ = make_budget("1h")
    needed_s = budget.confirm_s(LEAST_SEEDS) + budget.finish_s
    assert at(budget, HOUR - needed_s + 10).seeds == LEAST_SEEDS
    assert at(budget, HOUR - needed_s + 120).seeds == 0


def test_time_and_pace_of_earlier_drivers_count():
    study = optuna.create_study()
    first, _ = make_budget("1h")
    first.resume(study)
    at(after(first, 0.5), 600.0).trial_paused(0)
    second, _ = make_budget("1h")
    second.resume(study)
    assert second.left_s == pytest.approx(HOUR - 600, abs=5)
    assert second.pace_s == 0.5
    second.trial_paused(0)
    assert study.user_attrs[USED] == pytest.approx(600, abs=5)


def searched(budget, *values):
    """Let trials with 10 epochs end complete, with such values."""
    study = optuna.create_study(direction="maximize")
    budget.resume(study)
    for value in values:
        end_trial(budget, study, value)
    return study


def end_trial(budget, study, value):
    trial = study.ask()
    for step in range(10):
        trial.report(value, step)
    study.tell(trial, value)
    end = TrialEnd(trial.number, "complete", value, 9)
    budget.trial_ended(end, TrialEnd(study.best_trial.number, "complete", study.best_value, 9))


def test_a_search_whose_leader_stays_the_same_leaves_the_rest_to_the_confirmation():
    said = []
    budget, _ = make_budget("40m")
    budget.say = said.append
    study = searched(budget, 0.7, 0.8, 0.9)
    planned = budget.kept_seeds
    at(budget, 950.0)
    end_trial(budget, study, 0.5)  # 10 of 40 epochs since
    assert budget.kept_seeds == planned and not said
    end_trial(budget, study, 0.5)  # 20 of 50
    assert budget.kept_seeds == study.user_attrs[SEEDS] == budget.seeds > planned
    assert budget.confirm_s(1) > budget.search_left_s >= 0
    assert "last third" in said[0] and f"{budget.kept_seeds} seeds" in said[0]


def test_a_resumed_search_knows_that_it_has_stagnated_and_since_when_its_leader_leads():
    budget, _ = make_budget("40m")
    study = searched(budget, 0.7, 0.8)
    assert study.user_attrs[LED_SINCE] == [1, 20]
    at(budget, 950.0)
    end_trial(budget, study, 0.5)
    resumed, _ = make_budget("40m")
    resumed.resume(study)
    assert resumed.kept_seeds == budget.kept_seeds == study.user_attrs[SEEDS]


def test_in_the_first_half_of_its_time_a_search_is_not_stagnant():
    budget, _ = make_budget("40m")
    study = searched(budget, *[0.9, *[0.5] * 9])
    assert SEEDS not in study.user_attrs


def test_no_search_ends_for_more_seeds_than_enough():
    budget, _ = make_budget("8h")
    study = searched(at(budget, 0), 0.9)
    at(budget, 6 * HOUR)
    for _ in range(5):
        end_trial(budget, study, 0.5)
    assert budget.kept_seeds == ENOUGH_SEEDS and budget.search_left_s > HOUR


def test_with_a_budget_trials_begin_as_long_as_a_whole_run_fits():
    budget, spec = make_budget("1h")
    work = SearchWork(spec, budget)
    study = optuna.create_study()
    assert not work.is_spent(study, pending=50)
    budget.ends_at_s = time.monotonic() + budget.kept_back_s + 30
    assert work.is_spent(study, pending=0)
    assert not work.is_overdrawn()
    budget.ends_at_s -= 600
    assert work.is_overdrawn()
