"""What glibc's malloc costs an epoch: as delivered, and told to keep what is freed.

python benchmarks/bench_malloc.py [--threads 1] [--rounds 5]
"""

import resource
import statistics
import subprocess
import sys
import time

import click
from side_by_side import machine, random_data

from trainer import engine
from trainer.config import TrainConfig
from trainer.engine import Trainer
from trainer.evaluation import evaluate
from trainer.hardware import available_cores

CASES = (  # network, width, structure, precision, executor, images
    ("resnet8", 0.5, "network", "fp32", "fused", 2048),
    ("resnet32", 1.0, "branch", "bf16", "separate", 256),
    ("resnet32", 1.0, "network", "bf16", "separate", 256),
    ("resnet32", 1.0, "network", "fp32", "fused", 256),
)
PARTS = ("training", "evaluation")


def serve(case: str, threads: int, side: str) -> None:
    """Time a part of an epoch for each line of standard input; the other side of ``Child``."""
    if side == "delivered":
        engine.keep_freed_memory = lambda: False
    model, width, structure, precision, executor, images = CASES[int(case)]
    config = TrainConfig(
        model=model, width=width, structure=structure, precision=precision, executor=executor,
        num_threads=threads, device="cpu", ramp_epochs=0, epochs=1000,
    )  # fmt: skip
    trainer = Trainer(config, random_data(images, images, 32))
    work = {
        "training": lambda: trainer._train_epoch(0.01, 1.0),
        "evaluation": lambda: evaluate(trainer.group, trainer.method, trainer._validation),
    }
    for line in sys.stdin:
        started = time.perf_counter()
        work[line.strip()]()
        seconds = time.perf_counter() - started
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(seconds, peak_kib / 1024, flush=True)


class Child:
    """A process with its own malloc; it works only when asked."""

    def __init__(self, case: int, threads: int, side: str) -> None:
        command = [sys.executable, __file__, "--serve", str(case), side, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, part: str) -> tuple[float, float]:
        """Have a part done once; return its seconds, and the process's peak in MiB so far."""
        self.process.stdin.write(f"{part}\n")
        self.process.stdin.flush()
        seconds, peak_mib = map(float, self.process.stdout.readline().split())
        return seconds, peak_mib

    def end(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()


@click.command()
@click.option("--threads", default=available_cores(), show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--serve", "served", nargs=2, hidden=True)
def main(threads: int, rounds: int, served: tuple[str, str] | None) -> None:
    """Print a table: seconds with malloc as delivered, and how many times as fast it is kept."""
    if served:
        serve(served[0], threads, served[1])
        return
    print(machine(threads))
    print(f"{'group of 4':<42}{'part':<12}{'delivered':>10}{'kept':>8}   peak MiB")
    for number, (model, width, structure, precision, executor, _) in enumerate(CASES):
        children = [Child(number, threads, side) for side in ("delivered", "kept")]
        for part in PARTS:
            rows = [[child.take(part) for child in children] for _ in range(rounds + 1)][1:]
            delivered, kept = (
                statistics.median(seconds for seconds, _ in side)
                for side in zip(*rows, strict=True)
            )
            peaks = " -> ".join(f"{peak_mib:,.0f}" for _, peak_mib in rows[-1])
            name = f"{model} ×{width:g} {structure} {precision} {executor}"
            print(f"{name:<42}{part:<12}{delivered:>8.3f} s{delivered / kept:>7.2f}×   {peaks}")
        for child in children:
            child.end()


if __name__ == "__main__":
    main()
