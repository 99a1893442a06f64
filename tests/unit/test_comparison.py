"""A gain is one only outside the noise, and whoever reads the verdict is told in plain words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from okddip_search.confirm.chance import by_chance
from okddip_search.confirm.looks import BETTER, WORSE, Design, rules
from okddip_search.confirm.statistics import (
    Comparison,
    Outcome,
    Scores,
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
SEEDS = range(5)


def by_seed(*values: float) -> Scores:
    return dict(enumerate(values))


def noisy(seeds: int, configurations: int, gain: float = 0.0, seed: int = 0) -> dict[str, Scores]:
    """Draw scores of "w", which is better by ``gain``, and "r0", "r1", …; noise 0.01 a run."""
    draws = 0.9 + 0.01 * np.random.default_rng(seed).standard_normal((configurations, seeds))
    draws[0] += gain
    labels = ["w"] + [f"r{i}" for i in range(configurations - 1)]
    return {label: by_seed(*row) for label, row in zip(labels, draws.tolist(), strict=True)}


def one(winner: Scores, baseline: Scores, seeds: Sequence[int] | None = None) -> Comparison:
    """Compare one candidate with one baseline."""
    seeds = seeds or list(winner)
    design = Design(1, 1, (len(seeds),))
    return compare("w", {"w": winner, "r": baseline}, ["r"], design, seeds)[0]


def judged(scores: Mapping[str, Scores], baselines: Sequence[str] = ()) -> list[Comparison]:
    """Compare the best of three candidates with baselines, all of them if none are named."""
    baselines = baselines or [label for label in scores if label != "w"]
    seeds = list(scores["w"])
    return compare("w", scores, baselines, Design(3, len(baselines), (len(seeds),)), seeds)


def found(kind: Outcome, baseline: str = "r", points: float = 1.0, **fields: object) -> Comparison:
    base = Comparison(
        baseline=baseline,
        difference=points / 100,
        low=points / 100 - 0.009,
        high=points / 100 + 0.009,
        verdict=kind,
        p_adjusted=0.001 if kind != "within noise" else 0.4,
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


# docs/confirm.md goes through this example by hand.
EXAMPLE = {
    "w": by_seed(0.920, 0.916, 0.924, 0.920),
    "single": by_seed(0.909, 0.907, 0.911, 0.911),
    "dml": by_seed(0.915, 0.917, 0.919, 0.913),
}


class TestTheWorkedExample:
    def test_has_the_numbers_of_the_docs(self) -> None:
        single, dml = compare("w", EXAMPLE, ["single", "dml"], Design(3, 2, (4,)), range(4))
        # points: differences 1.1 0.9 1.3 0.9 and 0.5 -0.1 0.5 0.7, variances 0.11 / 3, 0.36 / 3 and
        # 0.35 / 3 (single and dml), their mean 0.0911; (3 × 0.0367 + 2 × 0.0911) / 5 = 0.0584
        assert (single.difference, dml.difference) == pytest.approx((0.0105, 0.0040))
        assert single.sd == pytest.approx(math.sqrt(0.0584) / 100, rel=1e-3)
        assert dml.sd == pytest.approx(math.sqrt(0.1084) / 100, rel=1e-3)
        assert single.describe() == "better: +1.05 points, 95 % interval +0.73 to +1.37"
        assert dml.describe() == (
            "within noise (needs about 10 seeds): +0.40 points, 95 % interval -0.03 to +0.83"
        )

    def test_steps_down_over_the_critical_values_of_the_docs(self) -> None:
        found = rules(Design(3, 2, (4,)), (4,))
        assert found.better[0] == pytest.approx([3.16, 3.71], abs=0.05)
        assert found.interval[0] == pytest.approx(2.61, abs=0.05)


class TestTheTest:
    def test_of_one_pair_alone_is_the_paired_t_test(self) -> None:
        seen = one(WINNER, RIVAL)
        interval = stats.ttest_rel(list(WINNER.values()), list(RIVAL.values())).confidence_interval(
            0.95
        )
        assert (seen.winner_mean, seen.baseline_mean) == (pytest.approx(0.91), pytest.approx(0.9))
        assert seen.difference == pytest.approx(0.01)
        # Drawn, not tabulated: the critical value of t has a standard error of about 1 %.
        assert (seen.low, seen.high) == pytest.approx((interval.low, interval.high), rel=0.02)
        assert (seen.verdict, seen.seeds_needed) == ("better", None)

    def test_has_the_p_value_of_the_t_test_for_one_pair_alone(self) -> None:
        seen = one(by_seed(0.91, 0.92, 0.94, 0.91), by_seed(0.90, 0.90, 0.90, 0.90))
        one_sided = stats.ttest_1samp([1, 2, 4, 1], 0, alternative="greater").pvalue
        assert seen.p_adjusted == pytest.approx(one_sided, rel=0.03)

    def test_says_the_reverse_of_the_reverse(self) -> None:
        seen, reverse = one(WINNER, RIVAL), one(RIVAL, WINNER)
        assert reverse.verdict == "worse"
        assert reverse.p_adjusted == pytest.approx(seen.p_adjusted, rel=0.2)
        assert reverse.low == pytest.approx(-seen.high)  # type: ignore[operator]

    def test_ignores_a_good_or_bad_seed_for_all(self) -> None:
        luck = [0.05, -0.03, 0.01, -0.06, 0.02]
        shifted = [{s: v + luck[s] for s, v in scores.items()} for scores in (WINNER, RIVAL)]
        assert one(*shifted).low == pytest.approx(one(WINNER, RIVAL).low)

    def test_learns_a_pairs_noise_in_part_from_the_others(self) -> None:
        calm = by_seed(0.900, 0.901, 0.899, 0.900, 0.901)
        wild = by_seed(0.1, 0.9, 0.2, 0.8, 0.5)
        alone, among_wild = (
            compare("w", {"w": WINNER, "r": RIVAL, "x": x}, ["r", "x"], Design(1, 2, (5,)), SEEDS)[
                0
            ]
            for x in (calm, wild)
        )
        assert among_wild.sd > 5 * alone.sd  # type: ignore[operator]

    @pytest.mark.parametrize("baselines", [1, 3])
    def test_asks_for_less_the_more_seeds_there_are(self, baselines: int) -> None:
        critical = [
            rules(Design(3, baselines, (n,)), (n,)).better[0, -1] for n in (2, 3, 4, 5, 6, 8)
        ]
        assert critical == sorted(critical, reverse=True)

    def test_repeats_to_the_last_digit(self) -> None:
        scores = noisy(seeds=3, configurations=5)
        first = compare("w", scores, ["r0", "r1"], Design(3, 2, (3,)), range(3))
        by_chance.cache_clear()
        rules.cache_clear()
        assert compare("w", scores, ["r1", "r0"], Design(3, 2, (3,)), range(3)) == first[::-1]

    def test_of_one_seed_proves_nothing(self) -> None:
        scores = noisy(seeds=1, configurations=4, gain=0.5)
        seen = judged(scores)[0]
        assert (seen.method, seen.verdict, seen.seeds_needed) == ("none", "within noise", None)
        assert (seen.low, seen.high, seen.p_adjusted) == (None, None, 1.0)
        assert seen.describe().startswith("within noise (needs more seeds): +")
        assert seen.describe().endswith("points, one seed")


class TestMissingRuns:
    def test_a_pair_is_judged_on_its_common_seeds(self) -> None:
        baseline = {seed: RIVAL[seed] for seed in (4, 2, 1, 3)}
        seen = one(WINNER, baseline)
        assert seen.n == 4
        assert seen.winner_mean == pytest.approx(np.mean([WINNER[s] for s in (1, 2, 3, 4)]))
        assert seen.baseline_mean == pytest.approx(0.9)
        alone = one({s: WINNER[s + 1] for s in range(4)}, {s: RIVAL[s + 1] for s in range(4)})
        assert (seen.low, seen.p_adjusted) == pytest.approx((alone.low, alone.p_adjusted))

    def test_no_common_seed_is_within_noise(self) -> None:
        seen = one({0: 0.91, 1: 0.92}, {2: 0.9, 3: 0.9}, seeds=range(4))
        assert (seen.n, seen.difference, seen.verdict) == (0, None, "within noise")
        assert seen.describe() == "within noise (needs more seeds): no seed in common"
        assert not verdict("w", [found("better"), seen]).allows_champion


class TestNoNoise:
    def test_identical_runs_are_no_gain(self) -> None:
        seen = one(WINNER, WINNER)
        assert (seen.verdict, seen.p_adjusted, seen.seeds_needed) == ("within noise", 1.0, None)
        assert (
            seen.describe()
            == "within noise (needs more seeds): +0.00 points, the same at all 5 seeds"
        )

    @pytest.mark.parametrize(
        ("n", "verdict"), [(2, "within noise"), (6, "within noise"), (7, "better")]
    )
    def test_the_same_difference_everywhere_has_but_its_signs(self, n: int, verdict: str) -> None:
        seen = one(by_seed(*[0.91] * n), by_seed(*[0.9] * n))  # 0.5 ** 7 × 2 < 2 %
        assert (seen.verdict, seen.low, seen.sd) == (verdict, None, None)

    def test_rounding_is_no_noise(self) -> None:
        shared = [0.1, 0.7, 0.3, 0.9, 0.5]
        assert one(by_seed(*(s + 0.01 for s in shared)), by_seed(*shared)).low is None


class TestManyComparisons:
    def test_the_more_baselines_and_candidates_the_more_is_asked_for(self) -> None:
        critical = {
            (k, r): rules(Design(k, r, (5,)), (5,)).better[0, -1] for k in (1, 3) for r in (2, 6)
        }
        assert critical[1, 2] < critical[1, 6] < critical[3, 6]
        assert critical[1, 2] < critical[3, 2] < critical[3, 6]

    def test_a_baseline_is_easier_to_beat_once_others_are_beaten(self) -> None:
        """Step-down: the largest of two statistics is held against more than the other one."""
        between = float(rules(Design(3, 2, (4,)), (4,)).better[0].mean())
        near = {}  # both baselines with a statistic above the lower and below the higher value
        for seen in judged(EXAMPLE):
            assert seen.sd is not None and seen.difference is not None
            shift = seen.difference - between * seen.sd / 2
            near[seen.baseline] = {s: v + shift for s, v in EXAMPLE[seen.baseline].items()}
        assert [c.verdict for c in judged({**EXAMPLE, **near})] == ["within noise"] * 2
        one_beaten = judged({**EXAMPLE, "dml": near["dml"]})
        assert [c.verdict for c in one_beaten] == ["better"] * 2

    def test_a_gain_that_is_clear_alone_may_not_be_among_many(self) -> None:
        scores = {"w": by_seed(0.90, 0.95, 0.93, 0.97, 0.92), **{f"r{i}": RIVAL for i in range(6)}}
        seen = judged(scores)[5]
        assert one(scores["w"], RIVAL).verdict == "better"
        assert seen.verdict == "within noise"
        assert seen.low is not None and seen.low > 0
        assert seen.describe().endswith(", too little for so many comparisons")
        assert seen.seeds_needed is not None
        assert seen.seeds_needed > 5

    def test_keep_the_order_of_the_baselines(self) -> None:
        baselines = ["r2", "r0", "r1"]
        assert [c.baseline for c in judged(noisy(5, 4), baselines)] == baselines

    def test_a_verdict_lies_outside_its_interval_and_has_a_small_p_value(self) -> None:
        findings = set()
        for seed in range(200):
            gain = 0.02 * (seed % 3 - 1)
            for seen in judged(noisy(2 + seed % 5, 5, gain, seed), ["r0", "r1", "r2"]):
                findings.add(seen.verdict)
                assert seen.low is not None and seen.high is not None
                assert seen.verdict != "better" or (seen.low > 0 and seen.p_adjusted <= BETTER)
                assert seen.verdict != "worse" or (seen.high < 0 and seen.p_adjusted <= WORSE)
        assert len(findings) == 3


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
        for seed in range(60):
            n = 2 + seed % 5
            for seen in judged(noisy(n, 4, seed=seed)):
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
                found("better", "b", 1.2, p_adjusted=0.01),
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
            [*[found("within noise", r) for r in "ab"], found("within noise", "c", p_adjusted=0.1)],
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
