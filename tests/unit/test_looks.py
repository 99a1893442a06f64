"""The looks of ``seeds: auto``: planned beforehand, the same however often they are replayed."""

from dataclasses import replace

import numpy as np
import pytest

from okddip_search.confirm.looks import BETTER, Design, judge, planned_looks, rules
from okddip_search.confirm.statistics import compare

LOOKS = (3, 5, 7, 10)
SEEDS = range(10)


def scores_of(gains, seeds=10, seed=0):
    """Return scores of a winner that is better than each baseline by a gain, in sd of a run."""
    noise = np.random.default_rng(seed).standard_normal((1 + len(gains), seeds))
    return noise - np.array([0.0, *gains])[:, None]


def by_label(table):
    labels = ["w", *(f"r{i}" for i in range(len(table) - 1))]
    return {
        label: {seed: value for seed, value in enumerate(row) if np.isfinite(value)}
        for label, row in zip(labels, (table / 100).tolist(), strict=True)
    }


def compared(table, design, looks_done=None):
    scores = by_label(table)
    baselines = [label for label in scores if label != "w"]
    return compare("w", scores, baselines, design, SEEDS, looks_done)


@pytest.mark.parametrize(
    ("most", "looks"), [(10, LOOKS), (8, (3, 5, 7, 8)), (3, (3,)), (20, (3, 5, 7, 10, 14, 20))]
)
def test_looks_are_planned_up_to_the_largest_number_of_seeds(most, looks):
    assert planned_looks(most) == looks


def test_the_error_is_shared_out_beforehand_and_spent_in_full_at_the_last_look():
    spent = Design(3, 6, LOOKS).spent(BETTER)
    assert spent == pytest.approx([BETTER * share for share in (0.09, 0.25, 0.49, 1)])


def test_the_first_look_asks_for_the_clearest_gain():
    found = rules(Design(3, 3, LOOKS), LOOKS)
    assert (np.diff(found.better, axis=0) < 0).all()
    assert (np.diff(found.better, axis=1) >= 0).all()  # the largest of more statistics


def test_who_is_beaten_or_hopeless_leaves_and_the_others_go_on():
    found = judge(scores_of([30.0, 0.9, -1.0]), Design(3, 3, LOOKS))
    assert found.outcome.tolist() == [1, 0, 0]
    assert found.left[0] == 0 and found.left[2] == 0
    assert found.left[1] > 0
    assert found.seen.seeds.tolist() == [3, LOOKS[found.left[1]], 3]


def test_what_a_baseline_scores_after_it_left_does_not_count():
    scores = scores_of([30.0, 0.9, -1.0])
    changed = scores.copy()
    changed[[1, 3], 3:] = np.nan  # never trained
    whole, less = (judge(table, Design(3, 3, LOOKS)) for table in (scores, changed))
    assert whole.left.tolist() == less.left.tolist()
    np.testing.assert_array_equal(whole.margin, less.margin)


def test_an_earlier_look_says_the_same_when_it_is_replayed_later():
    design = Design(3, 4, LOOKS)
    for seed in range(20):
        table = scores_of([3.0, 1.5, 0.5, -0.5], seed=seed)
        last = compared(table, design)
        for looks in (1, 2, 3):
            some = table.copy()
            some[:, LOOKS[looks - 1] :] = np.nan
            early = compared(some, design, looks)
            for then, now in zip(early, last, strict=True):
                if then.left != "not settled":
                    assert replace(then, seeds_needed=now.seeds_needed) == now
                else:
                    assert (then.verdict, then.look) == ("within noise", looks)
                    assert now.look > looks


def test_every_verdict_lies_outside_its_interval_and_has_a_small_enough_p_value():
    design = Design(3, 3, LOOKS)
    spent = design.spent(BETTER)
    seen = set()
    for seed in range(40):
        for one in compared(scores_of([3.0, 1.5, 0.5], seed=seed), design):
            seen.add((one.verdict, one.left))
            is_better = one.verdict == "better"
            assert is_better == (one.p_adjusted <= spent[one.look - 1] and one.low > 0)
    assert {("better", "decided"), ("within noise", "hopeless")} <= seen


def test_words_tell_who_left_without_a_gain_in_sight():
    [hopeless] = compared(scores_of([-2.0]), Design(3, 1, LOOKS))
    assert (hopeless.left, hopeless.n) == ("hopeless", 3)
    assert hopeless.describe().startswith("within noise (no gain in sight after 3 seeds): ")


def test_failed_runs_are_left_out_of_each_look():
    scores = scores_of([30.0, 30.0])
    scores[1, 0] = np.nan
    whole, fewer = compared(scores, Design(3, 2, LOOKS))[::-1]
    assert whole.look == 1
    assert fewer.n == LOOKS[fewer.look - 1] - 1
    assert fewer.verdict == "better"


def test_two_of_three_failed_runs_decide_nothing_at_the_first_look():
    scores = scores_of([30.0, 30.0])
    scores[1, :2] = np.nan
    first, _ = compared(scores, Design(3, 2, LOOKS), 1)
    assert (first.verdict, first.left, first.low) == ("within noise", "not settled", None)


class TestAPrimaryQuestion:
    def test_is_asked_at_the_full_error(self):
        alone, among = (
            rules(Design(3, r, LOOKS, primary), LOOKS) for r, primary in ((6, 0), (6, None))
        )
        assert (alone.better[:, 0] < among.better[:, 5]).all()
        near = 0.5 * (alone.better[3, 0] + among.better[3, 5])
        outcomes = []
        for primary in (0, None):
            table = scores_of([1.0] * 6, seed=3)
            design = Design(3, 6, (10,), primary)
            seen = judge(table, design).seen
            table[1] += seen.difference[0] - near * seen.error[0]
            outcomes.append(judge(table, design).outcome[0])
        assert outcomes == [1, 0]

    def test_holds_the_others_up_until_it_is_answered(self):
        table = scores_of([1.2, 30.0])
        free, held = (judge(table, Design(3, 2, LOOKS, primary)) for primary in (None, 0))
        assert free.left[1] == 0
        assert held.left[1] > 0

    def test_ends_all_where_it_is_answered_with_no(self):
        primary, other = compared(scores_of([-2.0, 30.0]), Design(3, 2, LOOKS, 0))
        assert (primary.left, other.left) == ("hopeless", "primary not beaten")
        assert (other.look, other.verdict) == (1, "within noise")
        assert "not tested, because the primary baseline is not beaten" in other.describe()
