"""A gain is one only outside the noise, and whoever reads the verdict is told in plain words."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from okddip_search.confirm.statistics import (
    Comparison,
    Outcome,
    Scores,
    _bootstrap,
    _differences,
    _noise,
    adjust,
    compare,
    noise_floor,
    pick_winner,
    seeds_needed,
    summary,
    verdict,
)

# Textbook data: paired differences +1.0, +0.6, +1.4, +0.8, +1.2 points.
WINNER = {0: 0.910, 1: 0.906, 2: 0.914, 3: 0.908, 4: 0.912}
RIVAL = dict.fromkeys(range(5), 0.900)


def by_seed(*values: float) -> Scores:
    return dict(enumerate(values))


def noisy(seeds: int, configurations: int, gain: float = 0.0, seed: int = 0) -> dict[str, Scores]:
    """Draw scores of "w", which is better by ``gain``, and "r0", "r1", …; noise 0.01 a run."""
    draws = 0.9 + 0.01 * np.random.default_rng(seed).standard_normal((configurations, seeds))
    draws[0] += gain
    labels = ["w"] + [f"r{i}" for i in range(configurations - 1)]
    return {label: by_seed(*row) for label, row in zip(labels, draws.tolist(), strict=True)}


def one(winner: Scores, baseline: Scores, **others: Scores) -> Comparison:
    return compare("w", {"w": winner, "r": baseline, **others}, ["r"], num_candidates=1)[0]


def critical_value(seen: Comparison) -> float:
    """Half the interval in standard errors."""
    assert seen.high is not None and seen.difference is not None and seen.sd is not None
    return (seen.high - seen.difference) / seen.sd * math.sqrt(seen.n)


def found(kind: Outcome, baseline: str = "r", points: float = 1.0, **fields: object) -> Comparison:
    base = Comparison(
        baseline=baseline,
        difference=points / 100,
        low=points / 100 - 0.009,
        high=points / 100 + 0.009,
        verdict=kind,
        p_value=0.001 if kind != "within noise" else 0.4,
        n=5,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


class TestSummaries:
    def test_mean_and_spread(self) -> None:
        seen = summary(by_seed(0.7, 0.8, 0.9))
        assert (seen.mean, seen.sd, seen.n) == (pytest.approx(0.8), pytest.approx(0.1), 3)

    def test_one_seed_has_no_spread(self) -> None:
        assert summary(by_seed(0.7)).sd is None
        assert noise_floor("w", by_seed(0.7), "test") is None
        assert noise_floor("w", {}, "test") is None

    def test_no_seed_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no scores"):
            summary({})

    def test_noise_floor_has_the_chi_square_interval(self) -> None:
        floor = noise_floor("single", by_seed(0.7, 0.8, 0.9), "validation")
        assert floor is not None
        # Tables: chi-square of 2 degrees of freedom, 0.0506 and 7.378
        assert floor.sd == pytest.approx(0.1)
        assert floor.low == pytest.approx(0.1 * math.sqrt(2 / 7.378), rel=1e-3)
        assert floor.high == pytest.approx(0.1 * math.sqrt(2 / 0.0506), rel=1e-3)


class TestTheWinner:
    def test_has_the_best_mean(self) -> None:
        assert pick_winner({"a": by_seed(0.9, 0.5), "b": by_seed(0.8, 0.8)}) == "b"

    def test_is_the_first_of_equals(self) -> None:
        assert pick_winner({"b": by_seed(0.8), "a": by_seed(0.8)}) == "b"

    def test_has_run(self) -> None:
        assert pick_winner({"a": {}, "b": by_seed(0.1)}) == "b"
        with pytest.raises(ValueError, match="no candidate"):
            pick_winner({"a": {}})


class TestFiveSeedsAndMore:
    def test_are_judged_by_the_paired_t_test(self) -> None:
        seen = one(WINNER, RIVAL)
        reference = stats.ttest_rel(list(WINNER.values()), list(RIVAL.values()))
        interval = reference.confidence_interval(0.95)
        assert seen.method == "paired t"
        assert (seen.winner_mean, seen.baseline_mean) == (pytest.approx(0.91), pytest.approx(0.9))
        assert seen.difference == pytest.approx(0.01)
        assert seen.p_value == pytest.approx(reference.pvalue)
        assert (seen.low, seen.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
        assert (seen.verdict, seen.seeds_needed) == ("better", None)

    def test_say_the_reverse_of_the_reverse(self) -> None:
        seen, reverse = one(WINNER, RIVAL), one(RIVAL, WINNER)
        assert reverse.verdict == "worse"
        assert reverse.p_value == seen.p_value
        assert reverse.low == pytest.approx(-seen.high)  # type: ignore[operator]

    def test_a_good_or_bad_seed_for_all_does_not_count(self) -> None:
        luck = [0.05, -0.03, 0.01, -0.06, 0.02]
        shifted = [{s: v + luck[s] for s, v in scores.items()} for scores in (WINNER, RIVAL)]
        assert one(*shifted).p_value == pytest.approx(one(WINNER, RIVAL).p_value)

    def test_bystanders_do_not_count(self) -> None:
        wild = by_seed(0.1, 0.9, 0.2, 0.8, 0.5)
        assert one(WINNER, RIVAL, wild=wild) == one(WINNER, RIVAL)


class TestFewerSeeds:
    def test_learn_the_noise_from_all_configurations(self) -> None:
        widths = []
        for seed in range(50):
            scores = noisy(seeds=3, configurations=8, seed=seed)
            seen = compare("w", scores, ["r0"], num_candidates=1)[0]
            alone = one(scores["w"], scores["r0"])
            assert (seen.method, alone.method) == ("bootstrap", "paired t")
            widths += [[critical_value(seen), critical_value(alone)]]
        among_all, by_itself = np.mean(widths, axis=0)
        draws = np.random.default_rng(1).standard_normal((8, 3, 20_000))
        pairs = _differences(draws)
        truth = np.quantile(np.abs(pairs.mean(axis=1)) / _noise(pairs) * math.sqrt(3), 0.95)
        assert among_all == pytest.approx(truth, rel=0.05)
        assert 2.14 < among_all < 4.30  # tables of t, for the 14 degrees of freedom of all, for 2
        assert by_itself == pytest.approx(4.30, abs=0.01)

    def test_repeat_to_the_last_digit(self) -> None:
        scores = noisy(seeds=3, configurations=5)
        first = compare("w", scores, ["r0", "r1"], num_candidates=3)
        _bootstrap.cache_clear()
        assert compare("w", scores, ["r1", "r0"], num_candidates=3) == first[::-1]

    def test_two_configurations_have_but_their_own_noise(self) -> None:
        seen = one(by_seed(0.91, 0.92, 0.94), by_seed(0.90, 0.90, 0.90))
        assert seen.method == "paired t"
        assert seen.p_value == pytest.approx(stats.ttest_1samp([1, 2, 4], 0).pvalue)

    def test_one_seed_proves_nothing(self) -> None:
        scores = noisy(seeds=1, configurations=4, gain=0.5)
        seen = compare("w", scores, ["r0"], num_candidates=1)[0]
        assert (seen.method, seen.verdict, seen.seeds_needed) == ("none", "within noise", None)
        assert (seen.low, seen.high, seen.p_adjusted) == (None, None, 1.0)
        assert seen.describe().startswith("within noise (needs more seeds): +")
        assert seen.describe().endswith("points, one seed")


class TestMissingRuns:
    def test_a_pair_is_judged_on_its_common_seeds(self) -> None:
        baseline = {seed: RIVAL[seed] for seed in (4, 2, 1, 3)} | {9: 0.1}
        seen = one(WINNER, baseline)
        assert seen.n == 4
        assert seen.winner_mean == pytest.approx(np.mean([WINNER[s] for s in (1, 2, 3, 4)]))
        assert seen.baseline_mean == pytest.approx(0.9)

    def test_configurations_without_the_pairs_seeds_are_no_bystanders(self) -> None:
        scores = noisy(seeds=3, configurations=5)
        scores["r3"] = {0: 0.9}
        fewer = {label: s for label, s in scores.items() if label != "r3"}
        whole, less = (compare("w", s, ["r0"], num_candidates=1) for s in (scores, fewer))
        assert whole == less

    def test_no_common_seed_is_within_noise(self) -> None:
        seen = one(WINNER, {7: 0.9})
        assert (seen.n, seen.difference, seen.verdict) == (0, None, "within noise")
        assert seen.describe() == "within noise (needs more seeds): no seed in common"
        assert not verdict("w", [found("better"), seen]).allows_champion


class TestNoNoise:
    def test_identical_runs_are_no_gain(self) -> None:
        seen = one(WINNER, WINNER)
        assert (seen.verdict, seen.p_value, seen.seeds_needed) == ("within noise", 1.0, None)
        assert (
            seen.describe()
            == "within noise (needs more seeds): +0.00 points, the same at all 5 seeds"
        )

    @pytest.mark.parametrize(
        ("n", "verdict"), [(2, "within noise"), (5, "within noise"), (6, "better")]
    )
    def test_the_same_difference_everywhere_has_but_its_signs(self, n: int, verdict: str) -> None:
        seen = one(by_seed(*[0.91] * n), by_seed(*[0.9] * n))
        assert seen.p_value == 2 * 0.5**n
        assert (seen.verdict, seen.low, seen.sd) == (verdict, None, None)

    def test_rounding_is_no_noise(self) -> None:
        shared = [0.1, 0.7, 0.3, 0.9, 0.5]
        seen = one(by_seed(*(s + 0.01 for s in shared)), by_seed(*shared))
        assert (seen.low, seen.p_value) == (None, 0.0625)


class TestManyComparisons:
    def test_holm_by_hand(self) -> None:
        # 4 × 0.01, 3 × 0.013 (not below the one before), 2 × 0.03, 1 × 0.2
        assert adjust([0.03, 0.01, 0.2, 0.013], 1) == pytest.approx([0.06, 0.04, 0.2, 0.04])
        assert adjust([0.6, 0.9], 1) == [1.0, 1.0]
        assert adjust([], 3) == []

    @pytest.mark.parametrize(("candidates", "factor"), [(1, 1), (2, 1), (3, 1.5), (5, 2.5)])
    def test_choosing_among_candidates_costs(self, candidates: int, factor: float) -> None:
        # One false "better" is half of a two-sided error, and has so many chances.
        assert adjust([0.01, 0.02], candidates) == pytest.approx([0.02 * factor] * 2)

    def test_a_gain_that_is_clear_alone_may_not_be_among_many(self) -> None:
        scores = {"w": by_seed(0.91, 0.93, 0.93, 0.95, 0.92), **{f"r{i}": RIVAL for i in range(6)}}
        alone = compare("w", scores, ["r0"], 1)[0]
        among = compare("w", scores, ["r0", "r1", "r2", "r3", "r4", "r5"], 3)[0]
        assert alone.p_value == among.p_value < 0.05 < among.p_adjusted
        assert among.verdict == "within noise"
        assert among.describe().endswith(", too little for so many comparisons")
        assert among.seeds_needed is not None
        assert among.seeds_needed > 5

    def test_keep_the_order_of_the_baselines(self) -> None:
        baselines = ["r2", "r0", "r1"]
        assert [c.baseline for c in compare("w", noisy(5, 4), baselines, 1)] == baselines

    def test_what_is_found_lies_outside_its_interval(self) -> None:
        findings = set()
        for seed in range(200):
            gain = 0.02 * (seed % 3 - 1)
            for seen in compare("w", noisy(2 + seed % 5, 5, gain, seed), ["r0", "r1", "r2"], 1):
                findings.add((seen.verdict, seen.method))
                assert seen.low is not None and seen.high is not None
                assert seen.verdict != "better" or seen.low > 0
                assert seen.verdict != "worse" or seen.high < 0
        assert len(findings) == 6  # three findings by two methods


class TestSeedsNeeded:
    @pytest.mark.parametrize(
        ("effect", "seeds"), [(1.5, 6), (1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)]
    )
    def test_of_the_power_tables(self, effect: float, seeds: int) -> None:
        # G*Power 3.1, difference of two dependent means, two-sided, 5 %, power 80 %
        assert seeds_needed(effect) == seeds_needed(-effect) == seeds

    def test_at_least_two_and_at_most_a_thousand(self) -> None:
        assert seeds_needed(1e6) == 2
        assert seeds_needed(0.0887) == 1000
        assert seeds_needed(0.08) is None

    def test_are_more_than_there_were(self) -> None:
        for seed in range(200):
            n = 2 + seed % 9
            for seen in compare("w", noisy(n, 4, seed=seed), ["r0", "r1", "r2"], 3):
                if seen.verdict == "within noise":
                    assert seen.seeds_needed is None or seen.seeds_needed > n

    def test_are_told_in_words(self) -> None:
        assert found("within noise", seeds_needed=1000).needs == "needs about 1000 seeds"
        assert found("within noise").needs == "needs more than 1,000 seeds"


class TestWords:
    def test_of_a_comparison(self) -> None:
        assert found("better", points=1.3).describe() == (
            "better: +1.30 points, 95 % interval +0.40 to +2.20"
        )
        assert found("within noise", points=-0.3, seeds_needed=41).describe() == (
            "within noise (needs about 41 seeds): -0.30 points, 95 % interval -1.20 to +0.60"
        )

    def test_zero_has_no_minus(self) -> None:
        assert found("within noise", points=-0.001, seeds_needed=41).numbers.startswith("+0.00 ")

    CASES = [
        ([], "trial 7 was compared with nothing.", "unconfirmed"),
        (
            [found("better", "single", 1.3)],
            "trial 7 is better than single (+1.30 points, 95 % interval +0.40 to +2.20).",
            "confirmed",
        ),
        (
            [
                found("better", "a", 1.3),
                found("better", "b", 1.2, p_value=0.01),
                found("better", "c"),
            ],
            "trial 7 is better than all 3 baselines "
            "(closest call: b, +1.20 points, 95 % interval +0.30 to +2.10).",
            "confirmed",
        ),
        (
            [found("better", "single", 1.3), *[found("within noise", r) for r in "abcd"]],
            "trial 7 is better than single (+1.30 points, 95 % interval +0.40 to +2.20), "
            "and within noise of 4 other baselines.",
            "partly",
        ),
        (
            [found("within noise", "single", 1.3, seeds_needed=12)],
            "No gain is shown: trial 7 is within noise of single (needs about 12 seeds).",
            "unconfirmed",
        ),
        (
            [*[found("within noise", r) for r in "ab"], found("within noise", "c", p_value=0.1)],
            "No gain is shown: trial 7 is within noise of all 3 baselines "
            "(closest call: c, needs more than 1,000 seeds).",
            "unconfirmed",
        ),
        (
            [found("better", "a", 1.3), found("worse", "b", -1.0), found("within noise", "c")],
            "trial 7 is worse than b (-1.00 points, 95 % interval -1.90 to -0.10), "
            "and better than a (+1.30 points, 95 % interval +0.40 to +2.20), "
            "and within noise of c.",
            "beaten",
        ),
    ]

    @pytest.mark.parametrize(("comparisons", "sentence", "status"), CASES)
    def test_of_the_verdict(
        self, comparisons: Sequence[Comparison], sentence: str, status: str
    ) -> None:
        said = verdict("trial 7", comparisons)
        assert (said.sentence, said.status) == (sentence, status)
        assert said.allows_champion == (status == "confirmed")

    def test_a_gain_inside_the_noise_is_never_a_number_in_the_verdict(self) -> None:
        for comparisons, _, _ in self.CASES:
            for seen in comparisons:
                if seen.verdict == "within noise":
                    others = [
                        replace(c, difference=None, low=None) for c in comparisons if c != seen
                    ]
                    assert "+" not in verdict("w", [seen, *others]).sentence
