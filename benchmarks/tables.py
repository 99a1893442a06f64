"""Recorded learning curves as tables: what a search would have seen, and what is true.

Values are the higher the better: accuracies, or losses with their sign turned. A *run* is a row
of the table with what chance adds to it (a seed, noise), named by a replay's seed and a trial's
number.
"""

import itertools
import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
SHIPPED = tuple(sorted(Path(__file__).parent.glob("*_curves.json.xz")))
JUDGED_FROM = {"digits": 13, "fashion_mnist": 4}
"""Epochs after which screening of these bundled spaces judges a trial."""
CHANCE = 0.1  # accuracy of a network whose loss became NaN
JUDGED_SHARE = 12 / 51
"""Of a run's length, where a file does not say after how many epochs a trial may be judged."""
CIFAR_GRID: dict[str, list[Any]] = {
    "lr": [0.01, 0.0219, 0.0478, 0.105, 0.229, 0.5],
    "weight_decay": [1e-5, 8e-5, 6.3e-4, 5e-3],
    "lr_schedule": ["multistep", "cosine"],
    "peer_weight": [0.1, 0.707, 5.0],
}
"""Of the format ``*.jsonl``; a line names its point by its place in the product."""
CIFAR_IMAGES = 2000
PAPER: dict[str, Any] = {
    "lr": 0.1,
    "weight_decay": 5e-4,
    "lr_schedule": "multistep",
    "peer_weight": 1.0,
    "leader_weight": 1.0,
    "temperature": 3.0,
    "num_peers": 3,
}


class Table(Protocol):
    """Curves of many configurations.

    Attributes:
        name: Of the table.
        epochs: Of every run.
        judged_from: Epochs after which a trial may be judged.
        space: What a search samples.
        best: The true value of the best configuration.
        usual: The median true value of a random configuration.
        worst: The true value that is counted where a search has no leader yet.
    """

    name: str
    epochs: int
    judged_from: int
    space: Mapping[str, BaseDistribution]
    best: float
    usual: float
    worst: float

    def row(self, params: Mapping[str, Any]) -> int:
        """Return the row of a configuration, or the nearest."""

    def curve(self, row: int, seed: int, number: int) -> Floats:
        """Return what a trial would report, epoch by epoch; NaN from where its loss was."""

    def truth(self, row: int, seed: int, number: int) -> float:
        """Return what the trial's configuration is really worth at its end."""

    def paper(self, seed: int) -> dict[str, Any]:
        """Return the setting that a search is told first."""

    def bad(self, seed: int) -> dict[str, Any]:
        """Return the setting that it is told where it is to be misled."""


@dataclass
class Nearest:
    """Rows in the unit cube of a space, to be found by what lies nearest."""

    space: Mapping[str, BaseDistribution]
    rows: list[dict[str, Any]]
    _tree: cKDTree = field(init=False)

    def __post_init__(self) -> None:
        self._tree = cKDTree([self.unit(row) for row in self.rows])

    def unit(self, params: Mapping[str, Any]) -> list[float]:
        """Return a configuration's place; categories lie further apart than anything else."""
        return [_unit(distribution, params[name]) for name, distribution in self.space.items()]

    def find(self, params: Mapping[str, Any]) -> int:
        """Return the index of the nearest row."""
        return int(self._tree.query(self.unit(params))[1])


def _unit(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return 10.0 * distribution.choices.index(value)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float((value - low) / (high - low)) if high > low else 0.0


class Grid:
    """Runs of this project's trainer on a grid: numbers are integer steps, the rest categories.

    Args:
        name: Of the table.
        grid: Values of each parameter.
        points: Which points of the grid were recorded; a search gets the nearest.
        accuracy: By seed, recorded point and epoch; NaN where there is none.
        judged_from: See ``Table``.
    """

    def __init__(
        self,
        name: str,
        grid: Mapping[str, list[Any]],
        points: list[tuple[int, ...]],
        accuracy: Floats,
        judged_from: int,
    ) -> None:
        self.name, self.grid, self.judged_from = name, grid, judged_from
        self.epochs = accuracy.shape[2]
        self.space: dict[str, BaseDistribution] = {
            key: CategoricalDistribution(values)
            if isinstance(values[0], str)
            else IntDistribution(0, len(values) - 1)
            for key, values in grid.items()
        }
        self._nearest = Nearest(self.space, [self._params(point) for point in points])
        self._accuracy = accuracy
        was_run = np.isfinite(accuracy[:, :, 0])
        finals = np.where(was_run, np.nan_to_num(accuracy[:, :, -1], nan=CHANCE), np.nan)
        self._final = finals
        self._runs = [np.flatnonzero(was_run[:, row]) for row in range(len(points))]
        self.best = float(np.nanmax(np.nanmean(finals, axis=0)))
        self.usual = float(np.median(np.nanmean(finals, axis=0)))
        self.worst = CHANCE

    def _params(self, point: tuple[int, ...]) -> dict[str, Any]:
        return {
            key: values[index] if isinstance(values[0], str) else index
            for (key, values), index in zip(self.grid.items(), point, strict=True)
        }

    def row(self, params: Mapping[str, Any]) -> int:
        """See ``Table``."""
        return self._nearest.find(params)

    def _seen(self, row: int, seed: int, number: int) -> int:
        draw = np.random.default_rng([seed, number])
        return int(draw.choice(self._runs[row]))

    def curve(self, row: int, seed: int, number: int) -> Floats:
        """See ``Table``: the curve of one recorded seed."""
        values: Floats = self._accuracy[self._seen(row, seed, number), row]
        return values

    def truth(self, row: int, seed: int, number: int) -> float:
        """Return the mean over the recorded seeds that the search did not see.

        The seed that was seen is why it was chosen: with it, a lucky run would look like a good
        configuration. Where there is no other, it has to do.
        """
        seen = self._seen(row, seed, number)
        others = [run for run in self._runs[row] if run != seen] or [seen]
        return float(self._final[others, row].mean())

    def paper(self, seed: int) -> dict[str, Any]:
        """Return the paper's setting on the grid."""
        return {
            key: PAPER[key]
            if isinstance(values[0], str)
            else int(np.argmin(np.abs(np.log(np.array(values) / PAPER[key]))))
            for key, values in self.grid.items()
        }

    def bad(self, seed: int) -> dict[str, Any]:
        """Return the worst of ten random rows."""
        rows = np.random.default_rng([seed, 7]).choice(len(self._nearest.rows), 10, replace=False)
        means = np.nanmean(self._final, axis=0)
        return self._nearest.rows[min(rows, key=lambda row: float(means[row]))]


class Rows:
    """Public tables: one curve per row, the space continuous, a row found by what lies nearest.

    Args:
        name: Of the table.
        space: What is sampled.
        rows: Configurations.
        curves: What a search sees, by row and epoch.
        truths: By row.
        spread: Rows that are spread evenly over the space.
        noise: Standard deviation of what is added to each epoch and, growing to the end, to a run.
    """

    def __init__(
        self,
        name: str,
        space: Mapping[str, BaseDistribution],
        rows: list[dict[str, Any]],
        curves: Floats,
        truths: Floats,
        spread: NDArray[np.intp],
        noise: float,
    ) -> None:
        self.name, self.space = name, space
        self.epochs = curves.shape[1]
        self.judged_from = round(JUDGED_SHARE * self.epochs)
        self._nearest = Nearest(space, rows)
        self._curves, self._spread, self._noise = curves, spread, noise
        finite = truths[np.isfinite(truths)]
        self.best = float(finite.max())
        self.worst = float(np.quantile(finite, 0.05))
        self.usual = float(np.median(truths[spread][np.isfinite(truths[spread])]))
        self._truths = np.where(np.isfinite(truths), np.maximum(truths, self.worst), self.worst)

    def row(self, params: Mapping[str, Any]) -> int:
        """See ``Table``."""
        return self._nearest.find(params)

    def curve(self, row: int, seed: int, number: int) -> Floats:
        """See ``Table``: the row's curve with the run's offset and each epoch's noise."""
        draw = np.random.default_rng([seed, number])
        share = np.sqrt(np.arange(1, self.epochs + 1) / self.epochs)
        shift = draw.normal() * share + draw.normal(size=self.epochs)
        values: Floats = self._curves[row] + self._noise * shift
        return values

    def truth(self, row: int, seed: int, number: int) -> float:
        """See ``Table``."""
        return float(self._truths[row])

    def _ten(self, seed: int) -> list[int]:
        chosen = np.random.default_rng([seed, 7]).choice(self._spread, 10, replace=False)
        return sorted((int(row) for row in chosen), key=lambda row: float(self._truths[row]))

    def paper(self, seed: int) -> dict[str, Any]:
        """Return the best of ten random rows."""
        return self._nearest.rows[self._ten(seed)[-1]]

    def bad(self, seed: int) -> dict[str, Any]:
        """Return the worst of ten random rows."""
        return self._nearest.rows[self._ten(seed)[0]]


def recorded(path: Path) -> Grid:
    """Read what ``record_curves.py`` wrote; the first file names neither itself nor its points."""
    stored = json.loads(lzma.decompress(path.read_bytes()))
    correct = np.array(stored["correct"], float)
    correct[correct < 0] = np.nan
    grid = stored["grid"]
    every = itertools.product(*(range(len(values)) for values in grid.values()))
    points = [tuple(point) for point in stored.get("points", every)]
    name = stored.get("name", "digits")
    accuracy = correct / stored["validation_images"]
    return Grid(name, grid, points, accuracy, JUDGED_FROM[name])


def cifar(path: Path) -> Grid:
    """Read lines of runs on the grid ``CIFAR_GRID``."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    configs = sorted({line["config"] for line in lines})
    every = list(itertools.product(*(range(len(v)) for v in CIFAR_GRID.values())))
    seeds = 1 + max(line["seed"] for line in lines)
    epochs = max(len(line["correct"]) for line in lines)
    accuracy = np.full((seeds, len(configs), epochs), np.nan)
    for line in lines:
        place = line["seed"], configs.index(line["config"])
        accuracy[place][: len(line["correct"])] = np.array(line["correct"]) / CIFAR_IMAGES
    points = [every[config] for config in configs]
    return Grid(path.stem, CIFAR_GRID, points, accuracy, judged_from=7)


def lcbench(path: Path, stored: Mapping[str, Any]) -> Rows:
    """Read a table of accuracies of networks on tabular data; whole numbers too are continuous."""
    names = [str(name) for name in stored["names"]]
    ranges = zip(names, stored["low"], stored["high"], stored["log_scale"], strict=True)
    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(float(low), float(high), log=bool(log))
        for name, low, high, log in ranges
    }
    within = np.clip(stored["hyperparameters"].astype(float), stored["low"], stored["high"])
    rows = [dict(zip(names, map(float, row), strict=True)) for row in within]
    curves = stored["accuracy_x100"].astype(float) / 10_000
    spread = np.flatnonzero(~stored["near_good"])
    return Rows(path.stem, space, rows, curves, curves[:, -1], spread, noise=0.005)


def taskset(path: Path, stored: Mapping[str, Any]) -> Rows:
    """Read a table of losses of text networks; the truth is the test set's."""
    names = [str(name) for name in stored["names"]]
    values = stored["hyperparameters"].astype(float)
    places = np.stack(
        [np.log10(1 - column if name.startswith("beta") else column)
         for name, column in zip(names, values.T, strict=True)], axis=1,
    )  # fmt: skip
    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(float(column.min()), float(column.max()))
        for name, column in zip(names, places.T, strict=True)
    }
    rows = [dict(zip(names, map(float, row), strict=True)) for row in places]
    seen = -stored["valid_loss"].astype(float)
    seen[~np.isfinite(seen)] = np.nan
    truths = -stored["test_loss"][:, -1].astype(float)
    spread = np.arange(len(rows))
    return Rows(path.stem, space, rows, seen, truths, spread, noise=0.0)


def read(path: Path) -> Table:
    """Read a table of any of the formats.

    Raises:
        ValueError: The file is of none of them.
    """
    if path.suffix == ".jsonl":
        return cifar(path)
    if path.name.endswith(".json.xz"):
        return recorded(path)
    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    if "accuracy_x100" in stored:
        return lcbench(path, stored)
    if "valid_loss" in stored:
        return taskset(path, stored)
    raise ValueError(f"{path} is no table of learning curves: it holds {', '.join(stored)}")


def files_in(folder: Path | None) -> Iterator[Path]:
    """Yield the tables that are shipped, and those of a folder."""
    yield from SHIPPED
    if folder is None:
        return
    yield from sorted(p for p in folder.iterdir() if p.suffix in {".npz", ".jsonl"})
