"""Is the winner of a confirmation really better than its baselines, or only luckier?

Every configuration is trained over the same seeds, so that scores come in pairs: same seed, same
split, same data order. Shares are accuracies in [0, 1]; "points" are percentage points.
docs/confirm.md says which results are exact and which approximate, and gives measured error rates.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from okddip_search.formatting import points

LEVEL = 0.05
"""Accepted rate of false positives in a confirmation, and of intervals that miss the truth."""
POWER = 0.8
"""Probability that ``seeds_needed`` seeds show a difference as large as the observed one."""
MAX_SEEDS = 1000
MIN_SEEDS_FOR_T = 5
RESAMPLES = 2000
SEED = 0
NO_NOISE = 1e-9
"""Standard deviations below this are rounding errors: accuracies are multiples of 1 / images."""

Scores = Mapping[int, float]
"""Seed to accuracy, a share."""
Outcome = Literal["better", "worse", "within noise"]
Status = Literal["confirmed", "partly", "unconfirmed", "beaten"]
Method = Literal["paired t", "bootstrap", "none"]


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (ddof 1; None for fewer than two seeds) over ``n`` seeds."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class NoiseFloor:
    """Spread of one configuration over seeds, with a 95 % interval of the standard deviation."""

    configuration: str
    sd: float
    low: float
    high: float
    n: int
    of: Literal["test", "validation"]


@dataclass(frozen=True)
class Comparison:
    """The winner against one baseline over the seeds that both have finished.

    Args:
        baseline: Its label.
        winner_mean: The winner's mean over these seeds, a share; None without a common seed.
        baseline_mean: The baseline's.
        difference: Winner − baseline.
        sd: Standard deviation of the paired differences, as the test takes it.
        low: Lower end of the 95 % interval of the difference, for this baseline alone; None if the
            noise is unknown: fewer than two seeds, or the same difference at each of them.
        high: Its upper end.
        p_value: Two-sided, for this baseline alone.
        p_adjusted: Corrected for all baselines and candidates; the basis of the verdict.
        method: Origin of interval and p-value.
        n: Number of common seeds.
        verdict: Of the winner, at an error rate of 5 % for all baselines together.
        seeds_needed: Seeds that would show this difference with 80 % probability, if it is real;
            None if it is shown already, if nothing is known, or above 1,000.
    """

    baseline: str
    winner_mean: float | None = None
    baseline_mean: float | None = None
    difference: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float = 1.0
    p_adjusted: float = 1.0
    method: Method = "none"
    n: int = 0
    verdict: Outcome = "within noise"
    seeds_needed: int | None = None

    def describe(self) -> str:
        """Return verdict and numbers, in percentage points."""
        if self.verdict != "within noise":
            return f"{self.verdict}: {self.numbers}"
        alone = ", too little for so many comparisons" if self.p_value <= LEVEL else ""
        return f"within noise ({self.needs}): {self.numbers}{alone}"

    @property
    def numbers(self) -> str:
        """Difference and interval."""
        if self.difference is None:
            return "no seed in common"
        if self.low is None or self.high is None:
            why = "one seed" if self.n == 1 else f"the same at all {self.n} seeds"
            return f"{points(self.difference)} points, {why}"
        interval = f"{points(self.low)} to {points(self.high)}"
        return f"{points(self.difference)} points, 95 % interval {interval}"

    @property
    def needs(self) -> str:
        """Number of seeds that would settle the question, in words."""
        if self.seeds_needed is not None:
            return f"needs about {self.seeds_needed} seeds"
        if self.low is None:
            return "needs more seeds"
        return f"needs more than {MAX_SEEDS:,} seeds"


@dataclass(frozen=True)
class Verdict:
    """The overall result for the winner."""

    sentence: str
    status: Status
    allows_champion: bool


def summary(scores: Scores) -> Summary:
    """Summarise one configuration.

    Raises:
        ValueError: No scores.
    """
    if not scores:
        raise ValueError("no scores to summarise")
    values = np.array(list(scores.values()))
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return Summary(float(values.mean()), sd, len(values))


def noise_floor(
    configuration: str, scores: Scores, of: Literal["test", "validation"]
) -> NoiseFloor | None:
    """Return the spread of one setting over seeds; None for fewer than two.

    The interval is that of normal noise: ``(n − 1) sd² / σ²`` is chi-square distributed.
    """
    spread = summary(scores) if scores else None
    if spread is None or spread.sd is None:
        return None
    dof = spread.n - 1
    low, high = (spread.sd * float((dof / stats.chi2.ppf(q, dof)) ** 0.5) for q in (0.975, 0.025))
    return NoiseFloor(configuration, spread.sd, low, high, spread.n, of)


def pick_winner(validation: Mapping[str, Scores]) -> str:
    """Return the candidate with the best mean validation accuracy, the first of equals.

    Raises:
        ValueError: No candidate has a score.
    """
    means = {label: summary(scores).mean for label, scores in validation.items() if scores}
    if not means:
        raise ValueError("no candidate has a validation score")
    return max(means, key=means.__getitem__)


def compare(
    winner: str, scores: Mapping[str, Scores], baselines: Sequence[str], num_candidates: int
) -> list[Comparison]:
    """Judge the winner's paired differences to its baselines.

    With 5 seeds or more by a paired t-test; with fewer, where a pair alone says little about its
    noise, by a bootstrap that also uses the other configurations. p-values are corrected for the
    number of baselines (Holm 1979) and for the choice of the winner among ``num_candidates``.

    Args:
        winner: Its label.
        scores: Test accuracies of the winner and the baselines, by label.
        baselines: Labels, in the order of the result.
        num_candidates: Configurations of which the winner was the best on the validation images.

    Returns:
        One comparison per baseline.
    """
    pairs = [_pair(winner, baseline, scores) for baseline in baselines]
    adjusted = adjust([pair.p_value for pair in pairs], num_candidates)
    # Additional seeds only have to settle the comparisons that are still open.
    level = LEVEL / _luck(num_candidates) / max(1, sum(p > LEVEL for p in adjusted))
    return [_judged(pair, p, level) for pair, p in zip(pairs, adjusted, strict=True)]


def adjust(p_values: Sequence[float], num_candidates: int) -> list[float]:
    """Correct p-values for the number of baselines (Holm 1979) and for the choice of the winner."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1) * _luck(num_candidates)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.array(p_values)[order] * factors))
    return [float(p) for p in adjusted]


def _luck(num_candidates: int) -> float:
    """Return the factor on p-values that corrects for choosing the best of several candidates.

    Whichever is chosen, a false "better" has ``num_candidates`` chances, each half of a two-sided
    error. Half their number as a factor keeps the sum at the level, however strongly a run's
    validation and test accuracy are correlated (Bonferroni). Luck never makes the winner look
    worse.
    """
    return max(1.0, num_candidates / 2)


def _pair(winner: str, baseline: str, scores: Mapping[str, Scores]) -> Comparison:
    """Test the winner against one baseline, not yet corrected for the others."""
    seeds = sorted(scores[winner].keys() & scores[baseline].keys())
    n = len(seeds)
    if n == 0:
        return Comparison(baseline)
    pair_2N = np.array([[scores[label][seed] for seed in seeds] for label in (winner, baseline)])
    winner_mean, baseline_mean = (float(mean) for mean in pair_2N.mean(axis=1))
    difference = winner_mean - baseline_mean
    # Below 5 seeds, all configurations that have finished the pair's seeds help estimate the noise.
    others = [s for label, s in scores.items() if label not in (winner, baseline)]
    others = [s for s in others if s.keys() >= set(seeds)] if n < MIN_SEEDS_FOR_T else []
    block_KN = np.vstack([pair_2N, *([s[seed] for seed in seeds] for s in others)])
    sd = float(_noise(_differences(block_KN))[0]) if n > 1 else 0.0
    seen = Comparison(baseline, winner_mean, baseline_mean, difference, n=n)
    if sd < NO_NOISE:
        # Only the signs are informative: two-sided, all n equal have probability 2^(1 − n).
        return replace(seen, p_value=0.5 ** (n - 1) if abs(difference) > NO_NOISE else 1.0)
    error = sd / n**0.5
    if others:
        null = _bootstrap(tuple(sorted(map(tuple, block_KN.tolist()))))
        critical = float(np.quantile(null, 1 - LEVEL))
        p_value = float(np.mean(np.append(null, np.inf) >= abs(difference) / error))
    else:
        critical = float(special.stdtrit(n - 1, 1 - LEVEL / 2))
        p_value = float(2 * special.stdtr(n - 1, -abs(difference) / error))
    return replace(
        seen,
        sd=sd,
        low=difference - critical * error,
        high=difference + critical * error,
        p_value=p_value,
        method="bootstrap" if others else "paired t",
    )


def _differences(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the differences of all pairs: (configurations, seeds, …) to (pairs, seeds, …)."""
    first, second = np.triu_indices(len(scores), 1)
    return scores[first] - scores[second]


def _noise(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each pair's noise: (pairs, seeds, …) to (pairs, …), standard deviations.

    Half the variance is the pair's own, half the mean over all pairs: a moderated variance (Smyth
    2004) whose prior weighs as much as the data. For a single pair, it is the pair's own variance.
    """
    variance = differences.var(axis=1, ddof=1)
    moderated: NDArray[np.float64] = (variance + variance.mean(axis=0)) / 2
    return np.sqrt(moderated)


@lru_cache(maxsize=8)  # all baselines of a confirm ask for the same
def _bootstrap(rows: tuple[tuple[float, ...], ...]) -> NDArray[np.float64]:
    """Return values of ``|mean difference| / error`` by chance, if all configurations are equal.

    A studentised bootstrap (Efron and Tibshirani 1993) of the residuals after subtracting the means
    of each configuration and each seed. Scale cancels out, so the residuals need no inflation.

    Args:
        rows: One per configuration, with one accuracy per seed; at least three rows.
    """
    scores_KN = np.array(rows)
    seedless_KN = scores_KN - scores_KN.mean(axis=0)
    residuals = (seedless_KN - seedless_KN.mean(axis=1, keepdims=True)).ravel()
    drawn = np.random.default_rng(SEED).choice(residuals, (*scores_KN.shape, RESAMPLES))
    differences = _differences(drawn)
    error = _noise(differences) / scores_KN.shape[1] ** 0.5
    varied = error > NO_NOISE  # real scores without noise are not judged in this way either
    ratios: NDArray[np.float64] = np.abs(differences.mean(axis=1))[varied] / error[varied]
    return ratios


def _judged(pair: Comparison, p_adjusted: float, level: float) -> Comparison:
    """Add the verdict; ``level`` is the test level for baselines that are still undecided."""
    found: Outcome = "within noise"
    seeds = None
    if p_adjusted <= LEVEL:
        found = "better" if pair.difference and pair.difference > 0 else "worse"
    elif pair.difference and pair.sd:
        seeds = seeds_needed(pair.difference / pair.sd, level)
    return replace(pair, p_adjusted=p_adjusted, verdict=found, seeds_needed=seeds)


def seeds_needed(effect: float, level: float = LEVEL) -> int | None:
    """Return the fewest seeds at which a two-sided paired t-test has a power of 80 %.

    Args:
        effect: Mean difference in standard deviations of the paired differences.
        level: Of the test, in (0, 1).

    Returns:
        At least 2; None above 1,000.
    """

    def power(n: int) -> float:
        # A significant difference of the wrong sign is ignored: it hardly occurs at this power.
        critical = special.stdtrit(n - 1, 1 - level / 2)
        return 1 - float(special.nctdtr(n - 1, abs(effect) * n**0.5, critical))

    found = 2 + bisect_left(range(2, MAX_SEEDS + 1), POWER, key=power)
    return found if found <= MAX_SEEDS else None


def verdict(winner_words: str, comparisons: Sequence[Comparison]) -> Verdict:
    """Return the overall result in one sentence; a gain inside the noise is never called one.

    Args:
        winner_words: Name of the winner, for example ``trial 7``.
        comparisons: One per baseline.
    """
    if not comparisons:
        return Verdict(f"{winner_words} was compared with nothing.", "unconfirmed", False)
    found = {kind: [c for c in comparisons if c.verdict == kind] for kind in _STATUS}
    status = next(status for kind, status in _STATUS.items() if found[kind])
    if status == "partly" and not found["within noise"]:
        status = "confirmed"
    parts = [
        f"{kind} {'of' if kind == 'within noise' else 'than'} {_named(some, len(comparisons))}"
        for kind, some in found.items()
        if some
    ]
    lead = "No gain is shown: " if status == "unconfirmed" else ""
    sentence = f"{lead}{winner_words} is {', and '.join(parts)}."
    return Verdict(sentence, status, status == "confirmed")


_STATUS: dict[Outcome, Status] = {
    "worse": "beaten",
    "better": "partly",
    "within noise": "unconfirmed",
}
"""Overall status that an outcome implies, the gravest first."""


def _named(some: Sequence[Comparison], total: int) -> str:
    """Name the baselines of one outcome, with numbers; of more than two, only the closest call."""
    in_noise = some[0].verdict == "within noise"
    whole = len(some) == total
    count = f"all {total} baselines" if whole else f"{len(some)} {'other ' * in_noise}baselines"
    if in_noise and not whole:
        return count if len(some) > 2 else " and ".join(c.baseline for c in some)
    words = {c.baseline: c.needs if in_noise else c.numbers for c in some}
    if len(some) <= 2:
        return " and ".join(f"{baseline} ({detail})" for baseline, detail in words.items())
    closest = min(some, key=lambda c: c.p_value if in_noise else -c.p_value).baseline
    return f"{count} (closest call: {closest}, {words[closest]})"
