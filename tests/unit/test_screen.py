"""Screening: who waits, who goes on, what the model sees; pure functions of the study's trials."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from okddip_search.algorithms.choice import Choice
from okddip_search.algorithms.ledger import Ledger
from okddip_search.algorithms.pruners import PRUNE_FROM
from okddip_search.algorithms.screen import Begin, GoOn, Room, Screening
from okddip_search.algorithms.surrogate import (
    MOST_ROWS,
    STARTUP_TRIALS,
    UNIFORM_SHARE,
    Surrogate,
    chosen,
    completed,
    propose,
    tamed,
)
from okddip_search.algorithms.view import Row, carried

EPOCHS, RUNG = 10, 3
GP, TPE = Choice(type="gp"), Choice(type="tpe")
LR = FloatDistribution(0.001, 1.0, log=True)
SCHEDULES = CategoricalDistribution(("multistep", "cosine"))
SCREENING = Screening(epochs=EPOCHS, sampler=GP, seed=0)


def trial(number, seen, level=0.5, *, state=TrialState.RUNNING, lr=0.1, paper=False, **more):
    """A trial whose values rise by 0.01 an epoch, up to ``level`` at its end."""
    values = {e: level - 0.01 * (EPOCHS - 1 - e) for e in range(seen)}
    made = create_trial(
        state=state,
        value=values[EPOCHS - 1] if state is TrialState.COMPLETE else None,
        params={"lr": lr, **more},
        distributions={"lr": LR, **({"lr_schedule": SCHEDULES} if more else {})},
        intermediate_values=values,
        user_attrs={PRUNE_FROM: RUNG - 1, **({"okddip:enqueued": True} if paper else {})},
    )
    made.number = number
    return made


def complete(number, level=0.5, **named):
    return trial(number, EPOCHS, level, state=TrialState.COMPLETE, **named)


def paused(number, level=0.5, **named):
    return trial(number, RUNG, level, **named)


def decide(trials, held=(), room=None):
    return SCREENING.decide(trials, held, len(trials), room or Room())


# --- who waits


def test_a_trial_at_its_rung_waits_unless_it_is_in_a_slot():
    trials = [paused(0), trial(1, RUNG - 1), trial(2, RUNG + 1)]
    assert [r.is_paused for r in SCREENING.runs(trials, held=())] == [True, False, False]
    assert not any(r.is_paused for r in SCREENING.runs(trials, held=(0,)))


def test_the_papers_setting_never_waits_but_other_enqueued_ones_do():
    trials = [paused(0, paper=True), paused(1, paper=True)]
    assert [r.is_paused for r in SCREENING.runs(trials, held=())] == [False, True]


def test_a_run_that_ends_before_it_may_be_judged_never_waits():
    short = Screening(epochs=RUNG, sampler=GP, seed=0)
    assert not any(r.is_paused for r in short.runs([paused(0)], held=()))


# --- the ledger


def test_the_ledger_counts_promises_and_not_what_has_been_trained():
    trials = [trial(0, 1, paper=True), trial(1, 1), paused(2), paused(3), complete(4)]
    ledger = Ledger.of(SCREENING.runs(trials, held=(0, 1, 3)))
    assert ledger.new == 5 * RUNG
    assert ledger.on == 3 * (EPOCHS - RUNG)  # the paper's, the one in a slot at its rung, the last


def test_a_trial_goes_on_while_beginnings_outweigh_ends():
    begun = [complete(0), paused(1, 0.6), *(paused(n, 0.4) for n in range(2, 5))]
    decision = decide(begun)  # 15 against 7
    assert isinstance(decision, GoOn)
    assert decision.number == 1


def test_a_trial_begins_while_ends_outweigh_beginnings():
    begun = [complete(0), complete(1), paused(2, 0.9)]  # 9 against 14
    assert isinstance(decide(begun), Begin)


def test_a_trial_that_cannot_beat_the_best_does_not_go_on():
    begun = [complete(n, 0.8 + 0.01 * n, lr=0.1 * (n + 1)) for n in range(3)]
    hopeless = np.geomspace(0.001, 0.005, 10)
    begun += [paused(n, 0.1, lr=float(lr)) for n, lr in enumerate(hopeless, start=3)]
    decision = decide(begun)
    assert isinstance(decision, Begin)


# --- the end-game


def test_in_the_end_game_the_best_that_fits_goes_on_whatever_the_ledger_says():
    begun = [complete(0, 0.9), complete(1, 0.8), paused(2, 0.3), paused(3, 0.5)]
    decision = decide(begun, room=Room(epochs=EPOCHS - 1))
    assert isinstance(decision, GoOn)
    assert decision.number == 3


def test_in_the_end_game_nothing_begins_that_could_not_end():
    assert decide([complete(0), paused(1)], room=Room(epochs=EPOCHS - RUNG - 1)) is None
    assert decide([complete(0)], room=Room(epochs=EPOCHS - 1)) is None


def test_when_no_more_may_begin_the_ledger_is_still_settled():
    begun = [complete(0), *(paused(n, 0.6) for n in range(1, 5))]
    assert isinstance(decide(begun, room=Room(may_begin=False)), GoOn)
    settled = [complete(0), complete(1), paused(2)]
    assert decide(settled, room=Room(may_begin=False)) is None


# --- what the model sees


def values_of(trials, held=()):
    return [row.value for row in carried(SCREENING.runs(trials, held))]


def test_a_waiting_trial_is_carried_to_its_end_by_what_the_complete_ones_gained():
    assert values_of([complete(0), complete(1), paused(2, 0.5)])[2] == pytest.approx(0.5)


def test_what_is_ahead_early_is_expected_to_gain_less_where_that_is_what_happens():
    """Complete trials end at 0.9, wherever they were: so will the others, more or less."""
    known = [complete(n, 0.9) for n in range(6)]
    for early, each in zip((0.2, 0.3, 0.4, 0.5, 0.6, 0.7), known, strict=True):
        each.intermediate_values[RUNG - 1] = early
    behind, ahead = paused(6), paused(7)
    behind.intermediate_values[RUNG - 1], ahead.intermediate_values[RUNG - 1] = 0.3, 0.7
    low, high = values_of([*known, behind, ahead])[6:]
    assert 0.8 < low < 0.9 < high < 1.0


def test_each_schedule_is_carried_by_the_gain_of_its_own():
    late = complete(0, lr_schedule="multistep")
    late.intermediate_values[RUNG - 1] = 0.1  # before the rate's first drop
    early = complete(1, lr_schedule="cosine")
    early.intermediate_values[RUNG - 1] = 0.45
    waiting = [paused(n, lr_schedule=s) for n, s in enumerate(("multistep", "cosine"), 2)]
    for each in waiting:
        each.intermediate_values[RUNG - 1] = 0.3
    assert values_of([late, early, *waiting])[2:] == pytest.approx([0.7, 0.35])


def test_a_trial_is_judged_by_the_mean_of_its_last_epochs_where_one_is_noisy():
    steady, lucky = paused(2), paused(3)
    lucky.intermediate_values[RUNG - 1] += 0.3
    rows = carried(SCREENING.runs([complete(0), complete(1), steady, lucky], ()), window=3)
    assert rows[3].value - rows[2].value == pytest.approx(0.1)


def test_a_trial_that_failed_counts_as_the_worst_one():
    failed = trial(2, 1, state=TrialState.FAIL)
    assert values_of([complete(0), paused(1, 0.2), failed])[2] == pytest.approx(0.2)


def test_a_trial_too_young_to_be_judged_has_no_value():
    assert values_of([complete(0), trial(1, RUNG - 1)], held=(1,))[1] is None


def row(number, value, **params):
    distributions = {"lr": LR, "peers": IntDistribution(2, 6), "lr_schedule": SCHEDULES}
    return Row(number, params, {k: distributions[k] for k in params}, value)


def test_a_parameter_that_does_not_apply_gets_the_middle_of_its_range():
    space = {"lr": LR, "peers": IntDistribution(2, 6), "lr_schedule": SCHEDULES}
    filled = completed({}, space)
    assert filled["lr"] == pytest.approx(0.0316, rel=0.01)
    assert filled["peers"] == 4
    assert filled["lr_schedule"] == "multistep"


def test_a_model_of_a_space_with_conditions_predicts_and_proposes():
    draw = np.random.default_rng(1)
    rows = []
    for number in range(20):
        lr = float(10 ** draw.uniform(-3, 0))
        extra = {"peers": int(draw.integers(2, 7))} if number % 2 else {}
        rows.append(row(number, -abs(np.log10(lr) + 1), lr=lr, **extra))
    surrogate = Surrogate.fitted(rows)
    means, sds = surrogate.predict([row(90, None, lr=0.1), row(91, None, lr=0.001, peers=2)])
    assert means[0] > means[1]
    assert (sds >= 0).all()
    assert set(propose(rows, GP, seed=0, number=30).params) == {"lr", "peers"}


def test_a_collapsed_run_is_only_bad():
    rows = [row(n, v, lr=0.1) for n, v in enumerate((0.5, 0.6, 0.7, -1e18))]
    assert min(r.value for r in tamed(rows)) > -1


def test_the_model_is_fitted_to_the_best_the_newest_and_a_spread():
    draw = np.random.default_rng(2)
    rows = [row(n, float(draw.random()), lr=0.1) for n in range(500)]
    kept = {r.number for r in chosen(rows)}
    best = {r.number for r in sorted(rows, key=lambda r: -r.value)[:20]}
    assert len(kept) == MOST_ROWS
    assert best <= kept
    assert set(range(490, 500)) <= kept
    assert min(kept) < 100


@pytest.mark.parametrize("sampler", [GP, TPE])
def test_proposals_are_near_the_best_and_depend_on_seed_and_number_alone(sampler):
    draw = np.random.default_rng(3)
    lrs = [float(10 ** draw.uniform(-3, 0)) for _ in range(25)]
    rows = [row(n, -abs(np.log10(lr) + 1), lr=lr) for n, lr in enumerate(lrs)]
    proposed = [propose(rows, sampler, seed=0, number=n) for n in range(30, 50)]
    modelled = [p.params["lr"] for p in proposed if p]
    assert abs(np.median(np.log10(modelled)) + 1) < 0.3
    assert [propose(rows, sampler, seed=0, number=n) for n in range(30, 50)] == proposed


def test_the_first_trials_and_a_tenth_of_the_others_are_drawn_at_random():
    rows = [row(n, float(n), lr=0.1 + 0.01 * n) for n in range(2)]
    assert not any(propose(rows, GP, seed=0, number=n) for n in range(STARTUP_TRIALS))
    later = [propose(rows, TPE, seed=0, number=n) for n in range(10, 210)]
    at_random = later.count(None) / len(later)
    assert abs(at_random - UNIFORM_SHARE) < 0.06


def test_a_sampler_without_a_model_proposes_by_itself():
    by_chance = Screening(epochs=EPOCHS, sampler=Choice(type="qmc"), seed=0)
    assert by_chance.decide([complete(0)], (), 20, Room()) == Begin()
