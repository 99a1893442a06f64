"""How large the statistics get by chance, where all configurations are alike.

Drawn from normal noise with a fixed seed. There is no formula: the winner is the luckiest of
several candidates, and its luck counts against every baseline at once.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from okddip_search.confirm.paired import Floats, paired

DRAWS = 50_000
"""Confirmations drawn; the standard error of a share of 3 % is 0.08 %."""
CHUNK = 1_000
SEED = 0
MOST_SEEDS = 100
"""Larger numbers of seeds are judged like this one; noise is as good as known by then."""


@lru_cache(maxsize=16)
def by_chance(candidates: int, baselines: int, looks: tuple[int, ...]) -> Floats:
    """Return statistics of a winner that is not better: (looks, draws, baselines).

    The winner is the candidate with the best mean at the first look in the very scores that are
    compared. No choice by validation accuracy can be luckier, however closely the two go together.

    Args:
        candidates: Number of configurations of which one is the winner.
        baselines: Number of configurations that it is compared with.
        looks: Number of seeds at each look, not decreasing.
    """
    looks = tuple(min(seeds, MOST_SEEDS) for seeds in looks)
    generator = np.random.default_rng(SEED)
    chunks = []
    for _ in range(DRAWS // CHUNK):
        scores = generator.standard_normal((CHUNK, candidates + baselines, max(looks[-1], 1)))
        luck = scores[:, :candidates, : max(looks[0], 1)].mean(axis=-1)
        winner = scores[np.arange(CHUNK), luck.argmax(axis=-1)]
        compared = np.concatenate([winner[:, None], scores[:, candidates:]], axis=1)
        chunks.append([paired(compared[..., :seeds]).statistic for seeds in looks])
    return np.concatenate(chunks, axis=1)


def boundaries(values: Floats, spent: Sequence[float]) -> Floats:
    """Return the critical value of each look, infinite where nothing is to be spent.

    Args:
        values: By chance, (looks, draws).
        spent: Share of the draws that have reached a critical value by each look.
    """
    found = np.full(len(values), np.inf)
    crossed = np.zeros(values.shape[1], bool)
    for look, share in enumerate(spent):
        count = round(share * len(crossed)) - int(crossed.sum())
        if count > 0:
            found[look] = np.partition(np.where(crossed, -np.inf, values[look]), -count)[-count]
        crossed |= values[look] >= found[look]
    return found


def p_value(values: Floats, critical: Floats, statistic: float) -> float:
    """Return the share of draws that are as extreme as a statistic at the last of these looks.

    As extreme are those that have reached a critical value earlier (Fairbanks and Madsen 1982).

    Args:
        values: By chance, (looks, draws), up to the look of the statistic.
        critical: Critical value of each look.
        statistic: At the last look.
    """
    earlier = (values[:-1] >= critical[: len(values) - 1, None]).any(axis=0)
    extreme = np.count_nonzero(earlier | (values[-1] >= statistic))
    return max(int(extreme), 1) / int(values.shape[1])
