"""What a step of a larger group takes, m = 2 … 8: eager members against fused ones.

python benchmarks/bench_group_size.py [--model resnet8] [--width 0.5] [--image 14] [--batch 64]
"""

import click
import torch
from side_by_side import VARIANTS, machine, random_data, take_turns, trainers

from trainer.io.cores import available_cores
from trainer.methods.base import Batch


@click.command()
@click.option("--model", default="resnet8", show_default=True)
@click.option("--width", default=0.5, show_default=True)
@click.option("--image", default=14, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--threads", default=available_cores(), show_default=True)
@click.option("--budget", default=120.0, show_default=True, help="Seconds for all.")
def main(model: str, width: float, image: int, batch: int, threads: int, budget: float) -> None:
    """Print a table: ms of a step, and how many times as fast the other variants are."""
    print(f"{model} ×{width:g}, {image}×{image} images, batch {batch}, okddip; {machine(threads)}")
    heads = "".join(f"{p} {e}".rjust(15) for p, e in VARIANTS[1:])
    print(f"{'structure':<10}{'m':>3}{'fp32 eager':>16}{heads}")
    for structure in ("branch", "network"):
        for members in range(2, 9):
            torch.manual_seed(0)
            fields = {"model": model, "width": width, "structure": structure, "batch_size": batch}
            made = trainers(
                random_data(batch, 100, image), num_peers=members - 1, num_threads=threads, **fields
            )
            work = {}
            for variant, trainer in made.items():
                inputs = Batch(*next(trainer._batches.epoch(0, 0)), 1.0)
                trainer.learner.model.train()
                work[variant] = lambda t=trainer, i=inputs: t.learner.step(i)["total"].item()
            took = take_turns(work, rounds=20, budget_s=budget / 14)
            base = took["fp32", "eager"]
            ratios = "".join(f"{base / took[v]:>14.2f}×" if v in took else f"{'-':>15}"
                             for v in VARIANTS[1:])  # fmt: skip
            print(f"{structure:<10}{members:>3}{1000 * base:>13.1f} ms{ratios}", flush=True)


if __name__ == "__main__":
    main()
