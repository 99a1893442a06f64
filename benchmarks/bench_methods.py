"""What a training step of every method costs, as a multiple of ``single``.

    python benchmarks/bench_methods.py [--model resnet20] [--batch 128] [--repeats 7]

All methods take turns in every round, and medians are compared: other load on the machine falls on
all of them alike.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from trainer.config.train import TrainConfig
from trainer.data.images import ImageSet
from trainer.data.resident import ResidentData
from trainer.engine.hardware import cpu_name
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.methods.base import Batch
from trainer.registry import METHODS

VARIANTS = [
    (name, structure) for name, info in METHODS.items() for structure in info.structures
    if info.grouped or structure == "branch"
]  # fmt: skip


def random_images(count: int) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 10, tuple(str(i) for i in range(10)))


def build(method: str, structure: str, model: str, batch: int, folder: Path) -> Trainer:
    data = ResidentData(
        train=random_images(2 * batch),
        validation=random_images(100),
        mean_C=(0.5,) * 3,
        std_C=(0.25,) * 3,
        pad=4,
        flip=True,
        fingerprint="random",
    )
    fields = {"model": model, "batch_size": batch, "epochs": 1, "ramp_epochs": 0}
    teacher = None
    if method == "kd":  # a teacher of the student's own size, the least that it can cost
        with TrainingRun(TrainConfig(method="single", **fields), data, folder) as run:
            run.step()
        teacher = folder / "leader"
    return Trainer(TrainConfig(method=method, structure=structure, **fields), data, teacher)


@click.command()
@click.option("--model", default="resnet20", show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--repeats", default=7, show_default=True)
def main(model: str, batch: int, repeats: int) -> None:
    """Print a table: method, structure, milliseconds a step, multiple of ``single``."""
    with TemporaryDirectory() as folder:
        trainers = {v: build(*v, model, batch, Path(folder)) for v in VARIANTS}
        times: dict[tuple[str, str], list[float]] = {v: [] for v in VARIANTS}
        for turn in range(repeats + 1):
            for variant, trainer in trainers.items():
                trainer.group.train()
                trainer.method.train()
                images, labels = next(trainer._batches.epoch(0, turn))
                started = time.perf_counter()
                losses = trainer.learner.step(Batch(images, labels, 1.0))
                losses["total"].item()  # waits for a GPU
                if turn:  # the first round warms up
                    times[variant].append(time.perf_counter() - started)
    single_s = statistics.median(times["single", "branch"])
    trainer = trainers["single", "branch"]
    place = torch.cuda.get_device_name() if trainer.device.type == "cuda" else cpu_name()
    print(
        f"{model}, batch {batch}, groups of 4, {trainer.precision}, {place}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {repeats}"
    )
    print(f"{'method':<16}{'structure':<12}{'ms/step':>9}{'× single':>10}")
    for (method, structure), samples in times.items():
        median_s = statistics.median(samples)
        shown = structure if METHODS[method].grouped else "one network"
        print(f"{method:<16}{shown:<12}{1000 * median_s:>9.1f}{median_s / single_s:>10.2f}")


if __name__ == "__main__":
    main()
