"""What a search takes beside its training, and beside a stock Ray Tune function trainable.

python benchmarks/bench_search_overhead.py [--space fashion_mnist] [--trials 12] [--root FOLDER]

The search is the real command with random sampling and without pruning, so that both sides train
the very same configurations for the same epochs. The stock side is what Tune's documentation shows:
a function that loads the data, trains and reports every epoch, with the same Trainer inside.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from side_by_side import machine

COMMAND = Path(sys.executable).with_name("okddip-search")
STOCK = """
import json, os, sys
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AIR_NEW_OUTPUT="0")
import ray
from ray import tune

def train(config):
    from trainer.config.train import TrainConfig
    from trainer.data.load import load_development_data
    from trainer.engine.trainer import Trainer
    run = TrainConfig(**config["trainer"])
    for report in Trainer(run, load_development_data(run.data)).epochs():
        tune.report({"leader_accuracy": report.leader_accuracy})

configs, storage = json.load(open(sys.argv[1])), sys.argv[2]
ray.init(num_cpus=int(sys.argv[3]), include_dashboard=False, log_to_driver=False)
tune.Tuner(
    tune.with_resources(train, {"cpu": 1}),
    param_space={"trainer": tune.grid_search(configs)},
    run_config=tune.RunConfig(storage_path=storage, verbose=0),
).fit()
"""


def timed(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - started


def gaps_s(directory: Path) -> list[float]:
    """Return the seconds from each trial's end to the start of the one that took its place."""
    storage = JournalStorage(JournalFileBackend(str(directory / "study.journal")))
    [name] = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    ends = sorted(t.datetime_complete for t in trials)
    starts = sorted(t.datetime_start for t in trials)
    slots = sum(start < ends[0] for start in starts)
    return [(s - e).total_seconds() for e, s in zip(ends, starts[slots:], strict=False)]


@click.command()
@click.option("--space", default="fashion_mnist", show_default=True)
@click.option("--trials", default=12, show_default=True)
@click.option("--root", help="Folder of the data set.")
@click.option("--slots", default=2, show_default=True, help="Cores, one trial on each.")
def main(space: str, trials: int, root: str | None, slots: int) -> None:
    """Print wall time, training time and their ratio for both."""
    settings = [
        f"study.trials={trials}", "study.sampler=random", "study.pruner=none",
        f"resources.max_concurrent={slots}", *([f"data.root={root}"] if root else []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sets = [word for setting in settings for word in ("--set", setting)]
        command = [str(COMMAND), "--space", space, "--no-confirm", "--gpus", "0", "--out", "ours"]
        ours_s = timed([*command, *sets], folder)
        results = [
            json.loads((folder / "ours" / "trials" / str(n) / "result.json").read_text())
            for n in range(trials)
        ]
        training_s = sum(result["seconds"] for result in results)
        configs = [result["config"] for result in results]
        (folder / "configs.json").write_text(json.dumps(configs))
        stock = [sys.executable, "-c", STOCK, "configs.json", str(folder / "stock"), str(slots)]
        stock_s = timed(stock, folder)
        gaps = gaps_s(folder / "ours")
    print(f"{space}, {trials} trials of {configs[0]['epochs']} epochs, {slots} at a time")
    print(machine(1))
    ideal_s = training_s / slots
    print(f"training seconds / slots {ideal_s:8.1f} s")
    print(f"okddip-search            {ours_s:8.1f} s   {ours_s / ideal_s:.2f} × that")
    print(f"stock Tune function      {stock_s:8.1f} s   {stock_s / ours_s:.2f} × okddip-search")
    print(f"from a trial's end to the next one's start: median {statistics.median(gaps):.3f} s, "
          f"longest {max(gaps):.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
