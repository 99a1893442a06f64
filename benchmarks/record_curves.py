"""Train points of a grid over a bundled space, and record the leader's curve of each.

Digits: every point of a grid of four parameters, the other ones (which stay inside the seed's noise
there) being the paper's. Fashion-MNIST: points drawn at random from a grid of all that the space
searches but ``attention_dim``. ``bench_efficiency.py`` replays searches from the files.

Stop it when you like and start it again: finished runs are kept as lines of a text file, seed after
seed, and only the seeds that are complete for every configuration are packed.
"""

import itertools
import json
import lzma
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec
from trainer.config.train import TrainConfig

HERE = Path(__file__).parent
OVERRIDES = {"digits": [], "fashion_mnist": ["data.train_limit=3000"]}
POINTS = 120
"""Of a grid, drawn at random where it has more than ``MOST_POINTS``."""
MOST_POINTS = 500
EPOCHS_UNRECORDED = -1
"""In place of a count, from the epoch at which the loss became NaN or infinite."""


def log_grid(low: float, high: float, points: int) -> list[float]:
    return [float(f"{x:.3g}") for x in np.geomspace(low, high, points)]


GRIDS: dict[str, dict[str, list[Any]]] = {
    "digits": {
        "lr": log_grid(0.003, 0.5, 8),
        "weight_decay": log_grid(1e-5, 1e-2, 5),
        "lr_schedule": ["multistep", "cosine"],
        "peer_weight": log_grid(0.1, 10, 3),
    },
    "fashion_mnist": {
        "lr": log_grid(0.003, 0.5, 8),
        "weight_decay": log_grid(1e-5, 1e-2, 5),
        "lr_schedule": ["multistep", "cosine"],
        "peer_weight": log_grid(0.1, 10, 5),
        "leader_weight": log_grid(0.1, 10, 5),
        "temperature": [1.0, 2.0, 3.0, 5.0, 8.0],
        "num_peers": [2, 3, 4],
    },
}


def points(name: str) -> list[tuple[int, ...]]:
    """Return the points of a space's grid that are trained, as indices of its values."""
    every = list(itertools.product(*(range(len(values)) for values in GRIDS[name].values())))
    if len(every) <= MOST_POINTS:
        return every
    drawn = np.random.default_rng(0).choice(len(every), POINTS, replace=False)
    return [every[index] for index in sorted(drawn)]


def fixed(spec: SearchSpec) -> dict[str, Any]:
    """Return the trainer's settings off the grid: the paper's, fused, one thread."""
    return {**spec.trainer, **spec.enqueue[0], "executor": "fused", "num_threads": 1}


def runs(name: str, root: str | None, seeds: int) -> Iterator[tuple[int, int, TrainConfig]]:
    """Yield index of the configuration, seed and training configuration; seed after seed."""
    spec = load_space(name, OVERRIDES[name] + ([f"data.root={root}"] if root else []))
    grid = GRIDS[name]
    for seed in range(seeds):
        for index, point in enumerate(points(name)):
            own = {key: values[i] for (key, values), i in zip(grid.items(), point, strict=True)}
            values = {**fixed(spec), **own}
            yield index, seed, TrainConfig(**values, data=spec.data, device="cpu", seed=seed)


def record(job: tuple[int, int, TrainConfig]) -> dict[str, Any]:
    """Train one group, and return right answers of the leader and seconds by epoch."""
    from trainer.data.load import load_development_data
    from trainer.engine.trainer import NonFiniteLossError, Trainer

    index, seed, config = job
    data = load_development_data(config.data)
    trainer = Trainer(config, data)
    try:
        for _ in trainer.epochs():
            pass
    except NonFiniteLossError:
        pass
    return {
        "config": index,
        "seed": seed,
        "correct": [round(r.leader_accuracy * len(data.validation)) for r in trainer.history],
        "seconds": [round(r.seconds, 4) for r in trainer.history],
    }


def read_lines(path: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """Return what was recorded before; a line that was cut off in the middle is dropped."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["config"], entry["seed"]] = entry
    return found


def pack(
    name: str, entries: dict[tuple[int, int], dict[str, Any]], path: Path, command: str
) -> int:
    """Write the complete seeds to an xz-compressed JSON file, and return their number."""
    import torch

    from trainer.engine.hardware import cpu_name

    spec = load_space(name, OVERRIDES[name])
    count = len(points(name))
    seeds = 0
    while all((index, seeds) in entries for index in range(count)):
        seeds += 1
    epochs = spec.max_epochs
    fill = [EPOCHS_UNRECORDED] * epochs
    took = [sum(entries[i, s]["seconds"]) for s in range(seeds) for i in range(count)]
    table = {
        "name": name,
        "grid": GRIDS[name],
        "points": points(name),
        "epochs": epochs,
        "validation_images": spec.data.validation,
        "trainer": fixed(spec),
        "data": spec.data.model_dump(mode="json", exclude={"root"}),
        "seeds": list(range(seeds)),
        "correct": [
            [(entries[i, s]["correct"] + fill)[:epochs] for i in range(count)] for s in range(seeds)
        ],
        "median_run_s": float(np.median(took)) if took else None,
        "seconds_per_epoch": [
            [round(float(np.mean(entries[i, s]["seconds"] or [0])), 4) for i in range(count)]
            for s in range(seeds)
        ],
        "machine": f"{cpu_name()}, two processes with a thread each on two shared cores",
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "command": command,
    }
    path.write_bytes(lzma.compress(json.dumps(table).encode(), preset=9))
    return seeds


@click.command()
@click.argument("name", type=click.Choice(list(GRIDS)))
@click.option("--root", help="Where the images are.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--minutes", default=40.0, show_default=True, help="No run starts later.")
@click.option("--lines", type=click.Path(path_type=Path), help="Keeps runs; default: NAME.jsonl.")
def main(
    name: str, root: str | None, seeds: int, processes: int, minutes: float, lines: Path | None
) -> None:
    """Train what is missing, and pack the complete seeds."""
    lines = lines or Path(f"{name}.jsonl")
    entries = read_lines(lines)
    todo = [job for job in runs(name, root, seeds) if job[:2] not in entries]
    print(f"{len(entries)} runs recorded, {len(todo)} to train", flush=True)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool, lines.open("a") as file:
        file.write("\n")  # ends a line that was cut off
        for number, entry in enumerate(pool.imap_unordered(record, todo), 1):
            file.write(json.dumps(entry) + "\n")
            file.flush()
            entries[entry["config"], entry["seed"]] = entry
            late = (minutes_gone := (time.monotonic() - began) / 60) > minutes
            if number % 20 == 0 or late:
                print(f"{number} runs in {minutes_gone:.1f} min", flush=True)
            if late:
                break
        pool.terminate()
    out = HERE / f"{name}_curves.json.xz"
    packed = pack(name, entries, out, f"python benchmarks/record_curves.py {name}")
    print(f"{packed} complete seeds in {out}, {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
