"""What the training data path gives: PIL transforms in a DataLoader against tensors in memory.

python benchmarks/bench_data.py [--images 5000]
"""

import click
import reference
import torch
from side_by_side import MEAN, STD, machine, random_data, take_turns


def drain(batches) -> None:
    for images, _ in batches:
        images.sum()  # looks at every pixel


@click.command()
@click.option("--images", default=5000, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(images: int, rounds: int) -> None:
    """Print a table: images a second, with one thread and with all."""
    data = random_data(images, 10, 32)
    loader = reference.loader(data.train, MEAN, STD, batch=128, train=True)
    ours = data.training_batches(128, torch.device("cpu"))
    epochs = iter(range(10_000))
    work = {
        "reference": lambda: drain(loader),
        "trainer": lambda: drain(ours.epoch(0, next(epochs))),
    }
    print("32×32 images a second, crop, flip and normalise; batch 128")
    print(f"{'':<60}{'reference':>12}{'trainer':>12}{'ratio':>9}")
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        took = take_turns(work, rounds=rounds, budget_s=60)
        base, own = (images / took[name] for name in ("reference", "trainer"))
        print(f"{machine(threads):<60}{base:>12,.0f}{own:>12,.0f}{own / base:>8.1f}×", flush=True)


if __name__ == "__main__":
    main()
