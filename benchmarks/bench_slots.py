"""Two trials at a time on two cores: the textbook reference with torch's own threads, and ours.

python benchmarks/bench_slots.py [--seconds 4]

ResNet-8 of width 8, groups of 4 branches, 28×28 images, batch 128. Every process trains for so many
seconds at the same time as the other one; the table shows steps a second of both together.
"""

import time

import click
import reference
import torch
from side_by_side import (
    MEAN,
    STD,
    at_once,
    machine,
    random_data,
    random_images,
    reference_group,
)

from trainer.config.train import TrainConfig
from trainer.engine.trainer import Trainer
from trainer.io.cores import available_cores

SIZE, BATCH, IMAGES = 28, 128, 512
ROUNDS = 3
LIMIT_S = 600.0


def reference_epochs(threads: int):
    torch.set_num_threads(threads)
    group = reference_group("resnet8", 0.5, 4, "branch")
    optimizer = reference.make_optimizer(group)
    batches = reference.loader(random_images(IMAGES, SIZE), MEAN, STD, batch=BATCH, train=True)

    def epoch() -> None:
        for images, labels in batches:
            reference.train_step(group.train(), optimizer, images, labels)

    return epoch


def our_epochs(threads: int, executor: str, precision: str):
    config = TrainConfig(
        model="resnet8", width=0.5, batch_size=BATCH, epochs=100_000, lr=0.01, device="cpu",
        executor=executor, precision=precision, num_threads=threads,
    )  # fmt: skip
    return Trainer(config, random_data(IMAGES, BATCH, SIZE)).run_epoch


def warmed_up(make, arguments, seconds: float):
    epoch = make(*arguments)
    epoch()

    def steps_per_s() -> float:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            epoch()
            count += IMAGES // BATCH
        return count / (time.perf_counter() - started)

    return steps_per_s


@click.command()
@click.option("--seconds", default=4.0, show_default=True, help="Of each of three rounds.")
def main(seconds: float) -> None:
    """Print steps a second, and how many times the reference's they are."""
    cores = available_cores()
    rows = {
        f"reference, {cores} × {cores} threads": (reference_epochs, (cores,)),
        f"reference, {cores} × 1 thread": (reference_epochs, (1,)),
        f"trainer, {cores} × {cores} threads, fused bf16": (our_epochs, (cores, "fused", "auto")),
        f"trainer, {cores} × 1 thread, eager fp32": (our_epochs, (1, "eager", "fp32")),
        f"trainer, {cores} × 1 thread, fused fp32": (our_epochs, (1, "fused", "fp32")),
        f"trainer, {cores} × 1 thread, fused bf16": (our_epochs, (1, "fused", "auto")),
    }
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):  # in turns, so that other load falls on all alike
        for name, (make, arguments) in rows.items():
            found[name].append(sum(at_once(cores, LIMIT_S, warmed_up, make, arguments, seconds)))
    medians = {name: sorted(values)[ROUNDS // 2] for name, values in found.items()}
    base = next(iter(medians.values()))
    print(f"ResNet-8 ×0.5, groups of 4, {SIZE}×{SIZE}, batch {BATCH}; {machine(1)}")
    for name, value in medians.items():
        print(f"{name:<44}{value:>8.2f} steps/s{value / base:>8.2f}×")


if __name__ == "__main__":
    main()
