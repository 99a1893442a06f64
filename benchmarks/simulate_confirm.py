"""How often confirm is wrong, and how often it finds a gain, where the truth is known.

    python benchmarks/simulate_confirm.py [--repetitions 1000] [--figure FILE.svg]

Nothing is trained. A run of a setting scores its true accuracy, plus a part that all runs of its
seed share, plus noise of its own (standard deviation 1), on the validation images and on the test
images. A run's noise on the one goes with that on the other (correlation rho): a lucky network is
lucky on all images. All of the pipeline is gone through: a search with one noisy run a trial, its
top k, the confirm runs, the winner by validation means, and ``confirm.statistics`` itself.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from okddip_search.confirm.statistics import compare, pick_winner, verdict

TRIALS = 40
POINTS = 0.002
"""Noise of a run as a share, so that scores look like accuracies."""


class World(NamedTuple):
    """What is true, in standard deviations of a run's noise, and how it is looked at.

    Args:
        seeds: Seeds of the confirm phase.
        candidates: The search's top k.
        rho: Correlation of a run's validation and test noise, in [0, 1].
        baselines: Settings that the winner is compared with; their true accuracy is 0.
        gain: True accuracy of the searched settings, on average.
        spread: Standard deviation of their true accuracies.
        noisy: Noise of the candidates and of the first baseline; that of the other baselines is 1.
        paper: The first baseline is the paper's setting, which is a candidate as well.
        as_one: Leave out the correction for choosing among candidates.
    """

    seeds: int = 5
    candidates: int = 3
    rho: float = 0.5
    baselines: int = 3
    gain: float = 0.0
    spread: float = 0.0
    noisy: tuple[float, float] = (1.0, 1.0)
    paper: bool = False
    as_one: bool = False


class Rates(NamedTuple):
    """Shares of repetitions (any, confirmed) or of comparisons (coverage, power), in [0, 1]."""

    any_false_better: float
    coverage: float
    power: float
    confirmed: float


@cache  # tables and figure share worlds
def simulate(world: World, repetitions: int, seed: int = 0) -> Rates:
    """Confirm again and again in one world, and compare what is said with what is true."""
    rng = np.random.default_rng(seed)
    found = [confirm_once(world, rng) for _ in range(repetitions)]
    return Rates(*(float(rate) for rate in np.mean(found, axis=0)))


def confirm_once(world: World, rng: np.random.Generator) -> Rates:
    k, baselines = world.candidates, world.baselines
    searched = world.gain + world.spread * rng.standard_normal(TRIALS)
    top = np.argsort(-searched - rng.standard_normal(TRIALS))[:k]
    truth_K = np.concatenate([searched[top], np.zeros(baselines)])
    noise_K1 = np.ones((k + baselines, 1))
    noise_K1[:k], noise_K1[k] = world.noisy
    shape = (k + baselines, world.seeds)
    luck_KN = rng.standard_normal(shape)
    luck_of_seed_2N = rng.standard_normal((2, world.seeds))
    own_KN = world.rho * luck_KN + (1 - world.rho**2) ** 0.5 * rng.standard_normal(shape)
    validation_KN = truth_K[:, None] + noise_K1 * luck_KN + luck_of_seed_2N[0]
    test_KN = truth_K[:, None] + noise_K1 * own_KN + luck_of_seed_2N[1]

    labels = [f"trial {i}" for i in range(k)] + [f"baseline {i}" for i in range(baselines)]
    truth = dict(zip(labels, POINTS * truth_K, strict=True))
    validation, test = (
        {label: scores(row) for label, row in zip(labels, noise, strict=True)}
        for noise in (validation_KN, test_KN)
    )
    candidates = labels[: k + world.paper]
    winner = pick_winner({label: validation[label] for label in candidates})
    others = [label for label in labels[k:] if label != winner]
    opened = {label: test[label] for label in (winner, *others)}
    comparisons = compare(winner, opened, others, 1 if world.as_one else len(candidates))

    gains = [truth[winner] - truth[c.baseline] for c in comparisons]
    pairs = list(zip(comparisons, gains, strict=True))
    return Rates(
        any(c.verdict == "better" and gain <= 0 for c, gain in pairs),
        float(np.mean([abs(c.difference - gain) <= c.high - c.difference for c, gain in pairs])),  # type: ignore[operator]
        float(np.mean([c.verdict == "better" and gain > 0 for c, gain in pairs])),
        verdict(winner, comparisons).allows_champion,
    )


def scores(noise_N: np.ndarray[Any, np.dtype[np.float64]]) -> dict[int, float]:
    return {seed: 0.9 + POINTS * float(noise) for seed, noise in enumerate(noise_N)}


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


BASELINES = (1, 3, 6)
CANDIDATES = (1, 3, 5)
RHOS = (0.0, 0.5, 0.9)
GAINS = (1.0, 2.0)
POWER_SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)


def null_table(repetitions: int) -> None:
    heads = [
        "seeds",
        "k",
        "rho",
        *(f"false {r}" for r in BASELINES),
        *(f"cover {r}" for r in BASELINES),
    ]
    rows = []
    for seeds in (3, 5, 10):
        for k in CANDIDATES:
            for rho in RHOS:
                rates = [simulate(World(seeds, k, rho, r), repetitions) for r in BASELINES]
                wrong = [percent(rate.any_false_better) for rate in rates]
                cover = [percent(rate.coverage) for rate in rates]
                rows.append([str(seeds), str(k), str(rho), *wrong, *cover])
    table("All settings alike; 1, 3 and 6 baselines: any false better, coverage (%)", heads, rows)


def special_table(repetitions: int) -> None:
    all_seeds = (2, 3, 4, 5, 10)
    worlds = {
        "k = 3, rho 0.9, its choice not corrected for": World(as_one=True, rho=0.9),
        "k = 5, rho 0.9, its choice not corrected for": World(5, 5, as_one=True, rho=0.9),
        "the paper's setting is a candidate, too": World(paper=True),
        "the paper's setting is a candidate, too, rho 0.9": World(paper=True, rho=0.9),
        "searched settings differ by 1 sd": World(spread=1.0),
        "candidates twice as noisy": World(noisy=(2.0, 1.0)),
        "first baseline twice as noisy": World(noisy=(1.0, 2.0)),
        "candidates 2, first baseline 0.5 times as noisy, rho 0.9": World(
            noisy=(2.0, 0.5), rho=0.9
        ),
    }
    rows = []
    for words, world in worlds.items():
        rates = [simulate(world._replace(seeds=n), repetitions) for n in all_seeds]
        cells = [f"{percent(r.any_false_better)} / {percent(r.coverage)}" for r in rates]
        rows.append([words, *cells])
    heads = ["what is special", *(f"{n} seeds" for n in all_seeds)]
    table("Else 3 candidates, 3 baselines, rho 0.5: any false better / coverage (%)", heads, rows)


def power_table(repetitions: int) -> None:
    heads = ["seeds", *(f"{g:g} sd, {r}" for g in GAINS for r in BASELINES)]
    rows = []
    for n in POWER_SEEDS:
        worlds = [World(n, baselines=r, gain=g) for g in GAINS for r in BASELINES]
        rows.append([str(n), *(percent(simulate(w, repetitions).power) for w in worlds)])
    table("True gain of 1 and 2 sd over 1, 3 and 6 baselines, of each found (%)", heads, rows)


def draw(repetitions: int, file: Path) -> None:
    """Draw error rate, coverage and power; 3 baselines on the left, as labelled on the right."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "confirm", "font.size": 9})
    figure, (wrong, cover, power) = pyplot.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    colours = ["#0072B2", "#E69F00", "#009E73"]  # Okabe and Ito's: told apart by everybody
    for rho, colour, marker in zip(RHOS, colours, "os^", strict=True):
        rates = [simulate(World(5, k, rho), repetitions) for k in CANDIDATES]
        style = {"color": colour, "marker": marker, "label": f"rho {rho:g}"}
        wrong.plot(CANDIDATES, [100 * r.any_false_better for r in rates], **style)
        cover.plot(CANDIDATES, [100 * r.coverage for r in rates], **style)
    as_one = [simulate(World(5, k, 0.9, as_one=True), repetitions) for k in CANDIDATES]
    wrong.plot(
        CANDIDATES,
        [100 * r.any_false_better for r in as_one],
        color=colours[-1],
        linestyle=":",
        label="rho 0.9, choice not corrected for",
    )
    wrong.axhline(5, color="black", linewidth=0.8)
    wrong.set(title='Any false "better", all alike (5 seeds)', ylabel="%", ylim=(0, 10))
    cover.axhspan(93, 97, color="0.9")
    cover.set(title="95 % interval holds the truth (5 seeds)", ylabel="%", ylim=(90, 100))
    for axes in (wrong, cover):
        axes.set(xlabel="candidates k", xticks=CANDIDATES)
        axes.legend(frameon=False)
    for gain, line in zip(GAINS, ("--", "-"), strict=True):
        for baselines, colour, marker in zip(BASELINES, colours, "os^", strict=True):
            worlds = [World(n, baselines=baselines, gain=gain) for n in POWER_SEEDS]
            power.plot(
                POWER_SEEDS,
                [100 * simulate(world, repetitions).power for world in worlds],
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=4,
                label=f"{gain:g} sd, {baselines} baseline{'s' * (baselines > 1)}",
            )
    power.axvline(4.5, color="0.7", linewidth=0.8)
    power.set(title="A true gain is found (k = 3, rho 0.5)", xlabel="seeds", ylabel="%")
    power.legend(frameon=False, fontsize=7.5)
    figure.savefig(file, metadata={"Date": None})


@click.command()
@click.option("--repetitions", default=1000, show_default=True)
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path))
def main(repetitions: int, figure: Path | None) -> None:
    """Print the tables of docs/confirm.md in Markdown, and draw its figure."""
    print(f"{repetitions} repetitions a cell")
    null_table(repetitions)
    special_table(repetitions)
    power_table(repetitions)
    if figure:
        draw(repetitions, figure)


if __name__ == "__main__":
    main()
