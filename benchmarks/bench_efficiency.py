"""Which sampler and pruner find as good a leader in fewer epochs? Replays on recorded curves.

Words of the table:

- regret: final validation accuracy of the grid's best configuration less that of the chosen one, in
  points; both means over recorded seeds, the chosen one's over those that its search did not see.
- epochs: of all trials, of both slots.
- to stock: epochs until the configuration that would be handed over is, by that same true value, at
  least as good as the one with which the stock search ends in the median. Counted from the moment a
  trial ends. A search that never gets there counts as infinitely long, so the median stays honest.
- ratio: the median of that, divided by the stock search's own median.

- to ours: how much more regret than the default (tpe, median with Optuna's defaults), mean of the
  differences replay by replay; below zero is better.

Else medians over the replays; intervals are 95 % bootstraps.
"""

import logging
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import click
import numpy as np
import optuna
from numpy.typing import NDArray
from tabulated import Contestant, Moment, Ours, Stock, Table, replay

STOCK = "stock: OptunaSearch + ASHA"
DEFAULT = "tpe, median (Optuna's defaults)"
THIRD = {"n_warmup_steps": 20}
TPE6 = {"type": "tpe", "n_startup_trials": 6}
CONTESTANTS: dict[str, Contestant | None] = {
    STOCK: None,
    "random, none": Contestant("random", "none"),
    "random, median": Contestant("random", "median"),
    "tpe, none": Contestant(TPE6, "none"),
    DEFAULT: Contestant("tpe", "median"),
    "same, smoothed": Contestant("tpe", "median", "mean_last_3"),
    "tpe, median 1/3 (digits)": Contestant(
        TPE6, {"type": "median", "n_startup_trials": 4, **THIRD}, "mean_last_3"
    ),
    "same, not smoothed": Contestant(TPE6, {"type": "median", "n_startup_trials": 4, **THIRD}),
    "tpe, percentile 25 1/3": Contestant(
        TPE6,
        {"type": "percentile", "percentile": 25.0, "n_startup_trials": 4, **THIRD},
        "mean_last_3",
    ),
    "tpe, halving 1/3": Contestant(
        TPE6,
        {"type": "successive_halving", "min_resource": 20, "reduction_factor": 3},
        "mean_last_3",
    ),
    "tpe, halving 1/3 by 4": Contestant(
        TPE6,
        {"type": "successive_halving", "min_resource": 20, "reduction_factor": 4},
        "mean_last_3",
    ),
    "tpe, halving from 1 by 4": Contestant(
        TPE6,
        {"type": "successive_halving", "min_resource": 1, "reduction_factor": 4},
        "mean_last_3",
    ),
    "tpe, hyperband (Optuna's)": Contestant(TPE6, "hyperband", "mean_last_3"),
    "tpe, hyperband 1/3": Contestant(
        TPE6, {"type": "hyperband", "min_resource": 20}, "mean_last_3"
    ),
    "tpe, patient median": Contestant(
        TPE6, {"type": "patient", "patience": 5, "wrapped": "median"}, "mean_last_3"
    ),
}


@cache
def table() -> Table:
    return Table()


def play(job: tuple[str, int, int, int]) -> list[Moment]:
    """Replay one search in a process of the pool."""
    name, seed, trials, epochs = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    contestant = CONTESTANTS[name]
    search = Ours(table(), contestant, seed) if contestant else Stock(table(), seed)
    return replay(table(), search, seed, trials, epochs)


@dataclass(frozen=True)
class Outcome:
    """All replays of one contestant."""

    runs: Sequence[list[Moment]]

    def after_trials(self, trials: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return epochs spent and true value of the leader when so many trials have ended."""
        at = [run[trials - 1] for run in self.runs]
        return np.array([m.epochs for m in at], float), np.array([m.truth for m in at])

    def after_epochs(self, epochs: int) -> NDArray[np.float64]:
        """Return the true value of the leader when so many epochs are spent."""
        return np.array(
            [max((m for m in run if m.epochs <= epochs), default=run[0]).truth for run in self.runs]
        )

    def epochs_to(self, target: float) -> NDArray[np.float64]:
        """Return the epochs spent when the leader was first so good; infinite: it never was."""
        return np.array(
            [next((m.epochs for m in run if m.truth >= target - 1e-9), math.inf)
             for run in self.runs]
        )  # fmt: skip


def interval(
    values: NDArray[np.float64], of: Callable[..., NDArray[np.float64]] = np.median
) -> tuple[float, float]:
    draw = np.random.default_rng(0)
    picks = draw.integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(of(values[picks], axis=1), [0.025, 0.975], method="nearest")
    return float(low), float(high)


@click.command()
@click.option("--seeds", default=50, show_default=True, help="Replays of each.")
@click.option("--epochs", default=1200, show_default=True, help="Spent at least.")
@click.option("--processes", default=2, show_default=True)
@click.option("--only", multiple=True, help="Contestants whose name holds this.")
def main(seeds: int, epochs: int, processes: int, only: tuple[str, ...]) -> None:
    """Replay and print."""
    began = time.monotonic()
    names = [
        n for n in CONTESTANTS if n in (STOCK, DEFAULT) or not only or any(o in n for o in only)
    ]
    jobs = [(name, seed, 40, epochs) for name in names for seed in range(seeds)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        runs = pool.map(play, jobs, chunksize=5)
    outcomes = {name: Outcome(runs[i * seeds : (i + 1) * seeds]) for i, name in enumerate(names)}
    print_table(outcomes, epochs)
    print(f"{len(jobs)} searches replayed in {time.monotonic() - began:.0f} s")


def print_table(outcomes: dict[str, Outcome], epochs: int) -> None:
    best = table().best
    print(f"curves: {table().meta['machine']}; best configuration {best:.2%}")
    for trials in (20, 40):
        target = float(np.median(outcomes[STOCK].after_trials(trials)[1]))
        reached = {name: o.epochs_to(target) for name, o in outcomes.items()}
        stock_needs = float(np.median(reached[STOCK]))
        print(f"\n{trials} trials; the stock search's median leader: {target:.2%}")
        print(f"{'search':<34}{'epochs':>7}{'regret (95 %)':>20}{'at ' + str(epochs):>7}"
              f"{'to ours (95 %)':>22}{'to stock (95 %)':>20}{'ratio':>7}")  # fmt: skip
        usual = outcomes[DEFAULT].after_trials(trials)[1]
        for name, outcome in outcomes.items():
            spent, truth = outcome.after_trials(trials)
            regret = 100 * (best - truth)
            low, high = interval(regret)
            need, (few, many) = float(np.median(reached[name])), interval(reached[name])
            text = f"{np.median(regret):.2f} ({low:.2f}–{high:.2f})"
            at = 100 * (best - np.median(outcome.after_epochs(epochs)))
            more = 100 * (usual - truth)
            least, most = interval(more, np.mean)
            pairs = f"{more.mean():+.2f} ({least:+.2f} {most:+.2f})"
            needs = f"{need:.0f} ({few:.0f}–{many:.0f})"
            print(f"{name:<34}{np.median(spent):>7.0f}{text:>20}{at:>7.2f}"
                  f"{pairs:>22}{needs:>20}{need / stock_needs:>7.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
