"""How often confirm is wrong, and how often it finds a gain, where the truth is known.

    python benchmarks/simulate_confirm.py [--repetitions 10000] [--figure FILE.svg]

Nothing is trained. A run of a setting scores its true accuracy, plus a part that all runs of its
seed share, plus noise of its own (standard deviation 1), on the validation images and on the test
images. A run's noise on the one goes with that on the other (correlation rho): a lucky network is
lucky on all images. All of the pipeline is gone through: a search with one noisy run a trial, its
top k, the winner by the validation means of the first look, and ``confirm.looks.judge`` itself.

Rates that are known already are read from the file of results, so that a simulation that was
stopped resumes.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from okddip_search.confirm import looks as rules
from okddip_search.confirm import paired
from okddip_search.confirm.looks import Design, judge, planned_looks

TRIALS = 40
CHUNK = 2_000
"""Repetitions judged at a time."""
COLLAPSE = 10.0
"""Standard deviations that a collapsed run loses."""
AUTO = planned_looks(10)
RULES = (paired.PRIOR, *(getattr(rules, name) for name in dir(rules) if name.isupper()))
"""Constants of the test; rates from before a change of them do not count."""

Floats = NDArray[np.float64]


class World(NamedTuple):
    """The truth, in standard deviations of a run's noise, and how it is looked at.

    Args:
        looks: Numbers of seeds at which the test set is opened.
        candidates: The search's top k.
        rho: Correlation of a run's validation and test noise, in [0, 1].
        baselines: Settings that the winner is compared with; their true accuracy is 0.
        gain: True accuracy of the searched settings, on average.
        spread: Standard deviation of their true accuracies.
        noisy: Noise of the candidates and of the first baseline; that of the other baselines is 1.
        noise: Normal, t with 3 degrees of freedom (scaled to standard deviation 1), or normal with
            one run in twenty that collapses.
        paper: The first baseline is the paper's setting, which is a candidate as well.
        as_one: Leave out the correction for choosing among candidates.
    """

    looks: tuple[int, ...] = (5,)
    candidates: int = 3
    rho: float = 0.5
    baselines: int = 3
    gain: float = 0.0
    spread: float = 0.0
    noisy: tuple[float, float] = (1.0, 1.0)
    noise: Literal["normal", "heavy tails", "collapses"] = "normal"
    paper: bool = False
    as_one: bool = False


class Rates(NamedTuple):
    """Shares of repetitions or of comparisons (coverage, power), in [0, 1]; runs on average.

    Args:
        false_better: At least one baseline is called beaten that is not.
        false_worse: The winner is called worse than a baseline that is not better.
        coverage: The 95 % interval holds the true difference.
        power: The winner is better than a baseline and is called so.
        confirmed: The winner is called better than every baseline.
        runs: Runs of the winner and the baselines; each other candidate has one a seed of the
            first look.
    """

    false_better: float
    false_worse: float
    coverage: float
    power: float
    confirmed: float
    runs: float


@cache  # tables and figure share worlds
def simulate(world: World, repetitions: int, seed: int = 0) -> Rates:
    """Confirm again and again in one world, and compare the words with the truth."""
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, repetitions - done) for done in range(0, repetitions, CHUNK)]
    rates = np.concatenate([rates_of(*part, world) for n in sizes for part in draw(world, n, rng)])
    return Rates(*rates.mean(axis=0).tolist())


def draw(world: World, size: int, rng: np.random.Generator) -> Iterator[tuple[Floats, Floats]]:
    """Yield test scores (repetitions, 1 + baselines, seeds), winner first, and true gains.

    Where the paper's setting can win, these are two parts: it is no baseline of itself.
    """
    k, settings, seeds = world.candidates, world.candidates + world.baselines, world.looks[-1]
    searched = world.gain + world.spread * rng.standard_normal((size, TRIALS))
    top = np.argsort(-searched - rng.standard_normal((size, TRIALS)), axis=1)[:, :k]
    truth = np.zeros((size, settings))
    truth[:, :k] = np.take_along_axis(searched, top, axis=1)

    scale = np.ones((settings, 1))
    scale[:k], scale[k] = world.noisy
    luck = _noise(world, (size, settings, seeds), rng)
    own = world.rho * luck + (1 - world.rho**2) ** 0.5 * _noise(world, luck.shape, rng)
    if world.noise == "collapses":
        lost = COLLAPSE * (rng.random(luck.shape) < 0.05)
        luck, own = luck - lost, own - lost
    validation, test = (
        truth[..., None] + scale * noise + rng.standard_normal((size, 1, seeds))
        for noise in (luck, own)
    )
    means = validation[:, : k + world.paper, : world.looks[0]].mean(axis=-1)
    winners = means.argmax(axis=1)
    for paper_wins in (False, True):
        rows = np.flatnonzero((winners == k) == paper_wins)
        baselines = np.tile(np.arange(k + paper_wins, settings), (len(rows), 1))
        order = np.column_stack([winners[rows], baselines])
        if len(rows):
            true = truth[rows[:, None], order]
            yield test[rows[:, None], order], true[:, :1] - true[:, 1:]


def _noise(world: World, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    if world.noise == "heavy tails":
        return rng.standard_t(3, shape) / 3**0.5
    return rng.standard_normal(shape)


def rates_of(scores: Floats, gains: Floats, world: World) -> Floats:
    """Judge confirmations, and compare with the truth: (repetitions, rates)."""
    candidates = 1 if world.as_one else world.candidates + world.paper
    found = judge(scores, Design(candidates, gains.shape[1], world.looks))
    better, worse = found.outcome == 1, found.outcome == -1
    seeds = np.array(world.looks)[found.left]
    rates = [
        (better & (gains <= 0)).any(axis=1),
        (worse & (gains >= 0)).any(axis=1),
        (np.abs(found.seen.difference - gains) <= found.margin).mean(axis=1),
        (better & (gains > 0)).mean(axis=1),
        better.all(axis=1),
        seeds.sum(axis=1) + seeds.max(axis=1),
    ]
    return np.column_stack(rates).astype(float)


# Tables

BASELINES = (1, 3, 6, 8)
CANDIDATES = (1, 3, 5)
RHOS = (0.0, 0.5, 0.9)
GAINS = (0.0, 0.5, 1.0, 2.0, 3.0)
FIXED = ((2,), (3,), (5,), (10,), (20,))
POWER_SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)
SPECIAL = {
    "k = 3, ρ 0.9, its choice not corrected for": World(as_one=True, rho=0.9),
    "k = 5, ρ 0.9, its choice not corrected for": World(candidates=5, as_one=True, rho=0.9),
    "the paper's setting is a fourth candidate": World(paper=True),
    "the paper's setting is a fourth candidate, ρ 0.9": World(paper=True, rho=0.9),
    "searched settings differ by 1 sd": World(spread=1.0),
    "heavy tails (t, 3 degrees of freedom)": World(noise="heavy tails"),
    "one run in twenty collapses": World(noise="collapses"),
    "candidates twice as noisy": World(noisy=(2.0, 1.0)),
    "candidates twice as noisy, 6 baselines": World(noisy=(2.0, 1.0), baselines=6),
    "candidates twice as noisy, 6 baselines, ρ 0.9": World(noisy=(2.0, 1.0), baselines=6, rho=0.9),
    "one candidate, twice as noisy, 8 baselines": World(
        noisy=(2.0, 1.0), baselines=8, candidates=1
    ),
    "first baseline twice as noisy": World(noisy=(1.0, 2.0)),
    "candidates 2, first baseline 0.5 times as noisy, ρ 0.9": World(noisy=(2.0, 0.5), rho=0.9),
}


class Simulations:
    """Rates by world, kept in a file of JSON lines."""

    def __init__(self, repetitions: int, file: Path) -> None:
        self.repetitions = repetitions
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        entries = [json.loads(line) for line in lines]
        self.known = {entry["world"]: Rates(**entry["rates"]) for entry in entries}

    def of(self, world: World) -> Rates:
        """Return the rates of a world, simulated unless they are known."""
        key = f"{self.repetitions} × {world}, {RULES}"
        if key not in self.known:
            self.known[key] = simulate(world, self.repetitions)
            with self.file.open("a") as lines:
                lines.write(json.dumps({"world": key, "rates": self.known[key]._asdict()}) + "\n")
        return self.known[key]


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def seeds_of(looks: tuple[int, ...]) -> str:
    return str(looks[0]) if len(looks) == 1 else "auto"


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def null_table(known: Simulations) -> None:
    heads = ["seeds", "k", *(f"false, {r}" for r in BASELINES)]
    heads += [f"coverage, {r}" for r in BASELINES]
    rows = []
    for looks in (*FIXED, AUTO):
        for k in CANDIDATES:
            by_baselines = [[known.of(World(looks, k, rho, r)) for rho in RHOS] for r in BASELINES]
            wrong = [percent(max(r.false_better for r in rates)) for rates in by_baselines]
            covers = [sorted(r.coverage for r in rates) for rates in by_baselines]
            cover = [f"{percent(low)} to {percent(high)}" for low, *_, high in covers]
            rows.append([seeds_of(looks), str(k), *wrong, *cover])
    title = "All settings alike: any false better, the worst of ρ 0, 0.5 and 0.9; coverage (%)"
    table(title, heads, rows)


def special_table(known: Simulations) -> None:
    all_looks = ((2,), (3,), (4,), (5,), (10,), AUTO)
    rows = []
    for words, world in SPECIAL.items():
        rates = [known.of(world._replace(looks=looks)) for looks in all_looks]
        cells = [f"{percent(r.false_better)} / {percent(r.coverage)}" for r in rates]
        rows.append([words, *cells])
    heads = ["special", *map(seeds_of, all_looks)]
    table("Else 3 candidates, 3 baselines, ρ 0.5: any false better / coverage (%)", heads, rows)


def power_table(known: Simulations) -> None:
    heads = ["seeds", *(f"{g:g} sd, {r}" for g in (1.0, 2.0) for r in BASELINES)]
    rows = []
    for looks in (*((n,) for n in POWER_SEEDS), AUTO):
        worlds = [World(looks, baselines=r, gain=g) for g in (1.0, 2.0) for r in BASELINES]
        rows.append([seeds_of(looks), *(percent(known.of(w).power) for w in worlds)])
    table("True gain of 1 and 2 sd over 1, 3, 6 and 8 baselines: found (%)", heads, rows)


def auto_table(known: Simulations) -> None:
    heads = ["true gain, sd"]
    heads += [f"{words}, {r}" for r in BASELINES for words in ("found", "coverage", "runs")]
    rows = []
    for gain in GAINS:
        row = [f"{gain:g}"]
        for r in BASELINES:
            rates = known.of(World(AUTO, baselines=r, gain=gain))
            row += [percent(rates.power), percent(rates.coverage), f"{rates.runs:.1f}"]
        rows.append(row)
    table(f"Looks after {AUTO} seeds: found (%), coverage (%), runs", heads, rows)


def draw_figure(known: Simulations, file: Path) -> None:
    """Draw error rate, coverage and power."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "confirm", "font.size": 9})
    figure, (wrong, cover, power) = pyplot.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]  # Okabe and Ito's: told apart by all
    for looks, line in (((5,), "-"), (AUTO, "--")):
        for rho, colour, marker in zip(RHOS, colours, "os^", strict=False):
            rates = [known.of(World(looks, 3, rho, r)) for r in BASELINES]
            style: dict[str, Any] = {
                "color": colour, "marker": marker, "linestyle": line, "markersize": 4,
                "label": f"ρ {rho:g}, {seeds_of(looks)}{' seeds' * (line == '-')}",
            }  # fmt: skip
            wrong.plot(BASELINES, [100 * r.false_better for r in rates], **style)
            cover.plot(BASELINES, [100 * r.coverage for r in rates], **style)
    wrong.axhline(4, color="black", linewidth=0.8)
    wrong.set(title='Any false "better", all alike', ylabel="%", ylim=(0, 8))
    cover.axhspan(93, 97, color="0.9")
    cover.set(title="95 % interval holds the truth", ylabel="%", ylim=(90, 100))
    for axes in (wrong, cover):
        axes.set(xlabel="baselines", xticks=BASELINES)
        axes.legend(frameon=False, fontsize=7)
    for gain, line in ((1.0, "--"), (2.0, "-")):
        for baselines, colour, marker in zip(BASELINES, colours, "os^D", strict=True):
            worlds = [World((n,), baselines=baselines, gain=gain) for n in POWER_SEEDS]
            power.plot(
                POWER_SEEDS,
                [100 * known.of(world).power for world in worlds],
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=4,
                label=f"{gain:g} sd, {baselines} baseline{'s' * (baselines > 1)}",
            )
    power.set(title="A true gain is found (k = 3, ρ 0.5)", xlabel="seeds", ylabel="%")
    power.legend(frameon=False, fontsize=7)
    figure.savefig(file, metadata={"Date": None})


@click.command()
@click.option("--repetitions", default=10_000, show_default=True)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("confirm-simulation.jsonl"),
    show_default=True,
    help="Rates known so far, to which new ones are added.",
)
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path))
def main(repetitions: int, results: Path, figure: Path | None) -> None:
    """Print the tables of docs/confirm.md in Markdown, and draw its figure."""
    known = Simulations(repetitions, results)
    print(f"{repetitions} repetitions a cell")
    null_table(known)
    special_table(known)
    power_table(known)
    auto_table(known)
    if figure:
        draw_figure(known, figure)


if __name__ == "__main__":
    main()
