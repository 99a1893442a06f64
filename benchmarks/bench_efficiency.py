"""Which search finds as good a leader in fewer epochs? Replays on tables of learning curves.

Each contestant gets the same epochs: ``--budget-T`` full runs (T epochs each), shared by
``--slots`` slots. It is told the same setting first (the paper's; in public tables the best of
ten random rows). A leader counts only once it is trained to its end. Regret is the true value of
the table's best configuration less that of the leader; the *ratio* of a table is the median regret
of a contestant divided by that of the base, stock Ray Tune (``OptunaSearch``, ``ASHAScheduler``).
"""

import json
import logging
import math
import multiprocessing
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import optuna
from numpy.typing import NDArray
from replay import Hyperband, Ours, Search, Setup, Stock, replay
from tables import Table, files_in, read

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the pool's processes share the cores
CURVES = "OKDDIP_CURVES"
Floats = NDArray[np.float64]
BASE = "stock"
OURS = "screen"
LEAST_SHARE = 0.01
"""Of the way from the usual to the best value: smaller regrets count as this, or one that is zero
would make every ratio zero or infinite."""
TPE6 = {"type": "tpe", "n_startup_trials": 6}
SCREEN = {"pruner": "none"}
SETUPS: dict[str, Setup] = {
    OURS: Setup({**SCREEN, "searcher": "screen"}),
    "screen-tpe": Setup({**SCREEN, "searcher": {"type": "screen", "sampler": "tpe"}}),
    "screen-median": Setup({"pruner": "median", "searcher": "screen"}),
    "shipped": Setup({"sampler": TPE6, "pruner": {"type": "median", "n_startup_trials": 4}}),
}
CONTESTANTS = (BASE, "hyperband", *SETUPS)


@dataclass(frozen=True)
class Job:
    """One replay."""

    file: str
    contestant: str
    slots: int
    budget: float
    seed: int
    told: str = "paper"


@cache
def table(file: str) -> Table:
    return read(Path(file))


def make_search(job: Job) -> Search:
    curves = table(job.file)
    told = {"paper": curves.paper, "bad": curves.bad}[job.told](job.seed)
    if job.contestant == BASE:
        return Stock(curves, job.seed, told)
    if job.contestant == "hyperband":
        return Hyperband(curves, job.seed, told)
    return Ours(curves, SETUPS[job.contestant], job.seed, told)


def play(job: Job) -> tuple[Job, dict[str, Any]]:
    """Replay one search in a process of the pool."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    curves = table(job.file)
    began = time.monotonic()
    steps = round(job.budget * curves.epochs / job.slots)
    moments = replay(curves, make_search(job), job.seed, job.slots, steps)
    return job, {
        "table": curves.name,
        "regrets": [(m.epochs / curves.epochs, curves.best - m.truth) for m in moments],
        "seconds": round(time.monotonic() - began, 2),
    }


def key(job: Job) -> str:
    return json.dumps(
        [Path(job.file).name, job.contestant, job.slots, job.budget, job.seed, job.told]
    )


def played(jobs: list[Job], processes: int, kept: Path | None) -> dict[Job, dict[str, Any]]:
    """Replay what is not in the file of results, and add it there."""
    known: dict[str, dict[str, Any]] = {}
    for line in kept.read_text().splitlines() if kept and kept.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # it was cut off
        known[entry["key"]] = entry
    todo = [job for job in jobs if key(job) not in known]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for job, outcome in pool.imap_unordered(play, todo):
            known[key(job)] = {"key": key(job), **outcome}
            if kept:
                with kept.open("a") as file:
                    file.write(json.dumps(known[key(job)]) + "\n")
    return {job: known[key(job)] for job in jobs}


Runs = list[list[tuple[float, float]]]
"""A contestant's regret over time on a table, one list per seed: full runs' epochs, regret."""


def at(runs: Runs, budget: float) -> Floats:
    """Return the regrets after so many full runs' epochs."""
    return np.array([[regret for spent, regret in run if spent <= budget][-1] for run in runs])


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(float(np.mean(np.log(list(values)))))


@dataclass(frozen=True)
class Comparison:
    """All replays of two contestants.

    Attributes:
        ours: Runs by table.
        base: The same of what they are held against.
        least: Regrets that count as the smallest, by table.
        budget: Full runs' epochs that each had.
    """

    ours: Mapping[str, Runs]
    base: Mapping[str, Runs]
    least: Mapping[str, float]
    budget: float

    def ratios(self, budget: float) -> dict[str, float]:
        """Return the ratio of the median regrets of each table."""
        return {t: self._ratio(t, at(self.ours[t], budget), at(self.base[t], budget))
                for t in self.ours}  # fmt: skip

    def _ratio(self, name: str, ours: Floats, base: Floats) -> float:
        least = self.least[name]
        return float(max(np.median(ours), least) / max(np.median(base), least))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % bootstrap interval over seeds of the ratios' geometric mean."""
        draw = np.random.default_rng(0)
        ends = {t: (at(self.ours[t], self.budget), at(self.base[t], self.budget))
                for t in self.ours}  # fmt: skip
        means = [
            geometric_mean(
                self._ratio(t, *(draw.choice(side, len(side)) for side in sides))
                for t, sides in ends.items()
            )
            for _ in range(1000)
        ]
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    def epochs_to_base(self, name: str) -> float:
        """Return the full runs' epochs after which our median regret is the base's at its end."""
        target = float(np.median(at(self.base[name], self.budget))) + 1e-9
        grid = np.arange(1.0, self.budget + 0.01, 0.25)
        there = (t for t in grid if float(np.median(at(self.ours[name], t))) <= target)
        return float(next(there, math.inf))

    def show(self, title: str) -> None:
        """Print it."""
        low, high = self.interval()
        ratios = self.ratios(self.budget)
        print(f"\n{title}: {geometric_mean(ratios.values()):.3f} ({low:.3f} to {high:.3f})")
        print(f"{'':<40}{'seeds':>6}{'ratio':>7}{'regret':>10}{'of stock':>10}{'to stock':>10}")
        for name, value in ratios.items():
            ours, base = at(self.ours[name], self.budget), at(self.base[name], self.budget)
            print(f"{name:<40}{len(ours):>6}{value:>7.2f}{np.median(ours):>10.5f}"
                  f"{np.median(base):>10.5f}{self.epochs_to_base(name):>8.2f} T")  # fmt: skip


def draw(compared: Mapping[str, Comparison], file: Path) -> None:
    """Draw the ratio's geometric mean over the epochs that were spent."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(6.0, 3.4), layout="constrained")
    colours = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"]
    for (name, one), colour in zip(compared.items(), colours, strict=False):
        spent = np.arange(2.0, one.budget + 0.01, 0.25)
        means = [geometric_mean(one.ratios(t).values()) for t in spent]
        axes.plot(spent, means, color=colour, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="epochs spent, in full runs", ylabel="regret / stock's", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


@click.command()
@click.option("--curves", type=click.Path(exists=True, path_type=Path), envvar=CURVES)
@click.option("--slots", default=2, show_default=True)
@click.option("--budget-T", "budget", default=10.0, show_default=True, help="Full runs' epochs.")
@click.option("--seeds", default=50, show_default=True)
@click.option("--first-seed", default=0)
@click.option("--told", type=click.Choice(["paper", "bad"]), default="paper", show_default=True)
@click.option("--contestant", "names", multiple=True, type=click.Choice(CONTESTANTS))
@click.option("--tables", "only", multiple=True, help="Those whose name holds this.")
@click.option("--processes", default=2, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="Keep replays as lines here.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the ratio over time here.")
@click.option("--json", "as_json", is_flag=True, help="Print one object: screen against stock.")
def main(
    curves: Path | None,
    slots: int,
    budget: float,
    seeds: int,
    first_seed: int,
    told: str,
    names: tuple[str, ...],
    only: tuple[str, ...],
    processes: int,
    results: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Replay and print."""
    files = [str(f) for f in files_in(curves) if not only or any(o in f.name for o in only)]
    contestants = (BASE, *(n for n in (names or (OURS,)) if n != BASE))
    jobs = [
        Job(file, name, slots, budget, seed, told)
        for seed in range(first_seed, first_seed + seeds)
        for file in files
        for name in contestants
    ]
    runs: dict[str, dict[str, Runs]] = defaultdict(lambda: defaultdict(list))
    for job, entry in played(jobs, processes, results).items():
        runs[job.contestant][entry["table"]].append(entry["regrets"])
    tables = [table(file) for file in files]
    least = {t.name: LEAST_SHARE * (t.best - t.usual) for t in tables}
    compared = {name: Comparison(runs[name], runs[BASE], least, budget) for name in contestants[1:]}
    for name, one in compared.items():
        ratios = one.ratios(budget)
        if as_json:
            mean = geometric_mean(ratios.values())
            print(json.dumps({"geometric_mean": mean, "tables": ratios}))
        else:
            one.show(f"{name}, {slots} slots, {budget:g} T")
    if figure:
        draw(compared, figure)


if __name__ == "__main__":
    main()
