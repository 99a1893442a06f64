"""What glibc's malloc costs an epoch: as delivered, and told to keep what is freed.

python benchmarks/bench_malloc.py [--threads 1] [--budget 240]
"""

import resource

import click
from side_by_side import elsewhere, machine, random_data, take_turns

from trainer.config.train import TrainConfig
from trainer.engine import trainer as engine
from trainer.engine.evaluation import evaluate
from trainer.engine.trainer import Trainer
from trainer.io.cores import available_cores

CASES = (  # network, width, structure, precision, executor, images
    ("resnet8", 0.5, "network", "fp32", "fused", 2048),
    ("resnet32", 1.0, "branch", "bf16", "eager", 256),
    ("resnet32", 1.0, "network", "bf16", "eager", 256),
    ("resnet32", 1.0, "network", "fp32", "fused", 256),
)


def parts_of_an_epoch(case: int, threads: int, side: str):
    if side == "delivered":
        engine.keep_freed_memory = lambda: False
    model, width, structure, precision, executor, images = CASES[case]
    config = TrainConfig(
        model=model, width=width, structure=structure, precision=precision, executor=executor,
        num_threads=threads, device="cpu", ramp_epochs=0, epochs=1000,
    )  # fmt: skip
    trainer = Trainer(config, random_data(images, images, 32))
    return {
        "training": lambda: trainer._train_epoch(0.01, 1.0),
        "evaluation": lambda: evaluate(trainer.group, trainer.method, trainer._validation),
        "peak_kib": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


@click.command()
@click.option("--threads", default=available_cores(), show_default=True)
@click.option("--budget", default=240.0, show_default=True, help="Seconds for all.")
def main(threads: int, budget: float) -> None:
    """Print a table: seconds with malloc as delivered, and how many times as fast it is kept."""
    print(machine(threads))
    print(f"{'group of 4':<42}{'part':<12}{'delivered':>10}{'kept':>8}   peak MiB")
    for number, (model, width, structure, precision, executor, _) in enumerate(CASES):
        sides = {
            side: elsewhere(parts_of_an_epoch, number, threads, side)
            for side in ("delivered", "kept")
        }
        for part in ("training", "evaluation"):
            work = {side: calls[part] for side, calls in sides.items()}
            took = take_turns(work, rounds=9, budget_s=budget / 2 / len(CASES))
            peaks = " -> ".join(f"{calls['peak_kib']() / 1024:,.0f}" for calls in sides.values())
            name = f"{model} ×{width:g} {structure} {precision} {executor}"
            gain = took["delivered"] / took["kept"]
            print(f"{name:<42}{part:<12}{took['delivered']:>8.3f} s{gain:>7.2f}×   {peaks}")


if __name__ == "__main__":
    main()
