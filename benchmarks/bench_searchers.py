"""Does screening find as good a leader as TPE with the median pruner, on the real trainer?

Both search a bundled space with the same study seeds and about as many epochs. What counts is the
found setting's validation accuracy over fresh seeds, as the value that it won by flatters the
search that looked at more trials. Finished searches are kept as lines of a file; start it again to
go on.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import yaml

import search_spaces
from okddip_search import load_search
from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec
from trainer.config.train import TrainConfig
from trainer.data.load import load_development_data
from trainer.engine.trainer import Trainer

TPE: dict[str, dict[str, Any]] = {
    "digits": {
        "trials": 20,
        "sampler": {"type": "tpe", "n_startup_trials": 6},
        "pruner": {"type": "median", "n_startup_trials": 4, "n_warmup_steps": 20},
    },
    "cifar10_small": {
        "trials": 12,
        "sampler": {"type": "tpe", "n_startup_trials": 5},
        "pruner": {"type": "median", "n_startup_trials": 3, "n_warmup_steps": 5},
    },
}
SCREEN: dict[str, dict[str, Any]] = {
    "digits": {"trials": 32, "searcher": "screen", "pruner": "none"},
    "cifar10_small": {"trials": 16, "searcher": "screen", "pruner": "none"},
}
FRESH_SEEDS = (1001, 1002, 1003)


def search(name: str, study: dict[str, Any], seed: int, root: str | None) -> dict[str, Any]:
    """Run one search with the real command, and train its winner over fresh seeds."""
    space = yaml.safe_load((Path(search_spaces.__file__).parent / f"{name}.yaml").read_text())
    space["study"] = {**study, "wait_for_ramp_up": True, "seed": seed}
    if root:
        space["data"]["root"] = root
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "space.yaml"), Path(folder, "run")
        file.write_text(yaml.safe_dump(space))
        command = [sys.executable, "-m", "okddip_search", "--space", file, "--out", out]
        began = time.monotonic()
        subprocess.run([*command, "--no-confirm"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        found = load_search(out)
        best = found.best
        assert best is not None
        return {
            "seconds": seconds,
            "epochs": sum(trial.epochs for trial in found.trials),
            "value": best.value,
            "fresh": fresh_mean(load_space(file), best.params),
        }


def fresh_mean(spec: SearchSpec, params: dict[str, Any]) -> float:
    """Return the mean validation accuracy of a setting's leader over fresh seeds."""
    data = load_development_data(spec.data)
    accuracies = []
    for seed in FRESH_SEEDS:
        config = TrainConfig(**{**spec.trainer, **params}, data=spec.data, device="cpu", seed=seed)
        accuracies.append(list(Trainer(config, data).epochs())[-1].leader_accuracy)
    return statistics.fmean(accuracies)


@click.command()
@click.argument("name", type=click.Choice(list(TPE)))
@click.option("--root", help="Where the images are.")
@click.option("--seeds", default=10, show_default=True)
@click.option("--results", required=True, type=click.Path(path_type=Path))
def main(name: str, root: str | None, seeds: int, results: Path) -> None:
    """Search what is missing, and compare."""
    lines = results.read_text().splitlines() if results.exists() else []
    done = {(entry["space"], entry["searcher"], entry["seed"]): entry
            for entry in map(json.loads, lines)}  # fmt: skip
    for seed in range(seeds):
        for searcher, study in (("tpe", TPE[name]), ("screen", SCREEN[name])):
            if (name, searcher, seed) in done:
                continue
            entry = {"space": name, "searcher": searcher, "seed": seed}
            entry |= search(name, study, seed, root)
            done[name, searcher, seed] = entry
            with results.open("a") as file:
                file.write(json.dumps(entry) + "\n")
    pairs = [[done[name, searcher, seed] for searcher in ("tpe", "screen")]
             for seed in range(seeds)]  # fmt: skip
    differences = [100 * (screen["fresh"] - tpe["fresh"]) for tpe, screen in pairs]
    for key in ("fresh", "value", "epochs", "seconds"):
        tpe, screen = (statistics.fmean(pair[i][key] for pair in pairs) for i in (0, 1))
        print(f"{key:<10} tpe {tpe:10.4f}   screen {screen:10.4f}")
    half = statistics.stdev(differences) / len(differences) ** 0.5
    print(f"screen − tpe: {statistics.fmean(differences):+.2f} points, standard error {half:.2f}")


if __name__ == "__main__":
    main()
