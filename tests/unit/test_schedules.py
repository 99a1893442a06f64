"""Schedules are pure functions of the epoch, so that a resumed run needs no state for them."""

import math

import pytest

from trainer.config.train import TrainConfig
from trainer.schedules import cosine_lr, learning_rate, multistep_lr, rampup_weight


def test_rampup_starts_at_exp_minus_5_rises_and_stays_at_1():
    weights = [rampup_weight(epoch, 10) for epoch in range(20)]
    assert weights[0] == pytest.approx(math.exp(-5))
    assert weights[5] == pytest.approx(math.exp(-5 * 0.25))
    assert all(a < b for a, b in zip(weights[:10], weights[1:11], strict=True))
    assert weights[10:] == [1.0] * 10


def test_rampup_of_length_0_and_1():
    assert [rampup_weight(epoch, 0) for epoch in range(3)] == [1, 1, 1]
    assert [rampup_weight(epoch, 1) for epoch in range(3)] == [pytest.approx(math.exp(-5)), 1, 1]


def test_multistep_drops_at_the_milestone_itself():
    rates = [multistep_lr(epoch, 20, 0.8, (0.5, 0.75), 0.1) for epoch in range(20)]
    assert rates == pytest.approx([0.8] * 10 + [0.08] * 5 + [0.008] * 5)


def test_multistep_without_milestones_is_constant():
    assert {multistep_lr(epoch, 5, 0.3, (), 0.1) for epoch in range(5)} == {0.3}


def test_multistep_milestones_fall_on_the_nearest_whole_epoch():
    rates = [multistep_lr(epoch, 7, 1.0, (0.5,), 0.1) for epoch in range(7)]
    assert rates.index(0.1) == 4  # 3.5, rounded to even


def test_cosine_falls_from_lr_along_half_a_wave_and_never_reaches_0_within_the_run():
    rates = [cosine_lr(epoch, 10, 0.2) for epoch in range(10)]
    assert rates[0] == 0.2
    assert rates[5] == pytest.approx(0.1)
    assert all(a > b > 0 for a, b in zip(rates, rates[1:], strict=False))


def test_a_run_uses_the_schedule_that_it_names():
    fields = {"lr": 0.3, "epochs": 12, "lr_milestones": (0.25,), "lr_decay": 0.5}
    steps = TrainConfig(**fields, lr_schedule="multistep")
    assert [learning_rate(steps, e) for e in (0, 2, 3, 11)] == [0.3, 0.3, 0.15, 0.15]
    cosine = TrainConfig(**fields, lr_schedule="cosine")
    assert [learning_rate(cosine, e) for e in range(12)] == [
        cosine_lr(e, 12, 0.3) for e in range(12)
    ]
