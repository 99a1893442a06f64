"""The looks of a confirmation: how many, with which critical values, and who leaves at which.

All of it is fixed before the first look. A number of seeds given beforehand is one look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from okddip_search.confirm.chance import boundaries, by_chance, p_value
from okddip_search.confirm.paired import NO_NOISE, Bools, Floats, Ints, Paired, paired

BETTER = 0.03
"""Accepted rate of confirmations with a false ``better``, where all configurations are alike."""
WORSE = 0.02
"""The same of a false ``worse``."""
MISSED = 0.05
"""Accepted rate of intervals that miss the true difference."""
FURTHER_LOOK = 0.015
"""Added to ``MISSED`` for every look but the first, for the rate at *any* of the looks. At the one
look at which a baseline leaves, and is reported, 3 to 6 % miss the truth (docs/confirm.md)."""
LOOKS = (3, 5, 7, 10, 14, 20, 28, 40)
"""Numbers of seeds after which ``seeds: auto`` looks, up to ``max_seeds``."""
SPENDING = 2.0
"""After ``n`` of at most ``N`` seeds, ``(n / N) ** SPENDING`` of the error is spent (Kim and DeMets
1987). For the intervals it is ``n / N``."""
HOPELESS = 2.25
"""A baseline with a statistic below ``HOPELESS n / N`` leaves. A higher value saves runs and costs
power; it cannot raise the error."""


def planned_looks(most: int) -> tuple[int, ...]:
    """Return the looks of ``seeds: auto`` with at most ``most`` seeds."""
    return (*(seeds for seeds in LOOKS if seeds < most), most)


@dataclass(frozen=True)
class Design:
    """A confirmation as it was planned.

    Attributes:
        candidates: Number of configurations of which one is the winner.
        baselines: Number of configurations that it is compared with.
        looks: Number of seeds at each look, increasing.
        primary: Index of the baseline that has to be beaten before any other counts as beaten.
    """

    candidates: int
    baselines: int
    looks: tuple[int, ...]
    primary: int | None = None

    def spent(self, error: float, power: float = SPENDING) -> tuple[float, ...]:
        """Return how much of an error is spent by each look."""
        return tuple(error * (seeds / self.looks[-1]) ** power for seeds in self.looks)

    @property
    def enough_signs(self) -> int:
        """Seeds from which on a difference that is always the same counts (Bonferroni)."""
        return math.ceil(math.log2(2 * self.candidates * self.baselines / min(BETTER, WORSE)))

    def is_hopeless(self, seen: Paired, look: int) -> Bools:
        """Return who leaves at a look because no gain over it is in sight; none at the last."""
        below = HOPELESS * self.looks[look] / self.looks[-1]
        is_last = look == len(self.looks) - 1
        return seen.has_noise & (seen.statistic < below) & (not is_last)


@dataclass(frozen=True)
class Rules:
    """Critical values for pairs that have so many seeds at each look.

    Attributes:
        design: The plan.
        seeds: Number of seeds of a pair at each look: fewer than planned where runs failed.
        better: Critical values (looks, baselines) of the largest of 1, 2, … statistics.
        worse: The same of the smallest, with the opposite sign.
        interval: Half the interval in standard errors at each look.
    """

    design: Design
    seeds: tuple[int, ...]
    better: Floats
    worse: Floats
    interval: Floats

    def p_better(self, statistic: float, look: int, among: int) -> float:
        """Return the chance of so large a largest of ``among`` statistics; adjusted for looks."""
        values = largest(self.design.candidates, self.design.baselines, self.seeds, among)
        return p_value(values[: look + 1], self.better[:, among - 1], statistic)

    def p_worse(self, statistic: float, look: int, among: int) -> float:
        """Return the chance of so small a smallest of ``among`` statistics."""
        values = largest(1, self.design.baselines, self.seeds, among)
        return p_value(values[: look + 1], self.worse[:, among - 1], -statistic)


@lru_cache(maxsize=64)
def rules(design: Design, seeds: tuple[int, ...]) -> Rules:
    """Draw the critical values for pairs with so many seeds at each look.

    An error that cannot be spent with fewer than two seeds is spent at the next look.
    """

    def spendable(error: float, power: float = SPENDING) -> list[float]:
        planned = design.spent(error, power)
        return [share if n > 1 else 0.0 for share, n in zip(planned, seeds, strict=True)]

    missed = MISSED + FURTHER_LOOK * (len(seeds) - 1)
    alone = np.abs(by_chance(1, design.baselines, seeds)).reshape(len(seeds), -1)
    interval = boundaries(alone, spendable(missed, power=1.0))

    def steps(candidates: int, error: float) -> Floats:
        values = [
            boundaries(largest(candidates, design.baselines, seeds, m), spendable(error))
            for m in range(1, design.baselines + 1)
        ]
        # Nothing is found as long as its own interval holds 0.
        return np.maximum(np.maximum.accumulate(values, axis=0).T, interval[:, None])

    return Rules(design, seeds, steps(design.candidates, BETTER), steps(1, WORSE), interval)


def largest(candidates: int, baselines: int, seeds: tuple[int, ...], among: int) -> Floats:
    """Return the largest of ``among`` baselines' statistics by chance: (looks, draws)."""
    values: Floats = by_chance(candidates, baselines, seeds)[:, :, :among].max(axis=-1)
    return values


class Judgement(NamedTuple):
    """Each (…, baselines).

    Attributes:
        outcome: 1 better, −1 worse, 0 within noise.
        left: Index of the look at which a baseline left; −1: it has not.
        seen: Differences at that look, or at the latest.
        margin: Half the interval; infinite without noise.
        among: Of how many baselines its statistic was the largest (or smallest) one judged.
        rules: By baseline: the critical values that it was held against.
    """

    outcome: Ints
    left: Ints
    seen: Paired
    margin: Floats
    among: Ints
    rules: Sequence[Rules]


def judge(scores: Floats, design: Design, looks_done: int | None = None) -> Judgement:
    """Go through the looks: at each, find who is beaten, who is hopeless, and who goes on.

    Everything follows from the scores and the plan, so that a confirmation that is resumed comes to
    the same looks and the same words.

    Args:
        scores: (…, 1 + baselines, seeds), the winner first, NaN where a run is missing. Scores of
            a baseline from after the look at which it left are ignored.
        design: The plan.
        looks_done: Number of looks so far; None: all.
    """
    scores = scores.copy()
    shape = (*scores.shape[:-2], design.baselines)
    outcome, left, among = np.zeros(shape, int), np.full(shape, -1), np.ones(shape, int)
    seen, margin = paired(scores[..., :0]), np.full(shape, np.inf)
    by_pair = [rules(design, design.looks)] * design.baselines
    for look, seeds in enumerate(design.looks[:looks_done]):
        is_open = left < 0
        now = paired(scores[..., :seeds])
        missing = np.where(is_open, seeds - now.seeds, 0).reshape(-1, design.baselines).max(axis=0)
        by_pair = [_without(n, look, rule) for n, rule in zip(missing, by_pair, strict=True)]

        beaten, gains = _step_down(
            now, np.array([r.better[look] for r in by_pair]), is_open, outcome == 1, design, 1
        )
        worse, losses = _step_down(
            now, np.array([r.worse[look] for r in by_pair]), is_open, outcome == -1, design, -1
        )
        half = np.array([rule.interval[look] for rule in by_pair])
        width = half * np.where(now.has_noise, now.error, np.inf)
        seen = Paired(*(np.where(is_open, new, old) for new, old in zip(now, seen, strict=True)))
        margin = np.where(is_open, width, margin)
        among = np.where(is_open, np.where(now.difference > 0, gains, losses), among)
        outcome = np.where(beaten, 1, np.where(worse, -1, outcome))
        leaves = beaten | worse | design.is_hopeless(now, look)
        if design.primary is not None:  # Once it has left unbeaten, no other can be beaten.
            primary = (..., slice(design.primary, design.primary + 1))
            leaves |= (leaves[primary] | ~is_open[primary]) & (outcome[primary] != 1)
        leaves = is_open & (leaves | (look == len(design.looks) - 1))
        left[leaves] = look
        scores[..., 1:, seeds:][leaves] = np.nan
    return Judgement(outcome, left, seen, margin, among, by_pair)


def _without(missing: int, look: int, known: Rules) -> Rules:
    """Return the rules of a pair that by a look has fewer seeds than planned, as runs failed."""
    to_come = [seeds - missing for seeds in known.design.looks[look:]]
    return rules(known.design, (*known.seeds[:look], *map(int, to_come))) if missing else known


def _step_down(
    now: Paired, critical: Floats, is_open: Bools, found: Bools, design: Design, sign: int
) -> tuple[Bools, Ints]:
    """Compare the largest statistic with the critical value of that many, then the next largest.

    Args:
        now: Differences at this look.
        critical: (baselines, number among which a statistic is the largest).
        is_open: Who has not left.
        found: Who was found to be better (or worse) than earlier.
        design: The plan.
        sign: 1 for a winner that is better, −1 for worse.

    Returns:
        Who is found by now, and among how many each was judged.
    """
    index = np.arange(design.baselines)
    primary = design.primary if sign > 0 else None
    counted = index != primary
    signs = now.is_constant & (now.seeds >= design.enough_signs)
    signs &= sign * now.difference > NO_NOISE
    among = np.ones(found.shape, int)
    for _ in index:
        left_over = np.maximum((~found & counted).sum(axis=-1, keepdims=True), 1)
        among = np.where(found, among, np.where(counted, left_over, 1))
        may_be = True if primary is None else found[..., [primary]] | ~counted
        large = (sign * now.statistic >= critical[index, among - 1]) & now.has_noise
        found = found | (is_open & may_be & (large | signs))
    return found, among
