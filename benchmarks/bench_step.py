"""What a training step takes: the textbook reference against the trainer's executors.

python benchmarks/bench_step.py [--threads 1] [--budget 150]
"""

import click
import reference
import torch
from side_by_side import (
    MEAN,
    STD,
    VARIANTS,
    elsewhere,
    machine,
    often,
    random_data,
    reference_group,
    take_turns,
    trainers,
)  # fmt: skip

from trainer.engine.trainer import Trainer
from trainer.io.cores import available_cores
from trainer.methods.base import Batch

CASES = (  # network, width, image side, batch, steps a turn, rounds at most
    ("resnet8", 0.5, 8, 32, 30, 9),
    ("resnet8", 0.5, 28, 128, 4, 7),
    ("resnet32", 1.0, 32, 128, 1, 5),
)


def reference_step(
    model: str, width: float, size: int, batch: int, structure: str, threads: int, count: int
):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    group = reference_group(model, width, 4, structure).train()
    optimizer = reference.make_optimizer(group)
    images = random_data(batch, 100, size).train
    inputs, labels = next(iter(reference.loader(images, MEAN, STD, batch=batch, train=True)))
    return {"reference": often(count, reference.train_step, group, optimizer, inputs, labels)}


def step(trainer: Trainer, inputs: Batch) -> None:
    trainer.learner.step(inputs)["total"].item()


def turns(
    model: str, width: float, size: int, batch: int, structure: str, threads: int, count: int
):
    torch.manual_seed(0)
    data = random_data(batch, 100, size)
    work = dict(elsewhere(reference_step, model, width, size, batch, structure, threads, count))
    fields = {"model": model, "width": width, "structure": structure, "batch_size": batch}
    for variant, trainer in trainers(data, num_threads=threads, **fields).items():
        inputs = Batch(*next(trainer._batches.epoch(0, 0)), 1.0)
        trainer.learner.model.train()
        work[variant] = often(count, step, trainer, inputs)
    return work


@click.command()
@click.option("--threads", default=available_cores(), show_default=True)
@click.option("--budget", default=150.0, show_default=True, help="Seconds for all.")
def main(threads: int, budget: float) -> None:
    """Print a table: reference in ms, and how many times as fast each variant is."""
    print(f"groups of 4, okddip; times as fast as the reference\n{machine(threads)}")
    heads = "".join(f"{p} {e:<9}".rjust(15) for p, e in VARIANTS)
    print(f"{'network':<12}{'image':>6}{'batch':>6} {'structure':<10}{'reference':>12}{heads}")
    shares = (0.05, 0.2, 0.75)
    for case, share in zip(CASES, shares, strict=True):
        model, width, size, batch, count, rounds = case
        for structure in ("branch", "network"):
            work = turns(model, width, size, batch, structure, threads, count)
            took = take_turns(work, rounds=rounds, budget_s=budget * share / 2)
            base = took["reference"]
            ratios = "".join(f"{base / took[v]:>14.2f}×" if v in took else f"{'-':>15}"
                             for v in VARIANTS)  # fmt: skip
            print(
                f"{model} ×{width:<3g}".ljust(12)
                + f"{size:>6}{batch:>6} {structure:<10}{1000 * base / count:>9.1f} ms{ratios}",
                flush=True,
            )


if __name__ == "__main__":
    main()
