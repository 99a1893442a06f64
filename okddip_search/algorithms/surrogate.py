"""A Gaussian process over the trials' parameters, and proposals from Optuna's samplers.

Optuna's own process is used, through its private module: the sampler does not tell what it expects
of a trial. ``tests`` fail where a new Optuna has moved it.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState, create_trial

from okddip_search.algorithms.choice import Choice
from okddip_search.algorithms.seeds import sampler_seed
from okddip_search.algorithms.view import Row

MODELS: dict[str, Callable[..., BaseSampler]] = {
    "gp": partial(GPSampler, warn_independent_sampling=False),
    "tpe": TPESampler,
}
"""Samplers that learn from values."""
STARTUP_TRIALS = 5
"""Trials drawn at random before a model proposes."""
UNIFORM_SHARE = 0.1
"""Of the proposals are drawn at random, lest the model be wrong for good."""
MOST_ROWS = 100
"""That a process is fitted to: its cost grows with their cube."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Proposal:
    """Parameters of a new trial.

    Attributes:
        params: Their values.
        space: Their distributions.
    """

    params: Mapping[str, Any]
    space: Mapping[str, BaseDistribution]


class Surrogate:
    """The expected value at the end of a run, by its parameters.

    Args:
        rows: Trials with values.
        space: Their parameters.
    """

    def __init__(self, rows: Sequence[Row], space: Mapping[str, BaseDistribution]) -> None:
        from optuna._gp import gp, prior
        from optuna._gp.search_space import SearchSpace

        self._space = space
        self._inner = SearchSpace(dict(space))
        values = np.array([row.value for row in rows], float)
        self._mean, self._sd = float(values.mean()), max(float(values.std()), 1e-12)
        self._process = gp.fit_kernel_params(
            X=self._normalised(rows),
            Y=(values - self._mean) / self._sd,
            is_categorical=self._inner.is_categorical,
            log_prior=prior.default_log_prior,
            minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
            deterministic_objective=False,
        )

    @classmethod
    def fitted(cls, rows: Sequence[Row]) -> "Surrogate":
        """Fit to the rows that have a value, or to a choice of them."""
        space = space_of(rows)
        return cls(tamed(chosen([row for row in rows if row.value is not None])), space)

    def _normalised(self, rows: Sequence[Row]) -> Floats:
        params = [completed(row.params, self._space) for row in rows]
        count: list[Any] = [None] * len(rows)  # where parameters are given, no trial is looked at
        return self._inner.get_normalized_params(count, params)

    def predict(self, rows: Sequence[Row]) -> tuple[Floats, Floats]:
        """Return the expected values of the rows, and their standard deviations."""
        places = self._process.inverse_squared_lengthscales.new_tensor(self._normalised(rows))
        mean, variance = self._process.posterior(places)
        return self._mean + self._sd * mean.numpy(), self._sd * np.sqrt(variance.numpy())


def space_of(rows: Sequence[Row]) -> dict[str, BaseDistribution]:
    """Return all parameters that any trial has, without those that have one value only."""
    found: dict[str, BaseDistribution] = {}
    for row in rows:
        found.update(row.distributions)
    return {name: d for name, d in sorted(found.items()) if not d.single()}


def completed(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return a value for every parameter; one that does not apply has the middle of its range.

    So a process can be fitted to a space with conditions: among trials that lack the parameter it
    tells nothing apart.
    """
    return {name: params[name] if name in params else middle(space[name]) for name in space}


def middle(distribution: BaseDistribution) -> Any:
    """Return a value in the middle of a distribution, or its first category."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if distribution.log:  # type: ignore[attr-defined]
        centre = float(np.sqrt(low * high))
    else:
        centre = (low + high) / 2
    step = distribution.step  # type: ignore[attr-defined]
    return low + round((centre - low) / step) * step if step else centre


def chosen(rows: Sequence[Row]) -> list[Row]:
    """Return at most ``MOST_ROWS``: the best, the newest, and a spread of the others, in order."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    by_value = sorted(rows, key=lambda row: (-(row.value or 0.0), row.number))
    keep = {row.number for row in by_value[: MOST_ROWS * 4 // 10]}
    keep |= {row.number for row in rows[-(MOST_ROWS * 3 // 10) :]}
    others = [row for row in rows if row.number not in keep]
    spread = np.linspace(0, len(others) - 1, MOST_ROWS - len(keep)).round().astype(int)
    keep |= {others[index].number for index in spread}
    return [row for row in rows if row.number in keep]


def tamed(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the worst values cut off, so that a collapsed run is only bad.

    Nothing counts as further below the median than four times the way from there up to the best.
    """
    values = np.array([row.value for row in rows], float)
    best, centre = values.max(), float(np.median(values))
    floor = centre - 4 * (best - centre) if best > centre else float(values.min())
    return [
        replace(row, value=max(float(value), floor))
        for row, value in zip(rows, values, strict=True)
    ]


def propose(rows: Sequence[Row], sampler: Choice, seed: int, number: int) -> Proposal | None:
    """Return the parameters of a new trial; None where they are to be drawn at random.

    Args:
        rows: All trials so far.
        sampler: One of ``MODELS``.
        seed: Of the study.
        number: Of the new trial.
    """
    own = sampler_seed(seed, number)
    known = [row for row in rows if row.value is not None]
    is_uniform = np.random.default_rng(own).random() < UNIFORM_SHARE
    startup = sampler.arguments.get("n_startup_trials", STARTUP_TRIALS)
    if len(known) < 2 or number < startup or is_uniform:
        return None
    space = space_of(rows)
    rows = tamed(chosen(known)) + [row for row in rows if row.value is None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        model = MODELS[sampler.type](**{**sampler.arguments, "seed": own, "n_startup_trials": 1})
        view = optuna.create_study(direction="maximize", sampler=model)
    view.add_trials([_shown(row, space) for row in rows])
    view.add_trial(create_trial(state=TrialState.RUNNING))
    asked = view.get_trials(deepcopy=False)[-1]
    return Proposal(model.sample_relative(view, asked, space), space)


def _shown(row: Row, space: Mapping[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    state = TrialState.RUNNING if row.value is None else TrialState.COMPLETE
    return create_trial(
        state=state,
        value=row.value,
        params=completed(row.params, space),
        distributions=dict(space),
    )
