"""What the driver takes for a report and for a new trial, as the study grows.

python benchmarks/bench_driver.py [--trials 400] [--epochs 60]

The real bridge, study journal, sampler and pruner, and MLflow's journal; no cluster and no
training: the reports are those of one real epoch with other accuracies.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import click
from side_by_side import machine, random_data

from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.work import SearchWork
from okddip_search.space.load import load_space
from okddip_search.study.study import open_study
from okddip_search.tracking.worker import Tracker
from trainer.config.train import TrainConfig
from trainer.engine.trainer import Trainer

BINS = 4


def one_report() -> dict[str, object]:
    config = TrainConfig(model="resnet8", width=0.25, batch_size=32, device="cpu")
    return Trainer(config, random_data(64, 64, 8)).run_epoch().to_dict()


@click.command()
@click.option("--trials", default=400, show_default=True)
@click.option("--epochs", default=60, show_default=True)
def main(trials: int, epochs: int) -> None:
    """Print medians for each quarter of the search."""
    spec = load_space("digits", (f"trainer.epochs={epochs}",), trials=trials)
    report, draw = one_report(), random.Random(0)
    asks: list[float] = []
    reports: list[list[float]] = [[] for _ in range(trials)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tracker = Tracker(folder, None, spec.name, on_trouble=print)
        tracker.begin({}, {})
        bridge = StudyBridge(
            open_study(folder, spec),
            SearchWork(spec),
            Concurrency(2),
            listeners=[tracker.stage(folder)],
        )
        for number in range(trials):
            started = time.perf_counter()
            entry = bridge.next_trial()
            asks.append(time.perf_counter() - started)
            assert entry is not None
            level = draw.uniform(0.2, 0.8)
            for epoch in range(epochs):
                told = {**report, "epoch": epoch, "leader_accuracy": level * (1 - 0.9**epoch)}
                started = time.perf_counter()
                stop = bridge.report(number, [told])
                reports[number].append(time.perf_counter() - started)
                if stop:
                    break
            else:
                bridge.complete(number, [])
        tracker.close(0.0)
    print(f"{trials} trials of at most {epochs} epochs, tpe, median pruner; {machine(1)}")
    print(f"{'trials':<12}{'report, median':>16}{'99th pct':>12}{'next trial':>14}")
    for part in range(BINS):
        first, last = part * trials // BINS, (part + 1) * trials // BINS
        times = [t for trial in reports[first:last] for t in trial]
        worst = statistics.quantiles(times, n=100)[-1]
        name, ask = f"{first}-{last - 1}", statistics.median(asks[first:last])
        print(
            f"{name:<12}{1000 * statistics.median(times):>13.2f} ms"
            f"{1000 * worst:>9.2f} ms{1000 * ask:>11.1f} ms"
        )


if __name__ == "__main__":
    main()
