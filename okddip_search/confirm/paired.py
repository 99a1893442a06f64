"""The winner against each baseline, seed by seed: mean and noise of the paired differences.

Arrays end in (configurations, seeds), the winner first, or in (baselines,). Leading dimensions are
repetitions, so that one confirmation and a simulation of 10,000 of them run the same code.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PRIOR = 2.0
"""Weight of all pairs' mean variance in the variance of one pair, in degrees of freedom.

At 5 seeds the pair's own variance has 4 of 6. A heavier prior finds more, but makes more errors
where some configurations are noisier than others (docs/confirm.md)."""
NO_NOISE = 1e-9
"""Standard deviations below this are rounding errors: accuracies are multiples of 1 / images."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Paired(NamedTuple):
    """Differences winner − baseline over the seeds that both have, each (…, baselines).

    Attributes:
        difference: Mean.
        sd: Moderated standard deviation of the difference at one seed.
        seeds: Number of seeds.
    """

    difference: Floats
    sd: Floats
    seeds: Ints

    @property
    def error(self) -> Floats:
        """Standard error of the mean."""
        error: Floats = self.sd / np.sqrt(np.maximum(self.seeds, 1))
        return error

    @property
    def has_noise(self) -> Bools:
        """Whether the noise of a difference is known, so that there is something to judge by."""
        return (self.seeds > 1) & (self.sd > NO_NOISE)

    @property
    def is_constant(self) -> Bools:
        """Whether several seeds gave the same difference, as they did for all other pairs."""
        return (self.seeds > 1) & (self.sd <= NO_NOISE)

    @property
    def statistic(self) -> Floats:
        """The mean in standard errors; 0 without noise."""
        zeros = np.zeros(self.sd.shape)
        return np.divide(self.difference, self.error, where=self.has_noise, out=zeros)


def paired(scores: Floats) -> Paired:
    """Compare the first configuration with every other one.

    The variance of a pair is ``((n − 1) own + PRIOR mean) / (n − 1 + PRIOR)``: a moderated variance
    (Smyth 2004). ``mean`` is over all pairs of configurations, weighted by their degrees of
    freedom. Without missing runs it is twice the residual mean square of the two-way table
    configurations × seeds.

    Args:
        scores: (…, configurations, seeds), NaN where a run is missing.
    """
    baselines = scores.shape[-2] - 1
    first, second = np.triu_indices(baselines + 1, 1)  # the winner's pairs come first
    differences = scores[..., first, :] - scores[..., second, :]
    known = np.isfinite(differences)
    differences[~known] = 0.0
    seeds = known.sum(axis=-1)
    mean = differences.sum(axis=-1) / np.maximum(seeds, 1)
    total = np.einsum("...n,...n->...", differences, differences)
    squares = np.maximum(total - seeds * mean**2, 0.0)
    freedom = np.maximum(seeds - 1, 0)
    of_all = squares.sum(axis=-1, keepdims=True) / np.maximum(
        freedom.sum(axis=-1, keepdims=True), 1
    )
    own = (..., slice(baselines))
    variance = (squares[own] + PRIOR * of_all) / (freedom[own] + PRIOR)
    return Paired(mean[own], np.sqrt(variance), seeds[own])
