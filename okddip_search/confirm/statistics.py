"""Is the winner of a confirmation really better than its baselines, or only luckier?

Every configuration is trained over the same seeds, so that scores come in pairs: same seed, same
split, same data order. Shares are accuracies in [0, 1]; "points" are percentage points.
docs/confirm.md has a worked example, says which results are exact and which approximate, and gives
measured error rates.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special, stats

from okddip_search.confirm.looks import BETTER, WORSE, Design, Judgement, judge
from okddip_search.confirm.paired import Floats
from okddip_search.formatting import points

TEST = "moderated max-T"
"""Name of the test in the results; those without one are from version 0.1 (paired t, Holm)."""
POWER = 0.8
"""Probability that ``seeds_needed`` seeds show a difference as large as the observed one."""
MAX_SEEDS = 1000

Scores = Mapping[int, float]
"""Seed to accuracy, a share."""
Outcome = Literal["better", "worse", "within noise"]
Status = Literal["confirmed", "partly", "unconfirmed", "beaten"]
Leaving = Literal["decided", "hopeless", "last look", "primary not beaten", "not settled"]


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
        sd: Moderated standard deviation of the difference at one seed; None if unknown.
        low: Lower end of the 95 % interval of the difference, for this baseline alone; None if the
            noise is unknown: fewer than two seeds, or the same difference at each of them.
        high: Its upper end.
        p_adjusted: Chance of a difference as clear as this among all baselines, candidates and
            looks, one-sided.
        n: Number of common seeds.
        method: Name of the test; ``none`` where there is no noise to judge by.
        verdict: Of the winner.
        look: Number of the look at which the baseline left, from 1; the latest if it has not.
        left: Why it left then.
        seeds_needed: Seeds that would show this difference with 80 % probability, if it is real;
            None if it is shown already, if nothing is known, or above 1,000.
        pending: What is left to do for a baseline that is not settled.
    """

    baseline: str
    winner_mean: float | None = None
    baseline_mean: float | None = None
    difference: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p_adjusted: float = 1.0
    n: int = 0
    method: str = "none"
    verdict: Outcome = "within noise"
    look: int = 1
    left: Leaving = "last look"
    seeds_needed: int | None = None
    pending: str = ""

    def describe(self) -> str:
        """Return verdict and numbers, in percentage points."""
        if self.verdict != "within noise":
            return f"{self.verdict}: {self.numbers}"
        return f"within noise ({self.needs}): {self.numbers}{self._too_little}"

    @property
    def _too_little(self) -> str:
        is_clear_alone = self.low is not None and self.high is not None and self.low * self.high > 0
        return ", too little for so many comparisons" if is_clear_alone else ""

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
        if self.pending:
            return self.pending
        if self.left == "hopeless":
            return f"no gain in sight after {self.n} seeds"
        if self.left == "primary not beaten":
            return "not tested, because the primary baseline is not beaten"
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
    winner: str,
    scores: Mapping[str, Scores],
    baselines: Sequence[str],
    design: Design,
    seeds: Sequence[int],
    looks_done: int | None = None,
) -> list[Comparison]:
    """Judge the winner's paired differences to its baselines.

    Args:
        winner: Its label.
        scores: Test accuracies of the winner and the baselines, by label.
        baselines: Labels, in the order of the result.
        design: Looks, and number of candidates and baselines.
        seeds: All seeds, in the order in which they are trained.
        looks_done: Number of looks so far; None: all.

    Returns:
        One comparison per baseline.
    """
    if not baselines:
        return []
    found = judge(table(scores, [winner, *baselines], seeds), design, looks_done)
    looks = np.where(found.left < 0, len(design.looks[:looks_done]) - 1, found.left).tolist()
    pairs = []
    for index, (baseline, look) in enumerate(zip(baselines, looks, strict=True)):
        pair_2N = table(scores, [winner, baseline], seeds[: design.looks[look]])
        known_2N = pair_2N[:, np.isfinite(pair_2N).all(axis=0)]
        pair = Comparison(baseline, n=known_2N.shape[1], look=look + 1)
        if pair.n:
            winner_mean, baseline_mean = known_2N.mean(axis=1).tolist()
            pair = replace(pair, winner_mean=winner_mean, baseline_mean=baseline_mean)
            pair = _judged(pair, index, found, design)
        pairs.append(pair)
    return pairs


def table(scores: Mapping[str, Scores], labels: Sequence[str], seeds: Sequence[int]) -> Floats:
    """Return scores as (labels, seeds), NaN where a run is missing."""
    return np.array([[scores[label].get(seed, np.nan) for seed in seeds] for label in labels])


def _judged(pair: Comparison, index: int, found: Judgement, design: Design) -> Comparison:
    """Add verdict, interval and the reason why a baseline left."""
    difference, margin = found.seen.difference[index].item(), found.margin[index].item()
    outcome, left = _OUTCOMES[found.outcome[index].item()], _leaving(index, found, design)
    pair = replace(pair, difference=difference, verdict=outcome, left=left)
    if not np.isfinite(margin):
        return pair
    is_gain, sd = difference > 0, found.seen.sd[index].item()
    chance = found.rules[index].p_better if is_gain else found.rules[index].p_worse
    needed = None
    if outcome == "within noise":
        needed = seeds_needed(difference / sd, _level(is_gain, found, design))
    return replace(
        pair,
        sd=sd,
        low=difference - margin,
        high=difference + margin,
        p_adjusted=chance(
            found.seen.statistic[index].item(), pair.look - 1, found.among[index].item()
        ),
        method=TEST,
        seeds_needed=needed,
    )


_OUTCOMES: dict[int, Outcome] = {1: "better", -1: "worse", 0: "within noise"}


def _leaving(index: int, found: Judgement, design: Design) -> Leaving:
    """Say why a baseline left when it did."""
    look, primary = found.left[index].item(), design.primary
    if found.outcome[index]:
        return "decided"
    if look < 0:
        return "not settled"
    if design.is_hopeless(found.seen, look)[index]:
        return "hopeless"
    is_shut_out = primary not in (None, index) and found.outcome[primary] != 1
    return "primary not beaten" if is_shut_out else "last look"


def _level(is_gain: bool, found: Judgement, design: Design) -> float:
    """Return the two-sided level at which further seeds would have to show a difference."""
    undecided = int((found.outcome == 0).sum())
    return 2 * (BETTER / design.candidates if is_gain else WORSE) / undecided


def seeds_needed(effect: float, level: float = 0.05) -> int | None:
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


def verdict(
    winner_words: str, comparisons: Sequence[Comparison], primary: str | None = None
) -> Verdict:
    """Return the overall result in one sentence; a gain inside the noise is never called one.

    Args:
        winner_words: Name of the winner, for example ``trial 7``.
        comparisons: One per baseline.
        primary: The baseline that was to be beaten before any other.
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
    if primary is not None:
        sentence += f" The primary baseline, tested first, is {primary}."
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
        names = count if len(some) > 2 else " and ".join(c.baseline for c in some)
        pending = next((c.pending for c in some if c.pending), "")
        return f"{names} ({pending})" if pending else names
    words = {c.baseline: c.needs if in_noise else c.numbers for c in some}
    if len(some) <= 2:
        return " and ".join(f"{baseline} ({detail})" for baseline, detail in words.items())
    closest = min(some, key=lambda c: c.p_adjusted if in_noise else -c.p_adjusted).baseline
    return f"{count} (closest call: {closest}, {words[closest]})"
